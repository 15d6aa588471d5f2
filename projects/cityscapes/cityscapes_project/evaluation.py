"""What Cityscapes is measured with: its official AP, also per class; and files for its server."""

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
    """The official mask AP and AP50 of Table 7, with the AP of every class beside them.

    The official scripts compute it, and detectron2's evaluator drops it.
    """

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Return `{"segm": {"AP", "AP50", "AP-person", ...}}`, 0-100; None but in one process.

        The AP of a class that no image has is NaN.
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
    """Writes predictions as Cityscapes' server takes them: a .txt per image, a .png per mask.

    It measures nothing. The folder's earlier predictions are removed; the folder, zipped, is what
    the server wants.
    """

    def __init__(self, dataset_name: str, folder: str) -> None:
        """Take the name of the data set, registered with images only, and the folder to fill."""
        super().__init__(dataset_name)
        self._folder = Path(folder).absolute()

    def reset(self) -> None:
        """Make the folder, or take an earlier run's predictions out of it."""
        if comm.is_main_process():
            self._folder.mkdir(parents=True, exist_ok=True)
            for path in self._folder.glob("*_leftImg8bit_*"):
                path.unlink()
        comm.synchronize()
        self._temp_dir = str(self._folder)  # where the base class's `process` writes

    def evaluate(self) -> dict[str, Any]:
        """Say where the predictions are; return no metric."""
        comm.synchronize()
        logger.info("Predictions for Cityscapes' server, to be zipped: %s", self._folder)
        return {}
