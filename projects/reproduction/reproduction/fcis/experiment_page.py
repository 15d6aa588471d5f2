"""The FCIS experiment to look at: a page with numbers, chart and pictures, and two PNG files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mask_rcnn_ext.files import atomic_open
from mask_rcnn_ext.report.drawing.pictures import encode_jpeg, save_png
from mask_rcnn_ext.report.render import render_page

from .change_tables import CHANGES_HEADER, CHANGES_NOTE, describe_changes, make_change_rows
from .experiment_results import ExperimentResults
from .experiment_tables import (
    AP_HEADER,
    CLAIMS_HEADER,
    LINES_HEADER,
    OWN_HEADER,
    OWN_NOTE,
    REFUTATIONS_HEADER,
    SAME_PART_HEADER,
    SAME_PART_NOTE,
    describe_chance,
    describe_data,
    describe_experiment_training,
    describe_growth,
    describe_time,
    make_ap_rows,
    make_claim_rows,
    make_line_rows,
    make_own_rows,
    make_refutation_rows,
    make_run_rows,
    make_same_part_rows,
    summarize_predictions,
)
from .line_places import draw_places, save_places
from .nested_pairs import CAPTION, COLUMNS, LEGEND, PairPictures, make_pairs_sheet
from .predictions import REFUTATION_RULE, RULE, judge_predictions, list_refutations

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
    predictions, refutations = judge_predictions(results), list_refutations(results)
    text = render_page(
        "experiment.html.j2",
        Path(__file__).parent,
        time=describe_time(results),
        data=describe_data(results).replace("`", ""),
        sentences=summarize_predictions(predictions),
        rule=RULE,
        claims=(CLAIMS_HEADER, make_claim_rows(predictions)),
        refutation_rule=REFUTATION_RULE,
        refutations=(REFUTATIONS_HEADER, make_refutation_rows(refutations)),
        same_part=(SAME_PART_HEADER, make_same_part_rows(results)),
        same_part_note=SAME_PART_NOTE,
        growth=describe_growth(results),
        lines=(LINES_HEADER, make_line_rows(results)),
        chance=describe_chance(results),
        places=draw_places(results.models),
        own=(OWN_HEADER, make_own_rows(results)),
        own_note=OWN_NOTE,
        changes=(CHANGES_HEADER, make_change_rows(results)),
        changes_note=CHANGES_NOTE,
        changes_said=describe_changes(results),
        aps=(AP_HEADER, make_ap_rows(results)),
        training=describe_experiment_training(results),
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
