"""Shows the findings of a check of a data set: as text, and as a page with pictures."""

import itertools
import statistics
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tabulate import tabulate

from ..data.data_check import DataCheck, SplitCheck
from ..errors import count_noun
from ..files import atomic_open
from ..overlap.matching import LEVELS, assign_levels
from .drawing.pictures import encode_jpegs
from .example_pictures import ExamplePicture, draw_example
from .instances import count_bins, count_sizes
from .render import render_page

__all__ = ["describe_check", "write_check_page"]

_PAGE_BYTES = 4_000_000  # of base64 pictures
_MOST_CLASSES = 20  # in the text; the page has all
_PER_IMAGE_STEPS = (0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500)  # the last bin is open
_LEVELS = {  # of a finding -> heading, meaning
    "error": ("Errors", "Training refuses the data, or stops at it. Correct these first."),
    "warning": (
        "Warnings",
        "Training takes the data, but what it learns or measures is probably wrong.",
    ),
    "note": ("Good to know", "Right in many data sets. Look whether it is right in yours."),
}


def describe_check(check: DataCheck) -> str:
    """Return a check as text: the counts of each json, then the findings, errors first."""
    lines = []
    for name, split in check.splits.items():
        lines.append(f"{name}: {split.file.path}")
        lines += [f"  {key}: {value}" for key, value in _list_facts(split)]
    classes = sorted(_count_classes(check), key=lambda row: -sum(row[1]))
    rows = [[name, *counts] for name, counts in classes[:_MOST_CLASSES]]
    if rows:
        headers = ["objects of each class", *check.splits]
        lines.append(tabulate(rows, headers, intfmt=",", disable_numparse=[0]))
    if len(classes) > _MOST_CLASSES:
        lines.append(f"and {count_noun(len(classes) - _MOST_CLASSES, 'class')} with fewer objects")
    lines += [f"{finding.level}: {finding.text}" for finding in check.findings]
    return "\n".join([*lines, _summarize(check)])


def write_check_page(check: DataCheck, path: str | Path) -> None:
    """Write a check as one HTML file that needs no other.

    The annotations and images that the findings point at are drawn, 4 MB of pictures at most.

    Raises:
        UserError: the file cannot be written.
    """
    drawn = [
        [picture for example in finding.examples if (picture := draw_example(check, example))]
        for finding in check.findings
    ]
    found = list(zip(check.findings, _encode(drawn), strict=True))
    levels = [
        (*texts, [(finding.text, shown) for finding, shown in found if finding.level == level])
        for level, texts in _LEVELS.items()
    ]
    data = [
        (
            name,
            split,
            _list_facts(split),
            count_sizes(split.objects.sizes),
            _count_per_image(split.objects.per_image),
        )
        for name, split in check.splits.items()
    ]
    page = render_page(
        "check.html.j2",
        verdict=_summarize(check).partition(": ")[0],
        errors=check.count("error"),
        warnings=check.count("warning"),
        notes=check.count("note"),
        levels=[level for level in levels if level[2]],
        data=data,
        classes=_count_classes(check),
        totals=[len(split.objects.sizes) for split in check.splits.values()],
    )
    with atomic_open(path, "w") as file:
        file.write(page)


def _summarize(check: DataCheck) -> str:
    counts = ", ".join(count_noun(check.count(level), level) for level in ("error", "warning"))
    verdict = "Training refuses this data" if check.count("error") else "Training takes this data"
    return f"{verdict}: {counts}, {count_noun(check.count('note'), 'note')}"


def _list_facts(split: SplitCheck) -> list[tuple[str, str]]:
    """Return (name, value) of the counts of a json."""
    images = [image for image in split.images if image is not None]
    objects = split.objects
    facts = [
        ("images", f"{len(split.images):,}, {len(objects.empty):,} of them without annotations"),
        (
            "objects",
            f"{len(objects.sizes):,}, and {count_noun(len(objects.crowds), 'crowd region')}",
        ),
        (
            "classes with objects",
            f"{sum(n > 0 for n in objects.per_class.values()):,} of {len(objects.per_class):,}",
        ),
    ]
    if objects.per_image:
        facts.append(("objects in an image", _spread(objects.per_image)))
    if objects.sizes:
        facts.append(("object size, pixels", _spread(round(size, 1) for size in objects.sizes)))
        levels = np.bincount(assign_levels(np.array(objects.overlaps)), minlength=len(LEVELS))
        shares = (levels / levels.sum()).tolist()
        shown = ", ".join(f"{n} {share:.0%}" for n, share in zip(LEVELS, shares, strict=True))
        facts.append(("overlap with another object", shown))
    sizes = Counter((image.width, image.height) for image in images if image.pixels)
    if sizes:
        common = ", ".join(f"{w} x {h} ({n:,})" for (w, h), n in sizes.most_common(3))
        more = f" and {count_noun(len(sizes) - 3, 'other size')}" if len(sizes) > 3 else ""
        facts.append(("image size, width x height", common + more))
        facts.append(("longer side, pixels", _spread(max(i.width, i.height) for i in images)))
    kinds = Counter(image.kind for image in images).most_common()
    facts.append(("image files", ", ".join(f"{kind} ({n:,})" for kind, n in kinds) or "none"))
    return facts


def _spread(values: Iterable[float]) -> str:
    ordered = sorted(values)
    middle = statistics.median(ordered)
    return f"{ordered[0]:g} to {ordered[-1]:g}, median {middle:g}"


def _count_classes(check: DataCheck) -> list[tuple[str, list[int]]]:
    """Return (class, its objects in each json)."""
    names = dict.fromkeys(check.class_names)
    for split in check.splits.values():
        names |= dict.fromkeys(split.objects.per_class)
    counts = [split.objects.per_class for split in check.splits.values()]
    return [(name, [split.get(name, 0) for split in counts]) for name in names]


def _count_per_image(counts: list[int]) -> list[tuple[str, int]]:
    """Return (range of objects in an image, number of images)."""
    names = [
        str(low) if low + 1 == high else f"{low} to {high - 1}"
        for low, high in itertools.pairwise(_PER_IMAGE_STEPS)
    ]
    return count_bins(counts, _PER_IMAGE_STEPS, names)


def _encode(drawn: list[list[ExamplePicture]]) -> list[list[tuple[str, ExamplePicture]]]:
    """Return each picture with its data URL; the last pictures go where they are too many."""
    urls = encode_jpegs([[p.pixels for p in row] for row in drawn], 85, _PAGE_BYTES)
    sums = itertools.accumulate(len(url) for row in urls for url in row)
    return [
        [pair for pair in zip(encoded, row, strict=True) if next(sums) <= _PAGE_BYTES]
        for encoded, row in zip(urls, drawn, strict=True)
    ]
