"""Cityscapes as a downstream project: its folder as data sets, its AP, its start from COCO."""

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
