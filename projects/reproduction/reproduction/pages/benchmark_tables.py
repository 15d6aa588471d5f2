"""The tables of docs/performance.md, from what `tools/benchmark.py` wrote."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..markdown import markdown_table

__all__ = ["BENCHMARK", "Benchmark", "BenchmarkRow", "benchmark_tables", "make_section"]

BENCHMARK = "results/benchmark.json"
_PARTS = {  # in the order of the page: name -> title while it has not been run
    "inference": "Mask R-CNN on one image",
    "inference_one_thread": "The same with one thread",
    "inference_amx": "The same on a processor with AMX",
    "memory": "Memory that is reused",
    "growth": "Growth of the time of a prediction",
    "growth_counts": "Its growth with images and detections",
    "trained": "Evaluation of trained models",
    "training": "A training step",
    "busy": "A training step while other programs use the cores",
    "fcis": "FCIS on one image",
    "startup": "Start of a command",
    "evaluation": "COCO evaluation",
    "paste": "Pasting and encoding masks",
    "layers": "Position-sensitive RoI layers",
}
# Parts whose command has more words than the name.
_COMMANDS = {
    "trained": "python tools/benchmark.py trained output/demo output/dsb2018_lite0",
    "inference_one_thread": (
        "OMP_NUM_THREADS=1 python tools/benchmark.py inference --name inference_one_thread"
    ),
    "inference_amx": "python tools/benchmark.py inference --name inference_amx",
    "growth": "python tools/benchmark.py growth --axes classes size",
    "growth_counts": (
        "python tools/benchmark.py growth --axes images detections --name growth_counts"
    ),
}


@dataclass(frozen=True)
class BenchmarkRow:
    """A contender in one case; see `tools/benchmarking/parts.py` for the attributes."""

    case: str
    contender: str
    seconds: float
    ratio: float
    ratios: list[float]
    verdict: str
    peak_mb: float | None
    output: str


@dataclass(frozen=True)
class Benchmark:
    """An entry of `BENCHMARK`; see `tools/benchmarking/parts.py` for the attributes."""

    title: str
    options: dict[str, Any]
    rows: list[BenchmarkRow]
    machine: dict[str, Any]
    load: list[float]


def benchmark_tables(results: Mapping[str, Benchmark] | None) -> str:
    """Return a section for each benchmark: what was run, on what, and its table.

    Args:
        results: the content of `BENCHMARK`; None: no benchmark was run.
    """
    results = results or {}
    return "\n".join(make_section(name, results.get(name)) for name in _PARTS)


def make_section(name: str, part: Benchmark | None) -> str:
    """Return the section of one benchmark; `part` is None if it was not run."""
    command = _COMMANDS.get(name, f"python tools/benchmark.py {name}")
    if part is None:
        return f"### {_PARTS[name]}\n\n`{command}` has not been run.\n"
    rows = part.rows
    titles = ["case", "contender", "seconds", "times as fast", "lowest to highest", "output"]
    cells = [
        [
            row.case,
            row.contender,
            f"{row.seconds:.3g}",
            _describe_ratio(row),
            _describe_range(row),
            row.output,
        ]
        for row in rows
    ]
    if any(row.peak_mb for row in rows):
        titles.insert(3, "peak memory, MB")
        for row, line in zip(rows, cells, strict=True):
            line.insert(3, "" if row.peak_mb is None else f"{row.peak_mb:,.0f}")
    filled = [n for n in range(len(titles)) if any(line[n] for line in cells)]
    table = markdown_table(
        [titles[n] for n in filled], [[line[n] for n in filled] for line in cells]
    )
    machine = ", ".join(f"{key} {value}" for key, value in part.machine.items())
    options = ", ".join(f"{key} {value}" for key, value in part.options.items())
    title = _PARTS[name] if "--name" in command else part.title
    return (
        f"### {title}\n\n`{command}`: {options}.\n\n{table}\n"
        f"{machine[0].upper()}{machine[1:]}; "
        f"load average {part.load[0]:.1f} at the start and {part.load[-1]:.1f} at the end.\n"
    )


def _describe_ratio(row: BenchmarkRow) -> str:
    verdict, ratio = row.verdict, f"{row.ratio:.2f}"
    if verdict == "baseline":
        return ""
    if verdict.startswith("too noisy"):
        return f"too noisy ({ratio})"
    if verdict.startswith("no verdict"):
        return f"{ratio} ({verdict.removeprefix('no verdict: ')})"
    return ratio if verdict.endswith(("times as fast", "times slower")) else verdict


def _describe_range(row: BenchmarkRow) -> str:
    low, high = row.ratios or (1, 1)
    return "" if low == high else f"{low:.2f} to {high:.2f}"
