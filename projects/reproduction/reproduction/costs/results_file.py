"""What `results/model_costs.json` holds."""

from dataclasses import dataclass

__all__ = ["MODEL_PARTS", "CostResults", "ModelCosts", "Parameters"]

MODEL_PARTS = ("backbone", "rpn", "maps", "box", "mask", "keypoint")


@dataclass(frozen=True)
class Parameters:
    """The number of parameters, and of those that the config does not freeze."""

    total: int
    trainable: int


@dataclass(frozen=True)
class ModelCosts:
    """What a model costs; see `CONVENTIONS`."""

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
