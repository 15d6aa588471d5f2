"""Finds images that are listed twice: within a data set, or in training and validation data.

Images are the same if their files have the same bytes, also in different folders. A copy that was
saved again in another format or quality is not found.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field

from ..errors import name_some, say_are
from ..files import file_sha256
from .coco_json import CocoJson

__all__ = ["Place", "RepeatedImages", "find_repeated_images"]

_SAMPLE = 4096  # bytes; so many bytes from the middle of a file differ between most images

Place = tuple[str, int]  # split, index of an image


@dataclass(frozen=True)
class RepeatedImages:
    """Images that are the same.

    Attributes:
        text: a sentence with the count and examples, and what to do.
        groups: places of the same image.
    """

    text: str
    groups: list[list[Place]] = field(repr=False)


def find_repeated_images(files: Mapping[str, CocoJson]) -> list[RepeatedImages]:
    """Return the images that a json lists twice, and the images that both jsons list.

    Only files of equal size are read, and most of these only in part.

    Args:
        files: "train" or "val" -> the inspected json; the paths of its images may contain "".

    Returns:
        At most one entry for each kind, with the places of the images.
    """
    found = []
    groups = _find_equal_files(files)
    for split, file in files.items():
        inside = [[i for s, i in group if s == split] for group in groups]
        repeated = [group for group in inside if len(group) > 1]
        if repeated:
            shown = name_some([_name_group(file, group) for group in repeated])
            text = (
                f"{file.path}: {say_are(len(repeated), 'image')} listed more than once: "
                f"{shown}. An object that is missing in an entry is background there. Keep one "
                "entry, with all objects"
            )
            places = [[(split, i) for i in group] for group in repeated]
            found.append(RepeatedImages(text, places))
    if len(files) == 2:
        found += _find_shared_images(files["train"], files["val"], groups)
    return found


def _find_shared_images(
    train: CocoJson, val: CocoJson, groups: list[list[Place]]
) -> list[RepeatedImages]:
    too_high = "The model has seen them in training, so AP is too high"
    if os.path.realpath(train.path) == os.path.realpath(val.path):
        text = f"{val.path} is the train and the val json: the same images. {too_high}"
        return [RepeatedImages(text, [])]
    both = [group for group in groups if len({split for split, _ in group}) == 2]
    shared = [i for group in both for split, i in group if split == "val"]
    if not shared:
        return []
    names = name_some([val.content["images"][i]["file_name"] for i in shared])
    text = (
        f"{len(shared)} of the {len(val.image_paths)} images of {val.path} are also in "
        f"{train.path}: {names}. {too_high}. Remove them from one of the two"
    )
    return [RepeatedImages(text, both)]


def _name_group(file: CocoJson, group: list[int]) -> str:
    images = [file.content["images"][i] for i in group]
    names = dict.fromkeys(image["file_name"] for image in images)
    return f"{' = '.join(names)} (ids {', '.join(str(image['id']) for image in images)})"


def _find_equal_files(files: Mapping[str, CocoJson]) -> list[list[Place]]:
    """Return the groups of images whose files have the same bytes."""
    places: dict[str, list[Place]] = defaultdict(list)
    sizes: dict[str, Hashable] = {}
    for split, file in files.items():
        images = file.content.get("images", ())
        for i, (path, image) in enumerate(zip(file.image_paths, images, strict=True)):
            if path:
                places[path].append((split, i))
                sizes[path] = (image.get("width"), image.get("height"))
    groups: list[list[str]] = [list(places)]
    tests: list[Callable[[str], Hashable]] = [
        lambda path: (sizes[path], os.path.getsize(path)),
        _read_sample,
        file_sha256,
    ]
    for test in tests:
        groups = [part for group in groups for part in _split(group, test)]
    equal = [[place for path in group for place in places[path]] for group in groups]
    alone = [places[path] for path in set(places).difference(*groups)]
    return sorted(sorted(group) for group in equal + alone if len(group) > 1)


def _split(paths: Iterable[str], test: Callable[[str], Hashable]) -> list[list[str]]:
    """Return the parts of a group with equal results of `test`; parts of one path are left out."""
    parts = defaultdict(list)
    for path in paths:
        try:
            parts[test(path)].append(path)
        except OSError:  # reported when the image is read
            continue
    return [part for part in parts.values() if len(part) > 1]


def _read_sample(path: str) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _SAMPLE) // 2)
        return file.read(_SAMPLE)
