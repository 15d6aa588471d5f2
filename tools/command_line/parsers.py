"""The functions of `mask_rcnn_ext/engine/arguments.py`, by name.

The file is run by its path: importing it would first import detectron2, which takes seconds.
"""

import runpy
from pathlib import Path

__all__ = ["PARSERS"]

PARSERS = runpy.run_path(str(Path(__file__).parents[2] / "mask_rcnn_ext/engine/arguments.py"))
