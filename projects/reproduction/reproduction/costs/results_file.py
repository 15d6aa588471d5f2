"""What `results/model_costs.json` holds."""

from dataclasses import dataclass

__all__ = ["CostResults", "ModelCosts", "Parameters"]


@dataclass(frozen=True)
class Parameters:
    """The number of parameters, and of those that the config does not freeze."""

    total: int
    trainable: int


@dataclass(frozen=True)
class ModelCosts:
    """A model; see `count_costs`."""

    config: str
    parameters: Parameters
    image_size: list[int]  # height, width
    proposals: int
    detections: int
    flops: dict[str, int]  # "total", and each of `MODEL_PARTS` that the model has


@dataclass(frozen=True)
class CostResults:
    """The content of the file."""

    conventions: dict[str, str]  # what is counted, in words
    versions: dict[str, str]
    models: list[ModelCosts]
