"""Reads the text files of labelling tools, and writes the files of a converted data set."""

import os
import shutil
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import UserError
from ...files import atomic_open
from .dataset import Dataset

__all__ = ["copy_images", "flat_names", "read_lines", "read_text", "read_xml", "write_text"]


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
    """Write UTF-8 text."""
    with atomic_open(path, "w", durable=False) as file:
        file.write(text)


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
