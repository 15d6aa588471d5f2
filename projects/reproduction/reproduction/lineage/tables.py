"""The lineage's numbers, ours and the papers', as rows and sentences for page and README."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from mask_rcnn_ext.report.text import shown

from ..markdown import markdown_table
from .papers import LINEAGE as PUBLISHED
from .papers import Published

__all__ = [
    "HEADER",
    "LINEAGE",
    "PUBLISHED_HEADER",
    "differences",
    "lineage_configs",
    "lineage_summary",
    "method_rows",
    "published_rows",
    "published_table",
    "seconds_text",
    "sentences",
]

LINEAGE = "results/lineage.json"

HEADER = (
    *("method", "what it added", "box AP", "AP50", "AP75", "mask AP", "s per image"),
    *("and proposals, s", "training, min"),
)
PUBLISHED_HEADER = (
    *("method", "model", "trained on", "tested on"),
    *("the paper's own numbers", "source"),
)
_MAIN = {  # method, model: in the README's table
    ("R-CNN", "VGG-16, SVMs and box regression"),
    ("Fast R-CNN", "VGG-16"),
    ("Faster R-CNN", "VGG-16"),
    ("Mask R-CNN", "ResNet-101-FPN"),
}
_MAIN_DATA = {
    ("VOC 2007", "VOC 2007 test"),
    ("COCO train", "COCO test-dev"),
    ("COCO trainval35k", "COCO test-dev"),
}
_NOT_RUN = "not run"
_METRICS = ("AP", "AP50", "AP75")
_TIMES = "\u00d7"


def seconds_text(seconds: float) -> str:
    """Return seconds to two or three digits."""
    decimals = 3 if seconds < 1 else 2 if seconds < 10 else 1
    return f"{seconds:.{decimals}f}"


def method_rows(content: Mapping[str, Any]) -> list[list[str]]:
    """Return the cells of `HEADER` for each method.

    Args:
        content: of `lineage.json`.
    """
    return [_row(method, content) for method in content["methods"]]


def _row(method: Mapping[str, Any], content: Mapping[str, Any]) -> list[str]:
    box, mask = method["metrics"]["bbox"], method["metrics"]["segm"]
    own = method["proposal_seconds_per_image"]
    minutes = method["train_seconds"]
    training = shown(None if minutes is None else minutes / 60)
    if method["base"] is not None:
        name = next(m["name"] for m in content["methods"] if m["variant"] == method["base"])
        training = f"{name}'s + {training}"
    return [
        method["name"],
        method["added"],
        *(shown((box or {}).get(metric)) for metric in _METRICS),
        "none" if mask is None else shown(mask["AP"]),
        seconds_text(method["seconds_per_image"]["median"]),
        "in it" if own is None else f"+ {seconds_text(own)}",
        training,
    ]


def _total(method: Mapping[str, Any]) -> float:
    return float(method["seconds_per_image"]["median"]) + float(
        method["proposal_seconds_per_image"] or 0.0
    )


def sentences(content: Mapping[str, Any]) -> list[str]:
    """Return what the numbers say, step by step: what each method takes beside the one before.

    Args:
        content: of `lineage.json`.
    """
    chain = [method for method in content["methods"] if method["base"] is None]
    said = [_schedules(chain)]
    said += [_proposals(content)] if content["dataset"] in content["proposals"] else []
    for former, method in itertools.pairwise(chain):
        times = [m["seconds_per_image"]["median"] for m in (former, method)]
        text = (
            f"{method['name']} after {former['name']}: the network takes {seconds_text(times[1])} "
            f"s per image in place of {seconds_text(times[0])} s"
        )
        if former["proposal_seconds_per_image"] is not None:
            ends = [seconds_text(_total(m)) for m in (former, method)]
            text += f" ({ends[1]} s in place of {ends[0]} s with proposals)"
        aps = [(m["metrics"]["bbox"] or {}).get("AP") for m in (former, method)]
        if None not in aps:
            text += f", box AP is {shown(aps[1])} in place of {shown(aps[0])}"
            text += _by_size(former, method)
        if method["metrics"]["segm"] and not former["metrics"]["segm"]:
            text += f", and there is a mask AP, {shown(method['metrics']['segm']['AP'])}"
        said.append(text + ".")
    return said


def _schedules(chain: Iterable[Mapping[str, Any]]) -> str:
    """Return how long the methods of a chain were trained, said once for those that are alike."""
    names: dict[tuple[int, int], list[str]] = {}
    for method in chain:
        schedule = (method["iterations"], method["images_per_batch"])
        names.setdefault(schedule, []).append(method["name"])
    each = (
        f"{iterations:,} iterations of {images} images"
        + ("" if len(names) == 1 else f" ({', '.join(own)})")
        for (iterations, images), own in names.items()
    )
    return f"Each network is trained for {'; '.join(each)}."


def _by_size(former: Mapping[str, Any], method: Mapping[str, Any]) -> str:
    """Return the box APs of small and of larger objects, nothing where there are none."""
    boxes = [m["metrics"]["bbox"] for m in (former, method)]
    said = []
    for key, what in (("APs", "under 32 pixels"), ("APm", "larger")):
        before, now = (box.get(key) for box in boxes)
        if None in (before, now):
            return ""
        said.append(f"{what} {shown(now)} in place of {shown(before)}")
    return f" ({'; '.join(said)})"


def _proposals(content: Mapping[str, Any]) -> str:
    found = content["proposals"][content["dataset"]]
    read = next(m["proposals_per_image"] for m in content["methods"] if m["proposals"] == "stored")
    text = (
        f"Selective search takes {seconds_text(found['seconds_per_image'])} s per image and gives "
        f"{found['proposals_per_image']:.0f} boxes, of which at most {read} are used"
    )
    if recall := found["recall"]:
        text += f"; all of them cover {shown(recall['recall_50'])} % of the objects at IoU 0.5"
    return text + "."


def differences(content: Mapping[str, Any]) -> list[str]:
    """Return what differs between our runs and the papers', in sentences.

    Args:
        content: of `lineage.json`.
    """
    shared, seeds = content["shared"], content["seeds"]
    images = content["methods"][0]["train_images"]
    stored = next((m for m in content["methods"] if m["proposals"] == "stored"), None)
    own = next((m for m in content["methods"] if m["proposals"] != "stored"), None)
    parts = [
        f"Data: {images:,} drawn images of {shared['image_size']} pixels with five kinds of shape; "
        "the papers': thousands of photos of PASCAL VOC, 20 classes, or a hundred thousand of "
        "COCO, 80 classes. The APs are of different tasks and are not to be compared with theirs.",
        "Metric: AP is COCO's, over IoU 0.5 to 0.95; the mAP of PASCAL VOC is at IoU 0.5, as AP50 "
        "is, by an interpolation of its own.",
        "Start: all of ours are trained from scratch; the papers' networks had been trained to "
        "classify the 1.2 million images of ImageNet.",
        f"Network: the same small ResNet ({_TIMES.join(map(str, shared['channels']))} channels, no "
        "feature pyramid) in all of ours, so that the method alone changes; the papers' went from "
        "AlexNet over VGG-16 to ResNet as they went from one method to the next.",
    ]
    if stored and own:
        parts.append(
            f"Proposals: at most {stored['proposals_per_image']} of selective search (its quality "
            f"mode) and {own['proposals_per_image']} of the RPN per test image; the papers' about "
            "2000 (fast mode) and 300."
        )
    parts += [
        "Training: Faster R-CNN is trained jointly with its RPN; its paper's numbers are of "
        "training in four steps. How many iterations each method had is in the table: they are "
        "chosen for minutes, not for convergence.",
        f"Time: the networks' is measured on {content['timing']['device']} with "
        f"{content['timing']['threads']} thread(s), of an image that is read already; selective "
        "search's is the processor time of one core, reading included. The papers' are of their "
        "GPUs, and selective search is theirs in another implementation. What carries over is "
        "which part costs most.",
        "Chance: one training of each method; a difference of an AP or two may be that of another "
        "seed."
        if len(seeds) == 1
        else f"Chance: means over {len(seeds)} trainings of each method.",
    ]
    return parts


def lineage_summary(content: Mapping[str, Any]) -> str:
    """Return the README's table of our numbers, and what they say.

    Args:
        content: of `lineage.json`.
    """
    table = markdown_table(HEADER, method_rows(content), words=2)
    return "\n".join([table, *(f"- {sentence}" for sentence in sentences(content)), ""])


def published_rows(rows: Iterable[Published] = PUBLISHED) -> list[list[str]]:
    """Return the papers' numbers as the cells of `PUBLISHED_HEADER`: a row for each model and data.

    Args:
        rows: as of `paper.lineage`.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        of = (row.method, row.model, row.trained_on, row.tested_on, row.source)
        note = f" ({row.note})" if row.note else ""
        found.setdefault(of, []).append(f"{row.metric} {_value(row)}{note}")
    return [[*of[:4], "; ".join(numbers), of[4]] for of, numbers in found.items()]


def _value(row: Published) -> str:
    """Return an AP with the digit that papers print, a time as it is."""
    return f"{row.value:.1f}" if "AP" in row.metric else f"{row.value:g}"


def published_table() -> str:
    """Return the README's table of the papers' own numbers: one model of each method."""
    main = [
        row
        for row in PUBLISHED
        if (row.method, row.model) in _MAIN
        and (row.trained_on, row.tested_on) in _MAIN_DATA
        and not row.metric.endswith(("APs", "APm", "APl"))
    ]
    return markdown_table(PUBLISHED_HEADER, published_rows(main))


def lineage_configs() -> str:
    """Return the table of the full-size configs of the line that a paper prints numbers of."""
    rows = [row for row in PUBLISHED if (row.config or "").startswith("lineage/")]
    found: dict[str, list[Published]] = {}
    for row in rows:
        found.setdefault(str(row.config), []).append(row)
    header = ("config", "method", *PUBLISHED_HEADER[2:], "ours")
    return markdown_table(
        header,
        (
            [f"[{config}]({config}.yaml)", f"{own[0].method}, {own[0].model}", *each[2:], _NOT_RUN]
            for config, own in found.items()
            for each in published_rows(own)
        ),
    )
