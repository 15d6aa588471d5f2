"""Splits a COCO json into training and validation images.

Images of one group stay together. The groups are dealt one by one. The first groups have the class
that the fewest images of the file show, the next groups have the second rarest class, and so on;
groups without an object come last. Groups with the same rarest class come in an order that the seed
decides. A group goes to validation if this brings validation nearer to its share of the images that
show this class. If both choices are equally good, it stays in training.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from ..errors import UserError, name_some, say_have, shorten

__all__ = ["require_split", "split_coco"]

_IMAGES = "images"  # the name of the count of images next to the counts of the categories


def require_split(fraction: float | None, group_by: str) -> None:
    """Check that images are grouped only if they are split.

    Args:
        fraction: the value of `--split`; None without it.
        group_by: the value of `--group-by`, or "".

    Raises:
        UserError: there are groups, but no split.
    """
    if group_by and fraction is None:
        raise UserError("--group-by needs --split, such as --split 0.8")


def split_coco(
    content: Mapping[str, Any], fraction: float, *, group_by: str = "", seed: int = 0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the training part and the validation part of a COCO json.

    Args:
        content: the content of the json. It is not changed.
        fraction: the share of the images to train on, between 0 and 1.
        group_by: a key of the entries of `images`, or a regular expression that is searched in each
            `file_name`. Images with the same value are one group. If the expression has
            parentheses, the text that they match is the value. Without it, each `file_name` is a
            group.
        seed: decides the order of groups with the same rarest class.

    Raises:
        UserError: the fraction is not between 0 and 1, there are fewer than two groups, or
            `group_by` does not give every image a value.
    """
    val = _choose_val_images(content, fraction, group_by, seed)
    everything = {image["id"] for image in content["images"]}
    return _select_images(content, everything - val), _select_images(content, val)


def _select_images(content: Mapping[str, Any], ids: set[Any]) -> dict[str, Any]:
    """Return a copy of a COCO json with only the images of these ids and their annotations."""
    return {
        **content,
        "images": [i for i in content["images"] if i["id"] in ids],
        "annotations": [a for a in content["annotations"] if a["image_id"] in ids],
    }


def _choose_val_images(
    content: Mapping[str, Any], fraction: float, group_by: str, seed: int
) -> set[Any]:
    """Return the ids of the images for validation; the rule is at the top of this file."""
    if not 0 < fraction < 1:
        raise UserError(
            f"split: expected a number between 0 and 1, such as 0.8, got {max(fraction, 0):g}"
        )
    groups = _find_groups(content["images"], group_by)
    if len(groups) < 2:
        what = "groups of images" if group_by else "images"
        raise UserError(f"the data cannot be split: expected at least 2 {what}, got {len(groups)}")
    counts = _count(content, groups)
    total = sum(counts.values(), Counter())
    rarest = {g: min(counts[g], key=lambda key: (total[key], str(key))) for g in groups}
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda g: (rarest[g] == _IMAGES, total[rarest[g]], str(rarest[g])))
    val: set[str] = set()
    held: Counter[Any] = Counter()
    for group in order:
        key = rarest[group]
        share = (1 - fraction) * total[key]
        nearer = abs(held[key] + counts[group][key] - share) < abs(held[key] - share)
        if nearer and len(val) < len(order) - 1:
            val.add(group)
            held += counts[group]
    if not val:  # every group is larger than twice the share
        val = {min(order, key=lambda g: counts[g][_IMAGES])}
    return {i for group in val for i in groups[group]}


def _find_groups(images: list[dict[str, Any]], group_by: str) -> dict[str, list[Any]]:
    """Return the image ids of each group."""
    groups: dict[str, list[Any]] = defaultdict(list)
    by_key = bool(group_by) and any(group_by in image for image in images)
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise UserError(f"group-by: {group_by!r} is no regular expression: {error}") from error
    without = []
    for image in images:
        name = str(image["file_name"])
        if by_key:
            value = image.get(group_by)
        elif match := pattern.search(name) if group_by else None:
            value = "\n".join(map(str, match.groups())) or match[0]
        else:
            value = None if group_by else name
        if value in (None, ""):
            without.append(name)
        groups[str(value)].append(image["id"])
    if without:
        what = f"no `{group_by}`" if by_key else f"no match of {group_by!r} in the file name"
        raise UserError(
            f"group-by: {say_have(without, images, 'images')} {what}: "
            f"{name_some([shorten(n) for n in without], 3)}"
        )
    return groups


def _count(content: Mapping[str, Any], groups: dict[str, list[Any]]) -> dict[str, Counter[Any]]:
    """Return for each group the number of images, and of images that show each category."""
    group_of = {i: group for group, ids in groups.items() for i in ids}
    counts: dict[str, Counter[Any]] = {g: Counter({_IMAGES: len(i)}) for g, i in groups.items()}
    annotations = (a for a in content["annotations"] if not a.get("iscrowd"))
    for image, category in {(a["image_id"], a["category_id"]) for a in annotations}:
        counts[group_of[image]][category] += 1
    return counts
