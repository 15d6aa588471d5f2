"""Chooses the evaluator of a data set, and checks before training that it can run."""

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
)

from ..data.bad_images import skips_bad_images
from ..data.keypoints import NUM_COCO_KEYPOINTS
from ..errors import UserError, nearest
from ..overlap.image_instances import MAX_DETECTIONS
from .coco import MaskRCNNCOCOEvaluator
from .fcis_comparison import NO_MASKS, FCISComparisonEvaluator
from .pascal_voc import MaskRCNNPascalVOCEvaluator

__all__ = [
    "MaskRCNNCityscapesEvaluator",
    "build_evaluator",
    "require_evaluators",
    "require_known_evaluators",
]

# Evaluators that `MASK_RCNN_EXT.EVALUATORS` may name. They are called with a data set's name, a
# folder, FCIS's k if the boxes of its detections are the RoIs of their masks (no mask voting), and
# the number of detections that count.
_NAMED_EVALUATORS = {"FCISComparisonEvaluator": FCISComparisonEvaluator}

# Kind of data set -> its name and the packages that detectron2 imports when it reads the data.
_PACKAGES = {
    "cityscapes_instance": ("Cityscapes", ("cityscapesscripts", "shapely")),
    "lvis": ("LVIS", ("lvis",)),
}


@contextlib.contextmanager
def _patch_scripts() -> Iterator[None]:
    """Let cityscapesscripts 2.3, which is older than NumPy 2.4, run inside the block.

    NumPy 2.4 has no `in1d`, and the counts in the scripts' `matches.json` cannot be written as
    json. The scripts leave this file in the working directory and never read it, so it is not
    written.
    """
    name = "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling"
    scripts: Any = importlib.import_module(name)
    numpy: Any = np
    write, add_in1d = scripts.writeDict2JSON, not hasattr(numpy, "in1d")

    def write_all_but_matches(content: Any, path: str) -> None:
        if path != "matches.json":
            write(content, path)

    scripts.writeDict2JSON = write_all_but_matches
    if add_in1d:
        numpy.in1d = lambda array, values: np.isin(np.ravel(array), values)
    try:
        yield
    finally:
        scripts.writeDict2JSON = write
        if add_in1d:
            del numpy.in1d


class MaskRCNNCityscapesEvaluator(CityscapesInstanceEvaluator):
    """detectron2's `CityscapesInstanceEvaluator`, also under NumPy 2.4.

    It computes mask AP and AP50 as in Table 7, in 0-100, with the official scripts.
    """

    def evaluate(self) -> Any:
        """See the base class."""
        with _patch_scripts():
            return super().evaluate()


def _is_evaluated_as(kind: str, dataset_name: str) -> bool:
    return MetadataCatalog.get(dataset_name).get("evaluator_type") == kind


def require_evaluators(dataset_names: Iterable[str]) -> None:
    """Raise unless the packages that read and evaluate the data sets are installed.

    Args:
        dataset_names: registered names, from `DATASETS.TRAIN` and `DATASETS.TEST`.

    Raises:
        UserError: Cityscapes or LVIS is among the data sets and a package for it is not installed.
    """
    for name in dataset_names:
        for kind, (title, modules) in _PACKAGES.items():
            missing = [m for m in modules if importlib.util.find_spec(m) is None]
            if missing and _is_evaluated_as(kind, name):
                raise UserError(
                    f"data set {name} is read with the official scripts of {title}, but "
                    f"{' and '.join(missing)} cannot be imported: pip install {' '.join(missing)}"
                )


def _require_metric(name: str) -> None:
    """Raise unless COCO's metrics, or those of `_build_benchmark_evaluator`, suit a data set."""
    if _is_evaluated_as("lvis", name):
        raise UserError(
            f"data set {name}: COCO's metrics, which are computed here, are wrong on LVIS, where "
            "only some classes are annotated in each image. Evaluate with detectron2's "
            'LVISEvaluator. To train without evaluation, add DATASETS.TEST "()"'
        )
    if any(_is_evaluated_as(kind, name) for kind in ("sem_seg", "cityscapes_sem_seg")):
        raise UserError(
            f"data set {name} has a class for each pixel, and no objects that could be evaluated. "
            "Give a data set of objects in DATASETS.TEST, such as coco_2017_val"
        )


def require_known_evaluators(cfg: CfgNode, *, stock: bool = True) -> None:
    """Raise unless the evaluators of a config exist and its model suits them.

    Args:
        cfg: the config; reads `MASK_RCNN_EXT.EVALUATORS`, `MODEL`, `DATASETS.TEST` and
            `TEST.KEYPOINT_OKS_SIGMAS`.
        stock: whether `build_evaluator` makes all evaluators.

    Raises:
        UserError: the config names an unknown evaluator, or names one for a model without masks; or
            the model predicts masks or keypoints on PASCAL VOC, which has boxes only; or the
            tolerances of the keypoints are not as many as the keypoints; or, with `stock`, a data
            set is LVIS or has no objects.
    """
    for name in cfg.DATASETS.TEST:
        if stock:
            _require_metric(name)
        with_more = cfg.MODEL.MASK_ON or cfg.MODEL.KEYPOINT_ON
        if with_more and _is_evaluated_as("pascal_voc", name):
            raise UserError(
                f"data set {name}: PASCAL VOC's detection data has boxes only. Set MODEL.MASK_ON "
                "and MODEL.KEYPOINT_ON to False"
            )
    given = len(cfg.TEST.KEYPOINT_OKS_SIGMAS)
    expected = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    if cfg.MODEL.KEYPOINT_ON and cfg.DATASETS.TEST and (given or NUM_COCO_KEYPOINTS) != expected:
        raise UserError(
            f"TEST.KEYPOINT_OKS_SIGMAS: expected {expected} numbers, a tolerance for each keypoint "
            f"(MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS), got {given}. An empty list stands for the "
            f"{NUM_COCO_KEYPOINTS} of COCO's persons"
        )
    others = [*_get_named_evaluators(cfg)] + [
        name
        for name in cfg.DATASETS.TEST
        if any(_is_evaluated_as(kind, name) for kind in ("pascal_voc", "cityscapes_instance"))
    ]
    if others and skips_bad_images(cfg):
        raise UserError(
            "MASK_RCNN_EXT.DATA.ON_BAD_IMAGE is skip, and only COCO's evaluation can leave images "
            f"out: set it to error, or take {others[0]} out of the evaluation"
        )
    for name in _get_named_evaluators(cfg):
        if name not in _NAMED_EVALUATORS:
            known = ", ".join(_NAMED_EVALUATORS)
            raise UserError(
                f"MASK_RCNN_EXT.EVALUATORS: unknown name {name!r}"
                f"{nearest(str(name), _NAMED_EVALUATORS)} (there are: {known})"
            )
        if not _predicts_masks(cfg):
            raise UserError(NO_MASKS)


def _get_named_evaluators(cfg: CfgNode) -> list[str]:
    # detectron2's own config has no such key
    return list(cfg.get("MASK_RCNN_EXT", {}).get("EVALUATORS", []))


def _predicts_masks(cfg: CfgNode) -> bool:
    return bool(cfg.MODEL.MASK_ON) and cfg.MODEL.META_ARCHITECTURE != "ProposalNetwork"


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | os.PathLike[str]
) -> DatasetEvaluator:
    """Return the evaluator of a data set, together with the evaluators that the config names.

    Args:
        cfg: the config; reads `MASK_RCNN_EXT.EVALUATORS`, `MODEL`, `TEST.DETECTIONS_PER_IMAGE` and
            `TEST.KEYPOINT_OKS_SIGMAS`.
        dataset_name: a registered name.
        output_folder: the evaluators write to `output_folder/<data set>/`.

    Raises:
        UserError: see `require_evaluators` and `require_known_evaluators`; or the data set does not
            suit a named evaluator.
    """
    require_known_evaluators(cfg, stock=False)
    _require_metric(dataset_name)
    folder = os.path.join(output_folder, dataset_name)
    evaluator = _build_benchmark_evaluator(cfg, dataset_name, folder)
    names = _get_named_evaluators(cfg)
    if not names:
        return evaluator
    fcis = cfg.MODEL.META_ARCHITECTURE == "MaskRCNNExtFCIS"
    parts = cfg.MODEL.FCIS.NUM_BINS if fcis and not cfg.MODEL.FCIS.MASK_VOTING else None
    limit = _count_detections(cfg)
    named = [
        _NAMED_EVALUATORS[name](dataset_name, folder, parts=parts, max_detections=limit)
        for name in names
    ]
    return DatasetEvaluators([evaluator, *named])


def _count_detections(cfg: CfgNode) -> int:
    """Return how many detections of a class count in an image."""
    return max(MAX_DETECTIONS, int(cfg.TEST.DETECTIONS_PER_IMAGE))


def _build_benchmark_evaluator(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator:
    """Return the evaluator of a data set for the tasks of the model.

    - Cityscapes (`evaluator_type` "cityscapes_instance" in its metadata) and a model with masks:
      the AP of Table 7.
    - PASCAL VOC ("pascal_voc"): AP of the boxes, see `MaskRCNNPascalVOCEvaluator`.
    - All other data sets: COCO's metrics, with at least 100 detections per image. For proposal
      networks these are the average recall at 100 and 1000 proposals, in 0-100.
    """
    if _predicts_masks(cfg) and _is_evaluated_as("cityscapes_instance", dataset_name):
        require_evaluators([dataset_name])
        return MaskRCNNCityscapesEvaluator(dataset_name)
    proposals = cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork"
    if _is_evaluated_as("pascal_voc", dataset_name) and not proposals:
        return MaskRCNNPascalVOCEvaluator(dataset_name)
    tasks = ["bbox"]
    if cfg.MODEL.MASK_ON:
        tasks.append("segm")
    if cfg.MODEL.KEYPOINT_ON:
        tasks.append("keypoints")
    return MaskRCNNCOCOEvaluator(
        dataset_name,
        tasks=tuple(tasks),
        output_dir=folder,
        max_dets_per_image=_count_detections(cfg),
        kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
        only_processed=skips_bad_images(cfg),
    )
