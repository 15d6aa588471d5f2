"""How much of a model's spurious contour lies on the lattice lines of its RoIs, against chance.

FCIS assembles a mask from k x k position-sensitive score maps (arXiv:1611.07709; k = 7). So its
scores may jump on the lines x = x1 + g (x2 - x1) / k of the RoI x1, y1, x2, y2, and on the same
lines for y. If these jumps make the spurious edges in Figure 6 of the Mask R-CNN paper
(arXiv:1703.06870), more of the edges lie on these lines than chance would put there. These metrics
are not the papers'.

    detections = load_results("coco_instances_results.json", truth, with_boxes=True)
    records = measure_lattice(truth, detections)
    summarize_lattice(records)["ratio"]  # {"value": ..., "low": ..., "high": ...}

The `bbox` of each detection must be the RoI that its mask was assembled in: for FCIS, use the
detections before mask voting. Mask R-CNN pastes each mask into its `bbox` and has no k; it is the
control. A model that rounds its RoIs before it divides them draws its jumps up to half a pixel away
from these lines, which blurs the effect.

Definitions, for the x direction; the y direction is the same with x and y exchanged.

- *Spurious cracks* are the pixel sides of the spurious contour, `MatchErrors.edges`, of all matched
  and met objects (those with a `spurious_edge`). *Seam cracks* are the cracks of their `seams`.
- The *lattice lines* of a RoI of width w are x = x1 + g s for g = 1, ..., k - 1, with the spacing
  s = w / k. The sides of the RoI are not among them.
- A crack is *on the lattice* when it is parallel to the lines (a vertical crack, whose midpoint has
  a whole x) and x is at most the tolerance, 0.5 px, away from one of them. Every line has a whole
  coordinate within this tolerance.
- A RoI whose spacing is under 2 px is left out in that direction, together with the cracks parallel
  to the lines, since the tolerance would cover more than half of the RoI. So each crack is compared
  with at most one line.
- *share*: cracks on the lattice / cracks that count, both summed over images first.
- *chance*: the share of the same cracks on average over lattices shifted by a phase that is uniform
  in [-s / 2, s / 2). A shifted lattice has k - 1 lines inside the RoI, and no line wraps around.
  Cracks that are uniform in the RoI have the same expected share and chance, (k - 1) 2 tolerance /
  w. The average is exact: with u = x - x1, it is the length that [u - tolerance, u + tolerance]
  shares with [s / 2, w - s / 2], divided by s. Cracks on the sides of the RoI, where a mask is cut
  off, add nothing to share and chance; with phases that wrap around they would add to chance only.
- *ratio*: share / chance. It is 1 for cracks whose places do not depend on the lattice, if they
  thin out evenly towards the sides of the RoI. Read it next to the ratio of the control.
- *density_ratio*, the sharper control. A mask is made on a grid of P x P cells and scaled up, so
  contours prefer the sides of cells, x1 + m w / P, even where score maps do not jump. FCIS has
  P = 21. Mask R-CNN has P = 14: its transposed convolution makes 2 x 2 values of each cell of its
  features, from that cell alone. With P = c k, the lattice lines are sides of cells in both models,
  so their ratio is over 1 even without a lattice. The density ratio is the number of cracks on
  lattice lines (m = c g) over the mean number on the two neighbours of each line (m = c g - 1 and
  c g + 1), so that a contour which thins out towards the middle of the RoI favours neither. Lines
  with m = 1 or m = P - 1 as a neighbour are left out (with c = 2 the first and the last line): the
  contours of objects lie next to the sides of the RoI, and nothing near a contour is spurious. Only
  RoIs with w > P px count, whose lines are more than two tolerances apart: there, no crack is on
  two lines.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO

from ..files import make_jsonable
from .detections import Detections
from .image_instances import read_image_instances
from .intervals import compute_percentile_interval, compute_weighted_mean, draw_weights
from .numbered_coco import sort_ids
from .overlap_errors import measure_errors

__all__ = ["LatticeRecord", "measure_lattice", "pool_records", "summarize_lattice"]

Floats = npt.NDArray[np.float64]

_LEAST_SPACING = 2.0  # pixels
_ROUNDING = 1e-9  # pixels, of the places of lines
_ROWS = {"": "edges", "seams/": "seams"}  # prefix of the numbers -> prefix of the sums
_SUMS = ("cracks", "on", "expected", "dense_on", "dense_off")
_COUNTS = ("rois", "narrow", "narrow_cells", "left_out")


@dataclass(frozen=True)
class LatticeRecord:
    """The share of one image in the numbers: the unit of the bootstrap.

    Attributes:
        image_id: of the data set.
        sums: "edges/" or "seams/" with each of these names -> a sum over the cracks that count.
            cracks: number of cracks.
            on: number of cracks on the lattice.
            expected: sum of their chances to be on the lattice.
            dense_on: number of cracks on lattice lines, in RoIs that count for the density ratio.
            dense_off: the mean number on the two neighbours of each such line, added up.
        counts: rois: number of RoIs of matched and met objects. narrow: number of their directions,
            two each, that are left out. narrow_cells: number of directions that are left out of the
            density ratio only. left_out: number of spurious cracks that do not count.
    """

    image_id: Any
    sums: dict[str, float]
    counts: dict[str, int]


def measure_lattice(
    coco_gt: COCO,
    detections: Detections,
    *,
    k: int = 7,
    cells: int = 21,
    tolerance: float = 0.5,
) -> list[LatticeRecord]:
    """Return the record of each image of the data set, by ascending id.

    Args:
        coco_gt: the data set, see `detections.load_truth`.
        detections: with boxes, see `detections.load_results`.
        k: bins of a RoI in each direction, at least 2.
        cells: P, the side of the grid on which masks are made: a multiple of k, at least 2 k.
        tolerance: greatest distance of a crack from a line, in pixels; above 0 and below 1.

    Raises:
        UserError: an annotation has a broken mask.
        ValueError: k, the cells or the tolerance are out of range.
    """
    if k < 2 or not 0 < tolerance < _LEAST_SPACING / 2:
        raise ValueError(f"expected k >= 2 and 0 < tolerance < 1, got {k} and {tolerance}")
    if cells % k or cells < 2 * k:
        raise ValueError(f"expected a multiple of {k}, {2 * k} or more, as cells, got {cells}")
    records = []
    for image_id in sort_ids(coco_gt.imgs):
        instances = read_image_instances(coco_gt, image_id, detections)
        sums = {f"{row}/{name}": 0.0 for row in _ROWS.values() for name in _SUMS}
        counts = dict.fromkeys(_COUNTS, 0)
        for match in measure_errors(instances).matches:
            if math.isnan(match.spurious_edge):
                continue
            box = detections[image_id][match.detection].box
            assert box is not None, "expected detections with boxes"
            counts["rois"] += 1
            seams = tuple(seam.points for seam in match.seams)
            for axis in (0, 1):
                line = _Lines(box[axis], box[2 + axis], k, cells, tolerance)
                edges = _find_places(match.edges, axis)
                if line.narrow:
                    counts["narrow"] += 1
                    counts["left_out"] += len(edges)
                    continue
                counts["narrow_cells"] += int(line.narrow_cells)
                for row, places in (("edges", edges), ("seams", _find_places(seams, axis))):
                    for name, value in line.add_up(places).items():
                        sums[f"{row}/{name}"] += value
        records.append(LatticeRecord(image_id, sums, counts))
    return records


def _find_places(parts: tuple[Floats, ...], axis: int) -> Floats:
    """Return (N,): x of the vertical cracks (axis 0) or y of the horizontal cracks (axis 1).

    Args:
        parts: (K, 2) each, midpoints of cracks; only the coordinate across a crack is whole.
        axis: 0 or 1.
    """
    values = np.concatenate([np.zeros((0, 2)), *parts])[:, axis]
    return values[values == np.floor(values)]


@dataclass(frozen=True)
class _Lines:
    """The lines of a RoI in one direction: k bins from `low` on, over `extent` pixels."""

    low: float
    extent: float
    k: int
    cells: int
    tolerance: float

    @property
    def narrow(self) -> bool:
        return self.extent / self.k < _LEAST_SPACING - _ROUNDING

    @property
    def narrow_cells(self) -> bool:
        return self.extent / self.cells <= 2 * self.tolerance + 3 * _ROUNDING

    @property
    def compared(self) -> list[int]:
        """The sides of cells m that are lattice lines and have two neighbours that count."""
        per_bin = self.cells // self.k
        lines = [per_bin * g for g in range(1, self.k)]
        return [m for m in lines if m - 1 > 1 and m + 1 < self.cells - 1]

    def add_up(self, places: Floats) -> dict[str, float]:
        """Return the sums of `LatticeRecord` over cracks parallel to the lines, at (N,) places."""
        spacing, reach = self.extent / self.k, self.tolerance + _ROUNDING
        away = places - self.low
        line = np.clip(np.round(away / spacing), 1, self.k - 1)
        on = int(np.count_nonzero(np.abs(away - line * spacing) <= reach))
        # How much of the phases, from -spacing / 2 to spacing / 2, puts a line within reach.
        first = np.maximum(away - self.tolerance, spacing / 2)
        last = np.minimum(away + self.tolerance, self.extent - spacing / 2)
        dense_on = dense_off = 0.0
        if not self.narrow_cells:
            cell = self.extent / self.cells
            nearest = np.round(away / cell)
            nearest = nearest[np.abs(away - nearest * cell) <= reach]
            dense_on, before, after = (
                float(np.count_nonzero(np.isin(nearest, [m + step for m in self.compared])))
                for step in (0, -1, 1)
            )
            dense_off = (before + after) / 2
        return {
            "cracks": float(len(places)),
            "on": float(on),
            "expected": float(np.maximum(last - first, 0).sum() / spacing),
            "dense_on": dense_on,
            "dense_off": dense_off,
        }


def pool_records(trainings: Sequence[Sequence[LatticeRecord]]) -> list[LatticeRecord]:
    """Return the records of several trainings of a model as one: the sums of each image are added.

    A bootstrap over these records draws an image with the numbers of all trainings.

    Args:
        trainings: the records of each training, from `measure_lattice`.

    Raises:
        ValueError: there is no training, or the records are of different images.
    """
    if not trainings or any(
        [r.image_id for r in records] != [r.image_id for r in trainings[0]] for records in trainings
    ):
        raise ValueError("expected records of the same images, of at least one training")
    return [
        LatticeRecord(
            image_id=same[0].image_id,
            sums={name: sum(r.sums[name] for r in same) for name in same[0].sums},
            counts={name: sum(r.counts[name] for r in same) for name in same[0].counts},
        )
        for same in zip(*trainings, strict=True)
    ]


def summarize_lattice(
    records: Sequence[LatticeRecord], *, draws: int = 1000, seed: int = 0
) -> dict[str, dict[str, float | None]]:
    """Return the numbers of a model with 95 % intervals, ready for json.

    The intervals are percentiles of a bootstrap over images.

    Args:
        records: from `measure_lattice` or `pool_records`.
        draws: how many times to resample.
        seed: of the draws.

    Returns:
        "share", "chance" (both 0 to 1), "ratio" and "density_ratio" of the spurious contour, and
        with "seams/" in front of the seams -> {"value", "low", "high"}. None stands for a number
        that would need a division by 0, for both ends of an interval where this happens in more
        than half of the draws, and for an infinite end. "counts" -> the sums over images of
        `LatticeRecord.counts` and `.sums`.

    Raises:
        ValueError: there are no records.
    """
    if not records:
        raise ValueError("expected the record of at least one image, got none")
    weights = draw_weights(len(records), draws, seed)
    summary: dict[str, dict[str, float | None]] = {}
    for prefix, row in _ROWS.items():
        sums = {name: np.array([r.sums[f"{row}/{name}"] for r in records]) for name in _SUMS}
        for name, over, under in (
            ("share", sums["on"], sums["cracks"]),
            ("chance", sums["expected"], sums["cracks"]),
            ("ratio", sums["on"], sums["expected"]),
            ("density_ratio", sums["dense_on"], sums["dense_off"]),
        ):
            with np.errstate(divide="ignore", invalid="ignore"):
                values = compute_weighted_mean(over, under, weights)
                low, high = compute_percentile_interval(values[1:])
            entry = {"value": float(values[0]), "low": low, "high": high}
            summary[prefix + name] = make_jsonable(entry)
    summary["counts"] = {
        **{name: sum(record.counts[name] for record in records) for name in _COUNTS},
        **{name: sum(record.sums[name] for record in records) for name in records[0].sums},
    }
    return summary
