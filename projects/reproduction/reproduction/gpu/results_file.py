"""What `results/gpu.json` holds."""

from dataclasses import dataclass

from ..pages.benchmark_tables import Benchmark

__all__ = ["GpuResults", "GpuTests", "RunFacts", "WrittenGpuTraining"]


@dataclass(frozen=True)
class GpuTests:
    """How many of the tests marked gpu ran, failed, broke and were skipped."""

    tests: int
    failures: int
    errors: int
    skipped: int
    failed: list[str]  # names
    seconds: float


@dataclass(frozen=True)
class RunFacts:
    """What a training took."""

    train_seconds: float
    peak_memory_mb: float


@dataclass(frozen=True)
class WrittenGpuTraining:
    """The `results.json` of the training, and the name of its data."""

    data: str
    run: RunFacts
    segm: dict[str, float | None] | None = None
    bbox: dict[str, float | None] | None = None


@dataclass(frozen=True)
class GpuResults:
    """The content of the file; each part may be missing."""

    device: str
    versions: dict[str, str]
    tests: GpuTests | None = None
    training: WrittenGpuTraining | None = None
    benchmark: dict[str, Benchmark] | None = None
