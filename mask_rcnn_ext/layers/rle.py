"""COCO's masks, polygons and run-length encoding (RLE), checked before pycocotools sees them.

pycocotools does not check: with wrong counts, sizes or coordinates it may write outside of its
memory, fill all memory, or never end.

An RLE is `{"size": [H, W], "counts": counts}`. Its runs go down the columns and alternate between
background and mask, background first. `counts` is a list of the runs, or their compressed form.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_util

from ..errors import UserError

__all__ = [
    "check_mask",
    "check_polygon",
    "check_size",
    "compress",
    "count_pixels",
    "decode_runs",
    "encode_edges",
    "encode_mask",
    "fill_edges",
    "find_edges",
    "read_runs",
    "require_countable",
]

_MOST_COUNTED = (1 << 32) - 1  # pycocotools counts pixels in 32 bits
_MOST_PIXELS = 1 << 30  # OpenCV reads no larger image
_REACH = 10  # times height + width: how far outside the image a vertex may lie
_LONGEST = 1_000_000  # pixels: pycocotools stores five points for each pixel of an outline


def _are_whole(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in values)


def check_size(height: Any, width: Any) -> None:
    """Raise ValueError unless a mask can have this size; the message is a phrase."""
    if not _are_whole([height, width]) or min(height, width) < 1:
        raise ValueError("image whose height and width are not whole numbers of at least 1")
    if height * width > _MOST_PIXELS:
        raise ValueError(f"image of more than {_MOST_PIXELS:,} pixels")


def require_countable(height: int, width: int) -> None:
    """Raise a `UserError` unless pycocotools can count the pixels of an image of this size."""
    if height * width > _MOST_COUNTED:
        raise UserError(
            f"an image of {width:,} x {height:,} pixels is too large for COCO's run-length masks: "
            f"expected at most {_MOST_COUNTED:,} pixels. Cut it into several images"
        )


def check_polygon(points: Sequence[float], height: int, width: int) -> None:
    """Raise ValueError unless pycocotools can draw a polygon; the message is a phrase.

    Args:
        points: x, y, x, y, ... in pixels.
        height: the height of the image in pixels.
        width: the width of the image in pixels.
    """
    try:
        low, high, total = float(min(points)), float(max(points)), float(sum(points))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError("polygon that is not made of numbers") from error
    reach = _REACH * (height + width)
    if not math.isfinite(total) or low < -reach or high > reach + max(height, width):
        raise ValueError(f"polygon that leads more than {_REACH} x (height + width) outside")
    if len(points) * (high - low) > _LONGEST:
        x, y = np.asarray(points[0::2]), np.asarray(points[1::2])
        steps = np.maximum(abs(x - np.roll(x, 1)), abs(y - np.roll(y, 1)))
        if steps.sum() > _LONGEST:
            raise ValueError(f"polygon with an outline of more than {_LONGEST:,} pixels")


def check_mask(segmentation: Any, height: int, width: int) -> None:
    """Raise ValueError unless polygons or an RLE can be given to pycocotools.

    Args:
        segmentation: a list of polygons, see `check_polygon`; or an RLE, see `read_runs`, of the
            size of the image.
        height: the height of the image in pixels.
        width: the width of the image in pixels.

    Raises:
        ValueError: it is something else; the message is a phrase.
    """
    check_size(height, width)
    if isinstance(segmentation, list) and segmentation:
        for points in segmentation:
            known = isinstance(points, list | tuple | np.ndarray)
            if not known or len(points) < 6 or len(points) % 2:
                raise ValueError("polygon that is not x, y, x, y, ... of three points or more")
            check_polygon(points, height, width)
    elif isinstance(segmentation, dict):
        size = segmentation.get("size")
        if not isinstance(size, list | tuple) or len(size) != 2 or not _are_whole(size):
            raise ValueError("RLE whose size is not two whole numbers")
        if list(size) != [height, width]:
            raise ValueError(f"RLE of size {list(size)}, the image is {[height, width]} (H, W)")
        read_runs(segmentation.get("counts"), height * width)
    else:
        raise ValueError("mask that is neither polygons nor an RLE with size and counts")


def read_runs(counts: object, num_pixels: int) -> npt.NDArray[np.int64]:
    """Return the (N,) run lengths of an RLE, checked.

    Args:
        counts: a list of runs, or compressed counts as str or bytes. A character of compressed
            counts stands for 6 bits, counted from "0": 5 bits of the number, lowest first, and 32
            if more characters follow; 16 in the last character is the sign. From the fourth number
            on, each number is the difference from the run two places before.
        num_pixels: H * W.

    Raises:
        ValueError: the counts are something else, or do not fill the mask. The message is a phrase
            such as "RLE without counts".
    """
    if isinstance(counts, list):
        runs = np.asarray(counts if not any(isinstance(run, list) for run in counts) else None)
        runs = runs.astype(np.int64) if runs.dtype.kind in "iu" else np.empty(0, np.int64)
    elif isinstance(counts, str | bytes) and counts:
        runs = _decompress(_to_bytes(counts))
    else:
        raise ValueError("RLE without counts")
    # A single run that is too long is refused before the sum, which could overflow.
    if not len(runs) or runs.min() < 0 or runs.max() > num_pixels or runs.sum() != num_pixels:
        raise ValueError("RLE that does not add up to its size")
    return runs


def _to_bytes(counts: str | bytes) -> bytes:
    return counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts


def _decompress(counts: bytes) -> npt.NDArray[np.int64]:
    codes = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((codes & 32) == 0)
    lengths = np.diff(ends, prepend=-1)
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 32 or lengths.max() > 8:
        raise ValueError("RLE with wrong characters")
    starts = ends - lengths + 1
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 31) << (5 * place), starts)
    runs -= np.where(codes[ends] & 16, 1 << (5 * lengths), 0)
    for first in (1, 2):  # every second run after the first one is a chain of differences
        runs[first::2] = np.cumsum(runs[first::2])
    return runs


def compress(segmentation: list[Any] | dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """Return sound polygons or a sound RLE as pycocotools' compressed RLE, with counts as bytes.

    Args:
        segmentation: polygons, lists of x, y, x, y, ... in pixels; or an RLE, see `read_runs`.
        height: the height of the image in pixels.
        width: the width of the image in pixels.
    """
    if isinstance(segmentation, list):
        rle: dict[str, Any] = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
        return rle
    size, counts = [height, width], segmentation["counts"]
    if isinstance(counts, list):
        rle = mask_util.frPyObjects({"size": size, "counts": counts}, height, width)
        return rle
    return {"size": size, "counts": _to_bytes(counts)}


def count_pixels(rles: Sequence[dict[str, Any]]) -> npt.NDArray[np.int64]:
    """Return the areas (N,) of compressed RLEs, in pixels.

    One by one: `pycocotools.mask.area` 2.0.11 fails with NumPy 2 for a list of more than 255.
    """
    return np.array([mask_util.area(rle) for rle in rles], dtype=np.int64)


def decode_runs(runs: npt.NDArray[np.int64], height: int) -> tuple[int, int, npt.NDArray[np.bool_]]:
    """Return the first row and column of a mask's box, and the mask in its box, (h, w).

    No array of the size of the image is made, unless the mask fills it.

    Args:
        runs: the runs of the mask, see `read_runs`.
        height: the height of the image in pixels.
    """
    ends = np.cumsum(runs)
    lengths = runs[1::2]
    starts = ends[1::2] - lengths
    starts, lengths = starts[lengths > 0], lengths[lengths > 0]
    if not len(starts):
        return 0, 0, np.zeros((0, 0), dtype=bool)
    columns, rows = np.divmod(starts, height)
    left, right = int(columns[0]), int(starts[-1] + lengths[-1] - 1) // height + 1
    top, bottom = int(rows.min()), int((rows + lengths).max())
    if bottom > height:  # a run goes on at the top of the next column
        top, bottom = 0, height
    places = (columns - left) * (bottom - top) + rows - top
    edges = np.stack([places, places + lengths], axis=1).ravel()
    parts = np.diff(edges, prepend=0, append=(right - left) * (bottom - top))
    flat = np.repeat(np.arange(len(parts)) % 2 == 1, parts)
    return top, left, np.ascontiguousarray(flat.reshape(right - left, bottom - top).T)


def encode_mask(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Return a mask (H, W) as compressed RLE, with counts as text."""
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}


def find_edges(columns: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint32]:
    """Return where runs of a mask begin and end, in turn; a run ends at the end of its column.

    Args:
        columns: (w, h), the mask transposed.

    Returns:
        Positions in the columns, where each column has one more pixel of background at its end.
    """
    closed = np.zeros((columns.shape[0], columns.shape[1] + 1), dtype=bool)
    closed[:, :-1] = columns
    flat = closed.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat[:1].any():
        edges = np.concatenate([[0], edges])
    return edges.astype(np.uint32)


def fill_edges(edges: npt.NDArray[np.uint32], width: int, height: int) -> npt.NDArray[np.bool_]:
    """Return the columns, (width, height) bool, whose edges `find_edges` found."""
    num_pixels = width * (height + 1)
    ends = np.concatenate([[0], edges.astype(np.int64), [num_pixels]])
    runs = ends[1:] - ends[:-1]
    closed = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    columns: npt.NDArray[np.bool_] = closed.reshape(width, height + 1)[:, :-1]
    return columns


def encode_edges(
    edges: npt.NDArray[np.uint32], crop_height: int, top: int, left: int, height: int, width: int
) -> dict[str, Any]:
    """Return a mask as pycocotools' compressed RLE, with counts as bytes.

    Args:
        edges: the edges of the crop of the mask, see `find_edges`.
        crop_height: height of the crop.
        top: the row of the image in which the crop begins.
        left: the column of the image in which the crop begins.
        height: the height of the image in pixels.
        width: the width of the image in pixels.

    Raises:
        UserError: see `require_countable`.
    """
    require_countable(height, width)
    column, row = np.divmod(edges.astype(np.int64), crop_height + 1)
    places = (column + left) * height + row + top
    if crop_height == height:  # a run may go on at the top of the next column
        joined = np.flatnonzero(places[1:] == places[:-1])
        places = np.delete(places, np.concatenate([joined, joined + 1]))
    total = height * width
    if not len(places) or places[-1] != total:
        places = np.append(places, total)
    counts = np.diff(places, prepend=0)
    rle: dict[str, Any] = mask_util.frPyObjects(
        {"size": [height, width], "counts": counts}, height, width
    )
    return rle
