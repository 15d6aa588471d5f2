"""The generated part of docs/fcis_comparison.md, from `results/fcis_comparison.json`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mask_rcnn_ext.overlap.comparison import METRICS
from mask_rcnn_ext.report.json_records import from_json
from mask_rcnn_ext.report.text import to_text

from ..markdown import markdown_table
from .answers import describe_answers, make_answer_rows, make_lattice_rows
from .results import ComparisonResults

__all__ = ["COMPARISON", "comparison_doc"]

COMPARISON = "results/fcis_comparison.json"

_HEAD = """\
The small {first} ([{config_a}](../{config_a})) and the small {second}
([{config_b}](../{config_b})), trained with the same backbone, data and schedule
({iterations} iterations of {batch} images of `{train}`), {seeds} of each, measured on
`{dataset}`; the numbers are from [{comparison}](../{comparison}). {device}; versions: {versions}.

![Where the two differ most](images/fcis_comparison.png)

## In short

{sentences}

"""
_INTERVALS = """
In brackets: 95 % intervals, {method}. Numbers of a model are means over its trainings. Differences
are {first} minus {second}; all of these metrics are errors, less is better.

"""
_MEANINGS = """
## What is measured

An object's overlap is its largest box IoU with another object: none is below 0.05, heavy 0.3 or
more, partial what is between. A detection is matched as in COCO, at mask IoU 0.5. The contested
region of an object is where its box meets those of others; a pair is two matched objects whose
boxes meet. Spurious contour lies there, farther from every object's contour than 2 px and 2 % of
the diagonal of the object's box; a straight seam is a run of it of at least 6 px and 15 % of the
square root of the object's area, |G|, nowhere more than 1 px from its chord.

"""
_LATTICE = """
## Is it the lattice?

{second} assembles a mask from k x k position-sensitive maps, k = {k}. Share: of the contour's
pixel sides, how many lie on the lines between these maps in the RoI that the mask was made in.
Chance: the same with the lines shifted at random. Line / neighbours: pixel sides on a lattice line
for each on the lines beside it, which are sides of the mask's cells, too, but not between maps.
{second} is evaluated once more without mask voting for it; the RoI of {first}'s masks is the
detected box. {first} is no clean control: the {cells} x {cells} cells that its masks are made on
have these lines, too. In brackets: 95 % intervals, {method}.

"""


def comparison_doc(content: Mapping[str, Any]) -> str:
    """Return the generated part of docs/fcis_comparison.md.

    Args:
        content: the content of `fcis_comparison.json`.
    """
    results = from_json(ComparisonResults, content)
    first, second = content["names"]
    configs, runs = content["configs"], content["runs"]
    shared = configs["shared"]
    variants = list(dict.fromkeys(run["variant"] for run in runs))
    count = len(content["settings"]["seeds"])
    versions = runs[0]["versions"] or {}
    head = _HEAD.format(
        first=first,
        second=second,
        comparison=COMPARISON,
        config_a=configs[variants[0]],
        config_b=configs[variants[1]],
        iterations=shared["iterations"],
        batch=shared["images_per_batch"],
        train=shared["train"],
        dataset=content["dataset"],
        seeds=f"{count} seeds" if count > 1 else "one seed",
        device="Trained on " + " and ".join(sorted({str(run["device"]) for run in runs})),
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
        sentences="\n".join(f"- {sentence}" for sentence in describe_answers(results)),
    )
    header = ["", first, second, "difference", "95 % interval", "excludes zero"]
    rows = ((label.replace("|", r"\|"), *cells) for label, *cells in make_answer_rows(results))
    answers = markdown_table(header, rows, words=1)
    intervals = _INTERVALS.format(first=first, second=second, method=content["method"])
    lattice = _LATTICE.format(
        first=first,
        second=second,
        k=content["settings"]["lattice_bins"],
        cells=content["settings"]["mask_cells"]["a"],
        method=content["lattice"]["method"],
    )
    lattice_header = ["", "share, %", "chance, %", "share / chance", "line / neighbours"]
    lattice += markdown_table(lattice_header, make_lattice_rows(results), words=1)
    before = _before_voting_table(content)
    parts = [head, answers, intervals, _levels_table(content), before, lattice]
    parts += [_MEANINGS, _meanings(content)]
    parts += ["\n## The runs\n\n", _runs_table(runs), _differing(configs)]
    return "".join(parts)


def _levels_table(content: Mapping[str, Any]) -> str:
    """Return a table of the APs: of all objects, and at each level of overlap."""
    names = ["AP/AP", "boundary/AP"]
    names += [name for name in METRICS if name.startswith(("overlap/AP_", "overlap_same/AP_"))]
    header = ["", *content["names"], "difference", "95 % interval"]
    return markdown_table(header, _ap_rows(content, names), words=1)


def _ap_rows(content: Mapping[str, Any], names: Sequence[str]) -> Iterator[list[str]]:
    for name in names:
        entry = content["metrics"][name]
        ends = (entry["low"], entry["high"])
        yield [
            METRICS[name].label,
            *(to_text(entry[side]) for side in ("a", "b")),
            to_text(entry["difference"], signed=True),
            "\u2013" if None in ends else f"[{', '.join(to_text(e, signed=True) for e in ends)}]",
        ]


def _meanings(content: Mapping[str, Any]) -> str:
    names = [
        "boundary/AP",
        *(answer["metric"] for answer in content["answers"].values() if "metric" in answer),
    ]
    return "".join(f"- *{METRICS[n].label}*: {METRICS[n].meaning}\n" for n in names)


def _before_voting_table(content: Mapping[str, Any]) -> str:
    """Return the section on the second model's masks before they vote."""
    first, second = content["names"]

    def cells(name: str) -> Iterator[str]:
        about, entry = METRICS[name], content["before_voting"][name]
        decimals = 1 if about.unit in ("", "%") else 3
        label = f"{about.label}, {about.unit}" if about.unit else about.label
        yield label.replace("|", r"\|")
        yield to_text(entry["a"], decimals)
        yield to_text(content["metrics"][name]["b"], decimals)
        yield to_text(entry["b"], decimals)
        yield to_text(entry["difference"], decimals, signed=True)
        ends = (entry["low"], entry["high"])
        yield (
            "\u2013"
            if None in ends
            else f"[{', '.join(to_text(e, decimals, signed=True) for e in ends)}]"
        )

    header = ["", first, second, f"{second} before voting"]
    header += [f"{first} minus that", "95 % interval"]
    table = markdown_table(header, map(cells, content["before_voting"]), words=1)
    return f"\n## Before voting\n\n{table}"


def _runs_table(runs: Sequence[Mapping[str, Any]]) -> str:
    def cells(run: Mapping[str, Any]) -> Iterator[str]:
        yield run["model"]
        yield str(run["seed"])
        for task in ("segm", "bbox"):
            yield " / ".join(to_text(run["metrics"][task][m]) for m in ("AP", "AP50", "AP75"))
        yield "\u2013" if run["train_seconds"] is None else f"{run['train_seconds']:.0f}"

    header = ["model", "seed", "mask AP / 50 / 75", "box AP / 50 / 75", "training, s"]
    return markdown_table(header, map(cells, runs), words=1)


def _differing(configs: Mapping[str, Any]) -> str:
    """Return the keys in which the configs differ, as a table."""
    rows = [
        [f"`{key}`", *(f"`{value}`" for value in values.values())]
        for key, values in configs["differing"].items()
    ]
    if not rows:
        return ""
    variants = list(next(iter(configs["differing"].values())))
    table = markdown_table(["key", *variants], rows)
    return f"\nThe keys in which the two configs differ; all others are the same.\n\n{table}"
