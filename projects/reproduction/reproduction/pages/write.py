"""The Markdown that is generated: parts of README.md, and pages in configs/ and docs/.

They come from `mask_rcnn_ext.paper` and from the files in `results/`, by
`projects/reproduction/make_tables.py`; a test fails when one is stale.
"""

from collections.abc import Sequence
from pathlib import Path

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.files import atomic_open
from mask_rcnn_ext.paper import ROWS, Row

from ..ablations.markdown import ABLATIONS, ablations_page, differences_table
from ..costs.page import COMMAND, COSTS, costs_page, read_results
from ..fcis.markdown import COMPARISON, comparison_doc, comparison_summary
from ..lineage.tables import LINEAGE, lineage_summary, published_table
from .paper_tables import configs_page, configs_table

__all__ = [
    "ABLATIONS_TABLE",
    "COMPARISON_TABLE",
    "CONFIGS_TABLE",
    "LINEAGE_TABLE",
    "PUBLISHED_TABLE",
    "markers",
    "pages",
    "stale_pages",
    "write_pages",
]

_COMPARE = "Run: python projects/reproduction/run_comparison.py"
CONFIGS_TABLE, ABLATIONS_TABLE = "the table of configs", "the table of ablations"
COMPARISON_TABLE = "the comparison's numbers"
LINEAGE_TABLE = "the lineage's numbers"
PUBLISHED_TABLE = "the lineage's published numbers"


def markers(what: str) -> tuple[str, str]:
    """Return the README's lines before and after a table, such as `CONFIGS_TABLE`."""
    return (
        f"<!-- {what.capitalize()}: `{COMMAND}` writes it; edits are lost. -->",
        f"<!-- End of {what}. -->",
    )


def _with_table(readme: str, what: str, table: str, path: Path) -> str:
    """Return the README with what is between the markers of `what` replaced."""
    first, last = markers(what)
    head, begin, rest = readme.partition(first)
    _, end, tail = rest.partition(last)
    if not begin or not end:
        raise UserError(
            f"{path}: expected the lines {first!r} and {last!r}, which {what} goes between; put "
            "them back"
        )
    return f"{head}{first}\n\n{table}\n{last}{tail}"


def pages(root: Path, rows: Sequence[Row] = ROWS) -> dict[str, str]:
    """Return what the generated pages should hold: path relative to `root` -> whole text.

    Args:
        root: of the checkout; `results/` and the README's own words are read there.
        rows: of the paper.

    Raises:
        UserError: a file of results or the README is missing or broken.
    """
    path = root / "README.md"
    try:
        readme = path.read_text("utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}. Give --root a checkout") from error
    costs = read_results(root / COSTS, "Run: python projects/reproduction/model_costs.py")
    ablations = read_results(root / ABLATIONS, "Run: python projects/reproduction/run_ablations.py")
    readme = _with_table(readme, CONFIGS_TABLE, configs_table(root, rows), path)
    readme = _with_table(readme, ABLATIONS_TABLE, differences_table(ablations), path)
    comparison = read_results(root / COMPARISON, _COMPARE)
    readme = _with_table(readme, COMPARISON_TABLE, comparison_summary(comparison), path)
    if (root / LINEAGE).exists() or markers(LINEAGE_TABLE)[0] in readme:
        lineage = read_results(root / LINEAGE, "Run: python projects/reproduction/run_lineage.py")
        readme = _with_table(readme, LINEAGE_TABLE, lineage_summary(lineage), path)
        readme = _with_table(readme, PUBLISHED_TABLE, published_table(), path)
    return {
        "configs/README.md": configs_page(root, rows),
        "README.md": readme,
        "docs/models.md": costs_page(costs),
        "docs/ablations.md": ablations_page(ablations),
        "docs/fcis_comparison.md": comparison_doc(comparison),
    }


def _differing(root: Path, rows: Sequence[Row]) -> dict[str, str]:
    return {
        name: text
        for name, text in pages(root, rows).items()
        if not (root / name).is_file() or (root / name).read_text("utf-8") != text
    }


def stale_pages(root: Path, rows: Sequence[Row] = ROWS) -> list[str]:
    """Return the paths, relative to `root`, of the pages that are not what `pages` says."""
    return list(_differing(root, rows))


def write_pages(root: Path, rows: Sequence[Row] = ROWS) -> list[str]:
    """Write the pages that are stale, each whole or not at all; return their relative paths.

    Raises:
        UserError: see `pages`; or a file cannot be written.
    """
    stale = _differing(root, rows)
    for name, text in stale.items():
        with atomic_open(root / name, "w") as file:
            file.write(text)
    return list(stale)
