"""Makes and locks the folder of the results of a prediction."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from mask_rcnn_ext.engine.run_lock import lock_folder, release_folders
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.files import require_writable
from mask_rcnn_ext.prediction.parts import remove_parts
from mask_rcnn_ext.run_files import remove_empty

__all__ = ["results_folder"]


@contextlib.contextmanager
def results_folder(folder: Path) -> Iterator[None]:
    """Make and lock the folder of the results; after a mistake, remove what is new and empty.

    Raises:
        UserError: the folder cannot be made or written, or another command is at work in it.
    """
    if folder.is_file():
        raise UserError(f"--output {folder}: is a file, expected a folder")
    folder = folder.absolute()
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    main = int(os.environ.get("RANK", "0")) == 0
    try:
        require_writable(folder)
        if main:
            lock_folder(folder)
        yield
    except UserError:
        release_folders()
        if main and missing:
            remove_parts(folder, complete=False)
            remove_empty([folder / "videos", *missing])
        raise
    finally:
        release_folders()
