"""Measures how many iterations of each variant fit into the planned minutes on this machine."""

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from detectron2.utils.events import EventStorage
from tabulate import tabulate

from mask_rcnn_ext import argument_parser
from mask_rcnn_ext.engine.run import prepare_run
from mask_rcnn_ext.engine.trainer import Trainer

from .results_file import TimingEntry
from .runs import DATA, EVALUATIONS, OwnDataRun

__all__ = ["Timing", "describe_timings", "time_variants"]

_WARM_UP = 2  # rounds; memory is allocated in the first iterations


@dataclass(frozen=True)
class Timing:
    """Seconds of an iteration: the median over the rounds.

    Attributes:
        run: a run of the variant.
        wall: the seconds of the clock.
        cpu: the seconds of all threads; other processes change them less than `wall`.
    """

    run: OwnDataRun
    wall: float
    cpu: float

    @property
    def fitting(self) -> int:
        """The number of iterations that fit into the minutes of the data set."""
        done = int(60 * DATA[self.run.data].minutes / self.wall)
        return max(done // EVALUATIONS, 1) * EVALUATIONS

    def describe(self) -> TimingEntry:
        """Return the entry for the file of results."""
        return TimingEntry(
            form=self.run.form,
            minutes=DATA[self.run.data].minutes,
            iterations=self.run.iterations,
            seconds_per_iteration=round(self.wall, 3),
            cpu_seconds_per_iteration=round(self.cpu, 3),
            fitting_iterations=self.fitting,
            threads=torch.get_num_threads(),
            cpu=torch.backends.cpu.get_cpu_capability(),
        )


def time_variants(runs: Sequence[OwnDataRun], rounds: int = 10) -> list[Timing]:
    """Train one iteration of each variant in turn, `rounds` times; keep nothing.

    Args:
        runs: the runs of all variants. The start takes no time, so one start of each is measured.
        rounds: measured iterations of each variant.
    """
    forms = {run.form: run for run in reversed(runs) if run.seed == 1}
    with tempfile.TemporaryDirectory() as folder:
        trainers = {form: _build(run, Path(folder, form)) for form, run in forms.items()}
        took: dict[str, list[tuple[float, float]]] = {form: [] for form in forms}
        for number in range(_WARM_UP + rounds):
            for form, trainer in trainers.items():
                wall, cpu = time.perf_counter(), time.process_time()
                with EventStorage(number) as trainer.storage:
                    trainer.iter = number
                    trainer.step_seed.before_step()
                    trainer.run_step()
                    trainer.weight_average.after_step()
                took[form].append((time.perf_counter() - wall, time.process_time() - cpu))
    return [
        Timing(run, *map(statistics.median, zip(*took[form][_WARM_UP:], strict=True)))
        for form, run in sorted(forms.items())
    ]


def _build(run: OwnDataRun, folder: Path) -> Trainer:
    _, *words = replace(run, folder=folder).command(False)
    with prepare_run(argument_parser().parse_args(words)) as cfg:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
    return trainer


def describe_timings(timings: Sequence[Timing]) -> str:
    """Return a table, and a sentence that says how to use it."""
    header = ["variant", "minutes", "s/iteration", "CPU s/iteration", "fit", "in DATA"]
    rows = [
        [
            t.run.form,
            DATA[t.run.data].minutes,
            f"{t.wall:.2f}",
            f"{t.cpu:.2f}",
            t.fitting,
            t.run.iterations,
        ]
        for t in timings
    ]
    table = tabulate(rows, header, disable_numparse=True)
    return (
        f"{table}\n{torch.get_num_threads()} threads. On two cores that do nothing else, the last "
        "two columns should agree; DATA is in reproduction/own_data/runs.py"
    )
