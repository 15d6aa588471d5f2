"""The proposals of whole data sets, computed by several processes: `tools/compute_proposals.py`.

For each data set the output folder gets `<name>.pkl`, in detectron2's format, and `<name>.json`,
which has the settings, the number of proposals, their recall, and the time in seconds.

During the computation, `<name>.parts` holds the finished parts. The images are split, in the order
of the data set, into parts of `IMAGES_PER_PART`; the number of processes does not matter. Each part
is a file that is written atomically. If a computation was interrupted, the next computes only the
parts without a file.
"""

import contextlib
import hashlib
import json
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog
from tqdm import tqdm

from ..arrays import Floats32
from ..child_processes import end_with_parent
from ..data.catalog import require_datasets
from ..errors import UserError, require_range
from ..files import atomic_open, read_json_or_none, writable_folder, write_json
from ..steps import Step, find_change, run_step
from .file import write_proposal_file
from .recall import measure_recall, read_objects

__all__ = ["IMAGES_PER_PART", "ProposalMethod", "Propose", "compute_proposals", "format_summary"]

IMAGES_PER_PART = 10
# A fork of a process with threads, such as torch's threads, can hang. The fork server has no
# threads, and imports this package once for all processes.
_START = "forkserver"

Record = dict[str, Any]

# A record of a data set (`file_name`, `image_id`, `height`, `width`) -> boxes, (N, 4) XYXY in
# pixels of the image, and their scores, (N,), descending.
Propose = Callable[[Record], tuple[Floats32, Floats32]]


class ProposalMethod(Protocol):
    """A method to propose boxes. It must be picklable, since other processes get a copy."""

    def settings(self) -> dict[str, Any]:
        """Return the settings that decide the boxes of an image, as values that json can hold."""

    def start(self, rank: int) -> Propose:
        """Return the function that proposes boxes. This is called once in each process.

        Args:
            rank: the number of the process, from 0.
        """


def compute_proposals(
    method: ProposalMethod,
    names: Sequence[str],
    output: str | Path,
    *,
    processes: int = 1,
    overwrite: bool = False,
) -> dict[str, dict[str, Any]]:
    """Compute and store the proposals of data sets; continue an interrupted computation.

    Proposals of the same method, settings and images are not computed again. Images count as the
    same if their ids, file names and file sizes are the same. The annotations do not count,
    although the recall depends on them.

    Args:
        method: the method that proposes boxes.
        names: names of registered data sets.
        output: the folder to write to.
        processes: the number of processes. Each works on one CPU core, so their number changes no
            result. If there are several, new Python processes start: call this from a script that
            is guarded by `if __name__ == "__main__"`.
        overwrite: replace proposals of other settings, instead of raising an error.

    Returns:
        Data set -> the content of its json file, for `format_summary`.

    Raises:
        UserError: a data set is unknown or not there; `output` cannot be written to or holds
            proposals of other settings; an image cannot be read; the method cannot start; or a
            process was killed.
    """
    names = list(dict.fromkeys(names))
    require_range("--processes", processes, 1)
    require_datasets(names)
    settings, folder = method.settings(), Path(output)
    summaries = {}
    with writable_folder(folder):
        for name in names:
            step = _Computation(method, settings, name, folder, processes, overwrite)
            run_step(step)
            summaries[name] = read_json_or_none(str(step.record))
    return summaries


def format_summary(name: str, summary: dict[str, Any]) -> str:
    """Return one line about a data set's proposals: their number, time and recall."""
    recall = summary["recall"]
    parts = [
        f"{name}: {summary['images']} images",
        f"{summary['proposals_per_image']:.1f} proposals and "
        f"{summary['seconds_per_image']:.3f} s per image",
    ]
    if recall:
        parts.append(
            f"recall {recall['recall_50']:.1f} at IoU 0.5, {recall['recall_70']:.1f} at 0.7, "
            f"{recall['AR']:.1f} on average over 0.5 to 0.95 ({recall['objects']} objects)"
        )
    return ", ".join(parts)


class _Computation(Step):
    """The proposals of a data set; the top of this file describes the files."""

    def __init__(
        self,
        method: ProposalMethod,
        settings: dict[str, Any],
        name: str,
        output: Path,
        processes: int,
        overwrite: bool,
    ) -> None:
        self.file, self.parts = output / f"{name}.pkl", output / f"{name}.parts"
        super().__init__(f"Proposals for {name}", output / f"{name}.json", [self.file])
        self.method, self.processes, self.overwrite = method, processes, overwrite
        self.name, self.settings = name, settings
        self.records: list[Record] = DatasetCatalog.get(name)
        self.statistics: dict[str, Any] = {}

    def find_inputs(self) -> dict[str, Any]:
        """See `Step`; the inputs have the ids, file names and file sizes of the images."""
        ids = []
        for record in self.records:
            path = Path(record["file_name"])  # its folder may change
            ids.append(
                [record["image_id"], path.name, path.stat().st_size if path.is_file() else -1]
            )
        images = hashlib.sha256(json.dumps(ids).encode()).hexdigest()
        count = {"images": len(ids), "images_sha256": images}
        return {"data_set": self.name, **self.settings, **count}

    def read_record(self) -> dict[str, Any] | None:
        """Return the inputs of the file if it is up to date, else of the parts if there are any."""
        finished: dict[str, Any] = read_json_or_none(str(self.record)) or {}
        started = read_json_or_none(str(self._started))
        if self.is_complete():
            return finished
        if started and started.get("images_per_part") != IMAGES_PER_PART:
            started = {}
        if started is not None and (
            self._has_parts() or not find_change(started, self.find_inputs())
        ):
            return dict(started)
        return finished if self.file.exists() else None

    def is_complete(self) -> bool:
        """See `Step`."""
        return self.file.is_file() and not find_change(
            read_json_or_none(str(self.record)), self.find_inputs()
        )

    def is_resumable(self) -> bool:
        """See `Step`."""
        return self._started.is_file()

    @property
    def _started(self) -> Path:
        return self.parts / "settings.json"

    def _has_parts(self) -> bool:
        return any(self.parts.glob("*.npz"))

    def require_replaceable(self, change: str) -> None:
        """See `Step`; nothing is replaced without `overwrite`."""
        if not self.overwrite:
            what = self.file if self.file.exists() else self.parts
            raise UserError(
                f"{what} already exists, {change}. Give another --output, or --overwrite to "
                "replace it"
            )

    def start(self, resume: bool) -> None:
        """See `Step`; the parts of an earlier computation are removed unless it goes on."""
        if not resume:
            self._remove_parts()
            self.record.unlink(missing_ok=True)
            write_json(
                str(self._started), {**self.find_inputs(), "images_per_part": IMAGES_PER_PART}
            )

    def make(self, resume: bool) -> None:
        """See `Step`."""
        records = self.records
        try:
            with tqdm(total=len(records), desc=self.name, unit="image", disable=None) as bar:
                _compute_parts(self.method, records, self.parts, self.processes, bar.update)
        except UserError:
            if not self._has_parts():
                self._remove_parts()
            raise
        boxes, logits, seconds = _read_parts(records, self.parts)
        write_proposal_file(self.file, [r["image_id"] for r in records], boxes, logits)
        recall = measure_recall(zip(boxes, map(read_objects, records), strict=True))
        self.statistics = {
            "proposals_per_image": sum(map(len, boxes)) / max(len(records), 1),
            "seconds_per_image": seconds / max(len(records), 1),
            "recall": recall if recall["objects"] else None,
        }

    def finish(self) -> None:
        """See `Step`."""
        write_json(str(self.record), {**self.find_inputs(), **self.statistics})
        self._remove_parts()

    def _remove_parts(self) -> None:
        """Remove the parts, and their folder if nothing else is in it."""
        for path in (*self.parts.glob("[0-9]*.npz"), self._started):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.parts.rmdir()


def _compute_parts(
    method: ProposalMethod,
    records: Sequence[Record],
    folder: Path,
    processes: int,
    progress: Callable[[int], object],
) -> None:
    """Compute the parts that have no file in `folder` yet.

    `progress` is called with the number of images that are newly finished, at first for the parts
    of an earlier call.
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
    with _limit_threads():
        propose = method.start(0)  # if this fails, the error is raised once, not in each process
        if processes == 1:
            for path, part in missing:
                _compute_part(path, part, propose, progress)
            return
    del propose
    _compute_in_processes(method, missing, processes, progress)


def _read_parts(
    records: Sequence[Record], folder: Path
) -> tuple[list[Floats32], list[Floats32], float]:
    """Return boxes and logits of all images, and the sum of the seconds of all processes."""
    boxes: list[Floats32] = []
    logits: list[Floats32] = []
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
                f"{path} is gone: is the same command running a second time in this folder? Wait "
                "until it ends, then run this command again"
            ) from error
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise UserError(f"{path} is damaged: delete it and run this again") from error
    # Copies, so that no array keeps its whole part in memory.
    return [b.copy() for b in boxes], [score.copy() for score in logits], seconds


def _split(records: Sequence[Record], folder: Path) -> Iterator[tuple[Path, Sequence[Record]]]:
    for start in range(0, len(records), IMAGES_PER_PART):
        path = folder / f"{start // IMAGES_PER_PART:06d}.npz"
        yield path, records[start : start + IMAGES_PER_PART]


def _compute_part(
    path: Path, part: Sequence[Record], propose: Propose, progress: Callable[[int], object]
) -> None:
    found = []
    # On a CPU that other programs use too, only the time of this thread measures the work.
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
def _limit_threads() -> Iterator[None]:
    """Use one thread in this process."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def _compute_in_processes(
    method: ProposalMethod,
    missing: Sequence[tuple[Path, Sequence[Record]]],
    processes: int,
    progress: Callable[[int], object],
) -> None:
    context = multiprocessing.get_context(_START)
    context.set_forkserver_preload([__name__])
    ranks = context.Value("i", 0)
    needed = ("file_name", "image_id", "height", "width")
    with ProcessPoolExecutor(processes, context, _start_process, (method, ranks)) as pool:
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
                "a process was killed, probably because memory ran out. Run the command again with "
                "a smaller --processes; finished parts are kept"
            ) from error
        except BaseException:
            # Each process finishes its part; the waiting parts are cancelled.
            pool.shutdown(wait=True, cancel_futures=True)
            raise


_propose: Propose | None = None  # of this process, when it is one of several


def _start_process(method: ProposalMethod, ranks: Any) -> None:
    global _propose
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends the others
    end_with_parent()
    with ranks.get_lock():
        rank = ranks.value
        ranks.value += 1
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _propose = method.start(rank)


def _work(path: Path, part: Sequence[Record]) -> None:
    assert _propose is not None
    _compute_part(path, part, _propose, lambda images: None)
