"""The types of the data: a row of the paper's tables, and a checkpoint of detectron2's zoo."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Checkpoint", "Fit", "Row"]

Fit = Literal["identical", "nearest", "different"]


@dataclass(frozen=True)
class Checkpoint:
    """Weights of detectron2's model zoo, and how well they fit a config of ours.

    Attributes:
        config: detectron2's config, such as
            `"COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"`.
        path: `"<id>/model_final_<hash>.pkl"`, as in detectron2's table of URLs.
        box: box AP on coco_2017_val (0-100) from detectron2's zoo; None if the zoo has none.
        mask: mask AP, likewise; on Cityscapes' val for a Cityscapes model.
        keypoint: keypoint AP, likewise.
        fit: "identical": the same architecture. "nearest": the weights fit, but the model of their
            training computes something else with them. "different": another architecture.
        overrides: `(KEY, VALUE, KEY, VALUE, ...)` to merge into our config: the settings of the
            training that change predictions. Empty for an architecture that our configs cannot
            express.
        note: the differences from the paper's row, in words.
    """

    config: str
    path: str
    box: float | None
    mask: float | None
    keypoint: float | None
    fit: Fit
    overrides: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A printed row, on a single split.

    Attributes:
        table: "1", "2a" ... "9", or "text" for a sentence of section 4.2.
        name: the printed name of the row.
        published: the paper's numbers, 0-100, by detectron2's task and metric: "segm/AP",
            "segm/AP50", "segm/APs", "segm/AP-person", "bbox/AP", "keypoints/APm", ...
        split: "minival" (which is coco_2017_val), "test-dev", or Cityscapes' "val" or "test".
        config: relative to `configs/`, without `.yaml`; None for other methods than Mask R-CNN and
            FCIS, and for rows that need data or weights that are not public (see `note`).
        checkpoints: weights of detectron2's zoo, best fit first.
        deviations: sentences about differences between the config and the paper, and about choices
            that the paper does not describe.
        note: the reason why there is no config, or facts that are not in the printed row.
    """

    table: str
    name: str
    published: dict[str, float]
    split: str
    config: str | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    deviations: tuple[str, ...] = ()
    note: str = ""
