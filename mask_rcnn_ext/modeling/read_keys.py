"""Checks, before training, that no key is set which the parts of the model do not read."""

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, ROI_MASK_HEAD_REGISTRY, GeneralizedRCNN
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from detectron2.utils.registry import Registry

from ..config import find_changed_keys, flat_config
from ..errors import UserError
from .checks import is_generalized_rcnn
from .meta_arch import MaskRCNN
from .roi_heads import MaskRCNNFCNHead

__all__ = ["require_read_keys"]

# Keys that this package's class reads and detectron2's own does not: the key of the class, both
# classes, and the keys.
_READERS: tuple[tuple[Registry, str, type, type, tuple[str, ...]], ...] = (
    (
        *(ROI_MASK_HEAD_REGISTRY, "MODEL.ROI_MASK_HEAD.NAME"),
        *(MaskRCNNConvUpsampleHead, MaskRCNNFCNHead),
        (
            *(f"MODEL.ROI_MASK_HEAD.{name}" for name in ("LOSS", "OUTPUT_RESOLUTION")),
            "MASK_RCNN_EXT.MASK_HEAD.PREDICTOR_STD",
        ),
    ),
    (
        *(META_ARCH_REGISTRY, "MODEL.META_ARCHITECTURE", GeneralizedRCNN, MaskRCNN),
        ("MODEL.ROI_MASK_HEAD.PASTE_THRESH",),
    ),
)


# Key of a part, the part, and for each key that it does not read what to set instead.
_UNREAD: tuple[tuple[str, str, dict[str, str]], ...] = (
    (
        *("MODEL.META_ARCHITECTURE", "MaskRCNNExtFCIS"),
        {"MODEL.ROI_MASK_HEAD.PASTE_THRESH": "MODEL.FCIS.MASK_THRESH"},
    ),
    (
        *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"),
        {"MODEL.ROI_BOX_HEAD.DROPOUT": "MODEL.ROI_BOX_HEAD.NAME MaskRCNNExtClassifierBoxHead"},
    ),
    (
        # Each level of an FPN has half of the resolution of the level before.
        *("MODEL.BACKBONE.NAME", "mask_rcnn_ext_tiny_resnet_fpn_backbone"),
        dict.fromkeys(
            ("MODEL.RESNETS.RES5_DILATION", "MASK_RCNN_EXT.TINY_RESNET.RES4_DILATION"),
            "MODEL.BACKBONE.NAME mask_rcnn_ext_tiny_resnet_backbone",
        ),
    ),
)


def require_read_keys(cfg: CfgNode) -> None:
    """Check, before training, that no key is set that the parts of the model do not read.

    Keys whose name says which part reads them, such as `MODEL.FCIS`, are not checked.

    Call it after `check_registry_names`.

    Raises:
        UserError: there is such a key.
    """
    values, changed = dict(flat_config(cfg)), find_changed_keys(cfg)
    for key, part, unread in _UNREAD:
        for name in unread if values[key] == part else ():
            if name in changed:
                raise UserError(
                    f"{name} {changed[name]}: {part} does not read this key. Leave the key out, "
                    f"or set {unread[name]}"
                )
    if not (is_generalized_rcnn(cfg) and cfg.MODEL.MASK_ON):
        return
    for registry, key, stock, ours, names in _READERS:
        if values[key] not in registry or registry.get(values[key]) is not stock:
            continue  # no name: a project's RoI heads may need none
        for name in names:
            if name in changed:
                raise UserError(
                    f"{name} {changed[name]}: detectron2's {stock.__name__} does not read this "
                    f"key. Leave the key out, or set {key} {ours.__name__}"
                )
