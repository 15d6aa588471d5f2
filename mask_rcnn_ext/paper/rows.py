"""What a row of the paper's tables is, and what a checkpoint of detectron2's zoo is to it."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Checkpoint", "Fit", "Row"]

Fit = Literal["identical", "nearest", "different"]

_TASKS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}


@dataclass(frozen=True)
class Checkpoint:
    """Weights of detectron2's model zoo, and how they fit a config of ours.

    Attributes:
        config: detectron2's config, such as
            `"COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"`.
        path: `"<id>/model_final_<hash>.pkl"`, as in detectron2's table of URLs.
        box: box AP on coco_2017_val (0-100) that detectron2's zoo gives; None: not given.
        mask: the same, mask AP; on Cityscapes' val for a Cityscapes model.
        keypoint: the same, keypoint AP.
        fit: "identical": the same architecture. "nearest": the same weights fit, but the model that
            they were trained in computes something else with them. "different": another
            architecture.
        overrides: `(KEY, VALUE, KEY, VALUE, ...)` to put over our config: the settings of testing
            that the weights were trained with. Empty for an architecture that our configs do not
            express.
        note: in words, what differs from the paper's row.
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
    """One printed row, on one split.

    Attributes:
        table: "1", "2a" ... "9", or "text" for a sentence of section 4.2.
        name: the row, as printed.
        published: the paper's own numbers, 0-100: "segm/AP", "segm/AP50", "segm/APs",
            "segm/AP-person", "bbox/AP", "keypoints/APm", ...: detectron2's task and metric.
        split: "minival" (which is coco_2017_val), "test-dev", or Cityscapes' "val" or "test".
        config: relative to `configs/`, without `.yaml`; None: another method than Mask R-CNN and
            FCIS, or a row that needs what is not public (see `note`).
        checkpoints: of detectron2's zoo, best fit first.
        deviations: what the config does otherwise than the paper, and what it chooses where the
            paper is silent. One sentence each.
        note: why there is no config, or what the printed row leaves unsaid.
    """

    table: str
    name: str
    published: dict[str, float]
    split: str
    config: str | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    deviations: tuple[str, ...] = ()
    note: str = ""

    def summary(self) -> str:
        """Return one line: table, row, split and every published number."""
        place = "Section 4.2" if self.table == "text" else f"Table {self.table}"
        tasks: dict[str, list[str]] = {}
        for key, value in self.published.items():
            task, metric = key.split("/")
            tasks.setdefault(task, []).append(f"{metric} {value}")
        numbers = "; ".join(f"{_TASKS[task]} {', '.join(found)}" for task, found in tasks.items())
        return f"{place}, {self.name} ({self.split}): {numbers or 'no AP printed'}"
