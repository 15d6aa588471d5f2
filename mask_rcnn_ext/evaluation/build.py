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
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    PascalVOCDetectionEvaluator,
)

from ..errors import UserError, nearest
from .coco import MaskRCNNCOCOEvaluator
from .fcis_comparison import FCISComparisonEvaluator

__all__ = [
    "MaskRCNNCityscapesEvaluator",
    "build_evaluator",
    "require_evaluators",
    "require_known_evaluators",
]

# What `MASK_RCNN_EXT.EVALUATORS` may name; each is made of a data set's name and a folder.
_BESIDE_COCO = {"FCISComparisonEvaluator": FCISComparisonEvaluator}

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


def _is_pascal_voc(dataset_name: str) -> bool:
    return MetadataCatalog.get(dataset_name).get("evaluator_type") == "pascal_voc"


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


def require_known_evaluators(cfg: CfgNode) -> None:
    """Raise unless this package has every evaluator that a config names, and the model suits it.

    Args:
        cfg: the config; reads `MASK_RCNN_EXT.EVALUATORS`, `MODEL` and `DATASETS.TEST`.

    Raises:
        UserError: a name is unknown, or the model predicts no masks; or it predicts masks or
            keypoints on PASCAL VOC, which has boxes only.
    """
    for name in cfg.DATASETS.TEST:
        if (cfg.MODEL.MASK_ON or cfg.MODEL.KEYPOINT_ON) and _is_pascal_voc(name):
            raise UserError(
                f"data set {name}: PASCAL VOC's detection data has boxes only, which its evaluator "
                "measures: expected MODEL.MASK_ON and MODEL.KEYPOINT_ON False, got one True"
            )
    for name in _named(cfg):
        if name not in _BESIDE_COCO:
            known = ", ".join(_BESIDE_COCO)
            raise UserError(
                f"MASK_RCNN_EXT.EVALUATORS: unknown name {name!r}{nearest(str(name), _BESIDE_COCO)}"
                f" (there are: {known})"
            )
        if not _finds_masks(cfg):
            raise UserError(
                f"MASK_RCNN_EXT.EVALUATORS: {name} compares masks, and this model predicts none: "
                "set MODEL.MASK_ON True, or take it out"
            )


def _named(cfg: CfgNode) -> list[str]:
    return list(
        cfg.get("MASK_RCNN_EXT", {}).get("EVALUATORS", [])
    )  # a stock config has no such key


def _finds_masks(cfg: CfgNode) -> bool:
    return bool(cfg.MODEL.MASK_ON) and cfg.MODEL.META_ARCHITECTURE != "ProposalNetwork"


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | os.PathLike[str]
) -> DatasetEvaluator:
    """Return the evaluator of a data set, with those beside it that the config names.

    Args:
        cfg: the config; reads `MASK_RCNN_EXT.EVALUATORS` and what `require_evaluators` and COCO's
            evaluator need: `MODEL`, `TEST.DETECTIONS_PER_IMAGE`, `TEST.KEYPOINT_OKS_SIGMAS`.
        dataset_name: a registered name.
        output_folder: all write to `output_folder/<data set>/`.

    Raises:
        UserError: see `require_evaluators` and `require_known_evaluators`; or the data set does not
            suit an evaluator that is named.
    """
    require_known_evaluators(cfg)
    evaluator = _benchmark_evaluator(cfg, dataset_name, output_folder)
    names = _named(cfg)
    if not names:
        return evaluator
    folder = os.path.join(output_folder, dataset_name)
    beside = [_BESIDE_COCO[name](dataset_name, folder) for name in names]
    return DatasetEvaluators([evaluator, *beside])


def _benchmark_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | os.PathLike[str]
) -> DatasetEvaluator:
    """Return the evaluator of a data set for the tasks that the model has.

    Cityscapes (`evaluator_type` "cityscapes_instance" in its metadata) has an AP of its own, that
    of Table 7; detectron2's evaluator computes it with the official scripts, mask AP and AP50 in
    0-100. PASCAL VOC ("pascal_voc") has its own too, detectron2's: AP50 of the boxes, in 0-100, is
    VOC's mAP, of 11 points for 2007; objects marked as difficult count neither way. Everything else
    is evaluated by COCO's metrics, and so are models without masks on Cityscapes, and proposal
    networks: the average recall at 100 and 1000 proposals, in 0-100.

    Args:
        cfg: the config; reads `MODEL`, `TEST.DETECTIONS_PER_IMAGE` and `TEST.KEYPOINT_OKS_SIGMAS`.
            At most that many detections per image count, and never fewer than COCO's 100.
        dataset_name: a registered name.
        output_folder: for the predictions; COCO's evaluator writes to `output_folder/<data set>/`.

    Raises:
        UserError: see `require_evaluators`.
    """
    if _finds_masks(cfg) and _is_cityscapes(dataset_name):
        require_evaluators([dataset_name])
        return MaskRCNNCityscapesEvaluator(dataset_name)
    if _is_pascal_voc(dataset_name) and cfg.MODEL.META_ARCHITECTURE != "ProposalNetwork":
        return PascalVOCDetectionEvaluator(dataset_name)
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
