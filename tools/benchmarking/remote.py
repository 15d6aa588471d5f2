"""detectron2 in a process of its own, where it waits for its turns.

Our models change a setting of memory of their whole process (`MASK_RCNN_EXT.REUSE_MEMORY`), and
detectron2 would profit from it next to them.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from typing_extensions import Self

from .processes import explain_signal
from .rounds import time_call

__all__ = ["Remote"]


class Remote:
    """A function that runs in a process of its own; that process also measures the time.

    Args:
        make: a function of a module. In the other process it gets `arguments`, and returns the
            function that is called there.
        arguments: values that can be pickled.

    Raises:
        UserError: a signal has ended the other process.
        RuntimeError: the other process has failed; it prints its traceback.
    """

    def __init__(self, make: Callable[..., Callable[[Any], Any]], *arguments: Any) -> None:
        context = get_context("spawn")  # a fork would have our settings
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, make, arguments), daemon=True)
        self._process.start()
        other.close()
        with self._explain_end():
            self._connection.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._connection.close()
        self._process.join()

    def time(self, value: Any = None) -> tuple[float, Any]:
        """Return the seconds that a call with `value` takes, and its result.

        The result must have no tensors, which would go through the system's shared memory: it is
        small in containers.

        Raises:
            UserError, RuntimeError: see the class.
        """
        with self._explain_end():
            self._connection.send(value)
            found: tuple[float, Any] = self._connection.recv()
        return found

    @contextlib.contextmanager
    def _explain_end(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode or 0
            explain_signal("detectron2", code)
            raise RuntimeError(f"the process of detectron2 has ended with code {code}") from None


def _serve(
    connection: Connection, make: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends this process
    function = make(*arguments)
    with contextlib.suppress(EOFError, OSError):  # the parent has closed its end, or has gone
        connection.send("ready")
        while True:
            value = connection.recv()
            connection.send(time_call(partial(function, value)))
