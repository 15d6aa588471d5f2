"""Resizing images as detectron2 does, but never to a side of 0 pixels."""

from typing import Any

from detectron2.data import transforms as T

__all__ = ["ResizeShortestEdge"]


class ResizeShortestEdge(T.ResizeShortestEdge):
    """detectron2's augmentation of this name; the result has at least 1 pixel on each side.

    Where the longer side limits the size, detectron2 rounds the shorter side of a very long image
    to 0, which Pillow cannot draw: 2000 x 1 pixels become 240 x 0. All other images get the same
    pixels.
    """

    def get_transform(self, image: Any) -> Any:
        """Return the transform of `image`, (H, W) or (H, W, C), see the base class."""
        transform = super().get_transform(image)
        if isinstance(transform, T.ResizeTransform):
            transform.new_h = max(1, transform.new_h)
            transform.new_w = max(1, transform.new_w)
        return transform
