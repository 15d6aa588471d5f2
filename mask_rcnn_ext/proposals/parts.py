"""Proposals of many images, computed by several processes into small files that outlive a crash.

The images are split in the order of the data set into parts of `IMAGES_PER_PART`, whatever the
number of processes. Each part is a file that appears whole or not at all: after an interruption
only the parts without a file are computed.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch

from ..errors import UserError
from ..files import atomic_open
from .methods import Method, Propose

__all__ = ["IMAGES_PER_PART", "Proposals", "compute_parts", "read_parts"]

IMAGES_PER_PART = 10
# New processes rather than forks: a fork of a process with threads, as torch's, may hang. They are
# forked from a server that has none, so that this package is imported once.
_START = "forkserver"

Floats = npt.NDArray[np.float32]
Record = dict[str, Any]


class Proposals(NamedTuple):
    """Of all images, in the order of the data set.

    Attributes:
        boxes: per image (N, 4), XYXY in pixels of the image.
        logits: per image (N,), descending.
        seconds: that proposing took, reading the images included, summed over the images: those of
            one CPU core at work, or on a GPU those of the clock.
    """

    boxes: list[Floats]
    logits: list[Floats]
    seconds: float


def compute_parts(
    method: Method,
    records: Sequence[Record],
    folder: Path,
    *,
    processes: int = 1,
    progress: Callable[[int], object] = lambda images: None,
) -> None:
    """Compute the parts that are not in `folder` yet.

    Every process works on one CPU core, so that their number changes no result.

    Args:
        method: what proposes.
        records: of the images; only what `Propose` needs is handed to other processes.
        folder: of the parts; it is there.
        processes: more than 1 starts new Python processes; call it from a script that is guarded by
            `if __name__ == "__main__"`.
        progress: called with a number of images that are done, at first with those of a former run.

    Raises:
        UserError: an image cannot be read, the method cannot start, a part cannot be written, or a
            process was killed.
    """
    missing = []
    for path, part in _split(records, folder):
        if path.is_file():
            progress(len(part))
        else:
            missing.append((path, part))
    if not missing:
        return
    processes = min(processes, len(missing))
    with _one_thread():
        propose = method.start(0)  # with several processes: a mistake is told here, once
        if processes == 1:
            for path, part in missing:
                _write(path, part, propose, progress)
            return
    del propose
    _compute_in_processes(method, missing, processes, progress)


def read_parts(records: Sequence[Record], folder: Path) -> Proposals:
    """Return the content of all parts.

    Raises:
        UserError: a part is damaged.
    """
    boxes: list[Floats] = []
    logits: list[Floats] = []
    seconds = 0.0
    for path, _ in _split(records, folder):
        try:
            with np.load(path, allow_pickle=False) as part:
                ends = np.cumsum(part["counts"])[:-1]
                boxes += np.split(part["boxes"], ends)
                logits += np.split(part["logits"], ends)
                seconds += float(part["seconds"])
        except FileNotFoundError as error:
            raise UserError(
                f"{path} is gone: is another run of this command at work in the same folder? Wait "
                "for it, then run this again"
            ) from error
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise UserError(f"{path} is damaged: delete it and run this again") from error
    # Copies, so that no array keeps all of its part.
    return Proposals([b.copy() for b in boxes], [score.copy() for score in logits], seconds)


def _split(records: Sequence[Record], folder: Path) -> Iterator[tuple[Path, Sequence[Record]]]:
    for start in range(0, len(records), IMAGES_PER_PART):
        path = folder / f"{start // IMAGES_PER_PART:06d}.npz"
        yield path, records[start : start + IMAGES_PER_PART]


def _write(
    path: Path, part: Sequence[Record], propose: Propose, progress: Callable[[int], object]
) -> None:
    found = []
    # On a CPU that others use, too, only this thread's own time says what the work costs.
    clock = time.perf_counter if torch.cuda.is_initialized() else time.thread_time
    start = clock()
    for record in part:
        found.append(propose(record))
        progress(1)
    seconds = clock() - start
    with atomic_open(path) as file:
        np.savez(
            file,
            boxes=np.concatenate([np.zeros((0, 4), np.float32), *(boxes for boxes, _ in found)]),
            logits=np.concatenate([np.zeros(0, np.float32), *(logits for _, logits in found)]),
            counts=np.array([len(boxes) for boxes, _ in found], dtype=np.int64),
            seconds=np.float64(seconds),
        )


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def _compute_in_processes(
    method: Method,
    missing: Sequence[tuple[Path, Sequence[Record]]],
    processes: int,
    progress: Callable[[int], object],
) -> None:
    context = multiprocessing.get_context(_START)
    if _START == "forkserver":
        context.set_forkserver_preload([__name__])
    ranks = context.Value("i", 0)
    needed = ("file_name", "image_id", "height", "width")
    with ProcessPoolExecutor(processes, context, _begin, (method, ranks)) as pool:
        try:
            jobs = {
                pool.submit(_work, path, [{k: r[k] for k in needed if k in r} for r in part]): part
                for path, part in missing
            }
            for job in as_completed(jobs):
                job.result()
                progress(len(jobs[job]))
        except BrokenProcessPool as error:
            raise UserError(
                "a process was killed, most likely for want of memory: run this again with a "
                "smaller --processes; it goes on where this stopped"
            ) from error
        except BaseException:
            # Waits for the part that each process is at; without that nothing would be cancelled.
            pool.shutdown(wait=True, cancel_futures=True)
            raise


_propose: Propose | None = None  # of this process, when it is one of several


def _begin(method: Method, ranks: Any) -> None:
    """Make this process ready."""
    global _propose
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process tells the others to end
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)  # it was killed: nobody else would end this one

    threading.Thread(target=end_with_parent, daemon=True).start()
    with ranks.get_lock():
        rank = ranks.value
        ranks.value += 1
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _propose = method.start(rank)


def _work(path: Path, part: Sequence[Record]) -> None:
    assert _propose is not None
    _write(path, part, _propose, lambda images: None)
