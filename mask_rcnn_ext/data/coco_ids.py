"""Gives the entries of a COCO json ids that every reader can hold: integers of 64 bits.

Labelling tools also write ids as text ("17"), as floats (17.0), as hashes or as names of files. A
whole number stays the same number. If any image has another kind of id, all images are numbered
1, 2, 3, ...; the same holds for categories.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..errors import name_some, nearest, say_are, say_have, shorten
from .findings import IssueCounter

__all__ = ["OWN_ID", "normalise_ids"]

OWN_ID = "original_id"  # the key under which an image or category with a new id keeps the old one

_WHOLE = re.compile(r"\s*([+-]?[0-9]{1,40})(\.0*)?\s*")
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_PLURALS = {"image": "images", "category": "categories"}

Key = int | str


def normalise_ids(
    content: dict[str, Any], known: Mapping[str, int], completed: IssueCounter
) -> list[str]:
    """Give images, categories and annotations integer ids, and renumber the references to them.

    Annotations that refer to nothing are removed from `content`, which is changed in place.

    Args:
        content: the json object; `images`, `annotations` and `categories` are lists of objects.
        known: category name -> id in the train file, or in the class table of the weights.
            Categories whose ids are not integers get these ids.
        completed: counts the changes.

    Returns:
        The faults: sentences, each with a count and an example.
    """
    faults: list[str] = []
    for kind in _PLURALS:
        entries = content[_PLURALS[kind]]
        keys = _read_keys(entries, kind, faults)
        ids: list[Any] = list(keys)
        given = [key for key in keys if key is not None]
        if not all(isinstance(key, int) and _SMALLEST <= key <= _LARGEST for key in given):
            by_name = kind == "category"
            ids = _number_by_name(entries, known) if by_name else list(range(1, len(keys) + 1))
        _set_ids(entries, kind, ids, completed)
        table = {key: new for key, new in zip(keys, ids, strict=True) if key is not None}
        faults += _resolve_references(content, kind, table, completed)
    _number_annotations(content["annotations"], completed)
    return faults


def _as_key(value: object) -> Key | None:
    """Return an id in the form in which ids are compared; None if it is no id.

    Text and floats that are whole numbers become integers.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value.is_integer() else None
    if isinstance(value, str):
        whole = _WHOLE.fullmatch(value)
        return int(whole[1]) if whole else value or None
    return None


def _read_keys(entries: list[dict[str, Any]], kind: str, faults: list[str]) -> list[Key | None]:
    """Return the key of each entry; add faults for those without an id and for repeated ids."""
    keys = [_as_key(entry.get("id")) for entry in entries]
    lacking = [i for i, key in enumerate(keys) if key is None]
    if lacking:
        faults.append(
            f"{say_have(lacking, entries, _PLURALS[kind])} no usable `id`: {kind} number "
            f"{lacking[0]} of the list: expected an integer `id`, got "
            f"{shorten(repr(entries[lacking[0]].get('id')))}"
        )
    repeated = [key for key, n in Counter(keys).items() if n > 1 and key is not None]
    if repeated:
        shown = name_some([shorten(key) for key in repeated])
        faults.append(f"{say_are(len(repeated), f'{kind} id')} more than once in the list: {shown}")
    return keys


def _number_by_name(entries: list[dict[str, Any]], known: Mapping[str, int]) -> list[int]:
    """Return an id for each category: the known id of its name, or the next free id."""
    free = (i for i in itertools.count(1) if i not in known.values())
    names = [str(category.get("name")) for category in entries]
    return [known[name] if name in known else next(free) for name in names]


def _set_ids(
    entries: list[dict[str, Any]], kind: str, ids: list[Any], completed: IssueCounter
) -> None:
    for entry, new in zip(entries, ids, strict=True):
        own = entry.get("id")
        if type(own) is int and own == new:
            continue
        entry["id"] = new
        if _as_key(own) == new:
            completed.add(f"{kind} id read as an integer", own)
        else:
            entry[OWN_ID] = own
            completed.add(f"{kind} id replaced by a number, see `{OWN_ID}`", own)


def _resolve_references(
    content: dict[str, Any], kind: str, table: dict[Key, Any], completed: IssueCounter
) -> list[str]:
    """Replace `image_id` or `category_id` by the ids in `table`; return the faults.

    Annotations with other ids are removed from `content`.
    """
    field = f"{kind}_id"
    annotations = content["annotations"]
    keys = [_as_key(annotation.get(field)) for annotation in annotations]
    found, unknown = [], []
    for annotation, key in zip(annotations, keys, strict=True):
        if key is None or key not in table:
            unknown.append(annotation)
            continue
        if type(annotation[field]) is not int and key == table[key]:
            completed.add(f"{field} read as an integer", annotation[field])
        annotation[field] = table[key]
        found.append(annotation)
    content["annotations"] = found
    if not unknown or not table:
        return []
    own = unknown[0].get(field)
    names = {e["id"]: e.get("file_name") or e.get("name") for e in content[_PLURALS[kind]]}
    value = _as_key(own)
    whole = [key for key in table if isinstance(key, int)]
    if isinstance(value, int) and whole:
        closest = min(whole, key=lambda key: abs(key - value))
        hint = f"; the nearest id there is {closest} ({shorten(names[table[closest]])})"
    else:
        hint = (
            nearest(str(own), map(str, table))
            or f", where the first is {shorten(repr(next(iter(table))))}"
        )
    return [
        f"{say_have(unknown, annotations, 'annotations')} an unknown {field}: annotation "
        f"{shorten(unknown[0].get('id', 'without id'))} has {field} {shorten(repr(own))}, "
        f"which is not in `{_PLURALS[kind]}`{hint}{_explain_shift(set(keys), field, table)}"
    ]


def _explain_shift(used: set[Key | None], field: str, table: dict[Key, Any]) -> str:
    """Return an explanation if all references are too low or too high by 1, else ""."""
    for step, what in ((1, "one less"), (-1, "one more")):
        if all(isinstance(key, int) and key + step in table for key in used):
            return (
                f". Each {field} is {what} than an id of the list: one list seems to count from 0 "
                "and the other from 1. Export again, or correct the ids in the json"
            )
    return ""


def _number_annotations(annotations: list[dict[str, Any]], completed: IssueCounter) -> None:
    """Give a new id to each annotation whose id is missing, repeated or not positive.

    COCO evaluation reads the id 0 as "not matched", so such an instance would never count as found.
    """
    taken: set[int] = set()
    without = []
    for annotation in annotations:
        own = annotation.get("id")
        key = _as_key(own)
        if isinstance(key, int) and 0 < key <= _LARGEST and key not in taken:
            taken.add(key)
            if type(own) is not int:
                annotation["id"] = key
                completed.add("annotation id read as an integer", own)
        else:
            without.append((annotation, key in taken))
    first = max(taken, default=0) + 1
    if first + len(without) > _LARGEST:
        first = 1
    free = (i for i in itertools.count(first) if i not in taken)
    for annotation, repeated in without:
        annotation["id"] = next(free)
        kind = "annotation id that occurs twice" if repeated else "annotation without a positive id"
        completed.add(f"{kind}: new id", annotation["id"])
