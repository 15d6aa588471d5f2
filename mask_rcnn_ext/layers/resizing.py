"""Resizing images and masks as detectron2 does, but never to a side of 0 pixels."""

from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from torch.nn.functional import interpolate

__all__ = ["ResizeScale", "ResizeShortestEdge"]


class ResizeShortestEdge(T.ResizeShortestEdge):
    """detectron2's augmentation of this name; the result has at least 1 pixel on each side.

    Where the longer side limits the size, detectron2 rounds the shorter side of a very long image
    to 0, which Pillow cannot draw: 2000 x 1 pixels become 240 x 0. All other images get the same
    pixels. Resized arrays can be written to; PyTorch warns about detectron2's, which cannot.
    """

    def get_transform(self, image: Any) -> Any:
        """Return the transform of `image`, (H, W) or (H, W, C), see the base class."""
        return _keep_sides(super().get_transform(image))


class ResizeScale(T.ResizeScale):
    """detectron2's augmentation of this name; the result has at least 1 pixel on each side."""

    def get_transform(self, image: Any) -> Any:
        """Return the transform of `image`, (H, W) or (H, W, C), see the base class."""
        return _keep_sides(super().get_transform(image))


def _keep_sides(transform: Any) -> Any:
    if not isinstance(transform, T.ResizeTransform):
        return transform
    height, width = max(1, transform.new_h), max(1, transform.new_w)
    return _Resize(transform.h, transform.w, height, width, transform.interp)


class _Resize(T.ResizeTransform):
    def apply_image(self, img: Any, interp: Any = None) -> Any:
        if img.dtype == np.float32 and interp is None:
            return self._resize_float(img)
        resized = super().apply_image(img, interp)
        return resized if resized.flags.writeable else resized.copy()

    def _resize_float(self, image: Any) -> Any:
        """Resize (H, W, C) float32 as Pillow resizes uint8; detectron2 would skip pixels."""
        channels_first = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        size = (self.new_h, self.new_w)
        resized = interpolate(channels_first[None], size, mode="bilinear", antialias=True)[0]
        return resized.permute(1, 2, 0).numpy()
