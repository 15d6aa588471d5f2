"""The FCIS experiment to look at: a page with numbers, chart and pictures, and two PNG files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mask_rcnn_ext.files import atomic_open
from mask_rcnn_ext.report.drawing.pictures import encode_jpeg, save_png
from mask_rcnn_ext.report.render import render_page

from .change_tables import describe_changes
from .experiment_results import ExperimentResults
from .experiment_tables import make_run_rows, make_tables, make_texts
from .line_places import draw_places, save_places
from .nested_pairs import CAPTION, COLUMNS, LEGEND, PairPictures, make_pairs_sheet
from .predictions import judge_predictions, summarize_predictions

__all__ = ["name_places", "write_experiment"]

_QUALITY = 85  # of the pictures on the page
_COLORS = 256  # of the sheet, which is in the repository


def write_experiment(
    page: str | Path, picture: str | Path, results: ExperimentResults, pairs: Sequence[PairPictures]
) -> list[Path]:
    """Write the page, the sheet of pairs, and next to it the chart of places; return the paths.

    Args:
        page: the html file.
        picture: the png file of the sheet; `name_places` names the chart.
        results: the results.
        pairs: the pictures, at least one, the best pair of each class first.
    """
    page, picture = Path(page), Path(picture)
    names = [results.models[variant].name for variant in COLUMNS]
    text = render_page(
        "experiment.html.j2",
        Path(__file__).parent,
        **make_texts(results),
        **make_tables(results),
        sentences=summarize_predictions(judge_predictions(results)),
        places=draw_places(results.models),
        changes_said=describe_changes(results),
        caption=CAPTION,
        titles=["Image", "Truth", *names],
        pairs=[(pair.name, [_embed(tile) for tile in pair.tiles]) for pair in pairs],
        each=make_run_rows(results),
    )
    with atomic_open(page, "w") as file:
        file.write(text)
    classes = len({pair.category for pair in pairs})
    heading = f"Nested pairs of one class\n{LEGEND}"
    save_png(picture, make_pairs_sheet(pairs[:classes], names, heading), _COLORS)
    places = name_places(picture)
    save_places(places, results.models)
    return [page, picture, places]


def name_places(picture: Path) -> Path:
    """Return the path of the chart of places next to the sheet of pairs."""
    return picture.with_name(f"{picture.stem}_places.png")


def _embed(tile: Any) -> dict[str, Any]:
    height, width = tile.shape[:2]
    return {"url": encode_jpeg(tile, _QUALITY), "width": width, "height": height}
