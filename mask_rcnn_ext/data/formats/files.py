"""Reads the text files of labelling tools, and writes the files of a converted data set."""

import os
import shutil
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import UserError
from ...files import atomic_open
from ..images import IMAGE_SUFFIXES, is_hidden
from .dataset import Dataset

__all__ = [
    "copy_images",
    "flat_names",
    "index_images",
    "list_files",
    "read_lines",
    "read_text",
    "read_xml",
    "require_images",
    "write_text",
]


def list_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files of a folder and of its subfolders, sorted, without hidden ones.

    Links are followed, but not to a folder that is read in its own place, and not in a circle. A
    pipe is no file, nor is a link that leads to nothing.

    Args:
        folder: where to look.
        suffixes: ends of names, such as ".png"; capitals do not count.

    Raises:
        UserError: a folder cannot be listed.
    """
    return sorted(p for p in _walk(folder, ()) if p.suffix.lower() in suffixes)


def _walk(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if folder.is_symlink() and any(_is_read(Path(real), path) for path in above):
        return
    if real in above:
        return
    try:
        inside = [(path, path.is_dir()) for path in folder.iterdir() if not is_hidden(path)]
    except OSError as error:
        raise UserError(f"folder {folder} cannot be listed: {error.strerror or error}") from error
    for path, is_folder in inside:
        if is_folder:
            yield from _walk(path, (*above, real))
        elif path.is_file():  # no pipe, and no link that leads to nothing
            yield path


def _is_read(folder: Path, above: str) -> bool:
    """Return whether a folder is `above` or inside, and not hidden there."""
    if not folder.is_relative_to(above):
        return False
    return not any(map(is_hidden, folder.relative_to(above).parts))


def require_images(root: Path) -> None:
    """Raise a `UserError` if there is no folder of the images."""
    if not root.is_dir():
        raise UserError(f"image folder not found: {root}. Give it with --images")


def index_images(root: Path) -> dict[str, Path]:
    """Return the images of a folder: name without its suffix, relative to `root` -> path.

    Raises:
        UserError: there is no such folder, or two images differ only in their suffix.
    """
    require_images(root)
    found: dict[str, Path] = {}
    for path in list_files(root, IMAGE_SUFFIXES):
        other = found.setdefault(path.relative_to(root).with_suffix("").as_posix(), path)
        if other != path:
            raise UserError(f"{other} and {path}: two images with the same name; remove one")
    return found


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8 or UTF-16, with or without a byte order mark.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        raw = path.read_bytes()
        encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        return raw.decode(encoding)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: neither UTF-8 nor UTF-16. Save the file as UTF-8") from error


def read_xml(path: Path) -> ET.Element:
    """Return the outermost element of an xml file.

    Raises:
        UserError: the file cannot be read, or is not xml.
    """
    try:
        return ET.parse(path).getroot()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ET.ParseError, LookupError, ValueError) as error:  # or an encoding it cannot read
        raise UserError(f"{path}: not xml: {error}") from error


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines of a file that are not blank, with their numbers from 1 on."""
    lines = enumerate(read_text(path).splitlines(), 1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text.

    Raises:
        UnicodeEncodeError: a name in the text is not UTF-8, so that nobody would find its file.
    """
    with atomic_open(path, durable=False) as file:
        file.write(text.encode())


def flat_names(content: dict[str, Any]) -> dict[int, str]:
    """Return a file name without folders for each image id; each stem is unique."""
    paths = {image["id"]: PurePosixPath(image["file_name"]) for image in content["images"]}
    stems = Counter(path.stem for path in paths.values())
    names = {
        i: path.name if stems[path.stem] == 1 else "_".join(path.parts).strip("/")
        for i, path in paths.items()
    }
    again = Counter(PurePosixPath(name).stem for name in names.values())
    for i, name in names.items():
        if again[PurePosixPath(name).stem] > 1:  # a.jpg and a.png
            path = PurePosixPath(name)
            names[i] = f"{path.stem}_{path.suffix[1:]}{path.suffix}"
    if len({PurePosixPath(name).stem for name in names.values()}) < len(names):
        raise UserError("two images have the same name, so their labels would mix; rename one")
    return names


def copy_images(dataset: Dataset, content: dict[str, Any], folder: Path) -> dict[int, str]:
    """Copy the images of a split into a folder; return their names there, see `flat_names`."""
    folder.mkdir(parents=True, exist_ok=True)
    names = flat_names(content)
    for image in content["images"]:
        source = os.path.join(dataset.image_root, image["file_name"])
        try:
            shutil.copyfile(source, folder / names[image["id"]])
        except OSError as error:
            raise UserError(f"cannot copy {source}: {error.strerror or error}") from error
    return names
