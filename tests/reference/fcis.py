"""FCIS as literal loops, in float64: pooling, targets, losses, hard examples and mask voting.

Written from the published arithmetic (arXiv:1611.07709 and the constants of its release), one
number at a time. Boxes are continuous (x1, y1, x2, y2): an inclusive pixel box [a, b] is [a, b + 1]
here, so that no + 1 remains. Classes are 0..K-1, the background is K. Scores S are arrays
(R, K + 1, 2, P, P), [:, :, 0] outside and [:, :, 1] inside.
"""

import math

import numpy as np
import torch
from torchvision.ops import roi_align

from .rcnn_svm import iou, target_loop
from .roi_layers import bilinear, c_round

STDS = (0.2, 0.2, 0.5, 0.5)  # of the box targets


def window(low, high, index, size, scale, limit):
    """Return [a, b), what output cell `index` averages along one axis; in float32."""
    f = np.float32
    start = f(c_round(low)) * f(scale)
    end = f(c_round(high)) * f(scale)
    step = max(f(end - start), f(0.1)) / f(size)
    a = math.floor(f(index) * step + start)
    b = math.ceil(f(index + 1) * step + start)
    return min(max(a, 0), limit), min(max(b, 0), limit)


def ps_roi_pool(features, rois, bins, size, scale):
    """Return (R, D, size, size): the mean of each cell's window in the channel of its bin."""
    _, channels, height, width = features.shape
    depth = channels // bins**2
    output = np.zeros((len(rois), depth, size, size))
    for n, (image, x1, y1, x2, y2) in enumerate(rois):
        for i in range(size):
            top, bottom = window(y1, y2, i, size, scale, height)
            for j in range(size):
                left, right = window(x1, x2, j, size, scale, width)
                if bottom <= top or right <= left:
                    continue
                for d in range(depth):
                    channel = (d * bins + i * bins // size) * bins + j * bins // size
                    cells = features[int(image), channel, top:bottom, left:right]
                    output[n, d, i, j] = cells.astype(np.float64).mean()
    return output


def ps_roi_align(features, rois, bins, size, scale, samples):
    """Return (R, D, size, size): RoIAlign of each bin as if it were a RoI."""
    depth, cells = features.shape[1] // bins**2, size // bins
    output = features.new_zeros(len(rois), depth, size, size)
    for n, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        for gh in range(bins):
            for gw in range(bins):
                channels = [(d * bins + gh) * bins + gw for d in range(depth)]
                across, down = (x2 - x1) / bins, (y2 - y1) / bins
                box = [0, x1 + gw * across, y1 + gh * down]
                box += [x1 + (gw + 1) * across, y1 + (gh + 1) * down]
                pooled = roi_align(
                    features[int(image)][channels][None],
                    torch.tensor([box], dtype=features.dtype),
                    (cells, cells),
                    scale,
                    samples,
                    aligned=True,
                )
                rows = slice(gh * cells, (gh + 1) * cells)
                output[n, :, rows, gw * cells : (gw + 1) * cells] = pooled[0]
    return output


def resize(image, height, width):
    """Bilinear, centres of pixels at .5, clamped at the border, no averaging."""
    rows, columns = image.shape
    output = np.zeros((height, width))
    for i in range(height):
        y = (i + 0.5) * rows / height - 0.5
        for j in range(width):
            x = (j + 0.5) * columns / width - 0.5
            output[i, j] = bilinear(image[None], x, y, outside=0.5)[0]
    return output


def pixels(box):
    """Return a box in whole pixels: first and last one rounded by NumPy, halves to even."""
    x1, y1, x2, y2 = (float(v) for v in box)
    first, last = np.round([x1, y1]), np.round([x2 - 1, y2 - 1])
    return *map(int, first), *map(int, last + 1)


def mask_target(mask, box, gt_box, size, threshold=0.4):
    """Return (size, size) bool: the object's mask on a canvas of the RoI's size, resized."""
    x1, y1, x2, y2 = pixels(box)
    gx1, gy1, gx2, gy2 = pixels(gt_box)
    canvas = np.zeros((max(y2 - y1, 1), max(x2 - x1, 1)))
    for y in range(max(y1, gy1), min(y2, gy2)):
        for x in range(max(x1, gx1), min(x2, gx2)):
            canvas[y - y1, x - x1] = mask[y, x]
    return resize(canvas, size, size) >= threshold


def label(box, gt_boxes, gt_classes, background):
    """Return the class of a RoI, and the number of its object (None: background)."""
    ious = [iou(box, gt) for gt in gt_boxes]
    if not ious or max(ious) < 0.5:
        return background, None
    best = ious.index(max(ious))
    return gt_classes[best], best


def encode(box, gt):
    """Return the four box targets."""
    return [t / std for t, std in zip(target_loop(box, gt), STDS, strict=True)]


def decode(box, deltas, height, width):
    """Return the box that the deltas move a box to, clipped to the image."""
    dx, dy, dw, dh = (float(t) * std for t, std in zip(deltas, STDS, strict=True))
    w, h = box[2] - box[0], box[3] - box[1]
    x, y = (box[0] + box[2]) / 2 + dx * w, (box[1] + box[3]) / 2 + dy * h
    w, h = w * math.exp(dw), h * math.exp(dh)
    corners = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    limits = (width, height, width, height)
    return [min(max(v, 0), limit) for v, limit in zip(corners, limits, strict=True)]


def class_logits(scores):
    """Return the logits of one RoI's classes: the mean over cells of max(outside, inside)."""
    side = scores.shape[-1]
    return [
        sum(max(c[0, i, j], c[1, i, j]) for i in range(side) for j in range(side)) / side**2
        for c in scores
    ]


def roi_loss(scores, deltas, class_, target, delta_targets):
    """Return one RoI's unweighted (class, mask, box) losses.

    The last two are 0 for the background, whose `target` and `delta_targets` are None.
    """
    logits = class_logits(scores)
    classification = math.log(sum(math.exp(z) for z in logits)) - logits[class_]
    if class_ == len(scores) - 1:
        return classification, 0.0, 0.0
    outside, inside = scores[class_]
    side = len(outside)
    mask = 0.0
    for i in range(side):
        for j in range(side):
            right = inside[i, j] if target[i, j] else outside[i, j]
            both = math.log(math.exp(inside[i, j]) + math.exp(outside[i, j]))
            mask += (both - right) / side**2
    differences = [abs(a - b) for a, b in zip(deltas, delta_targets, strict=True)]
    return classification, mask, sum(0.5 * d * d if d < 1 else d - 0.5 for d in differences)


def image_losses(per_roi, count, ohem):
    """Return an image's (class, mask, box) losses, weighted 1, 10, 1.

    `per_roi` are the results of `roi_loss`; with `ohem` only the `count` RoIs of the largest
    weighted sum stay. The mean of the class losses is over these RoIs, the others are divided by
    `count`.
    """
    if ohem:
        per_roi = sorted(per_roi, key=lambda r: r[0] + 10 * r[1] + r[2], reverse=True)[:count]
    if not per_roi:
        return 0.0, 0.0, 0.0
    classification, mask, box = (sum(r[i] for r in per_roi) for i in range(3))
    return classification / len(per_roi), 10 * mask / count, box / count


def nms(boxes, scores, threshold):
    """Greedy NMS over all boxes; return the indices of those that stay, best first."""
    kept = []
    for index in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(iou(boxes[index], boxes[other]) <= threshold for other in kept):
            kept.append(index)
    return kept


def detections(boxes, probs, *, nms_threshold=0.3, floor=1e-3, limit=100):
    """Return the (RoI, class) pairs that are detections, of all classes together."""
    kept = [
        (index, c)
        for c in range(probs.shape[1])
        for index in nms(boxes, probs[:, c], nms_threshold)[:limit]
    ]
    scores = sorted((probs[index, c] for index, c in kept), reverse=True)
    tau = max(scores[min(limit, len(scores)) - 1], floor) if scores else floor
    return [(index, c) for index, c in kept if probs[index, c] >= tau]


def paste(mask, box, height, width, threshold=0.4):
    """Return (H, W) bool: a RoI's mask in its rounded box, cut at the threshold."""
    x1, y1, x2, y2 = pixels(box)
    resized = resize(mask, max(y2 - y1, 1), max(x2 - x1, 1)) >= threshold
    canvas = np.zeros((height, width), dtype=bool)
    for y in range(len(resized)):
        for x in range(len(resized[0])):
            if 0 <= y1 + y < height and 0 <= x1 + x < width:
                canvas[y1 + y, x1 + x] = resized[y, x]
    return canvas


def vote(boxes, probs, masks, height, width, *, threshold=0.4, vote_iou=0.5, **selection):
    """Return a list of (class, score, box, mask), by mask voting at full resolution.

    The release resamples the averaged mask to P x P and pastes that again, which is left out here.
    """
    pasted = [paste(m, b, height, width, threshold) for m, b in zip(masks, boxes, strict=True)]
    found = []
    for roi, c in detections(boxes, probs, **selection):
        voters = [m for m in range(len(boxes)) if iou(boxes[m], boxes[roi]) >= vote_iou]
        total = sum(probs[m, c] for m in voters)
        mean = np.zeros((height, width))
        for m in voters:
            mean += probs[m, c] / total * pasted[m]
        mask = mean >= threshold
        if mask.any():
            rows, columns = np.nonzero(mask)
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            found.append((c, probs[roi, c], box, mask))
    return found
