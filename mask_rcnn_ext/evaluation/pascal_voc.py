"""PASCAL VOC's AP over the classes that the data set has."""

import math
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.evaluation.pascal_voc_evaluation import parse_rec
from detectron2.utils import comm

from ..errors import UserError, count_noun

__all__ = ["MaskRCNNPascalVOCEvaluator"]


class MaskRCNNPascalVOCEvaluator(PascalVOCDetectionEvaluator):
    """detectron2's `PascalVOCDetectionEvaluator`, in which a class without objects has no AP.

    AP50 of the boxes, in 0-100, is VOC's mAP, with 11 points for 2007. Objects that are marked as
    difficult count neither way. The means are over the classes that have objects; without any,
    they are NaN. In detectron2, the AP of a class without objects is 0, or makes the means NaN.
    """

    _class_names: list[str]
    _predictions: dict[int, list[str]]

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """See the base class.

        Raises:
            UserError: the data set lacks the class of a detection, which would count for nothing.
        """
        super().process(inputs, outputs)
        count = len(self._class_names)
        unknown = [label for label in self._predictions if not 0 <= label < count]
        if unknown:
            raise UserError(
                f"data set {self._dataset_name} has {count_noun(count, 'class')}, but the model "
                f"has predicted class {unknown[0]}. Evaluate a model that has the classes of the "
                "data set"
            )

    def evaluate(self) -> Any:
        """See the base class."""
        names, found = self._class_names, self._predictions
        present = self._find_present()
        kept = [index for index, name in enumerate(names) if name in present]
        if not kept:
            undefined = dict.fromkeys(("AP", "AP50", "AP75"), math.nan)
            return OrderedDict(bbox=undefined) if comm.is_main_process() else None
        self._class_names = [names[index] for index in kept]
        self._predictions = defaultdict(
            list, {new: found[old] for new, old in enumerate(kept) if old in found}
        )
        try:
            return super().evaluate()
        finally:
            self._class_names, self._predictions = names, found

    def _find_present(self) -> set[str]:
        """Return the classes of which an object counts."""
        metadata = MetadataCatalog.get(self._dataset_name)
        images = Path(metadata.dirname, "ImageSets", "Main", f"{metadata.split}.txt")
        return {
            entry["name"]
            for line in images.read_text("utf-8").splitlines()
            for entry in parse_rec(self._anno_file_template.format(line.strip()))
            if not entry["difficult"]
        }
