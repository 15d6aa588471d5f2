"""The paper's tables as data: row -> published numbers -> config -> zoo checkpoint -> deviations.

"Mask R-CNN", arXiv:1703.06870v3. Every number here is the paper's own; none was measured by us.
`ROWS` holds the rows of other methods too: FCIS's with our configs of it, the others with `config`
None.
"""

from dataclasses import replace

from .checkpoints import CHECKPOINTS
from .deviations import COMMON, OWN, deviations_of
from .rows import Checkpoint, Fit, Row
from .tables import PRINTED

__all__ = ["NO_ROW", "ROWS", "Checkpoint", "Fit", "Row", "configs", "rows_of"]

ROWS: tuple[Row, ...] = tuple(
    replace(
        row,
        checkpoints=CHECKPOINTS.get(row.config, ()),
        deviations=deviations_of(row.config),
    )
    if row.config
    else row
    for row in PRINTED
)

# Full-size configs that are no row of the paper -> why they are there.
NO_ROW: dict[str, str] = {
    "ablations/mask_rcnn_R50_DC5": "the dilated C5 of detectron2's zoo: the C5 model of Table 2d "
    "with res5 dilated, so at stride 16",
    "fcis/fcis_R50_C5_dilated": "FCIS on ResNet-50; FCIS's own paper gives mask AP 27.1 on "
    "test-dev",
    "fcis/fcis_R101_C5_dilated_random": "FCIS on random RoIs in place of OHEM; FCIS's own paper "
    "gives mask AP 28.8, AP50 48.7 on test-dev",
    "fcis/fcis_R101_C5_dilated_k1": "FCIS without position-sensitive maps; FCIS's own paper has "
    "this on PASCAL VOC only, where mask AP at IoU 0.5 is 52.5, and 65.7 with them",
    "fcis/fcis_R101_C5_dilated_PSROIAlign": "FCIS with a position-sensitive RoIAlign, without a "
    "published number",
}


def rows_of(config: str) -> tuple[Row, ...]:
    """Return the rows that a config stands for, in the paper's order.

    Args:
        config: relative to `configs/`, with or without `.yaml`.
    """
    name = config.removesuffix(".yaml")
    return tuple(row for row in ROWS if row.config == name)


def configs() -> tuple[str, ...]:
    """Return every config that is a row of the paper, once each, in the order of the tables."""
    return tuple(dict.fromkeys(row.config for row in ROWS if row.config))
