"""Masks in the forms of a COCO json."""

from typing import Any

import numpy as np
from pycocotools import mask as mask_util


def compressed(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask (H, W), uint8, as compressed RLE."""
    rle = mask_util.encode(np.asfortranarray(mask))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask (H, W), uint8, as uncompressed RLE."""
    flat = np.concatenate([[0], mask.flatten(order="F"), [2]])
    return {
        "size": list(mask.shape),
        "counts": np.diff(np.flatnonzero(np.diff(flat)), prepend=0).tolist(),
    }
