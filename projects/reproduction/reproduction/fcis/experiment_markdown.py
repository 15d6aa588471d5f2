"""The generated parts of docs/fcis_comparison.md and README.md on the FCIS experiment."""

from collections.abc import Sequence

from mask_rcnn_ext.errors import count_noun

from ..markdown import markdown_table
from .change_tables import describe_changes
from .contrasts import FCIS, RIVAL
from .experiment_results import ExperimentResults
from .experiment_tables import make_tables, make_texts
from .nested_pairs import CAPTION
from .predictions import (
    join_verdicts,
    judge_predictions,
    list_refutations,
    summarize_predictions,
)

__all__ = ["EXPERIMENT", "PICTURE", "PLACES_PICTURE", "experiment_doc", "experiment_summary"]

EXPERIMENT = "results/fcis_experiment.json"
PICTURE, PLACES_PICTURE = (f"docs/images/fcis_experiment{end}.png" for end in ("", "_places"))

_PAIRS = "Nested pairs of one class, drawn by each model"

_SUMMARY_NOTE = (
    "In brackets: 95 % intervals. Same-part error, in points: the share of wrong pixels where both "
    "boxes read the same part, minus the share in the rest of their common area. Preference: how "
    "often straight runs of contour along the axes lie on the lines between the parts, divided by "
    "how often they lie at other places of the box. Mask R-CNN has no parts; we measure it on the "
    "same pixels and lines."
)

_NOT_RUN = "The experiment has not been run yet.\n"
_DOC = """\
There were {time}. The numbers are from [{experiment}](../{experiment}). {data}

{predictions}
{rule}

{picture}
*{caption}*

{claims}
[Base-Nested.yaml](../configs/shapes/Base-Nested.yaml) also says what would refute the predictions.
{refutation_rule}

{refutations}
### Same-part error

{same_part}
{same_part_note} {growth}

### Lines

{lines}
{chance}

{places}
{own}### Changes in testing

Does a change in testing remove the effect from a trained FCIS? Base-Nested.yaml also has
predictions about this.

{changes}
### Training

{aps}
{training}
"""


def experiment_doc(results: ExperimentResults | None) -> str:
    """Return the generated part of docs/fcis_comparison.md.

    Args:
        results: None: it was not run.
    """
    if results is None:
        return _NOT_RUN
    texts = make_texts(results)
    tables = {
        name: markdown_table(header, rows, words=1 if name in ("lines", "aps") else 2)
        for name, (header, rows) in make_tables(results).items()
        if rows
    }
    own, changes = "", _make_bullets(describe_changes(results))
    if "own" in tables:
        own = f"### Own proposals\n\n{tables['own']}\n{texts['own_note']}\n\n"
    if "changes" in tables:
        changes += f"\n{tables['changes']}\n{texts['changes_note']}\n"
    return _DOC.format(
        **{**texts, **tables, "own": own, "changes": changes},
        experiment=EXPERIMENT,
        predictions=_make_bullets(summarize_predictions(judge_predictions(results))),
        caption=CAPTION,
        picture=_embed(PICTURE.removeprefix("docs/"), _PAIRS),
        places=_embed(PLACES_PICTURE.removeprefix("docs/"), "Where in the RoI axis runs lie"),
    )


def _make_bullets(sentences: Sequence[str]) -> str:
    return "".join(f"- {sentence}\n" for sentence in sentences)


def _embed(picture: str, alt: str) -> str:
    return f"![{alt}]({picture})\n"


def experiment_summary(results: ExperimentResults | None) -> str:
    """Return the generated part of README.md: the findings, the numbers and the picture.

    Args:
        results: None: it was not run.
    """
    if results is None:
        return _NOT_RUN
    sentences = [
        "FCIS reads the k x k parts of a box from different score maps. Where two boxes of one "
        "class read a pixel from the same part, they must give the same answer.",
        _tell_verdicts(results),
        _conclude(results),
    ]
    header = ("", *(f"k = {k}" for k in FCIS))
    table = markdown_table(header, _make_summary_rows(results), words=1)
    return (
        f"{' '.join(sentences)}\n\n{table}\n{_SUMMARY_NOTE}\n\n"
        f"{_embed(PICTURE, _PAIRS)}\n*{CAPTION}*\n"
    )


def _tell_verdicts(results: ExperimentResults) -> str:
    by_verdict: dict[bool | None, list[str]] = {True: [], False: [], None: []}
    for number, prediction in enumerate(judge_predictions(results), 1):
        by_verdict[prediction.came_true].append(str(number))
    words = {True: "came true", False: "did not come true", None: "is open"}
    parts = [f"{_list(numbers)} {words[v]}" for v, numbers in by_verdict.items() if numbers]
    return (
        f"{count_noun(len(results.runs), 'small training')} on drawn nested shapes tested "
        "[four predictions](configs/shapes/Base-Nested.yaml), written down before the first "
        f"training: {', '.join(parts)} ([details](docs/fcis_comparison.md#does-fcis-draw-lines))."
    )


def _list(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def _make_summary_rows(results: ExperimentResults) -> list[tuple[str, ...]]:
    """Return a row for each number of the summary, with a column for each k."""

    def same_part(variant: str, k: int, pairs: str) -> str:
        return results.find_same_part(variant, k, f"{pairs}/difference").show(signed=True)

    def lines(variant: str, k: int) -> str:
        return results.find_lines(variant, k).show(2)

    own, rival = FCIS.items(), [(k, RIVAL) for k in FCIS]
    errors, lines_between = "same-part error", "preference for the lines between the parts"
    return [
        (f"FCIS, one class: {errors}", *(same_part(v, k, "one_class") for k, v in own)),
        (f"FCIS, two classes: {errors}", *(same_part(v, k, "two_classes") for k, v in own)),
        (f"Mask R-CNN, one class: {errors}", *(same_part(v, k, "one_class") for k, v in rival)),
        (f"FCIS: {lines_between}", *(lines(v, k) for k, v in own)),
        (f"Mask R-CNN: {lines_between}", *(lines(v, k) for k, v in rival)),
    ]


def _conclude(results: ExperimentResults) -> str:
    control, classes, _, moved = (r.came_true for r in list_refutations(results))
    on_lines = [claim.holds for claim in judge_predictions(results)[3].claims[:2]]
    errors, lines = join_verdicts([control, classes]), join_verdicts([moved, *on_lines])
    if errors is None or lines is None:
        return "A number is missing, so the question stays open."
    own = "the parts of FCIS cause errors where boxes of one class overlap"
    if errors and lines:
        found = f"{own}, and they cause lines"
    elif errors:
        found = f"{own}; the data do not show lines that follow the parts"
    elif lines:
        found = (
            "FCIS draws lines that follow its parts; the data do not show errors that the parts "
            "cause where boxes of one class overlap"
        )
    else:
        found = "the data show neither errors nor lines that the parts of FCIS cause"
    return f"Here {found}."
