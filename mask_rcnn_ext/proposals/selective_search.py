"""Selective search (Uijlings et al., IJCV 2013): object proposals without learning.

The boxes of R-CNN (arXiv:1311.2524, section 2.1) and Fast R-CNN. R-CNN uses the "fast" mode, about
2000 regions per image; its published code enlarges or reduces the image to a width of 500 pixels
first and drops boxes with a side under 20 of those pixels. The search itself is OpenCV's
(`cv2.ximgproc.segmentation`), which only its contrib distributions have. It departs from the
authors' MATLAB code, so the boxes are not theirs, and on small drawn images they are far fewer.
"""

import ctypes
import importlib.metadata
import zlib
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import UserError

__all__ = ["MODES", "require_selective_search", "selective_search"]

Floats = npt.NDArray[np.float32]

# Which colour spaces, similarities and scales of the first segmentation are combined.
MODES = {
    "fast": "switchToSelectiveSearchFast",
    "quality": "switchToSelectiveSearchQuality",
    "single": "switchToSingleStrategy",
}
_DISTRIBUTIONS = (
    *("opencv-python", "opencv-python-headless"),
    *("opencv-contrib-python", "opencv-contrib-python-headless"),
)


def require_selective_search() -> None:
    """Raise unless the installed OpenCV has selective search.

    Raises:
        UserError: it has not; the message has the commands that exchange it for one that has, of
            the same version.
    """
    if hasattr(getattr(cv2, "ximgproc", None), "segmentation"):
        return
    there = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    found = [name for name in _DISTRIBUTIONS if name in there]
    wanted, pin, first = "opencv-contrib-python-headless", "", ""
    if found:
        # All four are one module, cv2, and overwrite each other: only one may be installed.
        first = f"pip uninstall -y {' '.join(found)} && "
        wanted, pin = found[0].replace("opencv-python", "opencv-contrib-python"), there[found[0]]
    raise UserError(
        f"selective search: OpenCV {cv2.__version__} has no cv2.ximgproc, which only its contrib "
        f"distributions have. Exchange it: {first}pip install {wanted}{pin and '=='}{pin} (the "
        "extra `selective-search` of this package)"
    )


def selective_search(
    image: npt.NDArray[np.uint8],
    *,
    image_id: Any = 0,
    mode: str = "fast",
    width: int = 0,
    min_size: int = 0,
    topk: int = 2000,
    seed: int = 0,
) -> Floats:
    """Return the proposals of one image, the best first.

    They are ordered by their level in the hierarchy of regions times a random number, as the
    authors order them. OpenCV draws that number from the C library's `rand`, which is seeded here,
    so the same image gives the same boxes on one platform; not beside other threads that call it.

    Args:
        image: (H, W, 3), BGR.
        image_id: with `seed` it decides the order.
        mode: one of `MODES`.
        width: the image is resized to so many pixels before the search, its height in proportion,
            bilinear; 0: searched as it is.
        min_size: pixels of the searched image; boxes with a shorter side are dropped.
        topk: the most boxes.
        seed: another one gives another order, and so other boxes when there are more than `topk`.

    Returns:
        (N, 4), XYXY in pixels of `image`, inside it; no two are equal (OpenCV sees to that).
    """
    searched = image
    if width and width != image.shape[1]:
        height = max(1, round(image.shape[0] * width / image.shape[1]))
        searched = np.asarray(cv2.resize(image, (width, height)), dtype=np.uint8)
    boxes = _search(searched, mode, zlib.crc32(f"{seed} {image_id}".encode()))
    boxes = boxes[(boxes[:, 2:] >= min_size).all(axis=1)][:topk].astype(np.float64)
    boxes[:, 2:] += boxes[:, :2]  # XYWH to XYXY
    size = np.array(image.shape[1::-1] * 2)  # width, height, width, height
    boxes *= size / np.array(searched.shape[1::-1] * 2)
    return np.minimum(boxes, size).astype(np.float32)


def _search(image: npt.NDArray[np.uint8], mode: str, seed: int) -> npt.NDArray[np.int32]:
    """Return OpenCV's boxes, (N, 4) XYWH."""
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(image)
    getattr(search, MODES[mode])()
    ctypes.CDLL(None).srand(ctypes.c_uint(seed))
    return np.asarray(search.process(), dtype=np.int32).reshape(-1, 4)
