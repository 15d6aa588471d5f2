"""The numbers of the lineage, ours and the papers', as table rows and sentences."""

import itertools
from collections.abc import Iterable

from mask_rcnn_ext.overlap.average_precision import AP_METRICS
from mask_rcnn_ext.report.text import to_text

from ..markdown import markdown_table
from .papers import LINEAGE as PUBLISHED
from .papers import Published
from .results import LineageResults, MethodResults
from .runs import METHODS

__all__ = [
    "HEADER",
    "LINEAGE_RESULTS",
    "PUBLISHED_HEADER",
    "describe_results",
    "format_seconds",
    "lineage_configs",
    "lineage_summary",
    "list_differences",
    "make_method_rows",
    "make_published_rows",
    "published_table",
]

LINEAGE_RESULTS = "results/lineage.json"

HEADER = (
    *("method", "what it adds", "box AP", "AP50", "AP75", "mask AP", "s per image"),
    *("proposals, s", "training, min"),
)
PUBLISHED_HEADER = (
    *("method", "model", "trained on", "tested on"),
    *("the paper's own numbers", "source"),
)
_MAIN = {  # method, model: on docs/lineage.md
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


def format_seconds(seconds: float) -> str:
    """Return seconds to two or three digits."""
    decimals = 3 if seconds < 1 else 2 if seconds < 10 else 1
    return f"{seconds:.{decimals}f}"


def make_method_rows(results: LineageResults) -> list[list[str]]:
    """Return the cells of `HEADER` for each method."""
    names = {method.variant: method.name for method in results.methods}
    added = {method.variant: method.added for method in METHODS}
    rows = []
    for method in results.methods:
        proposals, seconds = method.proposal_seconds_per_image, method.train_seconds
        training = to_text(None if seconds is None else seconds / 60)
        if method.base is not None:
            training = f"{names[method.base]}'s + {training}"
        rows.append(
            [
                method.name,
                added.get(method.variant, method.added),
                *(to_text(method.ap("bbox", metric)) for metric in AP_METRICS),
                "none" if method.metrics["segm"] is None else to_text(method.ap("segm")),
                format_seconds(method.seconds_per_image.median),
                "included" if proposals is None else f"+ {format_seconds(proposals)}",
                training,
            ]
        )
    return rows


def describe_results(results: LineageResults) -> list[str]:
    """Return sentences that compare each method with the one before."""
    chain = [method for method in results.methods if method.base is None]
    texts = [_describe_schedules(chain)]
    texts += [_describe_proposals(results)] if results.dataset in results.proposals else []
    return texts + [_describe_step(*pair) for pair in itertools.pairwise(chain)]


def _describe_step(former: MethodResults, method: MethodResults) -> str:
    before, now = (format_seconds(m.seconds_per_image.median) for m in (former, method))
    text = (
        f"{method.name} compared with {former.name}: the network takes {now} s per image instead "
        f"of {before} s"
    )
    if former.proposal_seconds_per_image is not None:
        before, now = (format_seconds(m.total_seconds) for m in (former, method))
        text += f" (with proposals {now} s instead of {before} s)"
    if former.ap("bbox") is not None and method.ap("bbox") is not None:
        text += f". Box AP is {to_text(method.ap('bbox'))} instead of {to_text(former.ap('bbox'))}"
        text += _describe_sizes(former, method)
    if method.metrics["segm"] and not former.metrics["segm"]:
        text += f". It also predicts masks, with a mask AP of {to_text(method.ap('segm'))}"
    return text + "."


def _describe_schedules(chain: Iterable[MethodResults]) -> str:
    """Return a sentence with the iterations and batches of the methods."""
    names: dict[tuple[int | None, int | None], list[str]] = {}
    for method in chain:
        names.setdefault((method.iterations, method.images_per_batch), []).append(method.name)
    each = (
        f"{iterations:,} iterations of {images} images"
        + ("" if len(names) == 1 else f" ({', '.join(own)})")
        for (iterations, images), own in names.items()
    )
    return f"Each network was trained for {'; '.join(each)}."


def _describe_sizes(former: MethodResults, method: MethodResults) -> str:
    """Return the box APs of small and of larger objects; "" if there are none."""
    texts = []
    for key, what in (("APs", "objects under 32 pixels"), ("APm", "larger objects")):
        before, now = (m.ap("bbox", key) for m in (former, method))
        if before is None or now is None:
            return ""
        texts.append(f"{what}: {to_text(now)} instead of {to_text(before)}")
    return f" ({'; '.join(texts)})"


def _describe_proposals(results: LineageResults) -> str:
    found = results.proposals[results.dataset]
    read = next(m.proposals_per_image for m in results.methods if m.proposals == "stored")
    text = (
        f"Selective search takes {format_seconds(found['seconds_per_image'])} s per image and "
        f"gives {found['proposals_per_image']:.0f} boxes on average, of which at most {read} are "
        "used"
    )
    if recall := found["recall"]:
        text += f". All of them cover {to_text(recall['recall_50'])} % of the objects at IoU 0.5"
    return text + "."


def list_differences(results: LineageResults) -> list[str]:
    """Return sentences about the differences between our runs and the papers'."""
    shared, timing = results.shared, results.timing
    channels = "\u00d7".join(map(str, shared.channels))
    images = results.methods[0].train_images
    stored = next((m for m in results.methods if m.proposals == "stored"), None)
    own = next((m for m in results.methods if m.proposals != "stored"), None)
    parts = [
        f"Data: ours are {images:,} drawn images of {shared.image_size} pixels with five kinds "
        "of shapes. The papers use thousands of photos of PASCAL VOC with 20 classes, or a hundred "
        "thousand photos of COCO with 80 classes. So do not compare our APs with theirs.",
        "Metric: our AP is COCO's, over IoU 0.5 to 0.95. The mAP of PASCAL VOC is at IoU 0.5, like "
        "AP50, but interpolates in another way.",
        "Start: our models are trained from scratch. The papers' networks were first trained to "
        "classify the 1.2 million images of ImageNet.",
        f"Network: our models have the same small ResNet ({channels} channels, no feature "
        "pyramid), so only the method changes. The papers changed the network together with the "
        "method: from AlexNet to VGG-16 to ResNet.",
    ]
    if stored and own:
        parts.append(
            f"Proposals: a test image has at most {stored.proposals_per_image} proposals of "
            f"selective search (quality mode), or {own.proposals_per_image} of the RPN. In the "
            "papers it has about 2000 (fast mode), or 300."
        )
    parts += [
        "Training: our Faster R-CNN is trained jointly with its RPN. The paper's numbers come from "
        "training in four steps. Our trainings take minutes, and the models have not converged.",
        f"Time: we timed the networks on {timing.device} with {timing.threads} thread(s), without "
        "reading the images. The time of selective search is the processor time of one core, with "
        "reading. The papers' times are for their GPUs and another implementation of selective "
        "search. Only the order carries over: which part costs most.",
        "Randomness: each method has one training. Another seed may move an AP by 1 or 2."
        if len(results.seeds) == 1
        else f"Randomness: the numbers are means over {len(results.seeds)} trainings per method.",
    ]
    return parts


def lineage_summary(results: LineageResults) -> str:
    """Return the table of our numbers on docs/lineage.md, and sentences that compare them."""
    table = markdown_table(HEADER, make_method_rows(results), words=2)
    return "\n".join([table, *(f"- {sentence}" for sentence in describe_results(results)), ""])


def make_published_rows(rows: Iterable[Published] = PUBLISHED) -> list[list[str]]:
    """Return the papers' numbers as cells of `PUBLISHED_HEADER`, a row for each model and data.

    Args:
        rows: the numbers.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        of = (row.method, row.model, row.trained_on, row.tested_on, row.source)
        note = f" ({row.note})" if row.note else ""
        # An AP has one decimal, as papers print it; a time is unchanged.
        value = f"{row.value:.1f}" if "AP" in row.metric else f"{row.value:g}"
        found.setdefault(of, []).append(f"{row.metric} {value}{note}")
    return [[*of[:4], "; ".join(numbers), of[4]] for of, numbers in found.items()]


def published_table() -> str:
    """Return the table of the papers' own numbers on docs/lineage.md, a model of each method."""
    main = [
        row
        for row in PUBLISHED
        if (row.method, row.model) in _MAIN
        and (row.trained_on, row.tested_on) in _MAIN_DATA
        and not row.metric.endswith(("APs", "APm", "APl"))
    ]
    return markdown_table(PUBLISHED_HEADER, make_published_rows(main))


def lineage_configs() -> str:
    """Return the table of the full-size lineage configs for which a paper prints numbers."""
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
            for each in make_published_rows(own)
        ),
    )
