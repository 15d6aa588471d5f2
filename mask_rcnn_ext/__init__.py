"""Mask R-CNN, its lineage and its variants as a detectron2 plugin.

Importing the package registers its backbones, heads and meta-architectures in detectron2's
registries and its data sets in detectron2's catalogs. It changes none of detectron2's defaults,
models or classes.

The names in `__all__` are the public API. Names that are not needed to register the parts, such as
`Trainer`, are imported when they are first used. So importing the package takes little more time
than importing `detectron2.modeling`.
"""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

# While it is imported, detectron2 compiles functions with torch.jit.script, and new versions of
# PyTorch warn about that. Users of this package cannot change it, so exactly this warning is
# ignored, and only during this import: filters that a user has set stay as they are.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
    import detectron2.modeling

from . import data as _data  # registers the data sets
from .config import add_mask_rcnn_ext_config, get_cfg, load_config
from .errors import UserError
from .layers import PSROIAlign, PSROIPool, ROIAlignMax, ROIWarpAve, ROIWarpMax
from .modeling.fcis import FCIS, FCISROIHeads
from .modeling.meta_arch import MaskRCNN
from .modeling.poolers import MaskRCNNROIPooler
from .modeling.rcnn import RCNN, RCNNROIHeads
from .modeling.roi_heads import (
    MaskRCNNFCNHead,
    MaskRCNNMLPHead,
    MaskRCNNRes5ROIHeads,
    MaskRCNNROIHeads,
)
from .version import __version__

if TYPE_CHECKING:  # the names of _LAZY
    from . import model_zoo
    from .checkpoint.checkpointer import Checkpointer
    from .checkpoint.convert_classes import convert_checkpoint
    from .data.data_check import check_dataset
    from .data.fixed_json import write_fixed_jsons
    from .data.own_data import register_own_data
    from .engine.arguments import argument_parser
    from .engine.launch import launch, run_as_command
    from .engine.recipe.derive import derive_recipe
    from .engine.run import run_job
    from .engine.trainer import Trainer
    from .evaluation.build import MaskRCNNCityscapesEvaluator, build_evaluator
    from .evaluation.coco import MaskRCNNCOCOEvaluator
    from .evaluation.fcis_comparison import FCISComparisonEvaluator
    from .overlap.comparison import compare, load_results, load_truth, measure
    from .prediction.predictor import Predictor
    from .proposals.compute import compute_proposals
    from .proposals.file import write_proposal_file
    from .proposals.rpn import RPNMethod
    from .proposals.selective_search import SelectiveSearchMethod
    from .report.check_page import write_check_page
    from .report.drawing.pictures import draw_instances
    from .report.run_page import write_report

__all__ = [
    "FCIS",
    "RCNN",
    "Checkpointer",
    "FCISComparisonEvaluator",
    "FCISROIHeads",
    "MaskRCNN",
    "MaskRCNNCOCOEvaluator",
    "MaskRCNNCityscapesEvaluator",
    "MaskRCNNFCNHead",
    "MaskRCNNMLPHead",
    "MaskRCNNROIHeads",
    "MaskRCNNROIPooler",
    "MaskRCNNRes5ROIHeads",
    "PSROIAlign",
    "PSROIPool",
    "Predictor",
    "RCNNROIHeads",
    "ROIAlignMax",
    "ROIWarpAve",
    "ROIWarpMax",
    "RPNMethod",
    "SelectiveSearchMethod",
    "Trainer",
    "UserError",
    "add_mask_rcnn_ext_config",
    "argument_parser",
    "build_evaluator",
    "check_dataset",
    "compare",
    "compute_proposals",
    "convert_checkpoint",
    "derive_recipe",
    "draw_instances",
    "get_cfg",
    "launch",
    "load_config",
    "load_results",
    "load_truth",
    "measure",
    "model_zoo",
    "register_own_data",
    "run_as_command",
    "run_job",
    "write_check_page",
    "write_fixed_jsons",
    "write_proposal_file",
    "write_report",
]

# Name -> module. These are imported when they are first used.
_LAZY = {
    "Checkpointer": "checkpoint.checkpointer",
    "FCISComparisonEvaluator": "evaluation.fcis_comparison",
    "MaskRCNNCOCOEvaluator": "evaluation.coco",
    "MaskRCNNCityscapesEvaluator": "evaluation.build",
    "Predictor": "prediction.predictor",
    "RPNMethod": "proposals.rpn",
    "SelectiveSearchMethod": "proposals.selective_search",
    "Trainer": "engine.trainer",
    "argument_parser": "engine.arguments",
    "build_evaluator": "evaluation.build",
    "check_dataset": "data.data_check",
    "compare": "overlap.comparison",
    "compute_proposals": "proposals.compute",
    "convert_checkpoint": "checkpoint.convert_classes",
    "derive_recipe": "engine.recipe.derive",
    "draw_instances": "report.drawing.pictures",
    "launch": "engine.launch",
    "load_results": "overlap.comparison",
    "load_truth": "overlap.comparison",
    "measure": "overlap.comparison",
    "model_zoo": "model_zoo",
    "register_own_data": "data.own_data",
    "run_as_command": "engine.launch",
    "run_job": "engine.run",
    "write_check_page": "report.check_page",
    "write_fixed_jsons": "data.fixed_json",
    "write_proposal_file": "proposals.file",
    "write_report": "report.run_page",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f".{_LAZY[name]}", __name__)
    globals()[name] = value = module if name == _LAZY[name] else getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
