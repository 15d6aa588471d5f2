"""What all kinds of files share.

A kind makes case number i of a seed in a folder, and reads it as the commands do. A file that is
accepted is also used for what comes next. The reader returns, or raises `UserError`; nothing else.
"""

import functools
import random
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from tiny_model import tiny_cfg

__all__ = ["Kind", "copy_small_cfg"]


class Kind(ABC):
    """A kind of file."""

    def __init__(self, folder: Path) -> None:
        """Write to `folder` what the files of the cases need."""
        self.folder = folder

    @abstractmethod
    def make(self, rng: random.Random) -> tuple[str, bytes]:
        """Return the end of a file's name and its content."""

    @abstractmethod
    def read(self, path: Path) -> None:
        """Read the file as a command does, and use what it holds.

        Raises:
            UserError: the file is refused.
        """


_make_small_cfg = functools.cache(tiny_cfg)


def copy_small_cfg() -> Any:
    """Return a copy of the config with which the cases begin; building it takes longer."""
    return _make_small_cfg().clone()
