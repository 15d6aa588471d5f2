"""Writes predictions as COCO json, image by image."""

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from detectron2.structures import Instances

from ..evaluation.packed import convert_to_coco
from ..files import atomic_open

__all__ = ["CocoResultsWriter"]


class CocoResultsWriter:
    """Writes `coco_instances_results.json` and `images.json` to a folder.

    The results are in COCO's format, a list of `{image_id, category_id, bbox, score, segmentation}`
    with XYWH boxes and RLE masks. `images.json` says what the ids mean, with COCO's `images` and
    `categories`. Both files appear complete at the end of the `with` block. If the block raises,
    the files of an earlier run stay as they are; but a `KeyboardInterrupt` leaves the files of the
    images that are done, if there are any. Only the instances of one image are in memory.

    Args:
        folder: an existing folder.
        class_names: names of the K classes of the model.
        category_ids: ids of the K classes in the data set.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        class_names: Sequence[str],
        category_ids: Sequence[int],
    ) -> None:
        self._folder = Path(folder)
        self._categories = [
            {"id": int(category), "name": name}
            for category, name in zip(category_ids, class_names, strict=True)
        ]
        self._images: list[dict[str, Any]] = []
        self._done = (0, 0, 0)  # images, their instances, their end in the file; set as one

    @property
    def num_images(self) -> int:
        """The number of images written so far."""
        return self._done[0]

    @property
    def num_instances(self) -> int:
        """The number of instances written so far."""
        return self._done[1]

    @property
    def results_path(self) -> Path:
        """The path of the results."""
        return self._folder / "coco_instances_results.json"

    @property
    def images_path(self) -> Path:
        """The path of the images and categories."""
        return self._folder / "images.json"

    def __enter__(self) -> "CocoResultsWriter":
        self._stack = ExitStack()
        self._results: IO[str] = self._stack.enter_context(atomic_open(self.results_path, "w"))
        self._results.write("[")
        self._done = (0, 0, self._results.tell())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        interrupted = isinstance(error, KeyboardInterrupt) and self.num_images > 0
        if error is not None and not interrupted:
            self._stack.__exit__(kind, error, traceback)
            return
        with self._stack:
            # An interrupt may have come in the middle of an image.
            self._results.seek(self._done[2])
            self._results.truncate()
            del self._images[self.num_images :]
            self._results.write("\n]\n")
            with atomic_open(self.images_path, "w") as file:
                json.dump({"images": self._images, "categories": self._categories}, file, indent=1)

    def add(self, name: str, instances: Instances) -> int:
        """Write the instances of one image.

        Args:
            name: `file_name` of the image.
            instances: the instances, on the CPU, in pixels of the image; `image_size` is the (H, W)
                of the image, and `pred_masks`, if there, are `PackedMasks`.

        Returns:
            The id of the image; the first image has 1.
        """
        image_id = len(self._images) + 1
        height, width = instances.image_size
        fields = dict(instances.get_fields())
        if "pred_keypoints" in fields:  # detectron2 moves them by half a pixel, in place
            fields["pred_keypoints"] = fields["pred_keypoints"].clone()
        results = convert_to_coco(Instances((height, width), **fields), image_id)
        for result in results:
            result["category_id"] = self._categories[result["category_id"]]["id"]
            result["bbox"] = [_round_to_float32(value) for value in result["bbox"]]
            result["score"] = _round_to_float32(result["score"])
        # All of the image is ready: an error above leaves the files without a part of it.
        self._images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for i, result in enumerate(results):
            self._results.write(",\n" if self.num_instances + i else "\n")
            json.dump(result, self._results)
        self._done = (image_id, self.num_instances + len(results), self._results.tell())
        return image_id


def _round_to_float32(value: float) -> float:
    """Return the decimal number with the fewest digits that is the same float32 as `value`."""
    return float(str(np.float32(value)))
