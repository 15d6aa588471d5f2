"""Functions that all generated Markdown pages use: read a result file, write a table."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tabulate import tabulate

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.files import read_json
from mask_rcnn_ext.report.json_records import from_json

__all__ = ["COMMAND", "markdown_table", "read_record", "read_results"]

_T = TypeVar("_T")

COMMAND = "python projects/reproduction/make_tables.py"  # writes all generated pages


def markdown_table(header: Sequence[str], rows: Iterable[Iterable[str]], words: int = 0) -> str:
    """Return a Markdown table.

    Args:
        header: the titles of the columns.
        rows: the cells of each row; a pipe in a cell has to be escaped.
        words: the number of columns with text. The columns after them have numbers, which are
            aligned to the right. 0: all columns have text.
    """
    align = ["right" if 0 < words <= column else "left" for column in range(len(header))]
    cells = [list(row) for row in rows]
    table = tabulate(cells, list(header), "pipe", colalign=align, disable_numparse=True)
    return f"{table}\n"


def read_results(path: Path, fix: str) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: the file.
        fix: the last sentence of the error message, which says how to get the file.

    Raises:
        UserError: the file cannot be read or contains no object.
    """
    content = read_json(path, fix)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object, got a {type(content).__name__}. {fix}")
    return content


def read_record(kind: type[_T], path: Path, fix: str) -> _T:
    """Return the record of class `kind` in a JSON file.

    Args:
        kind: the class of the record, which says what the file holds.
        path: the file.
        fix: see `read_results`.

    Raises:
        UserError: the file cannot be read or contains something else.
    """
    content = read_results(path, fix)
    try:
        return from_json(kind, content)
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: expected the entries of {kind.__name__}, got others "
            f"({type(error).__name__}: {error}). {fix}"
        ) from error
