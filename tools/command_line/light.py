"""Modules of `mask_rcnn_ext` that need only the standard library, without the package around them.

Importing the package imports PyTorch, which takes seconds. With this module, a script shows its
help, and finds mistakes in its command line, at once.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["import_light"]

_NAME = "light_mask_rcnn_ext"  # the same files, without the `__init__.py` that imports PyTorch


def import_light(module: str) -> ModuleType:
    """Import a module of the package by its name without `mask_rcnn_ext.`, such as "errors".

    A later import of the package does not use this copy: its classes are other ones.
    """
    if _NAME not in sys.modules:
        package = ModuleType(_NAME)
        package.__path__ = [str(Path(__file__).parents[2] / "mask_rcnn_ext")]
        sys.modules[_NAME] = package
    return importlib.import_module(f"{_NAME}.{module}")
