"""Writes predictions as COCO json, image by image."""

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from detectron2.structures import Instances

from ..errors import UserError
from ..evaluation.packed import convert_to_coco
from ..files import atomic_open

__all__ = [
    "ANNOTATIONS",
    "IMAGES",
    "RESULTS",
    "CocoResultsWriter",
    "describe_instances",
    "trace_instances",
]

Json = dict[str, Any]

RESULTS = "coco_instances_results.json"
IMAGES, ANNOTATIONS = "images.json", "coco_annotations.json"


def describe_instances(instances: Instances, category_ids: Sequence[int]) -> list[Json]:
    """Return COCO's results of one image, without `image_id`.

    Args:
        instances: the instances, on the CPU, in pixels of the image. `image_size` is the (H, W) of
            the image; `pred_masks`, if present, are `PackedMasks`.
        category_ids: ids of the K classes in the data set.
    """
    fields = dict(instances.get_fields())
    if "pred_keypoints" in fields:  # detectron2 moves them by half a pixel, in place
        fields["pred_keypoints"] = fields["pred_keypoints"].clone()
    results = convert_to_coco(Instances(instances.image_size, **fields), 0)
    for result in results:
        del result["image_id"]
        result["category_id"] = int(category_ids[result["category_id"]])
        result["bbox"] = [_round_to_float32(value) for value in result["bbox"]]
        result["score"] = _round_to_float32(result["score"])
    return results


def trace_instances(instances: Instances, category_ids: Sequence[int]) -> list[Json]:
    """Return annotations of one image with polygons, without `id` and `image_id`.

    The box is around the mask, XYWH. An instance with an empty mask is left out.

    Args:
        instances: see `describe_instances`.
        category_ids: ids of the K classes in the data set.

    Raises:
        UserError: the instances have no masks.
    """
    from ..layers.polygons import trace_coco_polygons  # its SciPy is slow to import

    if not instances.has("pred_masks"):
        raise UserError("--write polygons: the model predicts no masks")
    annotations = []
    labels, scores = instances.pred_classes.tolist(), instances.scores.tolist()
    for crop, label, score in zip(instances.pred_masks, labels, scores, strict=True):
        polygons = trace_coco_polygons(crop.mask, crop.top, crop.left)
        if not polygons:
            continue
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
        low, high = points.min(axis=0), points.max(axis=0)
        annotations.append(
            {
                "category_id": int(category_ids[label]),
                "bbox": [*low.tolist(), *(high - low).tolist()],
                "area": int(crop.mask.sum()),
                "iscrowd": 0,
                "score": _round_to_float32(score),
                "segmentation": polygons,
            }
        )
    return annotations


class CocoResultsWriter:
    """Writes `coco_instances_results.json` and `images.json` to a folder.

    The results are in COCO's format, a list of `{image_id, category_id, bbox, score, segmentation}`
    with XYWH boxes and RLE masks. `images.json` explains the ids: it has COCO's `images` and
    `categories`; its `info` has the `outputs`, so that the next prediction knows our files from a
    user's. With "polygons" there is also `coco_annotations.json`, a complete data set with
    `images`, `categories` and `annotations`, for labelling tools and for training. The files
    appear, complete, at the end of the `with` block. If the block raises an error, the files of an
    earlier run stay as they are. After a `KeyboardInterrupt` the files contain the images that are
    done, if there are any. Only the instances of one image are in memory.

    Args:
        folder: an existing folder.
        class_names: names of the K classes of the model.
        category_ids: ids of the K classes in the data set.
        outputs: the names of all outputs of the prediction, see `folder.OUTPUTS`.

    Attributes:
        results_path: the path of the results.
        images_path: the path of the images and categories.
        annotations_path: the path of the data set with polygons.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        class_names: Sequence[str],
        category_ids: Sequence[int],
        *,
        outputs: Sequence[str] = ("coco",),
    ) -> None:
        self.results_path = Path(folder, RESULTS)
        self.images_path = Path(folder, IMAGES)
        self.annotations_path = Path(folder, ANNOTATIONS)
        self._categories = [
            {"id": int(category), "name": name}
            for category, name in zip(category_ids, class_names, strict=True)
        ]
        self._images: list[Json] = []
        self._outputs = list(outputs)
        self._done = _Done()

    @property
    def num_images(self) -> int:
        """The number of images written so far."""
        return self._done.images

    @property
    def num_instances(self) -> int:
        """The number of instances written so far."""
        return self._done.instances

    def __enter__(self) -> "CocoResultsWriter":
        self._stack = ExitStack()
        self._results: IO[str] = self._stack.enter_context(atomic_open(self.results_path, "w"))
        self._results.write("[")
        self._annotations: IO[str] | None = None
        if "polygons" in self._outputs:
            self._annotations = self._stack.enter_context(atomic_open(self.annotations_path, "w"))
            self._annotations.write('{"annotations": [')
        self._done = _Done(ends=self._find_ends())
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        if kind is not None and not (interrupted and self.num_images):
            self._stack.__exit__(kind, *error)
            return
        with self._stack:
            # An interrupt may have come in the middle of an image.
            for file, end in zip(self._files(), self._done.ends, strict=True):
                file.seek(end)
                file.truncate()
            del self._images[self.num_images :]
            self._results.write("\n]\n")
            legend = {
                "info": {"outputs": self._outputs},
                "images": self._images,
                "categories": self._categories,
            }
            if self._annotations is not None:
                self._annotations.write(f"\n],\n{json.dumps(legend)[1:]}\n")
            with atomic_open(self.images_path, "w") as file:
                json.dump(legend, file, indent=1)

    def write(
        self,
        name: str,
        size: Sequence[int],
        results: Sequence[Json],
        annotations: Sequence[Json] = (),
    ) -> None:
        """Write the instances of one image. Images get the ids 1, 2, ... in this order.

        Args:
            name: `file_name` of the image.
            size: (H, W) of the image.
            results: the result of `describe_instances`.
            annotations: the result of `trace_instances`, for "polygons".
        """
        # Everything is computed by now, so no error can leave a part of the image in the files.
        image_id, (height, width) = self.num_images + 1, size
        self._images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        _append(self._results, self.num_instances, ({"image_id": image_id, **r} for r in results))
        traced = self._done.annotations
        if self._annotations is not None:
            rows = (
                {"id": number, "image_id": image_id, **annotation}
                for number, annotation in enumerate(annotations, start=traced + 1)
            )
            _append(self._annotations, traced, rows)
        self._done = _Done(
            image_id,
            self.num_instances + len(results),
            traced + len(annotations),
            self._find_ends(),
        )

    def _files(self) -> list[IO[str]]:
        return [file for file in (self._results, self._annotations) if file is not None]

    def _find_ends(self) -> tuple[int, ...]:
        return tuple(file.tell() for file in self._files())


class _Done(NamedTuple):
    """How much is completely written: counts, and the positions in the files where it ends.

    An interrupt finds either the old tuple or the new one.
    """

    images: int = 0
    instances: int = 0
    annotations: int = 0
    ends: tuple[int, ...] = ()


def _append(file: IO[str], before: int, rows: Iterable[Json]) -> None:
    """Append rows to a json list that has `before` rows."""
    for number, row in enumerate(rows, start=before):
        file.write(",\n" if number else "\n")
        json.dump(row, file)


def _round_to_float32(value: float) -> float:
    """Return the decimal number with the fewest digits that is the same float32 as `value`."""
    return float(str(np.float32(value)))
