"""Names the files that a run writes into its folder, and moves or removes them.

Nothing else in the folder is ever moved or removed.
"""

import contextlib
import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

__all__ = [
    "EARLIER",
    "LOCK",
    "find_free_folder",
    "find_run_files",
    "holds_training",
    "move",
    "remove_empty",
    "remove_run",
    "set_aside",
]

EARLIER = "earlier_runs"  # the folder, below a run's folder, that earlier runs are moved to
LOCK = "run.lock"  # held by the run that is at work: removed, never moved

_CHECKPOINT = r"model_(\d{7}|final|interrupted)\.pth"
_FILES = re.compile(
    rf"config\.yaml|log\.txt(\.rank\d+)?|metrics\.json|results\.json|last_checkpoint|{_CHECKPOINT}|"
    r"events\.out\.tfevents\..*|report\.html|predictions\.png|report_made_from\.json"
)
_FOLDERS = ("inference", "inference_TTA", "evaluations")
_CLEANED = re.compile(r"own_(train|val)\.json")
_FILES_IN_FOLDERS = re.compile(
    rf"{_CLEANED.pattern}|coco_instances_results\.json|instances_predictions\.pth|"
    r"box_proposals\.pkl|fcis_comparison\.json"
)


def find_run_files(folder: Path) -> list[Path]:
    """Return the files and folders in `folder` that a run has left there, by name.

    A folder `data` counts if it holds nothing but cleaned copies: it may be a user's data set.
    """
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _is_of_run(path))


def _is_of_run(path: Path) -> bool:
    if not path.is_dir():
        return bool(_FILES.fullmatch(path.name))
    if path.name == "data":
        return all(_CLEANED.fullmatch(file.name) for file in path.iterdir())
    return path.name in _FOLDERS


def holds_training(folder: Path) -> bool:
    """Return whether `folder` holds a training, not just an evaluation."""
    names = [path.name for path in find_run_files(folder)]
    return any(
        name in ("metrics.json", "last_checkpoint") or re.fullmatch(_CHECKPOINT, name)
        for name in names
    )


def find_free_folder(folder: Path) -> Path:
    """Return the next unused folder `earlier_runs/N`."""
    taken = [int(path.name) for path in (folder / EARLIER).glob("*") if path.name.isdigit()]
    return folder / EARLIER / str(max(taken, default=0) + 1)


def move(paths: Iterable[Path], target: Path) -> None:
    """Move files and folders into the folder `target`, which is made when it is missing."""
    for path in paths:
        target.mkdir(parents=True, exist_ok=True)
        path.rename(target / path.name)


def set_aside(folder: Path, also: Collection[str] = ()) -> Path | None:
    """Move the files of an earlier run to `folder/earlier_runs/N`, with the next free N.

    Args:
        folder: the folder of the run.
        also: names of more files to move, which the caller has written.

    Returns:
        The new folder; None if there was nothing to move.
    """
    found = [*find_run_files(folder), *(path for name in also if (path := folder / name).exists())]
    target = find_free_folder(folder)
    move(found, target)
    return target if found else None


def remove_run(folder: Path, also: Collection[str] = ()) -> list[Path]:
    """Remove the files that runs have left in a folder, and the folders that are then empty.

    Links stay, and so does everything that they lead to.

    Args:
        folder: the folder of the run; numbered earlier runs in it are removed too.
        also: names of more files that the caller has written there.

    Returns:
        What is still there: files that no run writes.
    """
    for path in (*(folder / name for name in (*also, LOCK)), *find_run_files(folder)):
        if path.is_symlink():  # what it leads to may be another run's
            continue
        if path.is_dir():
            _remove_files_in(path)
        else:
            path.unlink(missing_ok=True)
    evaluations, earlier = folder / "evaluations", folder / EARLIER
    for runs in (evaluations, earlier):
        for run in [] if runs.is_symlink() else sorted(runs.glob("*")):
            numbered = run.name.isdigit() or runs == evaluations
            if numbered and run.is_dir() and not run.is_symlink():
                remove_run(run, also)
        remove_empty([runs])
    remove_empty([folder])
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def _remove_files_in(folder: Path) -> None:
    """Remove a run's files in one of its folders, and the folders that are then empty."""
    for parent, _, names in os.walk(folder, topdown=False):  # enters no folder that is a link
        for path in (Path(parent, name) for name in names):
            of_run = folder.name != "evaluations" and _FILES_IN_FOLDERS.fullmatch(path.name)
            if of_run and not path.is_symlink():
                path.unlink()
        remove_empty([Path(parent)])


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove the folders that are empty, in the order given."""
    for folder in folders:
        with contextlib.suppress(OSError):  # not empty, or not there
            folder.rmdir()
