"""Mask R-CNN, its lineage and its variants as a detectron2 plugin.

Importing the package registers its backbones and heads in detectron2's registries and its data sets
in detectron2's catalogs. It changes none of detectron2's defaults, models or classes.
"""

from . import data as _data  # registers the data sets
from . import model_zoo
from . import modeling as _modeling  # registers the models' parts
from .config import add_mask_rcnn_ext_config, get_cfg, load_config
from .errors import UserError
from .prediction.predictor import Predictor

__all__ = [
    "Predictor",
    "UserError",
    "add_mask_rcnn_ext_config",
    "get_cfg",
    "load_config",
    "model_zoo",
]
__version__ = "0.1.0"
