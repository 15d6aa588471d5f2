"""Read many changed files of each kind, and write what became of them: `make fuzz`.

    python tests/fuzz/run_fuzz.py --cases 20000 --output results/fuzz.json

Each kind has a process of its own with a limit of its memory. A case that fails, ends the process
or takes too long is counted and named, its file is kept, and the next case follows.
"""

import argparse
import json
import logging
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent), str(TESTS.parent / "tools")]

import cv2
from benchmarking.machine import describe_machine, find_version

from mask_rcnn_ext.files import write_json
from mask_rcnn_ext.version import __version__

NAMES = ("annotations", "results", "configs", "proposals", "checkpoints", "images")
ROOM = 3 << 30  # bytes that a process may take beyond what its imports need
LONGEST = 60  # seconds for a case, beyond which its process is ended
KEPT = 20  # failed files of a kind


@dataclass
class Report:
    """What became of the cases of a kind; memory is in MB of 10^6 bytes.

    Attributes:
        cases: how many were read.
        accepted, refused, failed: how many of each; refused is with a sentence.
        slowest_seconds, slowest_case: the slowest one.
        peak_mb: the largest memory of its process.
        start_mb: the memory before the first case.
        failures: case and reason of the first ones that failed.
    """

    cases: int = 0
    accepted: int = 0
    refused: int = 0
    failed: int = 0
    slowest_seconds: float = 0.0
    slowest_case: int = -1
    peak_mb: float = 0.0
    start_mb: float = 0.0
    failures: list[str] = field(default_factory=list)


def work(connection: Any, name: str, folder: str, numbers: range, seed: int) -> None:
    """Read the cases of a kind in this process; send the outcome of each."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)  # of libraries in C, which say what is wrong with an image
    import torch
    from fuzz.cases import make_case, read_case
    from fuzz.kinds import KINDS

    torch.set_num_threads(1)
    kind = KINDS[name](Path(folder))
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
    connection.send(("start", _measure_memory()))
    for number in numbers:
        path = make_case(kind, name, number, seed)
        connection.send(("case", str(path)))
        outcome = read_case(kind, path)
        if outcome.kind != "failed":
            path.unlink()
        found = (outcome.kind, outcome.seconds, outcome.text[:500])
        connection.send(("done", found, _measure_memory()))


def _measure_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # Linux counts in KiB


def run_kind(name: str, cases: int, seed: int, keep: Path, until: float) -> Report:
    """Read the cases of a kind, in another process each time that one ends."""
    report, context = Report(), multiprocessing.get_context("spawn")
    while report.cases < cases and time.time() < until:
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = context.Pipe(duplex=False)
            numbers = range(report.cases, cases)
            process = context.Process(target=work, args=(theirs, name, folder, numbers, seed))
            process.start()
            theirs.close()
            try:
                _follow(ours, name, report, keep, cases, until)
            finally:
                process.kill()
                process.join()
    return report


def _follow(
    connection: Any, name: str, report: Report, keep: Path, cases: int, until: float
) -> None:
    """Count what a process sends, until it has read all cases, ends, or hangs."""
    path = ""
    while report.cases < cases and time.time() < until:
        if connection.poll(LONGEST):
            try:
                what, *values = connection.recv()
            except EOFError:
                reason = "the process ended"
            else:
                if what == "start":
                    report.start_mb = report.start_mb or values[0]
                elif what == "case":
                    path = values[0]
                else:
                    report.peak_mb = max(report.peak_mb, values[1])
                    _count(report, name, values[0], path, keep)
                continue
        else:
            reason = f"longer than {LONGEST} s"
        if not path:
            raise RuntimeError(f"{name}, before case {report.cases}: {reason}")
        _count(report, name, ("failed", 0.0, reason), path, keep)
        return


def _count(report: Report, name: str, outcome: tuple, path: str, keep: Path) -> None:
    found, seconds, text = outcome
    setattr(report, found, getattr(report, found) + 1)
    if seconds > report.slowest_seconds:
        report.slowest_seconds, report.slowest_case = seconds, report.cases
    if found == "failed":
        report.failures.append(f"case {report.cases}: {text}")
        if report.failed <= KEPT:
            folder = keep / name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / f"{report.cases}{''.join(Path(path).suffixes)}")
    report.cases += 1


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=20_000, help="of each kind (default: 20,000)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--kinds", nargs="+", choices=NAMES, default=NAMES, help="default: all")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="for each kind (default: no limit)"
    )
    parser.add_argument("--output", type=Path, default="results/fuzz.json", metavar="JSON")
    parser.add_argument(
        "--failed", type=Path, default="output/fuzz", metavar="DIR", help="gets what failed"
    )
    return parser


def main() -> int:
    """Run the command line; return 1 if a case failed."""
    args = build_parser().parse_args()
    kinds = json.loads(args.output.read_text())["kinds"] if args.output.exists() else {}
    failed = 0
    for name in args.kinds:
        until = time.time() + 60 * args.minutes
        report = run_kind(name, args.cases, args.seed, args.failed, until)
        failed += report.failed
        print(
            f"{name}: {report.cases:,} cases, {report.accepted:,} accepted, {report.refused:,} "
            f"refused, {report.failed} failed; slowest {report.slowest_seconds:.2f} s; "
            f"{report.peak_mb:,.0f} MB, {report.start_mb:,.0f} MB of them before the first case"
        )
        for failure in report.failures[:KEPT]:
            print(f"  {failure}")
        kinds[name] = {"seed": args.seed, **asdict(report), "machine": _describe()}
        write_json(args.output, {"kinds": {n: kinds[n] for n in NAMES if n in kinds}})
    return int(failed > 0)


def _describe() -> dict[str, Any]:
    packages = ("pillow", "tifffile", "PyYAML", "pycocotools")
    versions = {name: find_version(name) for name in packages}
    versions.update(mask_rcnn_ext=__version__, opencv=cv2.__version__)
    return {**describe_machine(), **versions}


if __name__ == "__main__":
    sys.exit(main())
