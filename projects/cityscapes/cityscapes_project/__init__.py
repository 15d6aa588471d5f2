"""Cityscapes as a downstream project: data sets, official AP, start from COCO weights."""

from .evaluation import CityscapesAPEvaluator, SubmissionWriter
from .folder import data_name, register_cityscapes, require_layout, used_splits
from .trainer import CityscapesTrainer

__all__ = [
    "CityscapesAPEvaluator",
    "CityscapesTrainer",
    "SubmissionWriter",
    "data_name",
    "register_cityscapes",
    "require_layout",
    "used_splits",
]
