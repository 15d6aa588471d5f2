"""The ablations in Markdown: the generated part of docs/ablations.md."""

from collections.abc import Iterator, Sequence
from statistics import fmean

import numpy as np

from mask_rcnn_ext.report.text import NO_NUMBER, to_text

from ..intervals import Estimate
from ..markdown import markdown_table
from ..run_entries import RunEntry
from .results import AblationResults, MeasuredDifference, ResultRow, Variant

__all__ = ["ABLATIONS", "ablations_page", "differences_table"]

ABLATIONS = "results/ablations.json"
_MINUS, _NOT_RUN = "\u2212", "not run"

_HEAD = """\
There were {runs} runs on the drawn data set `occluded_shapes`, with {seconds} s of training each on
average ({device}). [{ablations}](../{ablations}) has all numbers. The configs are in
`configs/shapes/ablations/`. The two configs of a comparison differ only in what is compared.
Versions: {versions}.

![Our differences with their intervals, next to the paper's](images/ablations.png)

## Differences

The differences are in AP points, with {level:.0f} % intervals. The column "interval over" says how
an interval was computed:

- seeds: by Student's t from the differences of runs with the same seed. This interval covers the
  randomness of training.
- images: by a paired bootstrap over the validation images ({draws} draws), with one seed. This
  interval does not cover the randomness of training.

The paper's differences are on COCO, from one run each.

"""


def _difference(ours: MeasuredDifference) -> str:
    return Estimate(ours.difference, ours.low, ours.high).show(signed=True)


def _interval_over(count: int, ours: MeasuredDifference) -> str:
    if count > 1:
        return f"{count} seeds"
    return "images, 1 seed" if ours.low is not None else "none, 1 seed"


def differences_table(results: AblationResults) -> str:
    """Return a table with a line per comparison: our differences, the paper's next to them."""

    def cells(row: ResultRow) -> Iterator[str]:
        yield results.settings.tables[row.table].partition(":")[0]
        yield row.label.replace(" - ", f" {_MINUS} ")
        paper = row.paper.difference
        if row.ours is None:
            yield from (_NOT_RUN, _NOT_RUN, "")
        else:
            yield from (_difference(row.ours[metric]) for metric in ("AP", "AP75"))
            yield _interval_over(len(row.seeds), row.ours["AP"])
        yield " / ".join(to_text(paper.get(metric), signed=True) for metric in ("AP", "AP75"))

    header = ["in the paper", "comparison", "AP here", "AP75 here", "interval over"]
    header += ["the paper, AP / AP75"]
    return markdown_table(header, map(cells, results.rows))


def _absolute_table(results: AblationResults) -> str:
    """Return a table of the variants: means over seeds."""

    def mean(runs: Sequence[RunEntry], task: str) -> str:
        found = [run.metrics.get(task, {}) for run in runs]
        means = []
        for metric in ("AP", "AP50", "AP75"):
            values = [value for metrics in found if (value := metrics.get(metric)) is not None]
            if len(values) < len(runs):
                return NO_NUMBER
            means.append(f"{np.mean(values):.1f}")
        return " / ".join(means)

    def cells(variant: Variant) -> Iterator[str]:
        runs = [run for run in results.runs if run.variant == variant.name]
        yield f"[{variant.label}](../{variant.config})"
        if not runs:
            yield from (_NOT_RUN, "", "", "")
            return
        yield from (mean(runs, task) for task in ("segm", "bbox"))
        yield str(len(runs))
        yield f"{_mean_seconds(runs):.0f}"

    header = ["variant", "mask AP / 50 / 75", "box AP / 50 / 75", "seeds", "training, s"]
    return markdown_table(header, map(cells, results.variants))


def _mean_seconds(runs: Sequence[RunEntry]) -> float:
    return fmean(run.train_seconds for run in runs if run.train_seconds is not None)


def ablations_page(results: AblationResults) -> str:
    """Return the generated part of docs/ablations.md.

    Args:
        results: the results, with at least one run.
    """
    runs, settings = results.runs, results.settings
    head = _HEAD.format(
        ablations=ABLATIONS,
        runs=len(runs),
        seconds=round(_mean_seconds(runs)),
        device=" and ".join(sorted({str(run.device) for run in runs})),
        versions=", ".join(f"{k} {version}" for k, version in (runs[0].versions or {}).items()),
        level=100 * settings.level,
        draws=settings.bootstrap_draws,
    )
    absolute = _absolute_table(results)
    return f"{head}{differences_table(results)}\n## The runs\n\nMeans over seeds.\n\n{absolute}"
