"""The ablations in Markdown: the generated part of docs/ablations.md."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mask_rcnn_ext.report.text import NO_NUMBER, to_text

from ..markdown import markdown_table

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


def _difference(ours: Mapping[str, float | None]) -> str:
    difference, low, high = (
        to_text(ours[key], signed=True) for key in ("difference", "low", "high")
    )
    return difference if ours["low"] is None else f"{difference} [{low}, {high}]"


def _interval_over(row: Mapping[str, Any]) -> str:
    count = len(row["seeds"])
    if count > 1:
        return f"{count} seeds"
    return "images, 1 seed" if row["ours"]["AP"]["low"] is not None else "none, 1 seed"


def differences_table(content: Mapping[str, Any]) -> str:
    """Return a table with a line per comparison: our differences, the paper's next to them.

    Args:
        content: the content of `ablations.json`.
    """

    def cells(row: Mapping[str, Any]) -> Iterator[str]:
        title = content["settings"]["tables"][row["table"]].partition(":")[0]
        yield title
        yield row["label"].replace(" - ", f" {_MINUS} ")
        paper = row["paper"]["difference"]
        if row["ours"] is None:
            yield from (_NOT_RUN, _NOT_RUN, "")
        else:
            yield from (_difference(row["ours"][metric]) for metric in ("AP", "AP75"))
            yield _interval_over(row)
        yield " / ".join(to_text(paper.get(metric), signed=True) for metric in ("AP", "AP75"))

    header = ["in the paper", "comparison", "AP here", "AP75 here", "interval over"]
    header += ["the paper, AP / AP75"]
    return markdown_table(header, map(cells, content["rows"]))


def _absolute_table(content: Mapping[str, Any]) -> str:
    """Return a table of the variants: means over seeds."""

    def mean(runs: Sequence[Mapping[str, Any]], task: str) -> str:
        if any(task not in run["metrics"] for run in runs):
            return NO_NUMBER
        values = [
            float(np.mean([run["metrics"][task][metric] for run in runs]))
            for metric in ("AP", "AP50", "AP75")
        ]
        return " / ".join(f"{value:.1f}" for value in values)

    def cells(variant: Mapping[str, Any]) -> Iterator[str]:
        runs = [run for run in content["runs"] if run["variant"] == variant["name"]]
        yield f"[{variant['label']}](../{variant['config']})"
        if not runs:
            yield from (_NOT_RUN, "", "", "")
            return
        yield from (mean(runs, task) for task in ("segm", "bbox"))
        yield str(len(runs))
        yield f"{np.mean([run['train_seconds'] for run in runs]):.0f}"

    header = ["variant", "mask AP / 50 / 75", "box AP / 50 / 75", "seeds", "training, s"]
    return markdown_table(header, map(cells, content["variants"]))


def ablations_page(content: Mapping[str, Any]) -> str:
    """Return the generated part of docs/ablations.md.

    Args:
        content: the content of `ablations.json`, with at least one run.
    """
    runs, settings = content["runs"], content["settings"]
    devices = sorted({run["device"] for run in runs})
    versions = runs[0]["versions"]
    head = _HEAD.format(
        ablations=ABLATIONS,
        runs=len(runs),
        seconds=round(float(np.mean([run["train_seconds"] for run in runs]))),
        device=" and ".join(devices),
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
        level=100 * settings["level"],
        draws=settings["bootstrap_draws"],
    )
    absolute = _absolute_table(content)
    return f"{head}{differences_table(content)}\n## The runs\n\nMeans over seeds.\n\n{absolute}"
