"""Checks of a config before its model is built: names of parts, parts that fit, training data.

Without these checks detectron2 would fail with an assertion, or only during training.
"""

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    GeneralizedRCNN,
    PanopticFPN,
)
from detectron2.modeling.meta_arch import ProposalNetwork
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY
from detectron2.modeling.roi_heads import (
    Res5ROIHeads,
    StandardROIHeads,
)
from detectron2.utils.registry import Registry

from ..config import flat_config
from ..errors import UserError, count_noun, nearest, require_choice
from ..old_names import RENAMED_PARTS
from .fcis import FCIS, FCISROIHeads
from .meta_arch import MaskRCNN
from .poolers import OUR_TYPES
from .rcnn import RCNN, RCNNROIHeads
from .rcnn.roi_heads import SVM_TRAINING
from .roi_heads import MaskRCNNFCNHead, MaskRCNNMLPHead, MaskRCNNRes5ROIHeads, MaskRCNNROIHeads

__all__ = [
    "check_registry_names",
    "is_fcis",
    "is_generalized_rcnn",
    "is_rcnn",
    "require_fitting_parts",
    "require_fitting_training_data",
    "require_keypoints",
    "require_known_classes",
]

_STOCK_POOLER_TYPES = ("ROIAlign", "ROIAlignV2", "ROIPool")


def is_generalized_rcnn(cfg: CfgNode) -> bool:
    """Return whether the config's meta-architecture is a `GeneralizedRCNN` or a subclass."""
    return _is_registered_as(META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE, GeneralizedRCNN)


def is_fcis(cfg: CfgNode) -> bool:
    """Return whether the config's meta-architecture is an `FCIS` or a subclass."""
    return _is_registered_as(META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE, FCIS)


def is_rcnn(cfg: CfgNode) -> bool:
    """Return whether the config's meta-architecture is an `RCNN` or a subclass."""
    return _is_registered_as(META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE, RCNN)


def _is_registered_as(registry: Registry, name: str, base: type) -> bool:
    """Return whether `name` is registered as `base` or as a subclass of it."""
    registered = registry.get(name) if name in registry else None
    return isinstance(registered, type) and issubclass(registered, base)


def require_fitting_parts(cfg: CfgNode) -> None:
    """Check that the RoI heads fit the meta-architecture, the RoI layers and the mask head.

    Call it after `check_registry_names`.

    Raises:
        UserError: FCIS or R-CNN has heads of another method, or their heads belong to another
            meta-architecture; R-CNN has no stored proposals, or has masks or keypoints; or
            detectron2's RoI heads get a RoI layer of this package, or a mask head that would be
            built for the wrong side.
    """
    if not is_generalized_rcnn(cfg):
        return
    roi_heads = ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)
    _require_both_of_a_method(cfg, roi_heads)
    if is_rcnn(cfg):
        _require_rcnn_parts(cfg)
    # Subclasses are not checked: a class of another project may build other parts.
    if roi_heads not in (Res5ROIHeads, StandardROIHeads):
        return
    on_res5 = roi_heads is Res5ROIHeads
    ours = MaskRCNNRes5ROIHeads if on_res5 else MaskRCNNROIHeads
    used = ["ROI_BOX_HEAD"]
    if not on_res5:
        used += ["ROI_MASK_HEAD"] * cfg.MODEL.MASK_ON
        used += ["ROI_KEYPOINT_HEAD"] * cfg.MODEL.KEYPOINT_ON
    for head in used:
        if cfg.MODEL[head].POOLER_TYPE in OUR_TYPES:
            raise UserError(
                f"MODEL.{head}.POOLER_TYPE: detectron2's {roi_heads.__name__} knows only "
                f"{', '.join(_STOCK_POOLER_TYPES)}, got {cfg.MODEL[head].POOLER_TYPE!r}. "
                f"Set MODEL.ROI_HEADS.NAME to {ours.__name__}"
            )
    if on_res5 and cfg.MODEL.MASK_ON and _has_fixed_side(cfg):
        raise UserError(
            "MODEL.ROI_HEADS.NAME: detectron2's Res5ROIHeads builds the mask head for the side "
            f"before res5 halves it, where {cfg.MODEL.ROI_MASK_HEAD.NAME} cannot work. Set "
            f"MODEL.ROI_HEADS.NAME to {ours.__name__}"
        )


# Pairs of heads and their meta-architecture: both classes, a task of each for messages, and the
# registered name of the meta-architecture.
_PAIRS = (
    (
        *(FCISROIHeads, FCIS, "return RoIs for mask voting", "turns RoIs into detections"),
        "MaskRCNNExtFCIS",
    ),
    (RCNNROIHeads, RCNN, "read maps of crops", "crops the proposals", "MaskRCNNExtRCNN"),
)


def _require_both_of_a_method(cfg: CfgNode, roi_heads: Any) -> None:
    """Check that FCIS and R-CNN have both their meta-architecture and their heads."""
    architecture, name = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME
    if not isinstance(roi_heads, type):  # a function, which may return any heads
        return
    for heads, kind, heads_task, task, registered in _PAIRS:
        belongs = issubclass(roi_heads, heads)
        if _is_registered_as(META_ARCH_REGISTRY, architecture, kind) and not belongs:
            raise UserError(
                f"MODEL.META_ARCHITECTURE {architecture}: expected heads that {heads_task}, got "
                f"{name}. Set MODEL.ROI_HEADS.NAME {heads.__name__}"
            )
        # Subclasses are not checked: a class of another project may take these heads.
        others = {GeneralizedRCNN, PanopticFPN, MaskRCNN, FCIS, RCNN} - {kind}
        if belongs and META_ARCH_REGISTRY.get(architecture) in others:
            raise UserError(
                f"MODEL.ROI_HEADS.NAME {name}: expected the meta-architecture that {task}, got "
                f"{architecture}. Set MODEL.META_ARCHITECTURE {registered}"
            )


def _require_rcnn_parts(cfg: CfgNode) -> None:
    """Check that R-CNN reads stored proposals and finds boxes only."""
    name = cfg.MODEL.PROPOSAL_GENERATOR.NAME
    if not cfg.MODEL.LOAD_PROPOSALS or name != "PrecomputedProposals":
        raise UserError(
            "MODEL.META_ARCHITECTURE MaskRCNNExtRCNN reads stored proposals: expected "
            "MODEL.PROPOSAL_GENERATOR.NAME PrecomputedProposals and MODEL.LOAD_PROPOSALS True, got "
            f"{name!r} and {cfg.MODEL.LOAD_PROPOSALS}. Set both; mask-rcnn-ext proposals writes "
            "the files"
        )
    for key in ("MASK_ON", "KEYPOINT_ON"):
        if cfg.MODEL[key]:
            raise UserError(
                f"MODEL.{key}: R-CNN finds boxes only, expected False, got True. Set MODEL.{key} "
                "False"
            )


def _has_fixed_side(cfg: CfgNode) -> bool:
    """Return whether the mask head is this package's and takes only one side of its input."""
    mask_head = ROI_MASK_HEAD_REGISTRY.get(cfg.MODEL.ROI_MASK_HEAD.NAME)
    if not isinstance(mask_head, type):
        return False
    resized = cfg.MODEL.ROI_MASK_HEAD.OUTPUT_RESOLUTION > 0
    return issubclass(mask_head, MaskRCNNMLPHead) or (
        resized and issubclass(mask_head, MaskRCNNFCNHead)
    )


def require_keypoints(cfg: CfgNode, name: str, number: int, fix: str) -> None:
    """Check that the model has as many keypoints as a data set.

    Args:
        cfg: the config.
        name: the name of the data set.
        number: the number of keypoints of its objects.
        fix: the end of the message, which says what to do.

    Raises:
        UserError: the numbers differ.
    """
    expected = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    if number != expected:
        raise UserError(
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {expected}, but data set {name} has "
            f"{count_noun(number, 'keypoint')}. {fix}"
        )


def require_known_classes(cfg: CfgNode, dicts: Iterable[Mapping[str, Any]]) -> None:
    """Check that the model has the classes of the training images.

    Args:
        cfg: the config; only a `GeneralizedRCNN` or a subclass is checked.
        dicts: the images in detectron2's format; crowd regions, on which no model is trained, may
            have other classes.

    Raises:
        UserError: the class of an object is `MODEL.ROI_HEADS.NUM_CLASSES` or more.
    """
    if not is_generalized_rcnn(cfg):
        return
    known = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    objects = (each for record in dicts for each in record.get("annotations") or ())
    classes = (each.get("category_id") for each in objects if not each.get("iscrowd", 0))
    highest = max((number for number in classes if isinstance(number, Integral)), default=-1)
    if highest >= known:
        raise UserError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {known}, but an object in DATASETS.TRAIN "
            f"({', '.join(cfg.DATASETS.TRAIN)}) has the class {highest}, and classes count from 0. "
            f"Set MODEL.ROI_HEADS.NUM_CLASSES {highest + 1} or more"
        )


def require_fitting_training_data(cfg: CfgNode) -> None:
    """Check the settings that only training needs: image sizes, bit masks, scorer, keypoints.

    Call it after the data sets are registered.

    Raises:
        UserError: a name is none that detectron2 knows, or empty; there is no size of images, a
            crop has no size, or a range of sizes does not have two ends; FCIS would get polygons;
            R-CNN's SVMs would be trained by gradients; a data set does not describe its keypoints
            and how a flip exchanges them; or it has another number of keypoints than the model.
    """
    _require_known_names(cfg)
    _require_fitting_crop(cfg)
    _require_fitting_images(cfg)
    if is_fcis(cfg) and cfg.INPUT.MASK_FORMAT != "bitmask":
        raise UserError(
            "INPUT.MASK_FORMAT: FCIS samples its mask targets from bit masks: expected "
            f"'bitmask', got {cfg.INPUT.MASK_FORMAT!r}. Set INPUT.MASK_FORMAT bitmask; polygons "
            "are then drawn as bit masks when they are read"
        )
    if is_rcnn(cfg) and cfg.MODEL.RCNN.SCORER == "svm":
        raise UserError(SVM_TRAINING)
    if not cfg.MODEL.KEYPOINT_ON:
        return
    for name in cfg.DATASETS.TRAIN:
        keypoints = MetadataCatalog.get(name).get("keypoint_names")
        if not keypoints:
            raise UserError(
                f"MODEL.KEYPOINT_ON: data set {name} does not say which keypoints it has. Register "
                "it with keypoint_names and keypoint_flip_map in its metadata (docs/extending.md, "
                "A data set); --train-json reads boxes and masks only"
            )
        number = len(keypoints)
        fix = f"Set MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS {number}"
        require_keypoints(cfg, name, number, fix)
        try:
            create_keypoint_hflip_indices([cfg.DATASETS.TRAIN[0], name])
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(
                f"MODEL.KEYPOINT_ON: data set {name}: expected keypoint_flip_map in its metadata, "
                "pairs of the keypoint_names that a mirror exchanges, the same in all training "
                f"data, got {MetadataCatalog.get(name).get('keypoint_flip_map')!r} for the names "
                f"{', '.join(keypoints)}"
            ) from error


# Key -> the names that detectron2 knows. It fails on others when it trains.
_CROPS = ("relative", "relative_range", "absolute", "absolute_range")
_BOX_LOSSES = ("smooth_l1", "giou", "diou", "ciou")
_NAMES = {
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "INPUT.CROP.TYPE": _CROPS,
    "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": _BOX_LOSSES,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": _BOX_LOSSES,
}


def _require_known_names(cfg: CfgNode) -> None:
    values = dict(flat_config(cfg))
    for key, names in _NAMES.items():
        require_choice(key, values[key], names)


def _require_fitting_images(cfg: CfgNode) -> None:
    if not cfg.INPUT.FORMAT:
        raise UserError(
            "INPUT.FORMAT: expected the channels that the model reads, such as BGR or RGB, got "
            "nothing"
        )
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    if not len(sizes):
        raise UserError("INPUT.MIN_SIZE_TRAIN: expected the shorter sides of images, got none")
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and len(sizes) != 2:
        raise UserError(
            "INPUT.MIN_SIZE_TRAIN: expected two sizes, since MIN_SIZE_TRAIN_SAMPLING is 'range', "
            f"got {tuple(sizes)}. For one size set INPUT.MIN_SIZE_TRAIN_SAMPLING choice"
        )


def _require_fitting_crop(cfg: CfgNode) -> None:
    crop = cfg.INPUT.CROP
    if not crop.ENABLED:
        return
    if crop.TYPE.startswith("absolute"):
        expected = "two whole numbers of pixels, 1 or more"
        fits = all(isinstance(side, int) and side >= 1 for side in crop.SIZE)
        if crop.TYPE == "absolute_range":  # of height and width
            expected += ", the first not above the second"
            fits = fits and list(crop.SIZE) == sorted(crop.SIZE)
    else:
        expected = "two shares of height and width, above 0 and at most 1"
        fits = all(isinstance(side, int | float) and 0 < side <= 1 for side in crop.SIZE)
    if not fits or len(crop.SIZE) != 2:
        raise UserError(
            f"INPUT.CROP.SIZE: expected {expected}, since INPUT.CROP.TYPE is {crop.TYPE}, got "
            f"{crop.SIZE}"
        )


def check_registry_names(cfg: CfgNode) -> None:
    """Check the names of the model's parts against detectron2's registries.

    Raises:
        UserError: a name is unknown; the message suggests the nearest known name.
    """
    model = cfg.MODEL
    names = dict(flat_config(model))
    used = {"META_ARCHITECTURE": META_ARCH_REGISTRY, "BACKBONE.NAME": BACKBONE_REGISTRY}
    two_stage = is_generalized_rcnn(cfg)
    rpn_only = _is_registered_as(META_ARCH_REGISTRY, model.META_ARCHITECTURE, ProposalNetwork)
    if two_stage or rpn_only:
        used["ANCHOR_GENERATOR.NAME"] = ANCHOR_GENERATOR_REGISTRY
        used["RPN.HEAD_NAME"] = RPN_HEAD_REGISTRY
        if model.PROPOSAL_GENERATOR.NAME != "PrecomputedProposals":
            used["PROPOSAL_GENERATOR.NAME"] = PROPOSAL_GENERATOR_REGISTRY
    if two_stage:
        used["ROI_HEADS.NAME"] = ROI_HEADS_REGISTRY
        # The C4 heads use res5 and build no box head.
        box_on = not _is_registered_as(ROI_HEADS_REGISTRY, model.ROI_HEADS.NAME, Res5ROIHeads)
        for on, key, registry in (
            (box_on, "ROI_BOX_HEAD.NAME", ROI_BOX_HEAD_REGISTRY),
            (model.MASK_ON, "ROI_MASK_HEAD.NAME", ROI_MASK_HEAD_REGISTRY),
            (model.KEYPOINT_ON, "ROI_KEYPOINT_HEAD.NAME", ROI_KEYPOINT_HEAD_REGISTRY),
        ):
            if on and names[key]:
                used[key] = registry
    for key, registry in used.items():
        name = names[key]
        if name not in registry:
            new, known = RENAMED_PARTS.get(name), [known for known, _ in registry]
            hint = f"; its name is now {new}." if new in known else nearest(name, known) or "."
            raise UserError(
                f"MODEL.{key}: nothing is registered as {name!r}{hint} If a "
                "project registers it, use a script that imports the project (docs/extending.md)"
            )
