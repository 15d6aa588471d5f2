"""Finds a file of weights or proposals on this machine; downloads it if it is given by a URL."""

import os
from urllib.parse import urlparse

from detectron2.utils.file_io import PathManager

from ..errors import UserError, nearest

__all__ = ["fetch_file"]


def fetch_file(path: str, fix: str, what: str = "weights") -> str:
    """Return the local path of a file; download it first if `path` is a URL.

    Args:
        path: a local file, or a URL that detectron2's PathManager knows.
        fix: the last sentence of an error message, which says what the user can do.
        what: the kind of the file, for error messages.

    Raises:
        UserError: there is no such file, or it cannot be fetched.
    """
    try:
        local: str = PathManager.get_local_path(urlparse(path)._replace(query="").geturl())
    except Exception as error:  # the type depends on the kind of URL
        raise UserError(f"{what} {path}: could not be fetched ({error}). {fix}") from error
    if os.path.isdir(local):
        inside = os.path.join(path, "model_final.pth")
        found = f"; did you mean {inside}?" if os.path.isfile(inside) else "."
        raise UserError(f"{what}: {path} is a folder, expected a file{found} {fix}")
    if not os.path.isfile(local):
        folder, name = os.path.split(os.path.abspath(local))
        siblings = os.listdir(folder) if os.path.isdir(folder) else []
        raise UserError(
            f"{what} not found: {path} (looked for {os.path.join(folder, name)})"
            f"{nearest(name, siblings) or '.'} {fix}"
        )
    return local
