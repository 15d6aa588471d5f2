"""Readers and writers of the formats of labelling tools; each conversion goes through COCO json."""

from .convert import FORMATS, guess_format, read_dataset, write_dataset
from .dataset import Dataset

__all__ = ["FORMATS", "Dataset", "guess_format", "read_dataset", "write_dataset"]
