"""How much of a model's spurious contour lies on the lattice lines of its RoIs, against chance.

FCIS assembles a mask from k x k position-sensitive score maps (arXiv:1611.07709; k = 7), so its
scores may jump on the lines x = x1 + g (x2 - x1) / k and the same for y, with the RoI x1, y1, x2,
y2. If these jumps make the spurious edges of Figure 6 of the Mask R-CNN paper (arXiv:1703.06870),
more of them lie there than chance has it. These metrics are not the papers'.

    records = lattice_records(truth, "coco_instances_results.json")
    summarize_lattice(records)["ratio"]  # {"value": ..., "low": ..., "high": ...}

Input is a result file in which each detection's `bbox` is the RoI that its mask was assembled in:
for FCIS, the detections before mask voting. A file of Mask R-CNN, whose mask is pasted into its
`bbox` and knows no k, is the control. A model that rounds its RoIs before it divides them draws its
jumps up to half a pixel off these lines, which blurs the effect.

Definitions. One direction is told; the other is the same with x and y exchanged.

- *Spurious cracks*: pixel sides of the spurious contour, `overlap.MatchErrors.edges`, of all
  matched and met objects, those with a `spurious_edge`. *Seam cracks*: those of their `seams`.
- *Lattice lines* of a RoI of width w: x = x1 + g s, g = 1, ..., k - 1, with the spacing s = w / k.
  The RoI's own sides are none.
- A crack is *on the lattice* when it is parallel to the lines (a vertical crack, whose midpoint has
  a whole x) and x is at most the tolerance, 0.5 px, from one of them: each real-valued line has a
  whole coordinate within reach.
- A RoI whose spacing is under 2 px is left out in that direction, with the cracks parallel to the
  lines: the tolerance would cover more than half of it. So cracks that count are compared with at
  most one line.
- *share*: cracks on the lattice / cracks that count; both summed over images first.
- *chance*: the share that the same cracks have on average with the lattice shifted by a phase that
  is uniform in [-s / 2, s / 2). So it always has k - 1 lines, each stays inside the RoI, none
  wraps around, and cracks that are uniform in the RoI have the same expected share and chance,
  (k - 1) 2 tolerance / w. The average is exact: with u = x - x1, the length that
  [u - tolerance, u + tolerance] shares with [s / 2, w - s / 2], over s. What lies on the RoI's
  sides, where a mask is cut off, adds nothing to either and leaves their ratio alone; with phases
  that wrap around, it would add to the chance alone.
- *ratio*: share / chance. 1 is what places give that know nothing of the lattice, if they thin out
  evenly towards the sides of the RoI; read it beside that of the control.
- *density_ratio*, the sharper control. A mask is made on a grid of P x P cells and scaled up, so a
  contour has favourite places that are no jumps between score maps: the sides of cells, x1 + m w /
  P. FCIS has P = 21. Mask R-CNN has P = 14: its transposed convolution makes 2 x 2 values of each
  cell of its features, from that cell alone. With P = c k, the lattice lines are sides of cells in
  both, and the ratio above is over 1 without any lattice. This is the number of cracks on lattice
  lines (m = c g) over the mean number on the two neighbours of each (m = c g - 1 and c g + 1), so
  that contour which thins out towards the middle of the RoI favours neither. Lines with m = 1 or
  m = P - 1 as a neighbour are left out (with c = 2 the first and the last): beside the RoI's sides
  lie the contours of objects, and nothing near these is spurious. Only RoIs whose lines are more
  than two tolerances apart count, w > P px: there, no crack is at two lines.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO

from .detections import BoxedDetections, load_boxed_results
from .errors import measure_errors
from .image_instances import MAX_DETECTIONS, make_scene
from .intervals import compute_percentile_interval, compute_weighted_mean, draw_weights

__all__ = [
    "BoxedDetections",
    "LatticeRecord",
    "lattice_records",
    "load_boxed_results",
    "pool_records",
    "summarize_lattice",
]

Floats = npt.NDArray[np.float64]

_LEAST_SPACING = 2.0  # px
_ROUNDING = 1e-9  # px, of the places of lines
_ROWS = {"": "edges", "seams/": "seams"}  # prefix of the numbers -> prefix of the sums
_SUMS = ("cracks", "on", "expected", "dense_on", "dense_off")
_COUNTS = ("rois", "narrow", "narrow_cells", "left_out")


@dataclass(frozen=True)
class LatticeRecord:
    """One image's share of the numbers: the bootstrap's unit.

    Attributes:
        image_id: of the data set.
        sums: "edges/" and "seams/" with each of these names -> over their cracks that count:
            cracks: how many.
            on: how many are on the lattice.
            expected: the sum of their chances to be.
            dense_on: on lattice lines and in RoIs that count for the density.
            dense_off: there, the mean of both neighbours of each such line.
        counts: rois: of matched and met objects. narrow: of their directions, two each, those that
            are left out. narrow_cells: those that are left out of the density only. left_out:
            spurious cracks that do not count.
    """

    image_id: Any
    sums: dict[str, float]
    counts: dict[str, int]


def lattice_records(
    coco_gt: COCO,
    results: str | os.PathLike[str] | BoxedDetections,
    *,
    k: int = 7,
    cells: int = 21,
    tolerance: float = 0.5,
    max_detections: int = MAX_DETECTIONS,
) -> list[LatticeRecord]:
    """Return the record of each image of the data set, by ascending id.

    Args:
        coco_gt: the data set, see `detections.load_truth`.
        results: a result file, see `load_boxed_results`, or what that function returns.
        k: bins of a RoI in each direction, at least 2.
        cells: P, of the grid on which masks are made: a multiple of k, 2 k or more.
        tolerance: of a crack from a line, in pixels; above 0 and below 1.
        max_detections: see `scene.make_scene`.

    Raises:
        UserError: see `load_boxed_results`; or an annotation has a broken mask.
        ValueError: k, the cells or the tolerance are out of range.
    """
    if k < 2 or not 0 < tolerance < _LEAST_SPACING / 2:
        raise ValueError(f"expected k >= 2 and 0 < tolerance < 1, got {k} and {tolerance}")
    if cells % k or cells < 2 * k:
        raise ValueError(f"expected a multiple of {k}, {2 * k} or more, as cells, got {cells}")
    if not isinstance(results, BoxedDetections):
        results = load_boxed_results(results, coco_gt)
    records = []
    for image_id in sorted(coco_gt.imgs):
        annotations = [a for a in coco_gt.imgToAnns[image_id] if a["category_id"] in coco_gt.cats]
        found = results.detections.get(image_id, [])
        scene = make_scene(coco_gt.imgs[image_id], annotations, found, max_detections)
        sums = {f"{row}/{name}": 0.0 for row in _ROWS.values() for name in _SUMS}
        counts = dict.fromkeys(_COUNTS, 0)
        for match in measure_errors(scene).matches:
            if math.isnan(match.spurious_edge):
                continue
            box = results.boxes[image_id][scene.source[match.detection]]
            counts["rois"] += 1
            seams = tuple(seam.points for seam in match.seams)
            for axis in (0, 1):
                line = _Lines(box[axis], box[2 + axis], k, cells, tolerance)
                edges = _places(match.edges, axis)
                if line.narrow:
                    counts["narrow"] += 1
                    counts["left_out"] += len(edges)
                    continue
                counts["narrow_cells"] += int(line.narrow_cells)
                for row, places in (("edges", edges), ("seams", _places(seams, axis))):
                    for name, value in line.sums(places).items():
                        sums[f"{row}/{name}"] += value
        records.append(LatticeRecord(image_id, sums, counts))
    return records


def _places(parts: tuple[Floats, ...], axis: int) -> Floats:
    """Return (N,): x of the vertical cracks (axis 0) or y of the horizontal ones (axis 1).

    Args:
        parts: (K, 2) each, midpoints; the coordinate across a crack is whole, the other is not.
        axis: see there.
    """
    values = np.concatenate([np.zeros((0, 2)), *parts])[:, axis]
    return values[values == np.floor(values)]


@dataclass(frozen=True)
class _Lines:
    """The lines of a RoI in one direction: `k` bins from `low` on, over `extent` pixels."""

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
        """The sides of cells, m, that are lattice lines with two neighbours that count."""
        per_bin = self.cells // self.k
        lines = [per_bin * g for g in range(1, self.k)]
        return [m for m in lines if m - 1 > 1 and m + 1 < self.cells - 1]

    def sums(self, places: Floats) -> dict[str, float]:
        """Return each name of `_SUMS` for cracks that are parallel to the lines, at (N,) places."""
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

    So the bootstrap draws images, each with what all trainings have in it.

    Raises:
        ValueError: there are none, or they are of different images.
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

    The intervals are those of a bootstrap over images, percentile method.

    Args:
        records: of `lattice_records` or `pool_records`.
        draws: how many times to resample.
        seed: of the draws.

    Returns:
        "share", "chance" (both 0 to 1), "ratio" and "density_ratio" of the spurious contour, the
        same of the seams with "seams/" before it -> {"value", "low", "high"}. None: it cannot be
        computed, since there is nothing to divide by; for an interval, on more than half of the
        draws, or the end of it is not finite. "counts" -> the sums of each of
        `LatticeRecord.counts` and `.sums`.

    Raises:
        ValueError: there are no records.
    """
    if not records:
        raise ValueError("expected the record of at least one image, got none")
    ones = np.ones((1, len(records)), dtype=np.int32)
    weights = np.concatenate([ones, draw_weights(len(records), draws, seed)])
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
            ends = {"value": float(values[0]), "low": low, "high": high}
            summary[prefix + name] = {
                key: value if math.isfinite(value) else None for key, value in ends.items()
            }
    summary["counts"] = {
        **{name: sum(record.counts[name] for record in records) for name in _COUNTS},
        **{name: sum(record.sums[name] for record in records) for name in records[0].sums},
    }
    return summary
