"""The largest number of pixels that this process reads; a small file can hold a very large image.

All readers use the limit of Pillow, which is a single number for the whole process.
"""

import warnings

from PIL import Image

from ..errors import UserError

__all__ = ["explain_limit", "get_pixel_limit", "require_pixels", "set_pixel_limit"]


def get_pixel_limit() -> int | None:
    """Return the highest number of pixels of an image; None if Pillow's limit is switched off."""
    return None if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def set_pixel_limit(pixels: int) -> None:
    """Let this process read images of up to `pixels` pixels; 0 keeps the present limit.

    Raises:
        UserError: the number is negative.
    """
    if pixels < 0:
        raise UserError(
            "MASK_RCNN_EXT.DATA.MAX_IMAGE_PIXELS: expected a number of pixels, or 0 for Pillow's "
            f"limit, got {pixels}"
        )
    half = -(-pixels // 2)  # Pillow refuses above twice its limit, and warns above it
    if pixels and half != Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = half
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def explain_limit(pixels: int) -> str:
    """Return in few words why an image with `pixels` pixels is not read, and how to fix it."""
    limit = get_pixel_limit() or pixels
    return (
        f"{pixels:,} pixels, more than the limit of {limit:,}; scale it down, or set "
        "MASK_RCNN_EXT.DATA.MAX_IMAGE_PIXELS to a higher limit (--max-image-pixels of "
        "check_dataset.py, preview_dataset.py and convert_dataset.py)"
    )


def require_pixels(pixels: int, name: str) -> None:
    """Check the number of pixels of an image before they are read.

    Raises:
        UserError: the image has more pixels than the limit; the message begins with `name`.
    """
    limit = get_pixel_limit()
    if limit is not None and pixels > limit:
        raise UserError(f"{name}: cannot be read as an image ({explain_limit(pixels)})")
