"""FCIS with several scales and a mirror, one RoI after the other, by hand where it is arithmetic.

Only the backbone, the convolutions and the pooling layer are the model's own.
"""

import math

import torch
from detectron2.data.transforms import ResizeTransform
from detectron2.structures import Boxes
from PIL import Image
from torch import Tensor


def looped_tta(
    model, image, boxes, *, sizes, best: float, mirror: bool
) -> list[tuple[list[float], Tensor, Tensor]]:
    """Return box, class probabilities (C,) and mask (P, P) of each RoI in each pass.

    Args:
        model: an FCIS.
        image: uint8 (3, 64, 96).
        boxes: XYXY_ABS, lists.
        sizes: the shorter sides of the scales, so that 3 / 2 of them are whole.
        best: side of a RoI at its scale.
        mirror: average with the mirrored image.
    """
    heads, maps, found = model.roi_heads, {}, []
    array = image.permute(1, 2, 0).numpy()
    for short in sizes:
        size = (short, short * 3 // 2)
        resized = ResizeTransform(64, 96, *size, Image.BILINEAR).apply_image(array)
        for mirrored in (False, True):
            pixels = resized[:, ::-1] if mirrored else resized
            tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
            features = model.backbone(model.preprocess_image([{"image": tensor}]).tensor)
            maps[short, mirrored] = heads.compute_maps(features)
    for _ in range(heads.num_passes):
        moved = []
        for x1, y1, x2, y2 in boxes:
            area = (x2 - x1) * (y2 - y1)
            short = min(sizes, key=lambda s, area=area: abs(area * (s / 64) ** 2 - best**2))
            scale, width = short / 64, short * 3 / 2
            probs, masks, deltas = [], [], []
            for mirrored in (False, True) if mirror else (False,):
                left, right = (width - x2 * scale, width - x1 * scale) if mirrored else (
                    x1 * scale, x2 * scale
                )  # fmt: skip
                roi = Boxes([[left, y1 * scale, right, y2 * scale]])
                scores, delta = (part[0] for part in heads.pool(maps[short, mirrored], [roi]))
                probs.append(scores.max(dim=1).values.mean(dim=(1, 2)).softmax(dim=0))
                mask = (scores[:, 1] - scores[:, 0]).sigmoid()
                masks.append(mask.flip(dims=[2]) if mirrored else mask)
                dx, *others = delta.tolist()
                deltas.append([-dx if mirrored else dx, *others])
            probs, masks = sum(probs) / len(probs), sum(masks) / len(masks)
            found.append(([x1, y1, x2, y2], probs, masks[probs[:-1].argmax()]))
            dx, dy, dw, dh = (sum(values) / len(values) for values in zip(*deltas, strict=True))
            x, y = (x1 + x2) / 2 + dx / 5 * (x2 - x1), (y1 + y2) / 2 + dy / 5 * (y2 - y1)
            w, h = (x2 - x1) * math.exp(dw / 2), (y2 - y1) * math.exp(dh / 2)
            corners = zip((x - w / 2, y - h / 2, x + w / 2, y + h / 2), (96, 64) * 2, strict=True)
            moved.append([min(max(value, 0), limit) for value, limit in corners])
        boxes = moved
    return found
