"""What `results/scaling.json` holds."""

from dataclasses import dataclass

__all__ = ["Found", "Kill", "PredictionFacts", "ScalingResults", "TrainingFacts"]


@dataclass(frozen=True)
class TrainingFacts:
    """The trainings on nodes; the keys are the names of the runs."""

    iterations: int
    batch: int
    seconds: dict[str, float]
    equal: dict[str, bool]  # of the other runs: whether the weights are the first run's, to the bit


@dataclass(frozen=True)
class Kill:
    """What was killed, and after how many images."""

    after_images: int
    what: str


@dataclass(frozen=True)
class Found:
    """The images and instances that a prediction has lost, found twice or changed."""

    instances: int
    lost: int  # images
    doubled: int  # images and instances
    bytes_equal: bool  # the result files
    left_over: list[str]  # names of other files


@dataclass(frozen=True)
class PredictionFacts:
    """A prediction without kills, and one with kills."""

    images: int
    processes: int
    kills: list[Kill]
    seed: int
    undisturbed_seconds: float
    killed_seconds: float
    peak_memory_mb: float  # of the largest process
    instances: int  # this and the next four: see `Found`
    lost: int
    doubled: int
    bytes_equal: bool
    left_over: list[str]
    side: int  # of an image, in pixels


@dataclass(frozen=True)
class ScalingResults:
    """The content of the file."""

    training: TrainingFacts
    prediction: PredictionFacts
    cores: int | None
    versions: dict[str, str]
