"""What `results/own_data.json` holds."""

from dataclasses import dataclass, field
from typing import Any

from .choice import Choice

__all__ = [
    "CheckpointEvaluation",
    "Contrast",
    "OwnDataEntry",
    "OwnDataResults",
    "PhotoCounts",
    "PhotosFacts",
]
__all__ += ["TimingEntry", "WrittenPrediction"]

# Task -> metric -> AP, None where it is undefined.
CheckpointScores = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class PhotoCounts:
    """The numbers of images and objects, without crowds."""

    images: int
    objects: int


@dataclass(frozen=True)
class PhotosFacts:
    """A data set of `DATA`: its class, the minutes of a training, and its parts."""

    category: str = field(metadata={"key": "class"})
    minutes: int
    train: PhotoCounts
    all: PhotoCounts  # of the validation images
    scoring: PhotoCounts  # the half of them that no choice uses


@dataclass(frozen=True)
class TimingEntry:
    """How many iterations fit into the minutes of a data set."""

    form: str  # see `OwnDataRun.form`
    minutes: int
    iterations: int  # of the runs
    seconds_per_iteration: float
    cpu_seconds_per_iteration: float
    fitting_iterations: int
    threads: int
    cpu: str  # its instruction set


@dataclass(frozen=True)
class CheckpointEvaluation:
    """The scores of a checkpoint on each of `VALIDATION_PARTS`."""

    iteration: int  # counted from 1
    selection: CheckpointScores
    scoring: CheckpointScores
    all: CheckpointScores

    def score(self, part: str, metric: str = "AP", task: str = "segm") -> float:
        """Return an AP on one of `VALIDATION_PARTS`; 0 where it is undefined."""
        scores: CheckpointScores = getattr(self, part)
        return scores[task][metric] or 0.0


@dataclass(frozen=True)
class OwnDataEntry:
    """A finished run; see `RunEntry` for the attributes without a comment."""

    data: str  # one of `DATA`
    start: str  # one of `STARTS`
    settings: str  # one of `SETTINGS`
    model: None
    variant: str
    seed: int
    config_sha256: str
    inputs: dict[str, Any] | None
    train_seconds: float | None
    eval_seconds: float | None
    peak_memory_mb: float | None
    device: str | None
    versions: dict[str, str] | None
    iterations: int
    chosen: dict[str, Any]  # the values of the keys that `--auto` may choose
    evaluations: list[CheckpointEvaluation]
    choice: Choice
    average: CheckpointScores  # of the averaged weights at the end, on the scoring half


@dataclass(frozen=True)
class Contrast:
    """A number with its interval.

    Attributes:
        data: one of `DATA`.
        name: the measured number, in points of mask AP; "saved" is in percent of the iterations.
        values: one for each seed, or for each run if a run is compared with itself.
        mean: the mean of `values`.
        low, high: Student's 95 % interval of the mean; None with fewer than two values.
    """

    data: str
    name: str
    values: list[float]
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class WrittenPrediction:
    """A sentence, and the range that a number should lie in.

    Attributes:
        sentence: the prediction.
        data: see `Contrast`.
        name: see `Contrast`.
        least, most: the range; None: without an end.
        verdict: "came true" if the whole interval lies in the range, "refuted" if it lies outside,
            else "open", also without an interval.
    """

    sentence: str
    data: str
    name: str
    least: float | None
    most: float | None
    verdict: str = "open"


@dataclass(frozen=True)
class OwnDataResults:
    """The content of the file."""

    interval: str  # what the intervals cover, in words
    planned_seeds: int
    evaluations: int  # of each run
    patience: int  # evaluations without a better one, after which a run would stop
    data: dict[str, PhotosFacts]
    timings: list[TimingEntry]
    contrasts: list[Contrast]
    predictions: list[WrittenPrediction]
    runs: list[OwnDataEntry]
