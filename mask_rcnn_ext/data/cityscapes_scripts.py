"""Gives the official Cityscapes scripts the name that detectron2's main branch imports.

That branch (commit 02b5c4e) imports `deeplearning.projects.cityscapesApi.cityscapesscripts`, a
package that no index has; earlier versions import `cityscapesscripts`. Without the second name,
reading Cityscapes, and evaluating on it after a whole training, ends in a ModuleNotFoundError.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["add_alias"]

_PARENT = "deeplearning.projects.cityscapesApi."
_ALIAS = f"{_PARENT}cityscapesscripts"


class _AliasFinder(MetaPathFinder, Loader):
    """Gives the modules of `cityscapesscripts` a second name; its parents are empty packages."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module with the second name, or of a parent of it."""
        known = f"{_ALIAS}.".startswith(f"{fullname}.") or fullname.startswith(f"{_ALIAS}.")
        return ModuleSpec(fullname, self, is_package=True) if known else None

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of the first name in place of `module`."""
        name = module.__name__
        if name.startswith(_ALIAS):  # the same module object, since modules have state
            sys.modules[name] = importlib.import_module(name.removeprefix(_PARENT))


def add_alias() -> None:
    """Add the second name for this process; nothing is imported before it is used.

    A package that is really called `deeplearning` stays as it is.
    """
    if importlib.util.find_spec("deeplearning") is None:
        sys.meta_path.insert(0, _AliasFinder())
