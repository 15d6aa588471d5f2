"""The formats by name, and the reading and writing of a data set in any of them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import UserError, nearest, shorten
from ...files import explain_write_error, read_json_or_none
from ...temporary_files import make_temporary_folder
from ..coco_json import list_classes
from ..findings import IssueCounter
from ..images import is_hidden
from .coco import read_coco, write_coco
from .cvat import read_cvat, write_cvat
from .dataset import Dataset
from .files import read_xml
from .id_images import read_cityscapes, read_dsb, read_id_images, write_id_images
from .label_studio import read_label_studio, write_label_studio
from .labelme import read_labelme, write_labelme
from .voc import read_voc, write_voc
from .yolo import read_yolo, write_yolo

__all__ = ["FORMATS", "guess_format", "read_dataset", "write_dataset"]

Reader = Callable[[Path, Path | None, IssueCounter], Dataset]
Writer = Callable[[Dataset, Path, IssueCounter], None]


# Name -> reader and writer; the writer is None if the format can only be read.
FORMATS: dict[str, tuple[Reader, Writer | None]] = {
    "coco": (read_coco, write_coco),
    "yolo": (read_yolo, write_yolo),
    "labelme": (read_labelme, write_labelme),
    "voc": (read_voc, write_voc),
    "cvat": (read_cvat, write_cvat),
    "label-studio": (read_label_studio, write_label_studio),
    "id-images": (read_id_images, write_id_images),
    "cityscapes": (read_cityscapes, None),
    "dsb": (read_dsb, None),
}
_FOLDERS = ("voc", "id-images", "cityscapes", "dsb")  # they have no file that names the others


def guess_format(source: str | os.PathLike[str]) -> str:
    """Return the name of the format of a file or folder.

    Raises:
        UserError: there is no such file or folder, or no format fits, or several formats fit.
    """
    path = Path(source)
    if not path.exists():
        raise UserError(f"not found: {path.absolute()}")
    if not os.access(path, os.R_OK):
        raise UserError(f"cannot read {path.absolute()}: Permission denied. Fix its permissions")
    found = _guess_folder(path) if path.is_dir() else _guess_file(path)
    if len(found) != 1:
        why = f"may be {' or '.join(found)}" if found else "has no format that can be guessed"
        zipped = ". Unpack the archive first" if path.suffix.lower() == ".zip" else ""
        raise UserError(f"{path} {why}: give --from, one of {', '.join(FORMATS)}{zipped}")
    return found[0]


def _guess_file(path: Path) -> list[str]:
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        return ["yolo"]
    if suffix == ".xml":
        try:
            return ["cvat"] if read_xml(path).tag == "annotations" else []
        except UserError:
            return []
    return _guess_json(read_json_or_none(path)) if suffix == ".json" else []


def _guess_json(content: Any) -> list[str]:
    if isinstance(content, dict):
        keys = {"coco": {"images", "categories"}, "labelme": {"shapes", "imagePath"}}
        return [name for name, needed in keys.items() if needed <= content.keys()]
    tasks = isinstance(content, list) and content and isinstance(content[0], dict)
    return ["label-studio"] if tasks and "data" in content[0] else []


def _guess_folder(path: Path) -> list[str]:
    inner = [p for p in sorted(path.iterdir()) if p.is_dir()]
    jsons = [p for p in sorted(path.glob("*.json")) if not is_hidden(p)]
    jsons = jsons or [p for p in sorted(path.glob("*/*.json")) if not is_hidden(p)]
    of_json = _guess_json(read_json_or_none(jsons[0])) if jsons else []
    yolo = any(path.glob("*.y*ml")) or any(path.glob("labels/**/*.txt"))
    signs = {
        "yolo": yolo,
        "labelme": of_json == ["labelme"],
        "label-studio": of_json == ["label-studio"]
        and (jsons[0].parent == path or jsons[0].name == "tasks.json"),
        "voc": (path / "SegmentationObject").is_dir(),
        "cvat": (path / "annotations.xml").is_file(),
        "cityscapes": (path / "gtFine").is_dir(),
        "dsb": any((p / "masks").is_dir() and (p / "images").is_dir() for p in inner),
        "id-images": (path / "images").is_dir()
        and (any(path.glob("masks/*.*")) or (not yolo and any(path.glob("labels/*.png")))),
    }
    return [name for name, held in signs.items() if held]


def read_dataset(
    source: str | os.PathLike[str],
    name: str,
    images: str | os.PathLike[str] | None = None,
    notes: IssueCounter | None = None,
) -> Dataset:
    """Read a data set of any format as COCO json.

    Args:
        source: the file or folder.
        name: the name of the format, a key of `FORMATS`.
        images: the folder of the images, if it is not the usual folder of the format.
        notes: counts the objects and files that are left out or changed.

    Raises:
        UserError: the format is unknown, or a file is missing or malformed.
    """
    if name not in FORMATS:
        raise UserError(
            f"unknown format {name!r}: expected {', '.join(FORMATS)}{nearest(name, FORMATS)}"
        )
    path = Path(os.path.abspath(source))
    if not path.exists():
        raise UserError(f"not found: {path}")
    if name in _FOLDERS and not path.is_dir():
        raise UserError(f"{name} is a folder of files: expected a folder, got the file {path}")
    folder = Path(os.path.abspath(images)) if images is not None else None
    if folder is not None and not folder.is_dir():
        raise UserError(f"image folder not found: {folder}")
    reader, _ = FORMATS[name]
    return reader(path, folder, IssueCounter() if notes is None else notes)


def write_dataset(
    dataset: Dataset,
    name: str,
    output: str | os.PathLike[str],
    notes: IssueCounter | None = None,
) -> list[Path]:
    """Write a data set; after an error, `output` is not there.

    Args:
        dataset: the data set.
        name: the name of the format, a key of `FORMATS` that can be written.
        output: a file for COCO json without splits, else a folder. It may not exist, except as an
            empty folder.
        notes: counts the objects that the format cannot hold.

    Returns:
        The files or folders that were written: the jsons of COCO, else the folder.

    Raises:
        UserError: the format cannot be written, or `output` exists, or the name of a split is no
            name of a file, or a name is not UTF-8 and the format needs it.
    """
    _, writer = FORMATS.get(name, (None, None))
    if writer is None:
        known = [key for key, (_, write) in FORMATS.items() if write]
        raise UserError(f"the format {name!r} cannot be written: expected {', '.join(known)}")
    _check_splits(dataset)
    notes = IssueCounter() if notes is None else notes
    path = Path(os.path.abspath(output))
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"the folder {path} is not empty: give another one")
    is_file = path.suffix == ".json"
    if path.is_file():
        raise UserError(f"{path} exists: give another name, or remove it")
    if name == "coco" and is_file != ("" in dataset.splits):
        splits = " and ".join(f"{split}.json" for split in dataset.splits)
        expected = "a file, such as all.json" if not is_file else f"a folder, for {splits}"
        raise UserError(f"OUTPUT {path}: expected {expected}")
    if name == "coco":
        writer(dataset, path, notes)
        return [path / f"{split}.json" if split else path for split in dataset.splits]
    _write_folder(dataset, writer, path, notes)
    return [path]


def _check_splits(dataset: Dataset) -> None:
    """Check that each split has a name that leads to no other folder."""
    refused = {".", "..", *([""] if len(dataset.splits) > 1 else [])}
    for split in dataset.splits:
        if split in refused or set(split) & {"/", "\\", "\0"}:
            raise UserError(
                f"the split {shorten(repr(split))}: expected a name that a file can have, without "
                "/ and \\. Rename it (in CVAT it is the subset of a task)"
            )


def _write_folder(dataset: Dataset, writer: Writer, path: Path, notes: IssueCounter) -> None:
    """Write into a temporary folder next to `path`, and rename it when it is complete."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with make_temporary_folder(path.parent) as temporary:
            writer(dataset, temporary, notes)
            if path.is_dir():
                path.rmdir()
            temporary.rename(path)
    except OSError as error:
        raise explain_write_error(path, error) from error
    except UnicodeEncodeError as error:
        raise UserError(f"{_name_unreadable(dataset, error)} is not UTF-8. Rename it") from error


def _name_unreadable(dataset: Dataset, error: UnicodeEncodeError) -> str:
    """Return words for the first name that UTF-8 cannot hold."""
    contents = list(dataset.splits.values())
    named = [("the name of the image", i["file_name"]) for c in contents for i in c["images"]]
    named += [("the name of the class", n) for c in contents for n in list_classes(c).values()]
    named += [("the folder", dataset.image_root), ("the text", error.object)]
    shown = [(words, n, n.encode("utf-8", "backslashreplace").decode()) for words, n in named]
    return next(f"{words} {shorten(plain, 300)}" for words, n, plain in shown if n != plain)
