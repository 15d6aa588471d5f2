"""Pictures of instances: masks, boxes and labels on an image, and sheets of many such tiles.

detectron2's `Visualizer` draws through matplotlib: 0.1-0.3 s an image, soft outlines and large
labels on images of 160 pixels. `draw_instances` takes a few milliseconds with OpenCV and draws at
the resolution of the result, so that outlines stay crisp when a small image is enlarged.
"""

import base64
import colorsys
import io
import math
import os
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ...arrays import RGB, RGBArray
from ...files import atomic_open
from ...layers.packed_masks import MaskCrop, PackedMasks
from .sheets import resize_picture
from .text import TextStyle

__all__ = [
    "choose_color",
    "draw_instances",
    "encode_jpeg",
    "encode_jpegs",
    "save_png",
]

Rect = tuple[int, int, int, int]  # x0, y0, x1, y1; x1 and y1 are outside

# Strong on dark, light and coloured ground alike; neighbours differ in hue and in lightness.
_PALETTE: tuple[RGB, ...] = (
    (255, 82, 82),
    (41, 182, 246),
    (255, 202, 40),
    (124, 77, 255),
    (102, 217, 90),
    (255, 110, 196),
    (0, 191, 165),
    (255, 145, 0),
    (92, 124, 250),
    (198, 226, 40),
    (190, 86, 214),
    (0, 229, 255),
)
_FILL_OPACITY = 0.38
_LABELS_COVER = 0.16  # share of the picture: labels on more of it would hide what they name


def choose_color(index: int) -> RGB:
    """Return the colour (R, G, B), 0-255, of the instance at `index`."""
    if index < len(_PALETTE):
        return _PALETTE[index]
    # Steps of the golden ratio spread any number of hues evenly, and lightness alternates; the
    # constants keep the first 24 colours farthest apart.
    hue = (0.88 + index * 0.61803398875) % 1.0
    red, green, blue = colorsys.hls_to_rgb(hue, (0.36, 0.55, 0.65)[index % 3], 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_instances(
    image_rgb: RGBArray,
    masks: npt.NDArray[np.bool_] | PackedMasks | None = None,
    boxes: npt.NDArray[np.floating] | None = None,
    labels: Sequence[str] | None = None,
    scale: float = 1.0,
    color_ids: Sequence[int] | None = None,
) -> RGBArray:
    """Return a picture of `image_rgb` with its instances drawn over it.

    An instance's colour is `choose_color` of its index, or of its entry in `color_ids`. Large
    masks are drawn first, so small ones stay visible. A label sits near its box, or near its mask's
    box when `boxes` is None, inside the picture. Where labels crowd, one that would cover others,
    or bring them above 16 % of the picture, is left out: the first in the list win.

    Args:
        image_rgb: (H, W, 3) uint8; not changed.
        masks: (N, H, W) bool, or `PackedMasks`, or None.
        boxes: (N, 4) float, XYXY_ABS in pixels of `image_rgb`, or None.
        labels: N texts, "" for none; or None.
        scale: the result is this many times as large.
        color_ids: N indices for `choose_color`, to give an object one colour in two pictures.

    Returns:
        (max(1, round(H * scale)), max(1, round(W * scale)), 3) uint8.

    Raises:
        ValueError: a shape that does not fit, counts that differ, or a scale that is not positive.
    """
    image_rgb = np.asarray(image_rgb)
    count = _check(image_rgb, masks, boxes, labels, color_ids, scale)
    colors = [choose_color(i) for i in (range(count) if color_ids is None else color_ids)]
    height, width = (max(1, round(side * scale)) for side in image_rgb.shape[:2])
    canvas = resize_picture(image_rgb, width, height)
    line = max(1, round(math.hypot(height, width) / 320))

    regions: list[_Region | None] = [None] * count
    if masks is not None:
        crops = masks if isinstance(masks, PackedMasks) else (MaskCrop(0, 0, m) for m in masks)
        regions = [_scaled_region(crop, image_rgb.shape[:2], scale) for crop in crops]
    areas = [0 if region is None else int(region[1].sum()) for region in regions]
    order = sorted(range(count), key=lambda i: (-areas[i], i))
    for i in order:  # fills below all outlines: a neighbour's fill would dull a thin line
        if (region := regions[i]) is not None:
            _fill(canvas, region, colors[i])
    for i in order:
        if (region := regions[i]) is not None:
            _outline(canvas, region, colors[i], line)
    rects = [_box_rect(boxes, regions, i, scale) for i in range(count)]
    if boxes is not None:
        for i in order:
            if (rect := rects[i]) is not None:
                corner = (rect[2] - 1, rect[3] - 1)
                thickness = line if masks is None else max(1, line // 2)
                cv2.rectangle(canvas, rect[:2], corner, colors[i], thickness)
    if labels is not None:
        canvas = _draw_labels(canvas, rects, labels, colors)
    return canvas


def _check(
    image: RGBArray,
    masks: npt.NDArray[np.bool_] | PackedMasks | None,
    boxes: npt.NDArray[np.floating] | None,
    labels: Sequence[str] | None,
    color_ids: Sequence[int] | None,
    scale: float,
) -> int:
    """Return the number of instances."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image: expected (H, W, 3) uint8, got {image.shape} {image.dtype}")
    if not scale > 0:
        raise ValueError(f"scale: expected a positive number, got {scale}")
    if masks is not None and (
        len(masks.shape) != 3 or (len(masks) and masks.shape[1:] != image.shape[:2])
    ):
        raise ValueError(
            f"masks: expected (N, {image.shape[0]}, {image.shape[1]}), got {masks.shape}"
        )
    if boxes is not None and len(boxes) and boxes.shape[1:] != (4,):
        raise ValueError(f"boxes: expected (N, 4), got {boxes.shape}")
    given = {"masks": masks, "boxes": boxes, "labels": labels, "color_ids": color_ids}
    counts = {name: len(values) for name, values in given.items() if values is not None}
    if len(set(counts.values())) > 1:
        raise ValueError(f"expected one of each for every instance, got {counts}")
    return next(iter(counts.values()), 0)


# A mask's box at the scale of the picture and its mask within that box, uint8 of 0 and 1.
_Region = tuple[Rect, npt.NDArray[np.uint8]]


_LARGEST_SIDE = 32_000


def _scaled_region(mask: MaskCrop, image_size: Sequence[int], scale: float) -> _Region | None:
    """Return where a mask of an image of (H, W) lies in the scaled picture; None if it is empty.

    Only the mask's box is touched: a hundred full masks of a large photo would take seconds.
    """
    inner = mask.trim()
    if not inner.mask.size:
        return None
    top, left = inner.top, inner.left
    bottom, right = top + inner.mask.shape[0], left + inner.mask.shape[1]
    crop = np.pad(inner.mask.astype(np.float32), 1)
    # OpenCV before 4.12 takes sides below 32,767 only. Pictures of so large images are far smaller.
    every = -(-max(crop.shape) // _LARGEST_SIDE)
    crop = np.ascontiguousarray(crop[::every, ::every])
    height, width = (max(1, round(side * scale)) for side in image_size)
    rect = (
        int(max(0, math.floor(left * scale))),
        int(max(0, math.floor(top * scale))),
        int(min(width, math.ceil(right * scale))),
        int(min(height, math.ceil(bottom * scale))),
    )
    # Pixel u of the picture is centred at (u + 0.5) / scale - 0.5 of the image; the padded crop
    # starts at left - 1.
    step = 1.0 / scale
    to_crop = np.array(
        [
            [step, 0, (rect[0] + 0.5) * step - 0.5 - (left - 1)],
            [0, step, (rect[1] + 0.5) * step - 0.5 - (top - 1)],
        ]
    )
    to_crop /= every
    size = (max(1, rect[2] - rect[0]), max(1, rect[3] - rect[1]))
    soft = cv2.warpAffine(crop, to_crop, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return rect, (soft >= 0.5).astype(np.uint8)


def _fill(canvas: RGBArray, region: _Region, color: RGB) -> None:
    (x0, y0, x1, y1), mask = region
    window = canvas[y0:y1, x0:x1]
    inside = mask[: window.shape[0], : window.shape[1]].astype(bool)
    tint = np.array(color, dtype=np.float32) * _FILL_OPACITY
    window[inside] = (window[inside] * (1 - _FILL_OPACITY) + tint).round().astype(np.uint8)


def _outline(canvas: RGBArray, region: _Region, color: RGB, width: int) -> None:
    (x0, y0, _, _), mask = region
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    # OpenCV traces holes through the pixels around them, so both lines lie on the object.
    cv2.drawContours(canvas, contours, -1, color, width, cv2.LINE_AA, offset=(x0, y0))


def _box_rect(
    boxes: npt.NDArray[np.floating] | None, regions: list[_Region | None], index: int, scale: float
) -> Rect | None:
    """Return the box of an instance in pixels of the picture: the given one, else its mask's."""
    if boxes is None:
        region = regions[index]
        return None if region is None else region[0]
    box = np.asarray(boxes[index], dtype=np.float64) * scale
    if not np.isfinite(box).all():
        return None
    x0, y0, x1, y1 = (round(float(value)) for value in box)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def _overlap(rect: Rect, others: list[Rect]) -> float:
    """Return the share of `rect` that the others cover, summed."""
    covered = 0
    for other in others:
        width = min(rect[2], other[2]) - max(rect[0], other[0])
        height = min(rect[3], other[3]) - max(rect[1], other[1])
        covered += max(0, width) * max(0, height)
    return covered / max(1, (rect[2] - rect[0]) * (rect[3] - rect[1]))


def _place(
    rect: Rect, size: tuple[int, int], canvas: tuple[int, int], taken: list[Rect]
) -> Rect | None:
    """Return where a label of `size` (width, height) goes, or None when it would cover another."""
    width, height = size
    right = rect[2] - width
    candidates = (
        (rect[0], rect[1] - height),  # on top of the box
        (rect[0], rect[3]),  # below it
        (rect[0], rect[1]),  # within
        (right, rect[1] - height),
        (right, rect[3]),
        (right, rect[3] - height),
    )
    best, least = None, 0.25  # a label that hides a quarter of others does not help
    for x, y in candidates:
        x = max(0, min(x, canvas[0] - width))
        y = max(0, min(y, canvas[1] - height))
        place = (x, y, x + width, y + height)
        covered = _overlap(place, taken)
        if covered < least:
            best, least = place, covered
    return best


def _draw_labels(
    canvas: RGBArray, rects: list[Rect | None], labels: Sequence[str], colors: list[RGB]
) -> RGBArray:
    """Return `canvas` with the labels on chips in their instances' colours."""
    height, width = canvas.shape[:2]
    style = TextStyle(int(np.clip(round(math.hypot(height, width) / 45), 12, 40)))
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    taken: list[Rect] = []
    room = _LABELS_COVER * height * width
    for index, (rect, label) in enumerate(zip(rects, labels, strict=True)):
        if rect is None or not label:
            continue
        label = style.shorten(label, width - 6)
        size = (math.ceil(style.measure(label)) + 6, style.get_height())
        if room < size[0] * size[1]:
            continue
        if (place := _place(rect, size, (width, height), taken)) is None:
            continue
        room -= size[0] * size[1]
        taken.append(place)
        color = colors[index]
        draw.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=color)
        luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
        ink = (0, 0, 0) if luminance > 120 else (255, 255, 255)
        style.draw(draw, (place[0] + 3, place[1]), label, ink)
    return np.array(picture)


def save_png(path: str | os.PathLike[str], rgb: RGBArray, colors: int | None = None) -> None:
    """Write `rgb`, (H, W, 3) uint8, as a PNG, atomically; make its folder if missing.

    Args:
        path: the file to write.
        rgb: the picture.
        colors: the largest number of colours, up to 256, which makes the file of a noisy picture
            much smaller. None: all colours are kept.
    """
    encoded, picture = io.BytesIO(), Image.fromarray(rgb)
    if colors is not None:
        picture = picture.quantize(colors, dither=Image.Dither.NONE)
    picture.save(encoded, format="PNG", optimize=True)
    with atomic_open(path) as file:
        file.write(encoded.getvalue())


def encode_jpegs(rows: Sequence[Sequence[RGBArray]], best: int, limit: int) -> list[list[str]]:
    """Return the `encode_jpeg` of each picture, at a lower quality if they exceed `limit` bytes.

    The qualities `best`, 75, 60 and 45 are tried in turn. At 45 the pictures may still exceed it.
    """
    urls: list[list[str]] = []
    for quality in (best, 75, 60, 45):
        urls = [[encode_jpeg(picture, quality) for picture in row] for row in rows]
        if sum(len(url) for row in urls for url in row) <= limit:
            break
    return urls


def encode_jpeg(rgb: RGBArray, quality: int) -> str:
    """Return `rgb`, (H, W, 3) uint8, as the data URL of a JPEG of a quality up to 95."""
    encoded = io.BytesIO()
    Image.fromarray(rgb).save(encoded, format="JPEG", quality=quality, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode("ascii")
