"""Ctrl-C and SIGTERM: training finishes its step and saves a checkpoint before it ends."""

import _thread
import contextlib
import multiprocessing
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm

__all__ = [
    "Interrupted",
    "StopSignals",
    "forward_signals",
    "is_stopping",
    "raise_signals",
]


# The terminal and the parent process both send Ctrl-C; within this time they count as one.
_SAME = 2.0  # seconds
_AFTER_FORK = 0.01  # seconds, after which a signal that came in a fork is sent again
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_taken: set[int] = set()  # the signals that this process has received in `_handle_signals`
_blocks = 0  # of `_handle_signals` that this process is in


class _Forking(threading.local):
    """The fork that a thread is in, from the first of our hooks to the last."""

    mask: set[int] | None = None  # the signals that were blocked before it
    now = False


_forking = _Forking()


class Interrupted(KeyboardInterrupt):
    """A command has ended because of a signal.

    Attributes:
        signum: the number of the signal.
        checkpoint: the path of the checkpoint to resume from; "" if there is none.
        in_all: whether every process of the training raises this error, after the same step.
    """

    def __init__(self, signum: int, checkpoint: str = "", *, in_all: bool = False) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum, self.checkpoint, self.in_all = signum, checkpoint, in_all

    @property
    def exit_code(self) -> int:
        """The exit code of a command that a signal has ended: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signum

    def describe(self) -> str:
        """Return the last line of this command, with the command that continues the run."""
        if not self.checkpoint:
            return "interrupted"
        script, *arguments = sys.argv
        begin = ["python", script] if script.endswith(".py") else script.split()
        words = [*begin, *([] if "--resume" in arguments else ["--resume"]), *arguments]
        command = shlex.join(words)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            command = "the same command with --resume after the name of the script"
        return f"interrupted; {self.checkpoint} is saved. To continue: {command}"


def _block_before_fork() -> None:
    """Hold signals back until the handlers of the forked process are set.

    Python forgets a signal that a forked process receives before its first step.
    """
    _forking.mask = None
    if _blocks:
        _forking.now = True
        # A handler may raise in each of these calls, so the mask is kept before it changes.
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _unblock_in_parent() -> None:
    _forking.now = False
    if _forking.mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _is_in_fork(frame: FrameType | None) -> bool:
    """Return whether a handler, called at `frame`, runs in a hook of a fork.

    Python drops what is raised there, also in the hooks of other modules between ours.
    """
    hooks = (_block_before_fork.__code__, _unblock_in_parent.__code__)
    while frame is not None and frame.f_code not in hooks:
        frame = frame.f_back
    return frame is not None or _forking.now


def _send_again(number: int) -> None:
    time.sleep(_AFTER_FORK)
    os.kill(os.getpid(), number)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing. Unlike `SIG_IGN`, the programs that a worker starts do not inherit it."""


def _reset_in_child() -> None:
    global _blocks
    _forking.now = False
    if _forking.mask is not None:
        signal.signal(signal.SIGINT, _ignore)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _blocks = 0
        _taken.clear()
        signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


os.register_at_fork(
    before=_block_before_fork,
    after_in_parent=_unblock_in_parent,
    after_in_child=_reset_in_child,
)


@contextlib.contextmanager
def _handle_signals(
    handler: Callable[[int, FrameType | None], None],
) -> Iterator[dict[signal.Signals, Any]]:
    """Give Ctrl-C and SIGTERM to `handler` in the block; do nothing in a thread, which cannot.

    Workers that this process forks in the block do not call `handler`. They ignore Ctrl-C, which a
    terminal sends to all processes, since they may still be needed. They end at SIGTERM, with which
    a pool ends its workers: it would wait for ever for a worker that lives on.

    Yields:
        The handlers that are put back at the end.
    """
    global _blocks

    def handle(number: int, frame: FrameType | None) -> None:
        _taken.add(number)
        if _is_in_fork(frame):
            # `threading.Thread` takes locks, which a handler must not.
            _thread.start_new_thread(_send_again, (number,))
            return
        handler(number, frame)

    if threading.current_thread() is not threading.main_thread():
        yield {}
        return
    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    _blocks += 1
    try:
        yield before
    finally:
        _blocks -= 1
        for number, handler_before in before.items():
            signal.signal(number, handler_before)
        _taken.clear()


def is_stopping() -> bool:
    """Return whether a signal has come that the command takes; another one would end it at once."""
    return bool(_taken)


class StopSignals(HookBase):
    """Takes Ctrl-C and SIGTERM while training runs. A second one ends the process at once."""

    def __init__(self) -> None:
        self.received, self._raise_at_once, self._first = 0, False, 0.0
        self._told = False
        self._before: dict[signal.Signals, Any] = {}

    @contextlib.contextmanager
    def take_signals(self) -> Iterator[None]:
        """Take the signals during the block; do nothing in a thread, which cannot."""
        with _handle_signals(self._take) as self._before:
            yield

    @contextlib.contextmanager
    def raise_at_once(self) -> Iterator[None]:
        """Let the first signal raise `Interrupted` during the block, which changes no weights.

        An evaluation may take long, so it need not end first. Only the main process raises, since
        it is the one that saves.
        """
        self._raise_at_once = comm.is_main_process()
        try:
            yield
        finally:
            self._raise_at_once = False

    def _take(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received, self._first = number, time.monotonic()
            # `launch` and `torchrun` also end a process with SIGTERM when another one has failed.
            # Then nothing is saved: the processes do not agree.
            if number == signal.SIGINT or comm.get_world_size() == 1:
                self._tell()
            if self._raise_at_once:
                raise Interrupted(number)
        elif time.monotonic() - self._first > _SAME:
            signal.signal(number, self._before[signal.Signals(number)])
            signal.raise_signal(number)

    def after_step(self) -> None:
        """Raise `Interrupted` in all processes after the step in which a signal came."""
        if number := self.agree(self.trainer.cfg.MODEL.DEVICE):
            raise Interrupted(number, in_all=True)

    def agree(self, device: str) -> int:
        """Return the signal that any process has received, the same in all; 0 if none."""
        if comm.get_world_size() == 1:
            return self.received
        received = torch.tensor(self.received, device=device)
        dist.all_reduce(received, op=dist.ReduceOp.MAX)
        if received:
            self._tell()
        return int(received)

    def _tell(self) -> None:
        if comm.is_main_process() and not self._told:
            self._told = True
            # `print` may not be called while it is at work, which a signal can interrupt.
            os.write(2, b"\nstopping, a checkpoint is saved first ...\n")


@contextlib.contextmanager
def forward_signals() -> Iterator[None]:
    """Send Ctrl-C and SIGTERM to the processes that this one has started, and wait for them."""

    def send(number: int, frame: FrameType | None) -> None:
        for process in multiprocessing.active_children():
            if process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    with _handle_signals(send):
        yield


@contextlib.contextmanager
def raise_signals() -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM raise `Interrupted` in the block; do nothing in a thread.

    The block can then write what is done, or clean up. A later signal ends the process at once.
    """
    first = 0.0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not first:
            first = time.monotonic()
            raise Interrupted(number)
        if time.monotonic() - first > _SAME:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    with _handle_signals(stop):
        yield
