"""The embedded data set and a user's own COCO-format data."""

import os

from .occluded_shapes import register_occluded_shapes

# As detectron2 does for its own data sets: the root is read once, at import.
register_occluded_shapes(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
