"""The log of a run: short on the screen, complete in `OUTPUT_DIR/log.txt`.

detectron2's `setup_logger` adds handlers and never removes them. The second run in one Python
process would log each line twice, and also into the file of the first run.
"""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Iterator
from logging.handlers import MemoryHandler
from typing import Any

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..log_filter import filter_log
from .process_group import explain_failure, is_lost_connection

__all__ = ["end_log", "hide_told_errors", "open_log_file", "start_log"]

_NAMES = ("mask_rcnn_ext", "detectron2", "fvcore")
_FORMAT = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"  # detectron2's
_HELD_BACK = 100_000  # records
# Errors after which an output takes nothing more: nobody reads it, or the disk is full or lost.
_LASTING = (errno.EPIPE, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EBADF)

_added: list[tuple[logging.Logger, logging.Handler]] = []


def start_log() -> None:
    """Log to the screen from now on, and hold everything back for `open_log_file`.

    The handlers of an earlier run in this Python process are removed. Only the main process logs to
    the screen, where records below INFO, such as the config and the model, are left out. A logger
    that already has a handler for the screen gets no other one.
    """
    end_log()
    held_back = MemoryHandler(_HELD_BACK, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    for name in _NAMES:
        logger = logging.getLogger(name)
        before = list(logger.handlers)
        on_screen = any(_is_screen(handler) for handler in before)
        # A rank above 0 gets no handler for the screen. `__wrapped__` avoids detectron2's cache,
        # which would ignore all runs but the first.
        rank = 1 if on_screen else comm.get_rank()
        setup_logger.__wrapped__(None, rank, name=name)
        logger.addHandler(held_back)
        for handler in [each for each in logger.handlers if each not in before]:
            if isinstance(handler, logging.StreamHandler):
                logger.removeHandler(handler)
                handler = _Screen.replace(handler)
                logger.addHandler(handler)
            handler.setLevel(logging.DEBUG if handler is held_back else logging.INFO)
            _added.append((logger, handler))


def open_log_file(folder: str) -> None:
    """Write the records that were held back to `log.txt`, and each later record too.

    Args:
        folder: the folder of the run. The log of process N > 0 is `log.txt.rankN`.
    """
    rank = comm.get_rank()
    path = os.path.join(folder, f"log.txt.rank{rank}" if rank else "log.txt")
    file = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    file.setFormatter(logging.Formatter(_FORMAT, datefmt="%m/%d %H:%M:%S"))
    for index, (logger, handler) in enumerate(_added):
        if isinstance(handler, MemoryHandler):
            handler.setTarget(file)
            handler.flush()
            logger.removeHandler(handler)
            logger.addHandler(file)
            _added[index] = (logger, file)


class _Ending(logging.Handler):
    """A handler that ends when its output takes nothing more, so that the run can go on."""

    _has_ended = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless an earlier one could not be written."""
        if not self._has_ended:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Say once that the log ends; an error of another kind is a defect, as in `logging`.

        If the reader of a non-blocking pipe is slow, the line is lost, and the log goes on.
        """
        error = sys.exc_info()[1]
        if isinstance(error, BlockingIOError):
            return
        if not isinstance(error, OSError) or error.errno not in _LASTING:
            super().handleError(record)
            return
        self._end()
        with contextlib.suppress(OSError):
            print(f"warning: {self._describe()} ends here: {error.strerror}", file=sys.stderr)

    def _end(self) -> None:
        self._has_ended = True

    def _describe(self) -> str:
        raise NotImplementedError


class _Screen(_Ending, logging.StreamHandler):  # type: ignore[type-arg]
    """The handler for the screen; it ends if nobody reads it, as after `| head`."""

    @classmethod
    def replace(cls, handler: "logging.StreamHandler[Any]") -> "_Screen":
        """Return a handler with the stream and the format of detectron2's."""
        screen = cls(handler.stream)
        screen.setFormatter(handler.formatter)
        return screen

    def _end(self) -> None:
        for _, handler in _added:  # each logger has one
            if isinstance(handler, _Screen):
                handler._has_ended = True

    def _describe(self) -> str:
        return "the printed log"


class _LogFile(_Ending, logging.FileHandler):
    """A log file, which ends when the disk is full."""

    def _describe(self) -> str:
        return self.baseFilename

    def close(self) -> None:
        """Close the file, also when its last line cannot be written."""
        with contextlib.suppress(OSError):
            super().close()


def end_log() -> None:
    """Remove the handlers of `start_log`; records that are still held back are dropped."""
    while _added:
        logger, handler = _added.pop()
        logger.removeHandler(handler)
        if not _is_screen(handler):
            handler.close()


@contextlib.contextmanager
def hide_told_errors() -> Iterator[None]:
    """Keep detectron2's training loop from logging tracebacks of errors that are explained.

    These are `UserError`, `FloatingPointError`, a full disk or memory, the death of a process that
    loaded images, and a lost connection to another process.
    """
    with filter_log("detectron2.engine.train_loop", _reports_defect):
        yield


def _reports_defect(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return True
    told = isinstance(error, FloatingPointError) or explain_failure(error)
    return not (told or is_lost_connection(error))


def _is_screen(handler: logging.Handler) -> bool:
    return getattr(handler, "stream", None) in (sys.stdout, sys.stderr)
