"""Kills a training at random moments until it is done, and full disks at random sizes."""

import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from small_runs import read_weights
from trainings import (
    Faults,
    Variant,
    check_end,
    check_folder,
    check_output,
    find_last,
    find_phase,
    finish,
    list_checkpoints,
    start,
)

Whole = dict[str, tuple[dict[str, Any], float]]  # variant -> final weights, seconds


def run_whole(variants: list[Variant], root: Path) -> Whole:
    """Train once without a disturbance: the weights to compare with."""
    found: Whole = {}
    for variant in variants:
        folder = root / "whole" / variant.name
        output = root / f"whole {variant.name}.txt"
        for folder in (root / "warm" / variant.name, root / "whole" / variant.name):
            began = time.monotonic()
            if code := finish(start(variant.arguments(folder), output)):
                raise RuntimeError(f"the undisturbed run of {variant.name} ended with {code}")
            seconds = time.monotonic() - began
        found[variant.name] = read_weights(folder / "model_final.pth"), seconds
    return found


def kill_trainings(
    number: int, variants: list[Variant], whole: Whole, root: Path, faults: Faults, seed: int
) -> Iterator[dict[str, Any]]:
    """Kill trainings `number` times; each is resumed until it is done, then the next one begins.

    Yields:
        What was done so far, after each training.
    """
    rng, kills, runs, phases = random.Random(seed), 0, 0, Counter[str]()
    while kills < number:
        variant = variants[runs % len(variants)]
        weights, seconds = whole[variant.name]
        folder, output = root / f"run {runs}", root / f"run {runs}.txt"
        while True:
            where = f"{variant.name}, run {runs}, kill {kills}"
            before, last = list_checkpoints(folder), find_last(folder)
            log = folder / "log.txt"
            offset = log.stat().st_size if log.exists() else 0
            arguments = variant.arguments(folder, *(["--resume"] if last >= 0 else []))
            process = start(arguments, output)
            if kills < number:
                if rng.random() < 0.75:  # the start is only a part of what can be killed
                    wait_for_training(process, folder, offset)
                process.join(rng.uniform(0, seconds))
            else:
                process.join(300)
            if process.is_alive():
                process.kill()
                process.join()
                kills += 1
                phases[find_phase(folder, offset)] += 1
                check_folder(folder, before, last, where, faults)
            elif process.exitcode:
                faults.not_resumable.append(f"{where}: exit code {process.exitcode}, see {output}")
                break
            else:
                check_end(folder, weights, where, faults)
                shutil.rmtree(folder)
                break
        runs += 1
        yield {"kills": kills, "trainings": runs, "moments": dict(sorted(phases.items()))}


def wait_for_training(process: Any, folder: Path, offset: int) -> None:
    while process.is_alive() and find_phase(folder, offset) == "start":
        time.sleep(0.02)


def fill_disks(
    number: int, variants: list[Variant], whole: Whole, root: Path, faults: Faults, seed: int
) -> Iterator[dict[str, Any]]:
    """Let `number` trainings find that no file can be larger than a random size; then go on.

    Yields:
        What was done so far, after each training.
    """
    rng, ends = random.Random(seed), Counter[str]()
    # The limit is also one of the memory through which workers give images: no disk has it.
    variants = [variant for variant in variants if not variant.workers]
    for run in range(number):
        variant = variants[run % len(variants)]
        weights, _ = whole[variant.name]
        folder, output = root / f"disk {run}", root / f"disk {run}.txt"
        largest = (root / "whole" / variant.name / "model_final.pth").stat().st_size
        limit = int(10 ** rng.uniform(2, 6.3)) if run % 2 else rng.randrange(1, largest)
        where = f"{variant.name}, disk {run}, {limit} bytes"
        code = finish(start(variant.arguments(folder), output, limit))
        if code:
            ends["told" if code == 2 else f"exit code {code}"] += 1
            check_output(output, where, faults)
            last = check_folder(folder, {}, -1, where, faults)
            resume = ["--resume"] if last >= 0 else []
            if code := finish(start(variant.arguments(folder, *resume), output)):
                faults.not_resumable.append(f"{where}: exit code {code}, see {output}")
        else:
            ends["large enough"] += 1
        if not code:
            check_end(folder, weights, where, faults)
            shutil.rmtree(folder)
        yield {"points": run + 1, "ends": dict(sorted(ends.items()))}
