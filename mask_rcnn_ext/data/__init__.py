"""Data sets: a user's own COCO-format data, the embedded shapes, and the loading of both."""

import os

from .cityscapes_scripts import add_alias
from .embedded import register_embedded

# Like detectron2, this package reads the root of data sets once, at import.
register_embedded(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
add_alias()
