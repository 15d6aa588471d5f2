"""The weights of detectron2's model zoo for each of our configs, and how well they fit.

All were trained jointly with the RPN, and all but "noaug" with scale jitter. All weights outside
"Detectron1-Comparisons" were trained with L1 losses (in keypoint models smooth L1 with beta 0.5 for
boxes), and with a RoIAlign that has the half-pixel shift and an adaptive number of samples. The APs
come from detectron2's MODEL_ZOO.md, with NMS at 0.5.
"""

from .rows import Checkpoint, Fit

__all__ = ["CHECKPOINTS"]

_NMS = ("MODEL.ROI_HEADS.NMS_THRESH_TEST", "0.5")


def _use_align_v2(*heads: str) -> tuple[str, ...]:
    """Return overrides for detectron2's default RoIAlign in these heads."""
    words: list[str] = []
    for head in heads:
        words += [f"MODEL.ROI_{head}_HEAD.POOLER_TYPE", "ROIAlignV2"]
        words += [f"MODEL.ROI_{head}_HEAD.POOLER_SAMPLING_RATIO", "0"]
    return tuple(words)


_MASK_FPN = (*_use_align_v2("BOX", "MASK"), *_NMS)
_BOX_FPN = (*_use_align_v2("BOX"), *_NMS)
_KEYPOINT_FPN = _use_align_v2("BOX", "KEYPOINT")
# With this resolution our C4 head does the same as Res5ROIHeads: it pools 14 x 14, and res5 halves.
_MASK_C4 = (
    *_use_align_v2("BOX"),
    *_NMS,
    *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "14", "MODEL.RPN.POST_NMS_TOPK_TEST", "1000"),
)
_X101_32X8D = (
    *("MODEL.RESNETS.NUM_GROUPS", "32", "MODEL.RESNETS.WIDTH_PER_GROUP", "8"),
    *("MODEL.PIXEL_MEAN", "[103.53, 116.28, 123.675]"),
    *("MODEL.PIXEL_STD", "[57.375, 57.12, 58.395]"),
)


_JITTER = "trained jointly with scale jitter and L1 losses"
_V2 = "RoIAlign with the half-pixel shift"
_STRIDE = f"trained jointly, with 14 x 14 pooling and res5 at stride 2, 512 RoIs per image, {_V2}"
_WIDTHS = f"ResNeXt-101 32x8d, not 64x4d; {_JITTER}, {_V2}"
_JITTER_3X = f"{_JITTER} for 270k iterations, {_V2}"
_JOINT_3X = f"trained jointly for 270k iterations, {_V2}"

# The names in the zoo start with one of these.
_D1 = "Detectron1-Comparisons"
_SEGM = "COCO-InstanceSegmentation/mask_rcnn"
_KEYPOINT = "COCO-Keypoints/keypoint_rcnn"


def _make(
    fit: Fit,
    overrides: tuple[str, ...],
    note: str,
    *weights: tuple[str, str, float | None, float | None, float | None],
) -> tuple[Checkpoint, ...]:
    """Return a checkpoint for each (name, file, box AP, mask AP, keypoint AP)."""
    return tuple(
        Checkpoint(f"{name}.yaml", f"{path}.pkl", box, mask, keypoint, fit, overrides, note)
        for name, path, box, mask, keypoint in weights
    )


_R50_C4 = _make(
    "nearest",
    _MASK_C4,
    _STRIDE,
    (f"{_SEGM}_R_50_C4_1x", "137259246/model_final_9243eb", 36.8, 32.2, None),
    (f"{_SEGM}_R_50_C4_3x", "137849525/model_final_4ce675", 39.8, 34.4, None),
)
_R101_C4 = _make(
    "nearest",
    _MASK_C4,
    _STRIDE,
    (f"{_SEGM}_R_101_C4_3x", "138363239/model_final_a2914c", 42.6, 36.7, None),
)
_R50_FPN = (
    *_make(
        "identical",
        _NMS,
        "trained jointly, for 90k iterations",
        (f"{_D1}/mask_rcnn_R_50_FPN_noaug_1x", "137781281/model_final_62ca52", 37.8, 34.9, None),
    ),
    *_make(
        "identical",
        _MASK_FPN,
        f"{_JITTER}, {_V2}",
        (f"{_SEGM}_R_50_FPN_1x", "137260431/model_final_a54504", 38.6, 35.2, None),
    ),
    *_make(
        "identical",
        _MASK_FPN,
        _JITTER_3X,
        (f"{_SEGM}_R_50_FPN_3x", "137849600/model_final_f10217", 41.0, 37.2, None),
    ),
)
_R101_FPN = _make(
    "identical",
    _MASK_FPN,
    _JITTER_3X,
    (f"{_SEGM}_R_101_FPN_3x", "138205316/model_final_a3ec72", 42.9, 38.6, None),
)
_X101_FPN = _make(
    "different",
    (*_MASK_FPN, *_X101_32X8D),
    _WIDTHS,
    (f"{_SEGM}_X_101_32x8d_FPN_3x", "139653917/model_final_2d9806", 44.3, 39.5, None),
)
_C5 = _make(
    "different",
    (*_MASK_FPN, "MODEL.RESNETS.RES5_DILATION", "2"),
    f"res5 dilated, at stride 16; {_JITTER}, {_V2}",
    (f"{_SEGM}_R_50_DC5_1x", "137260150/model_final_4f86c3", 38.3, 34.2, None),
    (f"{_SEGM}_R_50_DC5_3x", "137849551/model_final_84107b", 40.0, 35.9, None),
)
_CASCADE = "Misc/cascade_mask_rcnn_X_152_32x8d_FPN_IN5k_gn_dconv"
_X152 = _make(
    "different",
    (),
    "a cascade with group normalisation, deformable convolutions and eight mask convolutions: use "
    "detectron2's own config for it",
    (_CASCADE, "18131413/model_0039999_e76410", 50.2, 44.0, None),
)
_KEYPOINT_R50 = (
    *_make(
        "identical",
        (),
        "trained jointly, with 1500 proposals per image",
        (f"{_D1}/keypoint_rcnn_R_50_FPN_1x", "137781195/model_final_cce136", 53.1, None, 64.2),
    ),
    *_make(
        "identical",
        _KEYPOINT_FPN,
        f"trained jointly, {_V2}",
        (f"{_KEYPOINT}_R_50_FPN_1x", "137261548/model_final_04e291", 53.6, None, 64.0),
    ),
)
_KEYPOINT_R50_UPDATED = _make(
    "identical",
    _KEYPOINT_FPN,
    _JOINT_3X,
    (f"{_KEYPOINT}_R_50_FPN_3x", "137849621/model_final_a6e10b", 55.4, None, 65.5),
)
_KEYPOINT_R101 = _make(
    "identical",
    _KEYPOINT_FPN,
    _JOINT_3X,
    (f"{_KEYPOINT}_R_101_FPN_3x", "138363331/model_final_997cc7", 56.4, None, 66.1),
)
_KEYPOINT_X101 = _make(
    "different",
    (*_KEYPOINT_FPN, *_X101_32X8D),
    f"ResNeXt-101 32x8d, not 64x4d; {_JOINT_3X}",
    (f"{_KEYPOINT}_X_101_32x8d_FPN_3x", "139686956/model_final_5ad38f", 57.3, None, 66.0),
)
_CITYSCAPES = _make(
    "identical",
    _MASK_FPN,
    f"24k iterations from COCO weights without the output layers; trained jointly, {_V2}",
    ("Cityscapes/mask_rcnn_R_50_FPN", "142423278/model_final_af9cf5", None, 36.5, None),
)
_FASTER_R101 = _make(
    "identical",
    _BOX_FPN,
    _JITTER_3X,
    ("COCO-Detection/faster_rcnn_R_101_FPN_3x", "137851257/model_final_f6e8b1", 42.0, None, None),
)

# Config -> checkpoints, best fit first. The zoo has no weights for the other configs.
CHECKPOINTS: dict[str, tuple[Checkpoint, ...]] = {
    "mask_rcnn_R50_C4": _R50_C4,
    "mask_rcnn_R101_C4": _R101_C4,
    "mask_rcnn_R50_FPN": _R50_FPN,
    "mask_rcnn_R101_FPN": _R101_FPN,
    "mask_rcnn_X101_FPN": _X101_FPN,
    "ablations/mask_rcnn_R50_C5": _C5,
    "faster_rcnn_R101_FPN": _FASTER_R101,
    "keypoints/keypoint_rcnn_R50_FPN": _KEYPOINT_R50,
    "keypoints/keypoint_rcnn_R50_FPN_updated": _KEYPOINT_R50_UPDATED,
    "keypoints/keypoint_rcnn_R101_FPN": _KEYPOINT_R101,
    "keypoints/keypoint_rcnn_X101_FPN": _KEYPOINT_X101,
    "keypoints/keypoint_rcnn_X101_FPN_TTA": _KEYPOINT_X101,
    "cityscapes/mask_rcnn_R50_FPN_fine_coco": _CITYSCAPES,
    "enhanced/mask_rcnn_X101_FPN_updated": _X101_FPN,
    "enhanced/mask_rcnn_X101_FPN_e2e": _X101_FPN,
    "enhanced/mask_rcnn_X101_FPN_augm": _X101_FPN,
    "enhanced/mask_rcnn_X152_FPN": _X152,
    "enhanced/mask_rcnn_X152_FPN_nonlocal": _X152,
    "enhanced/mask_rcnn_X152_FPN_nonlocal_TTA": _X152,
}
