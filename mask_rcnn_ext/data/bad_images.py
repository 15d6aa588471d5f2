"""Images that cannot be read during a run: an error names them, or the run skips and lists them.

Worker processes read the images. A worker writes the name of its image into memory that it shares
with the main process, so the image is known even if the worker is killed.
"""

import contextlib
import functools
import logging
import os
import re
import sys
import time
import traceback
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing import queues
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.utils import comm
from torch.utils.data import get_worker_info

from ..errors import UserError, name_some, require_choice

__all__ = [
    "BadImage",
    "NamedErrors",
    "add_bad_images",
    "build_checked_loader",
    "explain_dead_worker",
    "forget_skipped",
    "gather_skipped",
    "iterate_batches",
    "list_skipped",
    "record_skipped",
    "skips_bad_images",
    "take_bad_images",
]

logger = logging.getLogger(__name__)

_PATIENCE = 10.0  # seconds
_LENGTH = 1024  # bytes; a longer file name is cut
_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)(?:.*signal: ([\w ]+))?")
_notes: "weakref.WeakSet[_ReadingNotes]" = weakref.WeakSet()
_skipped: dict[str, str] = {}  # file name -> reason


def skips_bad_images(cfg: CfgNode) -> bool:
    """Return whether `MASK_RCNN_EXT.DATA.ON_BAD_IMAGE` is "skip".

    Raises:
        UserError: it is neither "error" nor "skip".
    """
    data = cfg.get("MASK_RCNN_EXT", {}).get("DATA", {})  # detectron2's own config has none
    found = data.get("ON_BAD_IMAGE", "error")
    require_choice("MASK_RCNN_EXT.DATA.ON_BAD_IMAGE", found, ("error", "skip"))
    return bool(found == "skip")


class BadImage(UserError):
    """An image that a mapper cannot use."""


class _Noted(NamedTuple):
    """A sample and the images that it replaces, file name -> reason; None replaces no sample."""

    sample: Any
    bad: dict[str, str]


class WrongKey(UserError):
    """A key of the config does not fit the data; no image is at fault, and none is skipped."""


class _ReadingNotes:
    """The id of each worker process, and the file that it reads."""

    def __init__(self, num_workers: int) -> None:
        self._rows = torch.zeros(num_workers, 8 + _LENGTH, dtype=torch.uint8).share_memory_()
        _notes.add(self)

    def write(self, name: str) -> None:
        """Note the file that this process reads; "" after it has read the file."""
        worker = get_worker_info()
        if worker is not None and worker.id < len(self._rows):
            queues.Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]
            text = os.getpid().to_bytes(8, "big") + os.fsencode(name)[:_LENGTH]
            row = bytearray(text.ljust(8 + _LENGTH, b"\0"))
            self._rows[worker.id] = torch.frombuffer(row, dtype=torch.uint8)

    def read(self) -> dict[int, str]:
        """Return the file of each process."""
        rows = [bytes(row.tolist()) for row in self._rows]
        return {int.from_bytes(row[:8], "big"): os.fsdecode(row[8:].rstrip(b"\0")) for row in rows}


def explain_dead_worker(error: BaseException) -> UserError | None:
    """Return the error for a worker process that has died; None if `error` has another cause.

    PyTorch raises such an error at any place in the main process.
    """
    match = _WORKER.search(str(error)) if isinstance(error, RuntimeError) else None
    if match is None:
        return None
    files = {process: name for notes in _notes for process, name in notes.read().items()}
    processes = [int(number) for number in match[1].split(",")]
    names = [name for process in processes if (name := files.get(process))]
    reading = f"while it read {name_some(names)}" if names else "between two images"
    how = f"was ended by the system ({match[2].strip()})" if match[2] else "has ended"
    return UserError(  # batches come through /dev/shm, which has 64 MB in Docker
        f"a process that loads images {how}, {reading}. Usually the memory was full, or the shared "
        "memory /dev/shm: lower DATALOADER.NUM_WORKERS, or enlarge /dev/shm (docker run --shm-size "
        "8g). If the same image is named again, remove it from the data. A training continues "
        "from its last checkpoint with --resume"
    )


def _end_worker(error: Exception, _: Any) -> None:
    """End this process, a worker that cannot send a batch to the main process.

    The queue calls this if the shared memory is full, or a sample cannot be pickled. By default the
    queue only prints the error, and the main process waits for the batch for ever.
    """
    print(*traceback.format_exception_only(error), sep="", end="", file=sys.stderr, flush=True)
    os._exit(1)


def iterate_batches(loader: Iterable[Any]) -> Generator[Any, None, None]:
    """Yield the batches of a PyTorch loader; close this iterator to end the worker processes.

    If a worker dies while it sends a tensor, the connection breaks a moment before PyTorch notices
    the death. This function waits for PyTorch's error, which names the worker.

    Args:
        loader: without persistent workers.
    """
    batches = iter(loader)
    try:
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (EOFError, ConnectionError):
                time.sleep(_PATIENCE)  # here PyTorch's signal handler raises its error
                raise
            yield batch
    finally:
        # PyTorch ends the workers when the iterator is deleted. But after an error the traceback
        # still holds the iterator. If the garbage collector finds it later, it closes the queues
        # first, and the workers wait for a minute.
        if hasattr(batches, "_shutdown_workers"):  # not with `num_workers=0`
            with contextlib.suppress(RuntimeError):  # a worker that dies now matters no more
                batches._shutdown_workers()


class NamedErrors:
    """Calls another mapper; an error names the image that this mapper cannot read."""

    def __init__(self, mapper: Callable[[dict], Any], num_workers: int = 0) -> None:
        """Wrap a mapper.

        Args:
            mapper: turns a record of a data set into a sample.
            num_workers: the number of worker processes that call this.
        """
        self.mapper = mapper
        self._notes = _ReadingNotes(num_workers) if num_workers else None

    def __call__(self, record: dict) -> Any:
        """Return the sample of a record.

        Raises:
            BadImage: the image cannot be used.
            WrongKey: see there.
        """
        name = str(record.get("file_name"))
        try:
            self._note(name)
            sample = self.mapper(record)
            self._note("")
            return sample
        except WrongKey:
            raise
        except UserError as error:
            raise BadImage(error) from error
        except (OSError, SizeMismatchError, SyntaxError) as error:  # PIL: SyntaxError for PNG
            raise BadImage(
                f"cannot read image {name}: {str(error).strip()}. Fix or remove it."
            ) from error
        except Exception:  # a defect of the mapper, which may show with a few images only
            logger.error("The mapper failed on the image %s:", name)
            raise

    def _note(self, name: str) -> None:
        if self._notes is not None:
            self._notes.write(name)


def _mark_bad(mapper: Callable[[dict], Any], record: dict) -> Any:
    """Return the sample of a record, or a mark for a bad image; see `_CheckedLoader`."""
    try:
        return mapper(record)
    except BadImage as error:
        return add_bad_images(None, {str(record.get("file_name")): str(error)})


def add_bad_images(sample: Any, bad: dict[str, str]) -> Any:
    """Note with a sample which images could not be used, file name -> reason."""
    return _Noted(sample, bad) if bad else sample


def take_bad_images(batch: list[Any]) -> list[Any]:
    """Return a batch without the notes of its samples, which are recorded."""
    for sample in batch:
        record_skipped(sample.bad if isinstance(sample, _Noted) else {})
    return [sample.sample if isinstance(sample, _Noted) else sample for sample in batch]


class _CheckedLoader:
    """A loader for evaluation, which leaves out the images that `_mark_bad` has marked."""

    def __init__(self, loader: Any, *, keep_empty: bool) -> None:
        """Wrap a loader of lists of samples; see `build_checked_loader`."""
        self.loader, self._keep_empty = loader, keep_empty

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[list[Any]]:
        for batch in iterate_batches(self.loader):
            left = [sample for sample in take_bad_images(batch) if sample is not None]
            if left or self._keep_empty:
                yield left


def build_checked_loader(
    cfg: CfgNode,
    dicts: list[dict[str, Any]],
    mapper: Callable[[dict], Any],
    *,
    keep_empty: bool = False,
) -> Any:
    """Return detectron2's loader for evaluation, which names or skips bad images.

    Args:
        cfg: the config.
        dicts: the images, in detectron2's format.
        mapper: turns an image into a sample.
        keep_empty: yield an empty list if all images of a batch are skipped. The caller can then
            count the batches. By default such a batch is left out.
    """
    num_workers = cfg.DATALOADER.NUM_WORKERS
    named: Callable[[dict], Any] = NamedErrors(mapper, num_workers)
    skips = skips_bad_images(cfg)
    if skips:
        named = functools.partial(_mark_bad, named)
    loader = build_detection_test_loader(dicts, mapper=named, num_workers=num_workers)
    return _CheckedLoader(loader, keep_empty=keep_empty) if skips or num_workers else loader


def record_skipped(bad: dict[str, str]) -> None:
    """Record skipped images, file name -> reason, and log a warning about the new images."""
    for name, reason in bad.items():
        if name not in _skipped:
            _skipped[name] = reason
            logger.warning("Skipped, because it cannot be used: %s", reason)


def list_skipped() -> dict[str, str]:
    """Return the images that this process has skipped since `forget_skipped`: name -> reason."""
    return dict(_skipped)


def forget_skipped() -> None:
    """Begin a new list, for a new run."""
    _skipped.clear()


def gather_skipped() -> dict[str, str]:
    """Return the images that all processes have skipped, sorted; every process must call this."""
    gathered = comm.all_gather(list_skipped())
    return dict(sorted({name: why for part in gathered for name, why in part.items()}.items()))
