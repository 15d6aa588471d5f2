"""The paper's tables as data: row -> published numbers -> config -> zoo checkpoint -> deviations.

"Mask R-CNN", arXiv:1703.06870v3. All numbers are from the paper; this project measured none. `ROWS`
also holds the rows of other methods: the rows of FCIS have our FCIS configs, the rows of other
methods have no config.
"""

from .rows import Checkpoint, Fit, Row
from .tables import PRINTED

__all__ = ["CONFIGS", "NO_ROW", "ROWS", "Checkpoint", "Fit", "Row", "get_rows"]

ROWS: tuple[Row, ...] = PRINTED

# Every config that is a row of the paper, in the order of the tables.
CONFIGS: tuple[str, ...] = tuple(dict.fromkeys(row.config for row in ROWS if row.config))

# Full-size configs that are no row of the paper -> their purpose.
NO_ROW: dict[str, str] = {
    "mask_rcnn_lite0_FPN": "the recommended start for your own photos on a CPU: EfficientNet-Lite0 "
    "with ImageNet weights, a narrow FPN, small images",
    "ablations/mask_rcnn_R50_DC5": "the dilated C5 of detectron2's zoo: the C5 model of Table 2d "
    "with a dilated res5 at stride 16",
    "fcis/fcis_R50_C5_dilated": "FCIS on ResNet-50; FCIS's own paper gives mask AP 27.1 on "
    "test-dev",
    "fcis/fcis_R101_C5_dilated_random": "FCIS on random RoIs instead of OHEM; FCIS's own paper "
    "gives mask AP 28.8, AP50 48.7 on test-dev",
    "fcis/fcis_R101_C5_dilated_k1": "FCIS without position-sensitive maps; FCIS's own paper has "
    "this on PASCAL VOC only: mask AP at IoU 0.5 is 52.5, and 65.7 with the maps",
    "fcis/fcis_R101_C5_dilated_PSROIAlign": "FCIS with a position-sensitive RoIAlign, without a "
    "published number",
}


def get_rows(config: str) -> tuple[Row, ...]:
    """Return the rows of the paper that a config reproduces, in the paper's order.

    Args:
        config: relative to `configs/`, with or without `.yaml`.
    """
    name = config.removesuffix(".yaml")
    return tuple(row for row in ROWS if row.config == name)
