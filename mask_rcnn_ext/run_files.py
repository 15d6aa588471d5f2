"""Finds the files that a run has written into its folder, and moves or removes them.

Other files in the folder are never moved or removed.
"""

import contextlib
import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from .errors import UserError

__all__ = [
    "EARLIER",
    "FOLDERS",
    "LOCK",
    "SPLIT_NAMES",
    "find_free_folder",
    "find_run_files",
    "holds_run",
    "holds_training",
    "move",
    "move_back",
    "remove_empty",
    "remove_run",
    "require_run_config",
    "set_aside",
]

EARLIER = "earlier_runs"  # the folder, below a run's folder, that earlier runs are moved to
LOCK = "run.lock"  # held by the current run; it is removed, but never moved

# Key of MASK_RCNN_EXT.DATA -> the file, in the folder `data` of a run, of its part of a split.
SPLIT_NAMES = {"TRAIN_JSON": "split_train.json", "VAL_JSON": "split_val.json"}

_CHECKPOINT = r"(model_(\d{7}|final|best|interrupted)|nonfinite_\d{7})\.pth"
_FILES = re.compile(
    rf"config\.yaml|log\.txt(\.rank\d+)?|metrics\.json|results\.json|last_checkpoint|{_CHECKPOINT}|"
    r"events\.out\.tfevents\..*|report\.html|predictions\.png|analysis\.json|"
    r"report_made_from\.json|loggers\.json"
)
FOLDERS = ("inference", "inference_TTA", "evaluations")  # of an evaluation's files
_CLEANED = re.compile(r"own_(train|val)\.json")
_FILES_IN_FOLDERS = re.compile(
    rf"{_CLEANED.pattern}|coco_instances_results\.json|instances_predictions\.pth|"
    r"box_proposals\.pkl|fcis_comparison\.json"
)


def find_run_files(folder: Path) -> list[Path]:
    """Return the files and folders in `folder` that a run has written, sorted by name.

    A folder `data` counts only if it holds nothing but cleaned copies; otherwise it may be a user's
    data set. If a folder such as `inference` also holds other files, only the files of the run
    count.
    """
    found: list[Path] = []
    for path in _find_entries(folder):
        own = [path]
        if path.name in FOLDERS and path.is_dir() and not path.is_symlink():
            files = _find_files(path)
            if path.name == "evaluations":
                runs = (run for run in path.iterdir() if run.is_dir() and not run.is_symlink())
                own = [
                    file
                    for run in runs
                    for entry in find_run_files(run)
                    for file in _find_files(entry)
                ]
            else:
                own = [file for file in files if _FILES_IN_FOLDERS.fullmatch(file.name)]
            if set(own) == set(files):
                own = [path]
        found += own
    return sorted(found)


def _find_entries(folder: Path) -> list[Path]:
    """Return the entries of `folder` that have the name of a run's file or folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _is_of_run(path))


def _find_files(path: Path) -> list[Path]:
    """Return the files and links in a folder, at any depth; for a file, return the file."""
    if not path.is_dir() or path.is_symlink():
        return [path]
    return [file for entry in path.iterdir() for file in _find_files(entry)]


def _is_of_run(path: Path) -> bool:
    if not path.is_dir():
        return bool(_FILES.fullmatch(path.name))
    if path.name == "data":
        return all(_CLEANED.fullmatch(file.name) for file in path.iterdir())
    return path.name in FOLDERS


def holds_training(folder: Path) -> bool:
    """Return whether `folder` holds a training, not just an evaluation."""
    marks = re.compile(rf"metrics\.json|last_checkpoint|{_CHECKPOINT}")
    return any(marks.fullmatch(path.name) for path in _find_entries(folder))


def require_run_config(folder: str | Path) -> Path:
    """Return the path of a run's `config.yaml`.

    Raises:
        UserError: there is no such folder, or no `config.yaml` in it.
    """
    if not os.path.isdir(folder):
        raise UserError(f"no folder {folder}; expected the OUTPUT_DIR of a training")
    path = Path(folder, "config.yaml")
    if not path.is_file():
        raise UserError(
            f"{folder} is not a run's folder: it has no config.yaml. Expected the OUTPUT_DIR of a "
            "training"
        )
    return path


def holds_run(folder: Path, first_files: Collection[str]) -> bool:
    """Return whether a folder holds a training run; then its files may be moved to another place.

    Args:
        folder: the `OUTPUT_DIR`; it may be missing.
        first_files: names of files that a run leaves before it writes its `config.yaml`.

    Returns:
        False if the folder is missing or empty, or holds nothing but first files.

    Raises:
        UserError: the folder holds other files.
    """
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    names -= {EARLIER, LOCK}
    if "config.yaml" in names or not names - set(first_files):
        return "config.yaml" in names
    raise UserError(
        f"{folder} is there, but is not a training run (no config.yaml in it). Move it away, or "
        "give another --output"
    )


def find_free_folder(folder: Path) -> Path:
    """Return the next unused folder `earlier_runs/N`."""
    taken = [int(path.name) for path in (folder / EARLIER).glob("*") if path.name.isdigit()]
    return folder / EARLIER / str(max(taken, default=0) + 1)


def move(paths: Iterable[Path], folder: Path, target: Path) -> list[tuple[Path, Path]]:
    """Move files and folders from `folder` to the same places in `target`, all or none.

    Args:
        paths: the files and folders to move.
        folder: the folder that holds them, at any depth. Empty folders in it are removed.
        target: the new folder, which is created if missing.

    Returns:
        Each old path with its new one, for `move_back`.

    Raises:
        UserError: they cannot be moved.
    """
    moved: list[tuple[Path, Path]] = []
    try:
        for path in paths:
            new = target / path.relative_to(folder)
            new.parent.mkdir(parents=True, exist_ok=True)
            path.rename(new)
            moved.append((path, new))
            remove_empty(parent for parent in path.parents if folder in parent.parents)
    except OSError as error:
        move_back(moved)
        remove_empty([target, target.parent])
        raise UserError(
            f"the earlier run in {folder} cannot be moved to {target}: {error.strerror}. Move "
            "one of the two folders away, or give another folder"
        ) from error
    return moved


def move_back(moved: Iterable[tuple[Path, Path]]) -> None:
    """Undo `move`, whose result is `moved`, and remove the empty folders."""
    for old, new in moved:
        with contextlib.suppress(OSError):  # then the file stays with the earlier runs
            old.parent.mkdir(parents=True, exist_ok=True)
            new.rename(old)
        remove_empty(parent for parent in new.parents if EARLIER in parent.parts)


def set_aside(folder: Path, also: Collection[str] = ()) -> Path | None:
    """Move the files of an earlier run to `folder/earlier_runs/N`, with the next free N.

    Args:
        folder: the folder of the run.
        also: names of more files to move, written by the caller.

    Returns:
        The new folder; None if there was nothing to move.

    Raises:
        UserError: see `move`; nothing was moved.
    """
    others = {path for name in also if (path := folder / name).exists()}
    found = sorted({*find_run_files(folder), *others})  # a name may be in both
    target = find_free_folder(folder)
    move(found, folder, target)
    return target if found else None


def remove_run(folder: Path, also: Collection[str] = ()) -> list[Path]:
    """Remove the files that runs have written into a folder, and folders that become empty.

    Links stay, and so do the files and folders that they lead to.

    Args:
        folder: the folder of the run; numbered earlier runs in it are removed too.
        also: names of more files to remove, written by the caller.

    Returns:
        The files that are left, because no run writes them.
    """
    for path in (*(folder / name for name in (*also, LOCK)), *_find_entries(folder)):
        if path.is_symlink():  # it may lead to another run
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
    """Remove a run's files in one of its folders, and folders that become empty."""
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
