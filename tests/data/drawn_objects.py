"""Pictures in which each object has a colour of its own, so that its pixels tell where it is."""

import numpy as np
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as mask_util
from tiny_model import picture, tiny_cfg

SIZE = (90, 140)  # height, width
OUTLINES = (  # x, y, ...: a slim triangle, a quadrangle at the border, an L
    [10, 20, 60, 30, 15, 70],
    [100, 0, 139, 10, 139, 50, 90, 40],
    [60, 60, 130, 60, 130, 70, 72, 70, 72, 88, 60, 88],
)


def draw_record(path, mask_format: str, shift: int = 0) -> dict:
    """Draw three objects, one in each channel (RGB); return the record."""
    channels = [Image.new("L", SIZE[::-1]) for _ in OUTLINES]
    annotations = []
    for index, (channel, outline) in enumerate(zip(channels, OUTLINES, strict=True)):
        corners = [v - shift if i % 2 == 0 else v for i, v in enumerate(outline)]
        points = list(zip(corners[::2], corners[1::2], strict=True))
        annotation = {"category_id": index, "bbox_mode": BoxMode.XYXY_ABS, "iscrowd": 0}
        xs, ys = zip(*points, strict=True)
        annotation["bbox"] = [min(xs), min(ys), max(xs), max(ys)]
        rle = mask_util.merge(mask_util.frPyObjects([corners], *SIZE))
        pixels = mask_util.decode(rle)
        channel.paste(Image.fromarray(pixels * 255))
        if mask_format == "polygon":
            annotation["segmentation"] = [corners]
        elif mask_format == "rle":
            annotation["segmentation"] = rle
        annotation["keypoints"] = [*points[0], 2, *points[1], 2]
        annotations.append(annotation)
    Image.merge("RGB", channels).save(path)
    height, width = SIZE
    return {
        "file_name": str(path), "height": height, "width": width, "image_id": 1,
        "annotations": annotations,
    }  # fmt: skip


def write_record(path, height: int, width: int) -> dict:
    """Write an image that one object covers; return the record."""
    Image.fromarray(picture(height, width)).save(path)
    outline = [[0, 0, width, 0, width, height, 0, height]]
    annotation = {"bbox": [0, 0, width, height], "bbox_mode": BoxMode.XYXY_ABS}
    return {
        "file_name": str(path), "height": height, "width": width, "image_id": 1,
        "annotations": [{**annotation, "segmentation": outline, "category_id": 0}],
    }  # fmt: skip


def make_cfg(**keys):
    """Return a config with keys of `MASK_RCNN_EXT.AUGMENTATION`; images keep their colours."""
    cfg = tiny_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (120,), 400
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.FORMAT = "none", "RGB"
    cfg.MODEL.PIXEL_MEAN = [0.0, 0.0, 0.0]  # rotation fills with it; the background is black too
    for key, value in keys.items():
        cfg.MASK_RCNN_EXT.AUGMENTATION[key] = value
    return cfg


def object_pixels(sample, label: int) -> np.ndarray:
    """Where the picture shows the object of a class."""
    return sample["image"][label].numpy() > 127


def iou(a, b) -> float:
    return (a & b).sum() / max(1, (a | b).sum())


def tight_box(pixels) -> list[int]:
    rows, columns = (np.flatnonzero(pixels.any(axis=axis)) for axis in (1, 0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
