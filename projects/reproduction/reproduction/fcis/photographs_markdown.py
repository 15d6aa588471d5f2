"""The generated part of docs/fcis_comparison.md on photographs."""

from collections.abc import Sequence

from mask_rcnn_ext.errors import count_noun
from mask_rcnn_ext.report.text import judge_interval, to_text

from ..intervals import Estimate
from ..markdown import markdown_table
from .contrasts import FCIS, RIVAL
from .experiment_results import MISSING, PhotographErrors, PhotographResults
from .experiment_tables import average_aps
from .photograph_pairs import LEAST, PairCount
from .predictions import Claim, Prediction, summarize_predictions

__all__ = ["PHOTOGRAPHS", "describe_photographs", "photographs_doc"]

PHOTOGRAPHS = "results/fcis_photographs.json"

_NOT_RUN = "Photographs have not been measured yet.\n"
_FEWEST = 6  # images with such pixels; an interval from fewer images would be too narrow
_DATA = {"nuclei": "nuclei, held out", "coco": "COCO, 80 classes"}
_PAIRS_HEADER = (
    *("data", "images", "objects", "pairs", "nested pairs", "common area, px"),
    *("from one part with k = 7, %", "pairs, images", "with k = 3, %", "pairs, images"),
)
_ERRORS_HEADER = (
    *("model", "pixels of", "same part, px", "images", "wrong there, %", "wrong elsewhere, %"),
    *("same-part error", "minus Mask R-CNN's"),
)
_LINES_HEADER = (
    *("model", "trainings", "mask AP / 50 / 75", "right masks, %", "axis excess"),
    *("divided by Mask R-CNN's", "preference for g/7", "preference for g/3"),
)
_DOC = """\
{sentences}

{pairs}
Pairs are of one class, and their boxes overlap. In a nested pair, at least 90 % of the smaller box
lies in the larger one. The last columns have the share of the common area that both boxes read from
the same part. Next to it are the number of pairs that read {least} pixels or more in this way, and
the number of images with such pairs.

{errors}
The masks are those in the true boxes, for pairs of one class. Every pixel of a pair counts for both
masks. In brackets: 95 % intervals from a bootstrap over images and trainings. With fewer than
{fewest} images they would be too narrow.

{lines}
The masks are those of nuclei whose boxes overlap others, in their true boxes. AP is for all
held-out nuclei. Right masks: the share of masks with an IoU of at least a threshold, averaged over
COCO's ten thresholds. The numbers are from [{file}](../{file}). The predictions are judged by the
same rule as [above](#does-fcis-draw-lines).
"""


def photographs_doc(results: PhotographResults | None) -> str:
    """Return the generated part of docs/fcis_comparison.md.

    Args:
        results: None: it was not run.
    """
    if results is None:
        return _NOT_RUN
    return _DOC.format(
        sentences="\n".join(f"- {sentence}" for sentence in describe_photographs(results)),
        pairs=markdown_table(_PAIRS_HEADER, _make_pair_rows(results), 1),
        errors=markdown_table(_ERRORS_HEADER, _make_error_rows(results), 2),
        lines=markdown_table(_LINES_HEADER, _make_line_rows(results), 1),
        least=LEAST,
        fewest=_FEWEST,
        file=PHOTOGRAPHS,
    )


def describe_photographs(results: PhotographResults) -> list[str]:
    """Return sentences: the counts, the measurements and the conclusions."""
    runs = [run for model in results.models.values() for run in model.runs]
    return [
        f"{_count(results, 'nuclei')} The models learn from {results.training_images} other "
        f"images, in {count_noun(len(runs), 'training')}.",
        f"{_count(results, 'coco')} No model was trained on them: only 92 of them are for "
        "training, too few for masks that are worth measuring.",
        *summarize_predictions(_judge(results)),
        *(_conclude(results, k) for k in FCIS),
        *(_describe_lines(results, k) for k in FCIS),
    ]


def _count(results: PhotographResults, data: str) -> str:
    count = results.data[data]
    shares = " and ".join(
        f"{_share(count, k)} % with k = {k} ({count_noun(count.able_pairs[f'k = {k}'], 'pair')} "
        f"with {LEAST} pixels or more)"
        for k in FCIS
    )
    where = {"nuclei": "held-out images of nuclei", "coco": "photographs of COCO"}[data]
    return (
        f"The {count.images} {where} have {count_noun(count.pairs, 'pair')} of one class "
        f"whose boxes overlap. They read {shares} of their common area from the same part."
    )


def _share(count: PairCount, k: int) -> str:
    return to_text(100 * count.same[f"k = {k}"] / count.area if count.area else None, 2)


def _judge(results: PhotographResults) -> list[Prediction]:
    """Return the predictions of `photographs`, in their order."""
    seven, three = (
        Claim(
            f"FCIS, k = {k}, minus Mask R-CNN",
            "equal" if k == 7 else "above",
            0,
            _find_difference(results.models[v].same_part[f"k = {k}"]),
        )
        for k, v in FCIS.items()
    )
    return [
        Prediction(
            "With k = 7 there are too few pixels to tell FCIS's same-part error from Mask R-CNN's.",
            [seven],
        ),
        Prediction("With k = 3 FCIS's same-part error is above Mask R-CNN's.", [three]),
    ]


def _find_difference(errors: PhotographErrors) -> Estimate:
    """Return FCIS's same-part error minus Mask R-CNN's; all None if there are too few images."""
    return MISSING if errors.images < _FEWEST else errors.minus_rival


def _conclude(results: PhotographResults, k: int) -> str:
    """Return the conclusion for the FCIS with k x k parts."""
    errors = results.models[FCIS[k]].same_part[f"k = {k}"]
    estimate = _find_difference(errors)
    basis = (
        f"The pairs' masks have {count_noun(errors.pixels, 'pixel')} that both boxes read from "
        f"the same part, in {count_noun(errors.images, 'image')}."
    )
    if estimate.low is None or estimate.high is None:
        return (
            f"With k = {k}, nothing can be concluded. {basis} An interval needs {_FEWEST} images "
            "or more."
        )
    verdict = {
        "higher": "FCIS's same-part error is larger than Mask R-CNN's",
        "lower": "FCIS's same-part error is smaller than Mask R-CNN's",
    }.get(
        judge_interval(estimate.low, estimate.high),
        "FCIS's same-part error and Mask R-CNN's cannot be told apart",
    )
    half = to_text((estimate.high - estimate.low) / 2)
    return (
        f"With k = {k}, {verdict}: the difference is {estimate.show(signed=True)} points. {basis} "
        f"A difference of less than about {half} points would not be visible."
    )


def _describe_lines(results: PhotographResults, k: int) -> str:
    """Return whether the lines of the FCIS with k x k parts lie between its parts."""
    own, rival = (results.models[variant].axis[f"lines_{k}"] for variant in (FCIS[k], RIVAL))
    verdict = "prefer" if own.low is not None and own.low > 1 else "do not prefer"
    return (
        f"Lines (we had written down no prediction about them): with k = {k}, the axis runs of "
        f"FCIS {verdict} the places g/{k} between its parts. Their preference is {own.show(2)}, "
        f"and Mask R-CNN's is {rival.show(2)}. 1 means no preference."
    )


def _make_pair_rows(results: PhotographResults) -> list[tuple[str, ...]]:
    rows = []
    for data, name in _DATA.items():
        count = results.data[data]
        cells = [str(n) for n in (count.images, count.objects, count.pairs, count.nested)]
        cells.append(to_text(count.area, 0))
        for k in FCIS:
            able = f"{count.able_pairs[f'k = {k}']}, {count.able_images[f'k = {k}']}"
            cells += [_share(count, k), able]
        rows.append((name, *cells))
    return rows


def _make_error_rows(results: PhotographResults) -> list[tuple[str, ...]]:
    rows = []
    for variant, model in results.models.items():
        for k in FCIS:
            errors = model.same_part[f"k = {k}"]
            cells = [str(errors.pixels), str(errors.images)]
            cells += [errors.same.show(), errors.other.show(), errors.difference.show(signed=True)]
            cells.append("" if variant == RIVAL else errors.minus_rival.show(signed=True))
            rows.append((model.name, f"k = {k}", *cells))
    return rows


def _make_line_rows(results: PhotographResults) -> Sequence[tuple[str, ...]]:
    return [
        (
            model.name,
            str(len(model.runs)),
            average_aps(model.runs, "segm"),
            model.right.show(),
            model.axis["excess"].show(2),
            "" if variant == RIVAL else model.axis_by_rival.show(2),
            *(model.axis[f"lines_{k}"].show(2) for k in FCIS),
        )
        for variant, model in results.models.items()
    ]
