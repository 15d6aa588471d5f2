"""Data sets: a user's own COCO-format data, the embedded shapes, and how they are loaded."""

import os

from .cityscapes_scripts import add_alias
from .occluded_shapes import register_occluded_shapes

# Like detectron2, this package reads the root of data sets once, at import.
register_occluded_shapes(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
add_alias()
