"""Which evaluator a data set gets, and whether it can run, told before anything is trained."""

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import CityscapesInstanceEvaluator, DatasetEvaluator

from ..errors import UserError
from .coco import MaskRCNNCOCOEvaluator

__all__ = ["MaskRCNNCityscapesEvaluator", "build_evaluator", "require_evaluators"]

# What detectron2 imports when it reads Cityscapes (both) and when it evaluates on it (the first).
_CITYSCAPES_MODULES = ("cityscapesscripts", "shapely")


@contextlib.contextmanager
def _mended_scripts() -> Iterator[None]:
    """Let cityscapesscripts 2.3 run, which predates NumPy 2.4; afterwards all is as it was.

    That NumPy lacks `in1d`, and its counts cannot be written as json. Only `matches.json` has such
    counts, a file that the scripts leave in the working directory and never read: it is not
    written.
    """
    name = "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling"
    scripts: Any = importlib.import_module(name)
    numpy: Any = np
    write, lend = scripts.writeDict2JSON, not hasattr(numpy, "in1d")

    def write_all_but_matches(content: Any, path: str) -> None:
        if path != "matches.json":
            write(content, path)

    scripts.writeDict2JSON = write_all_but_matches
    if lend:
        numpy.in1d = lambda array, values: np.isin(np.ravel(array), values)
    try:
        yield
    finally:
        scripts.writeDict2JSON = write
        if lend:
            del numpy.in1d


class MaskRCNNCityscapesEvaluator(CityscapesInstanceEvaluator):
    """detectron2's `CityscapesInstanceEvaluator`, also under NumPy 2.4.

    It computes the AP of Table 7 with the official scripts: mask AP and AP50, in 0-100.
    """

    def evaluate(self) -> Any:
        """See the base class."""
        with _mended_scripts():
            return super().evaluate()


def _is_cityscapes(dataset_name: str) -> bool:
    return MetadataCatalog.get(dataset_name).get("evaluator_type") == "cityscapes_instance"


def require_evaluators(dataset_names: Iterable[str]) -> None:
    """Raise unless what reading and evaluating the data sets needs is installed.

    Args:
        dataset_names: registered names, of `DATASETS.TRAIN` and `DATASETS.TEST`.

    Raises:
        UserError: Cityscapes is among them and a package that it needs is not installed.
    """
    names = [name for name in dataset_names if _is_cityscapes(name)]
    missing = [m for m in _CITYSCAPES_MODULES if importlib.util.find_spec(m) is None]
    if names and missing:
        raise UserError(
            f"data set {names[0]} is read and evaluated with the official Cityscapes scripts, but "
            f"{' and '.join(missing)} cannot be imported here: pip install {' '.join(missing)}"
        )


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | os.PathLike[str]
) -> DatasetEvaluator:
    """Return the evaluator of a data set for the tasks that the model has.

    Cityscapes (`evaluator_type` "cityscapes_instance" in its metadata) has an AP of its own, that
    of Table 7; detectron2's evaluator computes it with the official scripts, mask AP and AP50 in
    0-100. Everything else is evaluated by COCO's metrics, and so are models without masks and
    proposal networks: the average recall at 100 and 1000 proposals, in 0-100.

    Args:
        cfg: the config; reads `MODEL`, `TEST.DETECTIONS_PER_IMAGE` and `TEST.KEYPOINT_OKS_SIGMAS`.
            At most that many detections per image count, and never fewer than COCO's 100.
        dataset_name: a registered name.
        output_folder: for the predictions; COCO's evaluator writes to `output_folder/<data set>/`.

    Raises:
        UserError: see `require_evaluators`.
    """
    finds_masks = cfg.MODEL.MASK_ON and cfg.MODEL.META_ARCHITECTURE != "ProposalNetwork"
    if finds_masks and _is_cityscapes(dataset_name):
        require_evaluators([dataset_name])
        return MaskRCNNCityscapesEvaluator(dataset_name)
    tasks = ["bbox"]
    if cfg.MODEL.MASK_ON:
        tasks.append("segm")
    if cfg.MODEL.KEYPOINT_ON:
        tasks.append("keypoints")
    return MaskRCNNCOCOEvaluator(
        dataset_name,
        tasks=tuple(tasks),
        output_dir=os.path.join(output_folder, dataset_name),
        max_dets_per_image=max(100, cfg.TEST.DETECTIONS_PER_IMAGE),
        kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
    )
