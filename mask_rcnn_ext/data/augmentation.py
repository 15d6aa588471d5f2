"""The augmentations of `MASK_RCNN_EXT.AUGMENTATION`, added to detectron2's own.

Order: crop (`INPUT.CROP`), resize with scale jitter and rotation, flips, colours, blur. Copy-paste
comes last: it takes two augmented images, see `copy_paste`. All numbers are drawn from NumPy's
global state, which the loader seeds for each sample.
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from torchvision.transforms.v2 import functional

from ..errors import UserError, require_range
from ..layers.resizing import ResizeScale

__all__ = [
    "Blur",
    "ChannelContrast",
    "RandomCrop",
    "Rotation",
    "SaturationAndHue",
    "ScaleJitter",
    "add_augmentations",
    "cuts_objects",
    "require_augmentation",
]

_HIGHEST = {
    "ROTATION": 180,
    "BRIGHTNESS": 1,
    "CONTRAST": 1,
    "SATURATION": 1,
    "HUE": 0.5,
    "COPY_PASTE": 1,
    "BLUR": 100,
}
_LARGEST_SCALE = 100.0


def cuts_objects(cfg: CfgNode) -> bool:
    """Return whether an augmentation cuts or turns objects, so their masks are drawn again."""
    keys = cfg.MASK_RCNN_EXT.AUGMENTATION
    return bool(keys.ROTATION or keys.SCALE_JITTER or keys.COPY_PASTE)


def require_augmentation(cfg: CfgNode) -> None:
    """Check the keys of `MASK_RCNN_EXT.AUGMENTATION`.

    Raises:
        UserError: a value is outside its range, or a key does not fit the images or the model.
    """
    keys = cfg.MASK_RCNN_EXT.AUGMENTATION
    for key, highest in _HIGHEST.items():
        require_range(f"MASK_RCNN_EXT.AUGMENTATION.{key}", keys[key], 0, highest)
    scales = keys.SCALE_JITTER
    if scales and not (len(scales) == 2 and 0 < scales[0] <= scales[1] <= _LARGEST_SCALE):
        raise UserError(
            "MASK_RCNN_EXT.AUGMENTATION.SCALE_JITTER: expected the smallest and the largest scale, "
            f"up to {_LARGEST_SCALE:g}, such as [0.5, 2.0], got {list(scales)}"
        )
    if keys.VERTICAL_FLIP and cfg.INPUT.RANDOM_FLIP == "vertical":
        raise UserError(
            "MASK_RCNN_EXT.AUGMENTATION.VERTICAL_FLIP and INPUT.RANDOM_FLIP vertical are the same "
            "flip. Set INPUT.RANDOM_FLIP horizontal to flip both ways, or none"
        )
    channels = cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS
    if (keys.SATURATION or keys.HUE) and channels:
        raise UserError(
            "MASK_RCNN_EXT.AUGMENTATION.SATURATION and HUE change the colours of 8-bit images, and "
            f"MASK_RCNN_EXT.DATA.IMAGE_CHANNELS is {channels}. Set both to 0; BRIGHTNESS, CONTRAST "
            "and BLUR work with any channels"
        )
    if (keys.SATURATION or keys.HUE) and cfg.INPUT.FORMAT not in ("BGR", "RGB"):
        raise UserError(
            "MASK_RCNN_EXT.AUGMENTATION.SATURATION and HUE change colours: expected INPUT.FORMAT "
            f"BGR or RGB, got {cfg.INPUT.FORMAT}. Set both to 0"
        )
    if keys.COPY_PASTE and (cfg.MODEL.LOAD_PROPOSALS or not cfg.MODEL.MASK_ON):
        raise UserError(
            "MASK_RCNN_EXT.AUGMENTATION.COPY_PASTE needs a model with masks (MODEL.MASK_ON True) "
            "that makes its own proposals (MODEL.LOAD_PROPOSALS False): stored proposals lack the "
            "pasted objects. Set COPY_PASTE 0"
        )


def add_augmentations(cfg: CfgNode, stock: list[T.Augmentation]) -> list[T.Augmentation]:
    """Return detectron2's augmentations together with the augmentations of our keys.

    Args:
        cfg: the config, see `require_augmentation`. With all keys at their defaults the result is
            `stock`.
        stock: the augmentations of detectron2's keys: a crop, a resize and a flip.
    """
    keys = cfg.MASK_RCNN_EXT.AUGMENTATION
    fill = list(cfg.MODEL.PIXEL_MEAN)
    if cfg.INPUT.FORMAT == "L" and not cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS:
        fill = [sum(fill) / len(fill)]  # the image has one channel, also with three means
    turn = [Rotation(keys.ROTATION, fill)] if keys.ROTATION else []
    found: list[T.Augmentation] = []
    for each in stock:
        if isinstance(each, T.ResizeShortestEdge) and keys.SCALE_JITTER:
            smallest, largest = keys.SCALE_JITTER
            found.append(ScaleJitter(each, smallest, largest, before_crop=turn))
        elif isinstance(each, T.ResizeShortestEdge):
            found += [each, *turn]
        elif type(each) is T.RandomCrop and cuts_objects(cfg):
            found.append(RandomCrop(each.crop_type, each.crop_size))
        else:
            found.append(each)
    if keys.VERTICAL_FLIP:
        found.append(T.RandomFlip(horizontal=False, vertical=True))
    if keys.BRIGHTNESS:
        found.append(T.RandomBrightness(1 - keys.BRIGHTNESS, 1 + keys.BRIGHTNESS))
    if keys.CONTRAST:
        contrast = ChannelContrast if cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS else T.RandomContrast
        found.append(contrast(1 - keys.CONTRAST, 1 + keys.CONTRAST))
    if keys.SATURATION or keys.HUE:
        bgr = cfg.INPUT.FORMAT == "BGR"
        found.append(SaturationAndHue(keys.SATURATION, keys.HUE, bgr=bgr))
    if keys.BLUR:
        found.append(Blur(keys.BLUR))
    return found


class _Cut(T.CropTransform):
    """A crop that only shifts polygons; detectron2's crop cuts them, for which it needs shapely.

    The bit masks that are drawn from the polygons end at the border of the image.
    """

    def apply_polygons(self, polygons: list[Any]) -> list[Any]:
        """Return the shifted polygons."""
        return [self.apply_coords(polygon) for polygon in polygons]


class RandomCrop(T.RandomCrop):
    """detectron2's `RandomCrop`; polygons are cut when their masks are drawn."""

    def get_transform(self, image: npt.NDArray[Any]) -> T.Transform:
        """Return the crop of an image, (H, W) or (H, W, C)."""
        cut = super().get_transform(image)
        return _Cut(cut.x0, cut.y0, cut.w, cut.h)


class ScaleJitter(T.Augmentation):
    """Large-scale jitter: resizes to a random multiple of the usual size, and crops to that size.

    Paper: Ghiasi et al. 2021 (arXiv:2012.07177), section 3. Differences from the paper: the scale 1
    is the size that detectron2's keys give the image, as in testing, not a square of 1024 pixels. A
    smaller image is not padded here, since the model pads a batch after it has subtracted the mean.
    The two offsets of the crop are independent; in detectron2's `FixedSizeCrop` both are the same
    share of the room.

    Args:
        resize: gives the usual size.
        smallest: the smallest scale, positive.
        largest: the largest scale.
        before_crop: augmentations between resize and crop.
    """

    def __init__(
        self,
        resize: T.ResizeShortestEdge,
        smallest: float,
        largest: float,
        before_crop: list[T.Augmentation],
    ) -> None:
        super().__init__()
        self._init(locals())

    def __call__(self, aug_input: T.AugInput) -> T.Transform:
        """Change `aug_input` in place; return the transform."""
        usual = self.resize.get_transform(aug_input.image)
        size = aug_input.image.shape[:2]
        if isinstance(usual, T.ResizeTransform):
            size = (usual.new_h, usual.new_w)
        scale = ResizeScale(self.smallest, self.largest, *size, interp=self.resize.interp)
        steps = [scale, *self.before_crop, RandomCrop("absolute", size)]
        return T.AugmentationList(steps)(aug_input)


class Rotation(T.Augmentation):
    """Turns the image about its centre by up to `limit` degrees to either side.

    The size stays: corners leave the image, and empty corners are filled with `fill`.

    Args:
        limit: degrees, at most 180.
        fill: C values, one for each channel, in the image's units.
    """

    def __init__(self, limit: float, fill: list[float]) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: npt.NDArray[Any]) -> T.Transform:
        """Return the rotation of an image, (H, W, C)."""
        angle = float(self._rand_range(-self.limit, self.limit))
        return _FilledRotation(image.shape[0], image.shape[1], angle, self.fill)


class _FilledRotation(T.RotationTransform):
    """detectron2's rotation, but with any fill (not only black) and any number of channels."""

    def __init__(self, h: int, w: int, angle: float, fill: list[float]) -> None:
        super().__init__(h, w, angle, expand=False)
        self.fill = fill

    def apply_image(self, img: npt.NDArray[Any], interp: Any = None) -> npt.NDArray[Any]:
        """Return the turned image, (H, W, C)."""
        channels = [
            self._warp(img[:, :, channel], cv2.INTER_LINEAR, value)
            for channel, value in zip(range(img.shape[2]), self.fill, strict=True)
        ]
        return np.stack(channels, axis=2)

    def apply_segmentation(self, segmentation: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the turned mask, (H, W)."""
        return self._warp(segmentation, cv2.INTER_NEAREST, 0)

    def _warp(self, plane: npt.NDArray[Any], interp: int, fill: float) -> npt.NDArray[Any]:
        warped: npt.NDArray[Any] = cv2.warpAffine(
            np.ascontiguousarray(plane), self.rm_image, (self.w, self.h), None, interp,
            cv2.BORDER_CONSTANT, fill,
        )  # fmt: skip
        return warped


class ChannelContrast(T.RandomContrast):
    """detectron2's `RandomContrast` around the mean of each channel, not the mean of all channels.

    The channels of a sensor can have very different ranges.
    """

    def get_transform(self, image: npt.NDArray[Any]) -> T.Transform:
        """Return the transform of an image, (H, W, C) float32."""
        factor = float(np.random.uniform(self.intensity_min, self.intensity_max))  # noqa: NPY002
        return T.BlendTransform(image.mean(axis=(0, 1)), 1 - factor, factor)


class SaturationAndHue(T.Augmentation):
    """Changes saturation and hue with torchvision's functions.

    detectron2 has no augmentation of hue, and its saturation treats every image as RGB.

    Args:
        saturation: the factor is drawn from 1 - saturation to 1 + saturation.
        hue: the shift is drawn from -hue to hue; 0.5 is half the circle of colours.
        bgr: the order of the channels is BGR, otherwise RGB.
    """

    def __init__(self, saturation: float, hue: float, *, bgr: bool) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: npt.NDArray[Any]) -> T.Transform:
        """Return the transform of an image, (H, W, 3) uint8."""
        factor = float(self._rand_range(1 - self.saturation, 1 + self.saturation))
        shift = float(self._rand_range(-self.hue, self.hue))
        order = slice(None, None, -1 if self.bgr else 1)

        def recolour(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
            rgb = torch.from_numpy(np.ascontiguousarray(pixels[:, :, order])).permute(2, 0, 1)
            changed = functional.adjust_hue(functional.adjust_saturation(rgb, factor), shift)
            return changed.permute(1, 2, 0).numpy()[:, :, order]

        return T.ColorTransform(recolour)


class Blur(T.Augmentation):
    """Blurs with a Gaussian whose sigma is drawn from 0 to `limit` pixels."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: npt.NDArray[Any]) -> T.Transform:
        """Return the transform of an image, (H, W, C)."""
        sigma = float(self._rand_range(0.01, max(0.01, self.limit)))

        def blur(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
            blurred = cv2.GaussianBlur(np.ascontiguousarray(pixels), (0, 0), sigma)
            return blurred.reshape(pixels.shape)

        return T.ColorTransform(blur)
