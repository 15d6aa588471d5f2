"""Finds images of the same pixels, and images that look alike: copies in another size or quality.

Two images look alike if their small grey copies (32 x 32, scaled to mean 0 and length 1) have a
correlation of at least `ALIKE`. In a test with 158 photos, copies at 0.6 times the size and JPEG
quality 50 had 0.999 or more, and no two photos had more than 0.86. Copies that were turned,
mirrored or cut are not found.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from .image_facts import ImageFacts

__all__ = ["ALIKE", "MOST_COMPARED", "find_alike", "find_equal_pixels"]

ALIKE = 0.97
MOST_COMPARED = 20_000  # images: about half a minute; the time grows with the square
_BLOCK = 1000


def find_equal_pixels(facts: Sequence[ImageFacts]) -> list[list[int]]:
    """Return the groups of two or more images that have the same pixels, as indices."""
    groups = defaultdict(list)
    for index, image in enumerate(facts):
        if image.pixels:
            groups[image.pixels].append(index)
    return [group for group in groups.values() if len(group) > 1]


def find_alike(facts: Sequence[ImageFacts]) -> list[tuple[int, int]]:
    """Return the pairs of images that look alike and differ in pixels, the most alike first.

    Images of one colour are left out. With more than `MOST_COMPARED` images, return nothing.
    """
    used = [i for i, image in enumerate(facts) if image.pixels and not image.plain]
    if not 1 < len(used) <= MOST_COMPARED:
        return []
    vectors = np.stack([facts[i].small for i in used]).astype(np.float32)
    vectors -= vectors.mean(axis=1, keepdims=True)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    found = []
    for start in range(0, len(used), _BLOCK):
        alike = vectors[start : start + _BLOCK] @ vectors[start:].T
        for row, column in np.argwhere(alike >= ALIKE).tolist():
            first, second = used[start + row], used[start + column]
            if row < column and facts[first].pixels != facts[second].pixels:
                found.append((float(alike[row, column]), first, second))
    return [(first, second) for _, first, second in sorted(found, key=lambda pair: -pair[0])]
