"""The result of a benchmark: a table to print, and a part of `results/benchmark.json`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from mask_rcnn_ext import UserError
from mask_rcnn_ext.files import read_json, write_json

from .machine import describe_load, describe_machine
from .rounds import Times, compare

__all__ = ["Part", "TimedCase", "compare_rows", "print_part", "read_parts", "save_part"]


@dataclass
class TimedCase:
    """A contender in one case.

    Attributes:
        case: the timed work, such as "segm, 5,000 images".
        contender: the name of the program or setting; the baseline is a contender too.
        seconds: median of the rounds.
        ratio: the speed divided by the speed of the baseline, the median of the rounds.
        ratios: the lowest and the highest ratio.
        verdict: see `rounds.compare`; "baseline" for the baseline.
        peak_mb: peak memory of a process that did nothing else, in MB of 10^6 bytes; None: not
            measured.
        output: how its output compares with the baseline's, such as "equal".
    """

    case: str
    contender: str
    seconds: float
    ratio: float
    ratios: list[float]
    verdict: str
    peak_mb: float | None = None
    output: str = ""


@dataclass
class Part:
    """The result of a benchmark.

    Attributes:
        title: the title of the table.
        rows: the measurements.
        options: the options of the command line, and the sizes of the inputs.
        machine: see `describe_machine`.
        load: load averages when the benchmark began and ended.
    """

    title: str
    options: dict[str, Any]
    rows: list[TimedCase] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=describe_machine)
    load: list[float] = field(default_factory=lambda: [describe_load()])


def compare_rows(case: str, times: Mapping[str, Sequence[Times]], baseline: str) -> list[TimedCase]:
    """Return a row for each contender, from `take_turns`.

    Args:
        case: the words for the case; the name of each timed step is added.
        times: contender -> times of each round.
        baseline: the contender that the others are compared with.
    """
    rows = []
    for what in times[baseline][0]:
        seconds = {name: [one[what] for one in found] for name, found in times.items()}
        name_of_case = ", ".join(filter(None, [case, what]))
        for name, own in seconds.items():
            row = TimedCase(name_of_case, name, **compare(own, seconds[baseline]))
            if name == baseline:
                row.verdict = "baseline"
            rows.append(row)
    return rows


def print_part(part: Part) -> None:
    """Print the table of a benchmark, then the machine, its load and the options."""
    part.load.append(describe_load())
    cells = [
        [
            row.case,
            row.contender,
            f"{row.seconds:.3g}",
            "" if row.peak_mb is None else f"{row.peak_mb:,.0f}",
            row.output,
            row.verdict,
        ]
        for row in part.rows
    ]
    titles = ["case", "contender", "seconds", "peak, MB", "output", "verdict"]
    filled = [n for n in range(len(titles)) if any(row[n] for row in cells)]
    print(part.title)
    table = [[row[n] for n in filled] for row in cells]
    print(tabulate(table, headers=[titles[n] for n in filled], disable_numparse=True))
    print(", ".join(f"{name} {value}" for name, value in part.machine.items()))
    print(f"load average {part.load[0]:.1f} at the start, {part.load[-1]:.1f} at the end")
    print(", ".join(f"{name} {value}" for name, value in part.options.items()))


def read_parts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the parts that a json file has; none, if there is no file.

    Raises:
        UserError: the folder is missing, or the file is no json object.
    """
    fix = "Name another file with --output"
    if not Path(path).absolute().parent.is_dir():
        raise UserError(f"{path}: its folder does not exist. {fix}")
    content = read_json(Path(path), fix) if Path(path).exists() else {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object, got a {type(content).__name__}. {fix}")
    return content


def save_part(path: str | os.PathLike[str], name: str, part: Part) -> None:
    """Put a part into a json file; the other parts stay.

    Raises:
        UserError: see `read_parts`; or the file cannot be written.
    """
    write_json(path, {**read_parts(path), name: asdict(part)})
    print(f"written {path}")
