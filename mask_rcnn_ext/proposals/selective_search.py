"""Selective search (Uijlings et al., IJCV 2013): object proposals without learning.

R-CNN (arXiv:1311.2524, section 2.1) and Fast R-CNN classify these boxes. R-CNN uses the "fast"
mode, about 2000 regions per image; its published code first resizes the image to a width of 500
pixels and drops boxes with a side under 20 pixels. The search itself is OpenCV's
(`cv2.ximgproc.segmentation`), which only the contrib distributions have. OpenCV's code differs from
the authors' MATLAB code, so the boxes differ too, and on small drawn images there are far fewer.
"""

import ctypes
import importlib.metadata
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ..arrays import Floats32
from ..data.images import read_record
from ..errors import UserError, require_choice, require_range

__all__ = ["MODES", "SelectiveSearchMethod", "require_selective_search", "selective_search"]


# Mode -> OpenCV's method. A mode combines colour spaces, similarities and scales.
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
    """Check that the installed OpenCV has selective search.

    Raises:
        UserError: it has not. The message has the commands that replace OpenCV by a distribution
            of the same version with selective search.
    """
    if hasattr(getattr(cv2, "ximgproc", None), "segmentation"):
        return
    installed = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    found = [name for name in _DISTRIBUTIONS if name in installed]
    wanted, first = "opencv-contrib-python-headless", ""
    if found:
        # All four install the module cv2 and overwrite each other: only one may be installed.
        first = f"pip uninstall -y {' '.join(found)} && "
        wanted = found[0].replace("opencv-python", "opencv-contrib-python")
        wanted += f"=={installed[found[0]]}"
    raise UserError(
        f"selective search: OpenCV {cv2.__version__} has no cv2.ximgproc; only the contrib "
        f"distributions have it. Replace it: {first}pip install {wanted} (the extra "
        "`selective-search` of this package)"
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
) -> Floats32:
    """Return the proposals of one image, best first.

    As in the authors' code, boxes are ordered by their level in the hierarchy of regions times a
    random number. OpenCV draws this number from the C library's `rand`, which is seeded here: on
    the same platform the same image gives the same boxes, unless another thread calls `rand`.

    Args:
        image: (H, W, 3), BGR.
        image_id: the id of the image; with `seed` it decides the order.
        mode: one of `MODES`.
        width: the width in pixels that the image is resized to before the search (bilinear, height
            in proportion). 0: not resized.
        min_size: boxes with a shorter side, in pixels of the resized image, are dropped.
        topk: the highest number of boxes.
        seed: decides the order, and so which boxes are kept if there are more than `topk`.

    Returns:
        (N, 4), XYXY in pixels of `image`, inside the image; no two boxes are equal.
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


@dataclass(frozen=True, kw_only=True)
class SelectiveSearchMethod:
    """A `ProposalMethod`: selective search, see `selective_search` for the fields.

    Selective search orders the boxes but does not score them: the first box gets the score 0, the
    second box -1, and so on.
    """

    mode: str = "fast"
    width: int = 0
    min_size: int = 0
    topk: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: a value is out of range, or the installed OpenCV has no selective search.
        """
        require_choice("--mode", self.mode, MODES)
        for name, least in (("width", 0), ("min_size", 0), ("topk", 1), ("seed", 0)):
            require_range(f"--{name.replace('_', '-')}", getattr(self, name), least)
        require_selective_search()

    def settings(self) -> dict[str, Any]:
        """See `ProposalMethod`; other releases of OpenCV may give other boxes."""
        return {"method": "selective-search", **asdict(self), "opencv": cv2.__version__}

    def start(self, rank: int) -> Callable[[dict[str, Any]], tuple[Floats32, Floats32]]:
        """See `ProposalMethod`."""
        return self._propose

    def _propose(self, record: dict[str, Any]) -> tuple[Floats32, Floats32]:
        boxes = selective_search(read_record(record), image_id=record["image_id"], **asdict(self))
        return boxes, -np.arange(len(boxes), dtype=np.float32)
