"""Object proposals of a data set, gathered and written as detectron2 reads them."""

import itertools
import os
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm

from ..files import atomic_open

__all__ = ["ProposalFileWriter", "best_proposals", "write_proposal_file"]


def best_proposals(proposals: Instances, topk: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the best proposals of an image, the best first.

    Args:
        proposals: with `proposal_boxes`, XYXY in pixels of the original image, and
            `objectness_logits`, on any device.
        topk: the most that are returned.

    Returns:
        Boxes, (N, 4), and logits, (N,) and descending, both float32.
    """
    logits = proposals.objectness_logits.float()
    order = logits.argsort(descending=True, stable=True)[:topk]
    boxes = proposals.proposal_boxes.tensor.float()[order]
    return boxes.cpu().numpy(), logits[order].cpu().numpy()


def write_proposal_file(
    path: str | os.PathLike[str],
    ids: Sequence[Any],
    boxes: Sequence[np.ndarray],
    logits: Sequence[np.ndarray],
) -> None:
    """Write a file in detectron2's format, whole or not at all.

    It is a pickled dict for `DATASETS.PROPOSAL_FILES_TRAIN` and `PROPOSAL_FILES_TEST`: `ids`,
    `boxes`, `objectness_logits` and `bbox_mode`.

    Args:
        path: of the file; its folder is made.
        ids: of the images.
        boxes: per image (N, 4) float32, XYXY in pixels of the original image.
        logits: per image (N,) float32, descending.

    Raises:
        UserError: it cannot be written.
    """
    content = {
        "ids": list(ids),
        "boxes": list(boxes),
        "objectness_logits": list(logits),
        "bbox_mode": BoxMode.XYXY_ABS.value,
    }
    with atomic_open(path) as file:
        pickle.dump(content, file, protocol=pickle.HIGHEST_PROTOCOL)


class ProposalFileWriter(DatasetEvaluator):
    """Writes the best proposals of every image to one file.

    The main process writes it, see `write_proposal_file`; until then all of it is in memory: 20
    bytes per proposal, 4.7 GB for 2000 on each image of COCO's training set.

    Args:
        path: of the file; its folder is made.
        topk: the most proposals per image.
    """

    def __init__(self, path: str | os.PathLike[str], topk: int) -> None:
        self.path, self.topk = path, topk
        self._found: list[tuple[Any, np.ndarray, np.ndarray]] = []

    def reset(self) -> None:
        """Forget what was processed."""
        self._found = []

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Take the `proposals` of `ProposalNetwork`: boxes in pixels of the original image."""
        for image, output in zip(inputs, outputs, strict=True):
            boxes, logits = best_proposals(output["proposals"], self.topk)
            self._found.append((image["image_id"], boxes, logits))

    def evaluate(self) -> dict[str, Any]:
        """Write the file; return no metrics."""
        gathered = comm.gather(self._found, dst=0)
        if comm.is_main_process():
            # Several processes may be given one image when there are more of them than images.
            found = {str(image[0]): image for image in itertools.chain(*gathered)}.values()
            ids, boxes, logits = ([image[i] for image in found] for i in range(3))
            write_proposal_file(self.path, ids, boxes, logits)
        comm.synchronize()
        return {}
