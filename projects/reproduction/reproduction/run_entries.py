"""The entry of a training run in a file of results."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .training_runs import TrainingRun

__all__ = ["RunEntry", "describe_run"]


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """One training run in a file of results."""

    model: str | None = None  # where the file has one
    variant: str  # stem of its yaml
    seed: int
    config_sha256: str  # see `TrainingRun.sha256`
    inputs: dict[str, Any] | None = None  # checksums of its input files
    metrics: dict[str, dict[str, float | None]]  # by task; None: nothing to measure
    train_seconds: float | None
    eval_seconds: float | None
    peak_memory_mb: float | None
    device: str | None
    versions: dict[str, str] | None

    @property
    def seconds(self) -> float:
        """Duration of training and evaluation, as far as it is known."""
        return (self.train_seconds or 0) + (self.eval_seconds or 0)


def describe_run(
    run: TrainingRun,
    tasks: Sequence[str],
    metrics: Sequence[str],
    *,
    model: str | None = None,
    inputs: dict[str, Any] | None = None,
) -> RunEntry:
    """Return the entry of a finished run.

    Args:
        run: a run that has results.
        tasks: the tasks to take, in this order, if the run has them.
        metrics: the metrics to take for each task.
        model: see `RunEntry`.
        inputs: see `RunEntry`.
    """
    results = run.results()
    assert results is not None, run.title
    info = results["run"]
    return RunEntry(
        model=model,
        variant=run.variant,
        seed=run.seed,
        config_sha256=run.sha256(),
        inputs=inputs,
        metrics={
            task: {metric: results[task].get(metric) for metric in metrics}
            for task in tasks
            if results.get(task)
        },
        train_seconds=info.get("train_seconds"),
        eval_seconds=info.get("eval_seconds"),
        peak_memory_mb=info.get("peak_memory_mb"),
        device=info.get("device"),
        versions=info.get("versions"),
    )
