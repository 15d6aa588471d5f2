"""Finds the image files that a COCO json names, and compares their sizes with the json.

Labelling tools write `file_name` as a path of their own machine, as a URL, with backslashes, with
the image folder's own name in front, or in other capitals. Such a name is replaced if only one file
can be meant.
"""

import functools
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any
from urllib.parse import unquote

from ..errors import UserError, count_noun, name_some, nearest, say_have, shorten
from .bands import read_bands_header
from .findings import IssueCounter
from .images import read_header

__all__ = ["HEADERS_CHECKED", "check_image_sizes", "find_image_files"]

HEADERS_CHECKED = 2000  # images whose header is compared with the json, evenly spread over the file

_FOLDERS_SEARCHED = 300  # where the images might be instead
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")

_Kind = Callable[[os.DirEntry[str]], bool]  # a method of an entry: is_file or is_dir


class _Folders:
    """Tells which files exist; each folder is listed only once.

    Attributes:
        unreadable: folder -> why it cannot be listed, for folders that exist.
    """

    def __init__(self) -> None:
        self.unreadable: dict[str, str] = {}
        self._names = functools.cache(self._list)
        self._plain_names = functools.cache(self._group_names)

    def has_file(self, path: str) -> bool:
        """Return whether `path` is a file, or a link to one."""
        folder, name = os.path.split(path)
        return name in self._names(folder, os.DirEntry.is_file)

    def find_similar(self, root: str, name: str) -> str:
        """Return the only file in `root` whose path differs from `name` in capitals or accents."""
        found = ""
        *parts, last = name.split("/")
        kinds = [os.DirEntry.is_dir] * len(parts) + [os.DirEntry.is_file]
        for part, kind in zip([*parts, last], kinds, strict=True):
            folder = os.path.join(root, found)
            similar = [part]
            if part not in ("", ".", "..", *self._names(folder, kind)):
                similar = self._plain_names(folder, kind).get(_plain(part), [])
            if len(similar) != 1:
                return ""
            found = os.path.join(found, similar[0])
        return found

    def _group_names(self, folder: str, kind: _Kind) -> dict[str, list[str]]:
        groups = defaultdict(list)
        for name in self._names(folder, kind):
            groups[_plain(name)].append(name)
        return groups

    def _list(self, folder: str, kind: _Kind) -> set[str]:
        try:
            with os.scandir(folder or ".") as entries:
                return {entry.name for entry in entries if _is(entry, kind)}
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no possible name
            return set()
        except OSError as error:  # for example no permission, or links in a circle
            self.unreadable[folder] = error.strerror or str(error)
            return set()


def _plain(name: str) -> str:
    """Return a name without capitals, and with each accent joined to its letter."""
    return unicodedata.normalize("NFC", name).casefold()


def _is(entry: os.DirEntry[str], kind: _Kind) -> bool:
    try:
        return kind(entry)
    except OSError:  # a link in a circle
        return False


def find_image_files(
    images: list[dict[str, Any]],
    image_root: str,
    completed: IssueCounter,
    skipped: list[str] | None = None,
) -> tuple[list[str], list[str]]:
    """Find the file of each image; correct a wrong `file_name` in place if its meaning is clear.

    Args:
        images: the `images` of the json, with integer ids; `file_name` may contain sub-folders.
        image_root: the folder of the images.
        completed: counts the names that were replaced.
        skipped: receives the sentence on missing files, which are then no fault unless all files
            are missing.

    Returns:
        The path of each image, "" if there is no file, and the faults.
    """
    if fault := _explain_root(image_root):
        return [""] * len(images), [fault]
    folders, faults = _Folders(), []
    names = [i["file_name"] if isinstance(i.get("file_name"), str) else "" for i in images]
    nameless = [image for image, own in zip(images, names, strict=True) if not own]
    if nameless:
        faults.append(
            f"{say_have(nameless, images, 'images')} no `file_name`: image "
            f"{nameless[0]['id']} has no `file_name`"
        )
    # `file_name` in the json -> name here, the change
    meant = {own: _find_name(own, image_root, folders) for own in dict.fromkeys(names) if own}
    owners = Counter(name for name, _ in meant.values())
    paths, missing = [], []
    for image, own in zip(images, names, strict=True):
        name, change = meant.get(own, ("", ""))
        if not name or (change and owners[name] > 1):  # two names must not share a file
            paths.append("")
            if own:
                missing.append(own)
            continue
        if change:
            image["file_name"] = name
            completed.add(change, image["id"])
        paths.append(os.path.join(image_root, name))
    if missing:
        found = faults if skipped is None or len(missing) == len(images) else skipped
        found.append(_explain_missing(missing, len(images), image_root))
    faults += [f"folder {f or '.'} cannot be listed: {r}" for f, r in folders.unreadable.items()]
    return paths, faults


def _explain_root(image_root: str) -> str:
    """Return why `image_root` is no folder, or "" if it is one."""
    if os.path.isdir(image_root):
        return ""
    path = os.path.abspath(image_root)
    if os.path.isfile(path):
        return f"expected the folder of the images, got the file {path}"
    if os.path.islink(path):
        return f"image folder {path} is a link that leads to nothing or in a circle"
    folder, name = os.path.split(path)
    hint = nearest(name, os.listdir(folder)) if os.path.isdir(folder) else ""
    return f"image folder not found: {path}{hint}"


def _find_name(own: str, root: str, folders: _Folders) -> tuple[str, str]:
    """Return the name of the file inside `root` and the change, or "" twice."""
    name, change = _find_unquoted_name(own, root, folders)
    if not name and "%" in own:  # Label Studio writes "%C3%A9" for an accent in the path of a file
        name, change = _find_unquoted_name(unquote(own), root, folders)
        change = change or "`file_name` was quoted as in a URL"
    return (name, change) if name else ("", "")


def _find_unquoted_name(own: str, root: str, folders: _Folders) -> tuple[str, str]:
    if folders.has_file(os.path.join(root, own)):
        return own, ""
    name, foreign = own, ""
    if "://" in own:
        name, foreign = unquote(re.split(r"[?#]", own)[0]), "a URL"
    elif own.startswith(("/", "\\")) or _DRIVE.match(own):
        foreign = "a path of another machine"
    name = name.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name != own and not foreign and folders.has_file(os.path.join(root, name)):
        return name, "`file_name` had backslashes"
    if parts and parts[0] == "..":  # of Label Studio and X-AnyLabeling
        foreign = "a path that leads out of the image folder"
        parts = [part for part in parts if part != ".."]
    if foreign:
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            if folders.has_file(os.path.join(root, end)):
                return end, f"`file_name` was {foreign}; only its end is used"
        return "", ""
    tail = os.path.abspath(root).split(os.sep)
    for length in range(1, len(parts)):
        end = "/".join(parts[length:])
        if parts[:length] == tail[-length:] and folders.has_file(os.path.join(root, end)):
            return end, "`file_name` began with the name of the image folder"
    if similar := folders.find_similar(root, name):
        return similar, "`file_name` was in other capitals"
    return "", ""


def _explain_missing(missing: list[str], total: int, root: str) -> str:
    shown = []
    for name in missing[:5]:
        path, why = os.path.join(root, name), ""
        if os.path.isdir(path):
            why = " (a folder)"
        elif os.path.islink(path):
            why = " (a link that leads to nothing or in a circle)"
        shown.append(shorten(name, 120) + why)
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    text = f"{len(missing)} of {total} image files are missing: {', '.join(shown)}{more}. "
    for folder in islice(_nearby_folders(root), _FOLDERS_SEARCHED):
        if all(os.path.isfile(os.path.join(folder, _to_slashes(name))) for name in missing):
            return f"{text}They are in {folder}: give this folder in place of {root}"
    text += f"`file_name` is relative to the folder {root}, which holds "
    text += name_some(_list_names(root), 3) or "nothing"
    folder, name = os.path.split(_to_slashes(missing[0]))
    same = [
        n
        for n in _list_names(os.path.join(root, folder))
        if n != name and _plain_stem(n) == _plain_stem(name)
    ]
    return f"{text}. For {shorten(missing[0], 120)} there is {same[0]}" if same else text


def _to_slashes(name: str) -> str:
    return name.replace("\\", "/")


def _plain_stem(name: str) -> str:
    return os.path.splitext(name)[0].lower()


def _list_names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (OSError, ValueError):
        return []


def _nearby_folders(root: str) -> Iterator[str]:
    """Yield the two folders above `root`, and the folders up to two levels below it or next to it.

    The images of `annotations/a.json` are often in `images/train`. If the folder above is `/` or a
    whole disk, the folders next to `root` are left out, since they may be large.
    """
    root = os.path.abspath(root)
    above = os.path.dirname(root)
    yield above
    yield os.path.dirname(above)
    for start in (root,) if os.path.ismount(above) else (root, above):
        for folder, inner, _ in os.walk(start):
            depth = os.path.relpath(folder, start).count(os.sep) + 1 if folder != start else 0
            names = sorted(inner) if depth < 2 else []
            inner[:] = [name for name in names if os.path.join(folder, name) != root]
            if depth:
                yield folder


def check_image_sizes(
    images: list[dict[str, Any]],
    paths: list[str],
    completed: IssueCounter,
    channels: int = 0,
    skipped: list[str] | None = None,
) -> tuple[set[int], list[str], str]:
    """Compare the sizes that a COCO json gives with the image files.

    The headers of `HEADERS_CHECKED` images, evenly spread, are read. A missing or unusable `width`
    or `height` is filled in, in place. As in detectron2, sizes are after EXIF orientation.

    Args:
        images: the `images` of the json, with integer ids.
        paths: the file of each image, or "".
        completed: counts the images whose size was filled in.
        channels: number of channels of images that `data.bands` reads; 0: 8-bit colour images.
        skipped: receives the sentence on files that cannot be used, which are then no fault. An
            image that has a size in the json keeps it.

    Returns:
        The ids of the images whose size is unknown, the faults, and a warning about files with
        several frames or pages, or "".
    """
    unsized = {i for i, image in enumerate(images) if not _normalise_size(image, completed)}
    step = -(-len(images) // HEADERS_CHECKED)
    unreadable, contradictions, in_parts = [], [], []
    bad = {images[i]["id"] for i in unsized if not paths[i]}
    for i in sorted(unsized.union(range(0, len(images), step))):
        if not paths[i]:
            continue
        image = images[i]
        try:
            header = read_bands_header(paths[i], channels) if channels else read_header(paths[i])
        except UserError as error:
            unreadable.append((image["file_name"], str(error)))
            if skipped is None or i in unsized:
                bad.add(image["id"])
            continue
        width, height = header.width, header.height
        if header.frames > 1:
            in_parts.append(f"{image['file_name']} ({header.frames})")
        given = (image.get("width"), image.get("height"))
        if i in unsized:
            image.update(width=width, height=height)
            completed.add("image size read from the file", image["id"])
        elif given != (width, height):
            exif = ", after its EXIF orientation" if header.rotated else ""
            contradictions.append(
                f"image {image['id']} ({image['file_name']}) is {given[0]} x {given[1]} in "
                f"the json, the file is {width} x {height}{exif}"
            )
            bad.add(image["id"])
    faults: list[str] = []
    if unreadable:
        others = [name for name, _ in unreadable[1:]]
        also = f". The others: {name_some(others)}" if others else ""
        count = count_noun(len(unreadable), "image file")
        found = faults if skipped is None else skipped
        found.append(f"{count} cannot be used: {unreadable[0][1]}{also}")
    if contradictions:
        faults.append(
            f"the sizes (width x height, pixels) of {len(contradictions)} of {len(images)} images "
            "contradict the files: "
            f"{name_some(contradictions)}. Correct the json or the files: annotations must fit "
            "the pixels as they are read"
        )
    parts = f"of images with several frames or pages, only the first is read: {name_some(in_parts)}"
    return bad, faults, parts if in_parts else ""


def _normalise_size(image: dict[str, Any], completed: IssueCounter) -> bool:
    """Return whether `width` and `height` are usable; turn floats like 40.0 into integers."""
    for key in ("width", "height"):
        value = image.get(key)
        if isinstance(value, float) and value.is_integer():
            value = image[key] = int(value)
            completed.add(f"`{key}` of an image read as an integer", image["id"])
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            return False
    return True
