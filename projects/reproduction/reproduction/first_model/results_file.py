"""What `results/first_model.json` holds."""

from dataclasses import dataclass
from typing import Any

from ..intervals import Estimate

__all__ = ["Clip", "FirstModelResults", "FolderFacts", "PredictionCounts", "WrittenErrorCost"]
__all__ += ["ModelScores", "ReportFacts", "SizeFacts", "StageFacts", "Tracks", "WrittenOperation"]

ModelScores = dict[str, dict[str, float | None]]  # task -> metric -> AP


@dataclass(frozen=True)
class Clip:
    """The video: a window that moves over a photo."""

    photo: str
    persons: int  # large ones
    frames: int
    fps: float


@dataclass(frozen=True)
class FolderFacts:
    """The user's folder."""

    photos: int
    objects: int
    new_photos: int
    clip: Clip
    credits: dict[str, str]  # new photo -> its page at Flickr, "" if unknown
    annotations_sha256: list[str]


@dataclass(frozen=True)
class StageFacts:
    """A command, and the lines of its output that the page quotes."""

    name: str
    command: str
    seconds: float
    printed: list[str]


@dataclass(frozen=True)
class SizeFacts:
    """The AP of the objects of one size."""

    objects: int
    AP: Estimate
    AP50: Estimate
    AP75: Estimate


@dataclass(frozen=True)
class WrittenOperation:
    """What a score threshold gives, each 0 to 1; None where it is undefined."""

    threshold: float | None
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class WrittenErrorCost:
    """How often a type of errors occurs, and how many points of AP50 it costs."""

    count: int
    cost: float | None


@dataclass(frozen=True)
class ReportFacts:
    """A part of `analysis.json`, see `mask_rcnn_ext.overlap.analysis.Analysis`."""

    images: int
    objects: int
    ap: dict[str, Estimate]
    best: WrittenOperation
    sizes: dict[str, SizeFacts]
    threshold: float | None  # the best one for persons
    error_types: dict[str, WrittenErrorCost]


@dataclass(frozen=True)
class PredictionCounts:
    """What `predict` found in the new photos."""

    images: int
    objects: int


@dataclass(frozen=True)
class Tracks:
    """What the tracker found in the video."""

    frames: int
    ids: int
    ids_of_half_the_frames: int  # that are in at least half of the frames
    longest: int  # frames of the longest track


@dataclass(frozen=True)
class FirstModelResults:
    """The content of the file."""

    data: FolderFacts
    seed: int
    cores: int | None
    device: str
    versions: dict[str, str]
    stages: list[StageFacts]
    train_seconds: float
    peak_memory_mb: float
    scores: dict[str, ModelScores]  # of the "trained" and the "exported" model
    report: ReportFacts
    parity: dict[str, Any]  # see `mask_rcnn_ext.export.parity`
    found: PredictionCounts
    video: Tracks
    shown: list[str]  # the new photos in the picture
