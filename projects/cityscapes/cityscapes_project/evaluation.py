"""The official AP of Cityscapes, also per class, and files for the Cityscapes server."""

import importlib
import logging
from pathlib import Path
from typing import Any

from detectron2.evaluation import CityscapesInstanceEvaluator
from detectron2.utils import comm

from mask_rcnn_ext import MaskRCNNCityscapesEvaluator

__all__ = ["CityscapesAPEvaluator", "SubmissionWriter"]

logger = logging.getLogger("mask_rcnn_ext.cityscapes_project")


class CityscapesAPEvaluator(MaskRCNNCityscapesEvaluator):
    """The official mask AP and AP50 of Table 7, and the AP of every class.

    The official scripts compute the AP of the classes; detectron2's evaluator does not return it.
    """

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Return `{"segm": {"AP", "AP50", "AP-person", ...}}`, 0-100; None except in one process.

        The AP of a class without instances is NaN.
        """
        scripts: Any = importlib.import_module(
            "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling"
        )
        average, averages = scripts.computeAverages, {}

        def remember(*arguments: Any) -> dict[str, Any]:
            averages.update(average(*arguments))
            return averages

        scripts.computeAverages = remember
        try:
            results: dict[str, dict[str, float]] | None = super().evaluate()
        finally:
            scripts.computeAverages = average
        if results is not None:
            for name, values in averages["classes"].items():
                results["segm"][f"AP-{name}"] = 100 * float(values["ap"])
        return results


class SubmissionWriter(CityscapesInstanceEvaluator):
    """Writes predictions for the Cityscapes server: a .txt per image and a .png per mask.

    It measures nothing. Earlier predictions in the folder are removed. Zip the folder to submit it.
    """

    def __init__(self, dataset_name: str, folder: str) -> None:
        """Take the name of the data set, registered with images only, and the folder to fill."""
        super().__init__(dataset_name)
        self._folder = Path(folder).absolute()

    def reset(self) -> None:
        """Create the folder, or remove the predictions of an earlier run from it."""
        if comm.is_main_process():
            self._folder.mkdir(parents=True, exist_ok=True)
            for path in self._folder.glob("*_leftImg8bit_*"):
                path.unlink()
        comm.synchronize()
        self._temp_dir = str(self._folder)  # where the base class's `process` writes

    def evaluate(self) -> dict[str, Any]:
        """Log the folder of the predictions; return no metric."""
        comm.synchronize()
        logger.info("Predictions for the Cityscapes server, zip this folder: %s", self._folder)
        return {}
