"""Recall of proposals, counted object by object."""


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def recall_at(images, least):
    """`images`: (proposals, objects) pairs of XYXY boxes."""
    found = count = 0
    for proposals, objects in images:
        for target in objects:
            count += 1
            found += any(iou(box, target) >= least for box in proposals)
    return 100 * found / count
