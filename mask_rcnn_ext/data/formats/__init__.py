"""Readers and writers of the formats of labelling tools; each conversion goes through COCO json.

A reader, such as `cvat.read_cvat`, gets a file or folder, the folder of the images (None: the usual
place of the format), and a counter of the objects and files that are left out or changed. It raises
a `UserError` if a file is missing or malformed; the message names the file and the place in it. A
writer gets the data set, an empty folder, and a counter of the objects that the format cannot hold.
"""

from .convert import FORMATS, guess_format, read_dataset, write_dataset
from .dataset import Dataset

__all__ = ["FORMATS", "Dataset", "guess_format", "read_dataset", "write_dataset"]
