"""COCO's run-length encoding of masks: its runs as numbers, and its compressed form.

An RLE is `{"size": [H, W], "counts": counts}`. Its runs go down the columns and alternate between
background and mask, background first. `counts` is a list of the runs, or their compressed form.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_util

__all__ = ["compress", "encode_crop", "read_runs"]


def read_runs(counts: object, num_pixels: int) -> npt.NDArray[np.int64]:
    """Return the (N,) run lengths of an RLE, checked.

    pycocotools does not check: with wrong counts it may write outside of its memory or never end.

    Args:
        counts: a list of runs, or compressed counts as str or bytes. These have one character for 6
            bits, from "0" on: 5 bits of the number, lowest first, and 32 if more follow; 16 in the
            last character is the sign. From the fourth number on, each one is the difference from
            the run two places before.
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
        height: of the image.
        width: of the image.
    """
    if isinstance(segmentation, list):
        rle: dict[str, Any] = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
        return rle
    size, counts = [height, width], segmentation["counts"]
    if isinstance(counts, list):
        rle = mask_util.frPyObjects({"size": size, "counts": counts}, height, width)
        return rle
    return {"size": size, "counts": _to_bytes(counts)}


def encode_crop(
    mask: npt.NDArray[np.bool_], top: int, left: int, height: int, width: int
) -> dict[str, Any]:
    """Return a mask as pycocotools' compressed RLE; only the columns of its crop are looked at.

    Args:
        mask: (h, w), the part of the mask that may not be empty.
        top: the row of the image in which the crop begins.
        left: the column of the image in which the crop begins.
        height: of the image.
        width: of the image.
    """
    columns = np.zeros((mask.shape[1], height), dtype=bool)  # each row is a column of the image
    columns[:, top : top + mask.shape[0]] = mask.T
    padded = np.pad(columns.ravel(), 1)
    edges = np.flatnonzero(padded[1:] != padded[:-1]) + left * height
    total = height * width
    ends = edges if len(edges) and edges[-1] == total else np.append(edges, total)
    counts = np.diff(ends, prepend=0).tolist()
    rle: dict[str, Any] = mask_util.frPyObjects(
        {"size": [height, width], "counts": counts}, height, width
    )
    return rle
