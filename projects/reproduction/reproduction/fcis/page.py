"""The page of the comparison over seeds: the page of a comparison, with the answers on top."""

from collections.abc import Sequence
from pathlib import Path

from mask_rcnn_ext.report.comparison_gallery import CasePictures
from mask_rcnn_ext.report.comparison_page import Comparison, write_comparison

from .answers import describe_loss, make_answer_rows
from .results import ComparisonResults

__all__ = ["make_comparison", "write_comparison_page"]


def make_comparison(
    results: ComparisonResults, files: list[list[str]], notes: list[str]
) -> Comparison:
    """Return the content of the page that is not of several seeds only.

    Args:
        results: the measured results.
        files: result files of each model.
        notes: sentences to know.
    """
    return Comparison(
        dataset=results.dataset,
        names=results.names,
        files=files,
        counts=results.counts,
        draws=results.settings.bootstrap_draws,
        seed=results.settings.bootstrap_seed,
        method=results.method,
        metrics=results.metrics,
        seeds=results.seeds,
        notes=notes,
    )


def write_comparison_page(
    folder: str | Path,
    results: ComparisonResults,
    comparison: Comparison,
    drawn: Sequence[CasePictures],
) -> list[Path]:
    """Write what `write_comparison` does, with the answers of `results`; return the paths."""
    return write_comparison(
        folder,
        comparison,
        drawn,
        results=results,
        template=Path(__file__).with_name("comparison_of_seeds.html.j2"),
        sentence=describe_loss(results),
        answers=make_answer_rows(results),
    )
