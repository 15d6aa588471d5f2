"""How often the axis excess finds lines that exist, and lines that do not, on drawn masks."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from detectron2.layers.mask_ops import paste_masks_in_image
from scipy import ndimage

from mask_rcnn_ext.arrays import Floats
from mask_rcnn_ext.layers.mask_crops import MaskCrop
from mask_rcnn_ext.overlap.axis_runs import measure_axis_lengths
from mask_rcnn_ext.overlap.intervals import bootstrap_ratio, describe_interval
from mask_rcnn_ext.overlap.lines import render_binary_mask, render_in_roi

from .axis_records import render_soft_mask

__all__ = [
    "MASK_SIZES",
    "ROI_SIZES",
    "Kinds",
    "make_binary_kinds",
    "make_file_kinds",
    "make_soft_kinds",
    "measure_rates",
]

Make = Callable[[np.random.Generator], Floats]
Kinds = dict[str, tuple[bool, Make]]  # kind -> whether it has lines along the axes, its function

MASK_SIZES = (32, 64, 128)  # pixels, of the objects in an image
ROI_SIZES = (64, 128, 256)  # pixels, of the RoIs of result files
_CELLS = 21  # P
_MARGIN = 4  # pixels of background around a disk
_SAMPLES = 4  # per pixel, in each direction


def _make_blob(
    rng: np.random.Generator, size: int, waves: tuple[int, ...], cut: float | None
) -> Floats:
    """Return a disk with a wavy edge, perhaps cut off by a line, as a binary mask.

    Args:
        rng: draws phases, place and cut.
        size: diameter in pixels.
        waves: waves per turn of each component of the edge.
        cut: direction of the cut in degrees from the x axis; None: no cut.
    """
    side = size + 2 * _MARGIN
    y, x = (np.mgrid[: side * _SAMPLES, : side * _SAMPLES] + 0.5) / _SAMPLES - side / 2
    y, x = y - rng.uniform(-0.5, 0.5), x - rng.uniform(-0.5, 0.5)
    turn = np.arctan2(y, x)
    edge = size / 2 * (0.85 if waves else 1.0) * np.ones_like(x)
    for count in waves:
        edge += size / 2 * 0.15 / len(waves) * np.sin(count * turn + rng.uniform(0, 2 * math.pi))
    mask = np.hypot(x, y) <= edge
    if cut is not None:
        across = x * math.cos(math.radians(cut)) + y * math.sin(math.radians(cut))
        mask &= across <= rng.uniform(0, 0.5) * size / 2
    shares = mask.reshape(side, _SAMPLES, side, _SAMPLES).mean(axis=(1, 3))
    return (shares >= 0.5).astype(np.float64)


def _make_soft(rng: np.random.Generator, cells: int, k: int) -> Floats:
    """Return a smooth soft mask, (cells, cells); its k x k parts differ by random offsets."""
    wide = ndimage.gaussian_filter(rng.normal(size=(3 * cells, 3 * cells)), cells / 10)
    waves = wide[cells : 2 * cells, cells : 2 * cells]
    y, x = (np.mgrid[:cells, :cells] + 0.5) * 2 / cells - 1
    logits = 4 * (0.75 - np.hypot(x, y)) + waves / waves.std()
    if k > 1:
        logits += np.kron(rng.normal(size=(k, k)) * 1.5, np.ones((cells // k, cells // k)))
    return np.asarray(1 / (1 + np.exp(-logits)))


def _paste(soft: Floats, size: int) -> Floats:
    """Scale a soft mask up as detectron2 and FCIS do, bilinearly, and cut it at 0.5.

    The array is the RoI, so that its frame is no contour.
    """
    places = (np.arange(size) + 0.5) * len(soft) / size - 0.5
    grid = np.meshgrid(places, places, indexing="ij")
    scaled = ndimage.map_coordinates(soft, grid, order=1, mode="nearest")
    return (scaled >= 0.5).astype(np.float64)


def make_binary_kinds(size: int) -> Kinds:
    """Return kind -> (whether its masks have lines along the axes, the function that makes one).

    Args:
        size: the size of the objects, in pixels.
    """
    return {
        "disks": (False, lambda rng: _make_blob(rng, size, (), None)),
        "wavy edges": (False, lambda rng: _make_blob(rng, size, (3, 5, 9), None)),
        "oblique cuts": (False, lambda rng: _make_blob(rng, size, (), rng.uniform(15, 75))),
        "smooth masks, 28 x 28": (False, lambda rng: _paste(_make_soft(rng, 28, 1), size)),
        "smooth masks, 21 x 21": (False, lambda rng: _paste(_make_soft(rng, _CELLS, 1), size)),
        "cuts along an axis": (True, lambda rng: _make_blob(rng, size, (), 0.0)),
        "jumps, 7 x 7 parts": (True, lambda rng: _paste(_make_soft(rng, _CELLS, 7), size)),
        "jumps, 3 x 3 parts": (True, lambda rng: _paste(_make_soft(rng, _CELLS, 3), size)),
    }


def make_file_kinds(size: int, *, with_rois: bool) -> Kinds:
    """Return the kinds of masks of a result file, as `tools/compare.py` measures them.

    Soft masks are pasted into an image by detectron2. Many of them reach the sides of their RoI,
    which cuts them off.

    Args:
        size: the size of the RoIs, in pixels.
        with_rois: whether the RoIs are known.
    """

    def paste(cells: int, k: int) -> Make:
        def make(rng: np.random.Generator) -> Floats:
            corner = rng.uniform(_MARGIN, _MARGIN + 1, 2)
            roi = np.concatenate([corner, corner + size])
            soft = torch.from_numpy(_make_soft(rng, cells, k))[None].float()
            side = size + 2 * _MARGIN
            (mask,) = paste_masks_in_image(soft, torch.from_numpy(roi)[None].float(), (side, side))
            crop = MaskCrop(0, 0, mask.numpy()).trim()
            return render_in_roi(crop, roi) if with_rois else render_binary_mask(crop, side, side)

        return make

    known = "known" if with_rois else "unknown"
    return {
        f"smooth masks, 28 x 28, RoIs {known}": (False, paste(28, 1)),
        f"smooth masks, 21 x 21, RoIs {known}": (False, paste(_CELLS, 1)),
        f"jumps, 7 x 7 parts, RoIs {known}": (True, paste(_CELLS, 7)),
        f"jumps, 3 x 3 parts, RoIs {known}": (True, paste(_CELLS, 3)),
    }


def make_soft_kinds() -> Kinds:
    """Return the same for soft masks, which are rendered at a multiple of their own grid."""

    def render(k: int) -> Make:
        return lambda rng: render_soft_mask(_make_soft(rng, _CELLS, k))

    return {
        f"soft masks{', jumps' if k > 1 else ''}, {k} x {k} parts": (k > 1, render(k))
        for k in (1, 7, 3)
    }


def measure_rates(kinds: Kinds, *, masks: int, sets: int) -> Iterator[dict[str, Any]]:
    """Yield, for each kind, how often a set of 30 of its masks is found to prefer the axes.

    A set is found when the 95 % interval of its axis excess, a bootstrap over its masks, is above
    1. For a kind without lines this is the rate of false positives.

    Args:
        kinds: see `make_binary_kinds`.
        masks: number of masks of each kind.
        sets: number of sets of 30, drawn from them.
    """
    for kind, (lines, make) in kinds.items():
        rng = np.random.default_rng(0)
        found = [measure_axis_lengths(make(rng)) for _ in range(masks)]
        lengths = np.array([[runs.length, rotated] for runs, rotated in found]).T
        hits = 0
        for _ in range(sets):
            over, under = lengths[:, rng.integers(masks, size=30)]
            values = bootstrap_ratio(over[None], under[None], draws=200, seed=0)
            low = describe_interval(values)["low"]
            hits += low is not None and low > 1
        yield {
            "kind": kind,
            "lines": lines,
            "excess": float(lengths[0].sum() / lengths[1].sum()),
            "found": 100 * hits / sets,
        }
