"""The answer to an upload of the demo page: a picture, and objects with outlines and COCO json."""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

from ..data.bands import read_bands_header, scale_for_display
from ..errors import UserError
from ..evaluation.packed import convert_to_coco
from ..layers.cracks import trace_loops
from ..layers.packed_masks import MaskCrop
from ..report.drawing.pictures import encode_jpeg
from ..report.drawing.sheets import resize_picture
from .predictor import Predictor

__all__ = ["MAX_PIXELS", "answer_upload", "make_outline"]

MAX_PIXELS = 64_000_000  # of an image; each needs 8 bytes for the resized image and its copies
_LARGEST_PICTURE = 4096  # pixels of the longer side; phones cannot draw on a much larger canvas
_TRACED = 4_000_000  # pixels of a mask; in a larger mask only every second pixel or fewer is traced
# `Predictor.read` needs the right ending. The name that the browser sent is not used.
_SUFFIXES = (
    *((b"\x93NUMPY", ".npy"), (b"\x89PNG", ".png")),
    *((start, ".tif") for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
)


def answer_upload(predictor: Predictor, data: bytes) -> dict[str, Any]:
    """Predict on the image file that `data` holds.

    Args:
        predictor: the predictor; its score threshold decides which objects are returned.
        data: the bytes of the file.

    Returns:
        `width` and `height` in pixels; `picture`, a data URL, upright and at most 4096 pixels long;
        and `objects`, the highest score first. Each has `class`, in [0, K); `box`, XYXY in pixels;
        `outline`, see `make_outline`, "" without a mask; and `annotation`, as in a COCO json with
        this image as image 1, and with its `score`.

    Raises:
        UserError: the bytes are not an image that `Predictor` reads, or it is too large.
    """
    image = _read_upload(predictor, data)
    (instances,) = predictor.stream_packed([image])
    instances = instances[instances.scores.argsort(descending=True)]
    height, width = instances.image_size
    rgb = image[:, :, ::-1] if image.dtype == np.uint8 else scale_for_display(image)
    scale = min(1.0, _LARGEST_PICTURE / max(height, width))
    small = resize_picture(rgb, max(1, round(width * scale)), max(1, round(height * scale)))
    boxes = instances.pred_boxes.tensor.tolist()
    classes = instances.pred_classes.tolist()
    masks = instances.pred_masks if instances.has("pred_masks") else [None] * len(instances)
    annotations = convert_to_coco(instances, image_id=1)
    objects = []
    for number, (mask, annotation) in enumerate(zip(masks, annotations, strict=True)):
        segmentation = annotation.get("segmentation")
        area = coco_mask.area(segmentation) if segmentation else np.prod(annotation["bbox"][2:])
        annotation.update(
            id=number + 1,
            category_id=predictor.category_ids[classes[number]],
            area=round(float(area), 2),
            iscrowd=0,
            bbox=[round(value, 2) for value in annotation["bbox"]],
            score=round(annotation["score"], 6),
        )
        objects.append(
            {
                "class": classes[number],
                "box": [round(value, 2) for value in boxes[number]],
                "outline": "" if mask is None else make_outline(mask),
                "annotation": annotation,
            }
        )
    picture = encode_jpeg(np.ascontiguousarray(small), 90)
    return {"width": width, "height": height, "picture": picture, "objects": objects}


def make_outline(crop: MaskCrop) -> str:
    """Return the outlines of a mask as a path of SVG, in pixels of the image.

    Filled by the rule "evenodd" it covers the pixels of the mask. In a box of more than 4 million
    pixels only every second, third, ... row and column is traced.
    """
    step = int(np.ceil(np.sqrt(crop.mask.size / _TRACED))) or 1
    parts = []
    for loop in trace_loops(crop.mask[::step, ::step]):
        x, y = (loop[0] * step + (crop.left, crop.top)).tolist()
        moves = np.diff(loop, axis=0) * step  # horizontal and vertical in turn; "z" is the last one
        parts.append(f"M{x} {y}" + "".join(f"h{dx}" if dx else f"v{dy}" for dx, dy in moves) + "z")
    return "".join(parts)


def _read_upload(predictor: Predictor, data: bytes) -> npt.NDArray[Any]:
    """Return the image as `Predictor.read` does, with error messages that name no path."""
    suffix = next((end for start, end in _SUFFIXES if data.startswith(start)), "")
    with tempfile.TemporaryDirectory(prefix="mask_rcnn_ext_") as folder:
        path = Path(folder, f"upload{suffix}")
        path.write_bytes(data)
        try:
            _require_size(path, predictor.cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS)
            return predictor.read(path)
        except UserError as error:
            raise UserError(str(error).replace(f"{path}: ", "")) from error


def _require_size(path: Path, channels: int) -> None:
    """Refuse an image whose header says that it is too large, before its pixels are decoded."""
    if channels and path.suffix in (".npy", ".tif"):
        header = read_bands_header(path, channels)
        width, height = header.width, header.height
    else:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of large images, and odd headers
                with Image.open(path) as image:
                    width, height = image.size
        except Exception:  # `Predictor.read` says what is wrong
            return
    if width * height > MAX_PIXELS:
        raise UserError(
            f"the image has {width:,} x {height:,} pixels; the demo page takes up to "
            f"{MAX_PIXELS:,} in all. Scale it down, or use mask-rcnn-ext predict"
        )
