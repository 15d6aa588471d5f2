"""pycocotools' `COCO` for ids of any size and kind.

pycocotools rounds large ids, so the evaluation of an image may see the objects of another image. It
ignores an annotation with the id 0, reads a text as a list of ids, and of several annotations with
the same id keeps only the last.
"""

import contextlib
import io
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from ..layers.rle import check_mask, compress

__all__ = ["NumberedCOCO", "sort_ids"]


def sort_ids(ids: Iterable[Any]) -> list[Any]:
    """Return ids in ascending order: numbers, as pycocotools has them, then texts."""
    return sorted(ids, key=lambda i: (isinstance(i, str), i))


class NumberedCOCO(COCO):
    """A data set for `COCOeval`, in which images, annotations and categories count from 1.

    An annotation without `iscrowd` is no crowd. One without `area` gets the area of its mask or,
    without a sound mask, of its box. pycocotools fails with a `KeyError`.

    Images and categories are in ascending order of their ids, as pycocotools takes them. Equal
    scores are the only place where this order changes an AP.

    Attributes:
        image_numbers: id of an image in the file -> number in `self.imgs`.
        category_numbers: id of a category in the file -> number in `self.cats`.
    """

    def __init__(self, content: dict[str, Any], category_ids: Sequence[Any] | None = None) -> None:
        """Copy a data set.

        Args:
            content: in COCO's format; it stays as it is.
            category_ids: the category ids in the wanted order; default: all, ascending.
        """
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            super().__init__()
            images, categories = content["images"], content.get("categories", [])
            self.image_numbers = _number(sort_ids({image["id"] for image in images}))
            if category_ids is None:
                category_ids = sort_ids({category["id"] for category in categories})
            self.category_numbers = _number(category_ids)
            annotations = self._renumber(content.get("annotations", []))
            self.dataset = {
                **content,
                "images": [{**i, "id": self.image_numbers[i["id"]]} for i in images],
                "categories": [
                    {**c, "id": self.category_numbers[c["id"]]}
                    for c in categories
                    if c["id"] in self.category_numbers
                ],
                "annotations": [{**a, "id": n} for n, a in enumerate(annotations, start=1)],
            }
            self.createIndex()
            for annotation in self.anns.values():
                self._complete(annotation)

    def _complete(self, annotation: dict[str, Any]) -> None:
        """Add what `COCOeval` reads and detectron2's training does not, in place."""
        if annotation.get("iscrowd") is None:
            annotation["iscrowd"] = 0
        if annotation.get("area") is None and annotation["image_id"] is not None:
            annotation["area"] = _measure_area(annotation, self.imgs[annotation["image_id"]])

    def _renumber(self, entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {
                **entry,
                "image_id": self.image_numbers.get(entry["image_id"]),
                "category_id": self.category_numbers.get(entry["category_id"]),
            }
            for entry in entries
        ]

    def loadRes(self, resFile: list[dict[str, Any]]) -> COCO:
        """Return results for `COCOeval`; unlike in pycocotools, there may be none.

        Args:
            resFile: entries with the ids of the file, which stay as they are.

        Raises:
            AssertionError: there are results of an image that the data set does not have.
        """
        if resFile:
            return super().loadRes(self._renumber(resFile))
        empty = COCO()
        empty.dataset = {**self.dataset, "annotations": []}
        empty.createIndex()
        return empty


def _measure_area(annotation: dict[str, Any], image: dict[str, Any]) -> float:
    mask: Any = annotation.get("segmentation")
    size: Any = image.get("height"), image.get("width")
    try:
        check_mask(mask, *size)
    except ValueError:
        _, _, width, height = annotation.get("bbox") or (0, 0, 0, 0)
        return float(width * height)
    return float(mask_util.area(compress(mask, *size)))


def _number(ids: Iterable[Hashable]) -> dict[Hashable, int]:
    return {each: number for number, each in enumerate(ids, start=1)}
