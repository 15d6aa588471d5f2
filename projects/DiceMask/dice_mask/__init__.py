"""A mask head with another loss; importing the package registers `DiceMaskHead`."""

from .dice_mask_head import DiceMaskHead, dice_loss

__all__ = ["DiceMaskHead", "dice_loss"]
