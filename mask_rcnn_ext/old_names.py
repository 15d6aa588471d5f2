"""The registered names and config keys of earlier versions, which old configs still contain.

All plugins of a process share detectron2's registries and configs: a registered name or a config
node belongs to the first project that uses it. So the names of this package begin with the name of
the package. An old name, without this prefix, is read as the new name, unless another project uses
it.
"""

import logging
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, ROI_BOX_HEAD_REGISTRY

__all__ = [
    "RENAMED_PARTS",
    "move_old_nodes",
    "rename_old_key",
    "rename_old_parts",
    "restore_old_names",
]

logger = logging.getLogger(__name__)

RENAMED_PARTS = {
    "FCIS": "MaskRCNNExtFCIS",
    "RCNN": "MaskRCNNExtRCNN",
    "ClassifierBoxHead": "MaskRCNNExtClassifierBoxHead",
    "build_alexnet_backbone": "mask_rcnn_ext_alexnet_backbone",
    "build_nonlocal_resnet_fpn_backbone": "mask_rcnn_ext_nonlocal_resnet_fpn_backbone",
    "build_timm_backbone": "mask_rcnn_ext_timm_backbone",
    "build_timm_fpn_backbone": "mask_rcnn_ext_timm_fpn_backbone",
    "build_tiny_resnet_backbone": "mask_rcnn_ext_tiny_resnet_backbone",
    "build_tiny_resnet_fpn_backbone": "mask_rcnn_ext_tiny_resnet_fpn_backbone",
    "build_vgg16_backbone": "mask_rcnn_ext_vgg16_backbone",
}
_MOVED_NODES = ("NON_LOCAL", "TIMM", "TINY_RESNET")  # from MODEL to MASK_RCNN_EXT


def rename_old_parts(cfg: CfgNode) -> None:
    """Replace old names of parts in `cfg`, in place, unless another project has registered them."""
    if "MODEL" not in cfg:  # a node below the root
        return
    model = cfg.MODEL
    for node, key, registry in (
        (model, "META_ARCHITECTURE", META_ARCH_REGISTRY),
        (model.BACKBONE, "NAME", BACKBONE_REGISTRY),
        (model.ROI_BOX_HEAD, "NAME", ROI_BOX_HEAD_REGISTRY),
    ):
        if node[key] in RENAMED_PARTS and node[key] not in registry:
            node[key] = RENAMED_PARTS[node[key]]


def rename_old_key(cfg: CfgNode, key: str) -> str:
    """Return the new name of `key`, with dots; return `key` if `cfg` has a node of this name."""
    first, *rest = key.split(".")
    if first == "MODEL" and len(rest) > 1 and rest[0] in _MOVED_NODES and rest[0] not in cfg.MODEL:
        return ".".join(["MASK_RCNN_EXT", *rest])
    return key


def move_old_nodes(cfg: CfgNode, loaded: CfgNode) -> CfgNode:
    """Return `loaded`, which will be merged into `cfg`, with its old nodes at their new places.

    A node that `cfg` already has belongs to another project and stays. If `loaded` has both the old
    and the new key, for example because an old config has a `_BASE_` of this package, the value of
    the old key counts, and a warning says so.
    """
    model = loaded.get("MODEL")
    if not isinstance(model, CfgNode) or "MODEL" not in cfg:
        return loaded
    old = [n for n in _MOVED_NODES if isinstance(model.get(n), CfgNode) and n not in cfg.MODEL]
    if not old:
        return loaded
    loaded = loaded.clone()
    ours = loaded.setdefault("MASK_RCNN_EXT", type(loaded)())
    for name in old:
        values = loaded.MODEL.pop(name)
        node = ours.setdefault(name, type(loaded)())
        for key in set(values) & set(node):
            logger.warning(
                "MODEL.%s.%s counts, not MASK_RCNN_EXT.%s.%s, its new name", name, key, name, key
            )
        node.update(values)
    return loaded


def restore_old_names(values: dict[str, Any]) -> dict[str, Any]:
    """Return `values`, {key with dots: value}, with the old keys and names of parts."""
    old_parts = {new: old for old, new in RENAMED_PARTS.items()}
    restored = {}
    for key, value in values.items():
        first, *rest = key.split(".")
        moved = first == "MASK_RCNN_EXT" and rest[0] in _MOVED_NODES
        restored[".".join(["MODEL", *rest]) if moved else key] = (
            old_parts.get(value, value) if isinstance(value, str) else value
        )
    return restored
