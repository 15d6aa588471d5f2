"""The generated part of docs/fcis_comparison.md, from `results/fcis_comparison.json`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mask_rcnn_ext.overlap.comparison import METRICS
from mask_rcnn_ext.report.comparison_page import Difference, label_metric
from mask_rcnn_ext.report.text import to_text

from ..markdown import markdown_table
from ..run_entries import RunEntry
from .answers import bracket_difference, describe_loss, make_answer_rows
from .results import ComparisonResults

__all__ = ["COMPARISON", "comparison_doc"]

COMPARISON = "results/fcis_comparison.json"

_HEAD = """\
The small {first} is [{config_a}](../{config_a}), and the small {second} is
[{config_b}](../{config_b}). Both were trained with the same backbone, data and schedule:
{iterations} iterations of {batch} images of `{train}`, with {seeds}. They were measured on
`{dataset}`. The numbers are from [{comparison}](../{comparison}). {device}. Versions: {versions}.

## In short

{sentence}

"""
_INTERVALS = """
In brackets: 95 % intervals, {method}. The number of a model is the mean over its trainings.
Differences are {first} minus {second}. The metrics in the table above are errors: lower is better.

"""
_MEANINGS = """
## What is measured

The overlap of an object is its largest box IoU with another object. None is below 0.05, heavy is
0.3 or more, and partial is between them. Detections are matched as in COCO, at mask IoU 0.5. The
contested region of an object is the part of its box that other objects' boxes also cover. A pair is
two matched objects whose boxes overlap. Spurious contour lies in the contested region, farther from
every object's contour than 2 px and 2 % of the diagonal of the object's box.

"""


def comparison_doc(results: ComparisonResults) -> str:
    """Return the generated part of docs/fcis_comparison.md."""
    first, second = results.names
    configs, runs = results.configs, results.runs
    variants = list(dict.fromkeys(run.variant for run in runs))
    count = len(results.settings.seeds)
    versions = runs[0].versions or {}
    head = _HEAD.format(
        first=first,
        second=second,
        comparison=COMPARISON,
        config_a=configs[variants[0]],
        config_b=configs[variants[1]],
        iterations=configs["shared"]["iterations"],
        batch=configs["shared"]["images_per_batch"],
        train=configs["shared"]["train"],
        dataset=results.dataset,
        seeds=f"{count} seeds" if count > 1 else "one seed",
        device="Trained on " + " and ".join(sorted({str(run.device) for run in runs})),
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
        sentence=describe_loss(results),
    )
    header = ["", first, second, "difference", "95 % interval"]
    answers = _make_table([*header, "excludes zero"], make_answer_rows(results))
    intervals = _INTERVALS.format(first=first, second=second, method=results.method)
    names = ["AP/AP", "boundary/AP"]
    names += [name for name in METRICS if name.startswith(("overlap/AP_", "overlap_same/AP_"))]
    levels = _make_table(header, (_make_cells(n, results.metrics[n]) for n in names))
    measured = [answer.metric for answer in results.answers.values() if answer.metric]
    meanings = [
        f"- *{METRICS[n].label}*: {METRICS[n].meaning}\n" for n in ["boundary/AP", *measured]
    ]
    parts = [head, answers, intervals, levels, _describe_voting(results), _MEANINGS]
    parts += [*meanings, "\n## The runs\n\n", _make_runs_table(runs), _describe_keys(configs)]
    return "".join(parts)


def _make_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return markdown_table(header, ((row[0].replace("|", r"\|"), *row[1:]) for row in rows), words=1)


def _make_cells(name: str, values: Difference) -> tuple[str, str, str, str, str]:
    """Return label, first model, second, difference and interval of one of `METRICS`."""
    first, second = (to_text(value) for value in (values.a, values.b))
    difference = to_text(values.difference, signed=True)
    return label_metric(name), first, second, difference, bracket_difference(values)


def _describe_voting(results: ComparisonResults) -> str:
    """Return the section on the second model's masks before they vote."""
    first, second = results.names
    rows = []
    for name, values in results.before_voting.items():
        label, a, b, *rest = _make_cells(name, values)
        rows.append((label, a, _make_cells(name, results.metrics[name])[2], b, *rest))
    header = [
        "",
        first,
        second,
        f"{second} before voting",
        f"{first} minus {second} before voting",
        "95 % interval",
    ]
    return f"\n## Before voting\n\n{_make_table(header, rows)}"


def _make_runs_table(runs: Sequence[RunEntry]) -> str:
    def cells(run: RunEntry) -> Iterator[str]:
        yield from (str(run.model), str(run.seed))
        for task in ("segm", "bbox"):
            yield " / ".join(to_text(run.metrics[task][m]) for m in ("AP", "AP50", "AP75"))
        yield to_text(run.train_seconds, 0)

    header = ["model", "seed", "mask AP / 50 / 75", "box AP / 50 / 75", "training, s"]
    return markdown_table(header, map(cells, runs), words=1)


def _describe_keys(configs: Mapping[str, Any]) -> str:
    """Return the keys in which the configs differ, as a table."""
    rows = [
        [f"`{key}`", *(f"`{value}`" for value in values.values())]
        for key, values in configs["differing"].items()
    ]
    if not rows:
        return ""
    variants = list(next(iter(configs["differing"].values())))
    table = markdown_table(["key", *variants], rows)
    return f"\nThe two configs differ in these keys only.\n\n{table}"
