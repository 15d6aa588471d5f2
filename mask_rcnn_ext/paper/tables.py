"""All numbers of Tables 1-9 of arXiv:1703.06870v3, and of two sentences of section 4.2."""

from collections.abc import Sequence
from typing import Any

from .checkpoints import CHECKPOINTS
from .deviations import get_deviations
from .rows import Row

__all__ = ["PRINTED"]

_MASK = ("segm/AP", "segm/AP50", "segm/AP75")
_BOX = ("bbox/AP", "bbox/AP50", "bbox/AP75")
_MASK_SIZES = (*_MASK, "segm/APs", "segm/APm", "segm/APl")
_BOX_SIZES = (*_BOX, "bbox/APs", "bbox/APm", "bbox/APl")
_KEYPOINT = tuple(f"keypoints/{metric}" for metric in ("AP", "AP50", "AP75", "APm", "APl"))
_CITY_CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
_CITY_VAL = ("segm/AP", "segm/AP-truck", "segm/AP-bus", "segm/AP-train")
_CITY = ("segm/AP", "segm/AP50", *(f"segm/AP-{name}" for name in _CITY_CLASSES))


def _make_rows(
    table: str, split: str, columns: Sequence[str], entries: Sequence[Sequence[Any]]
) -> list[Row]:
    """Return rows; an entry has name, config or None, numbers (None: not printed), maybe a note."""

    def row(name: str, config: str | None, numbers: Sequence[float | None], note: str = "") -> Row:
        pairs = zip(columns, numbers, strict=True)
        published = {key: value for key, value in pairs if value is not None}
        checkpoints = CHECKPOINTS.get(config, ()) if config else ()
        deviations = get_deviations(config) if config else ()
        return Row(table, name, published, split, config, checkpoints, deviations, note)

    return [row(*entry) for entry in entries]


_NOT_OURS = "another method, cited from its own paper"
_SAME = "the same model as Table 2a, ResNet-50-C4"

_TABLE_1 = [
    ("MNC, ResNet-101-C4", None, (24.6, 44.3, 24.8, 4.7, 25.9, 43.6), _NOT_OURS),
    (
        "FCIS +OHEM, ResNet-101-C5-dilated",
        "fcis_R101_C5_dilated",
        (29.2, 49.5, None, 7.1, 31.3, 50.0),
        f"{_NOT_OURS}; its released code gives 29.6 on test-dev, 29.2 on minival",
    ),
    (
        "FCIS+++ +OHEM, ResNet-101-C5-dilated",
        "fcis/fcis_plusplusplus_R101_C5_dilated",
        (33.6, 54.5, None, None, None, None),
        f"{_NOT_OURS}; multi-scale training and testing, horizontal flips",
    ),
    ("Mask R-CNN, ResNet-101-C4", "mask_rcnn_R101_C4", (33.1, 54.9, 34.8, 12.1, 35.6, 51.1)),
    ("Mask R-CNN, ResNet-101-FPN", "mask_rcnn_R101_FPN", (35.7, 58.0, 37.8, 15.5, 38.1, 52.4)),
    ("Mask R-CNN, ResNeXt-101-FPN", "mask_rcnn_X101_FPN", (37.1, 60.0, 39.4, 16.9, 39.9, 53.5)),
]
_TABLE_2A = [
    ("ResNet-50-C4", "mask_rcnn_R50_C4", (30.3, 51.2, 31.5)),
    ("ResNet-101-C4", "mask_rcnn_R101_C4", (32.7, 54.2, 34.3)),
    ("ResNet-50-FPN", "mask_rcnn_R50_FPN", (33.6, 55.2, 35.3)),
    ("ResNet-101-FPN", "mask_rcnn_R101_FPN", (35.4, 57.3, 37.5)),
    ("ResNeXt-101-FPN", "mask_rcnn_X101_FPN", (36.7, 59.5, 38.9)),
]
_TABLE_2B = [
    ("softmax", "ablations/mask_rcnn_R50_C4_softmax", (24.8, 44.1, 25.1)),
    ("sigmoid", "mask_rcnn_R50_C4", (30.3, 51.2, 31.5), _SAME),
]
_TABLE_2C = [
    ("RoIPool, max", "ablations/mask_rcnn_R50_C4_RoIPool", (26.9, 48.8, 26.4)),
    ("RoIWarp, max", "ablations/mask_rcnn_R50_C4_RoIWarpMax", (27.2, 49.2, 27.1)),
    ("RoIWarp, ave", "ablations/mask_rcnn_R50_C4_RoIWarpAve", (27.1, 48.9, 27.1)),
    ("RoIAlign, max", "ablations/mask_rcnn_R50_C4_RoIAlignMax", (30.2, 51.0, 31.8)),
    ("RoIAlign, ave", "mask_rcnn_R50_C4", (30.3, 51.2, 31.5), _SAME),
]
_TABLE_2D = [
    ("RoIPool", "ablations/mask_rcnn_R50_C5_RoIPool", (23.6, 46.5, 21.6, 28.2, 52.7, 26.9)),
    ("RoIAlign", "ablations/mask_rcnn_R50_C5", (30.9, 51.8, 32.1, 34.0, 55.3, 36.4)),
]
_TABLE_2E = [
    ("MLP, fc: 1024 -> 1024 -> 80*28^2", "ablations/mask_rcnn_R50_FPN_MLP2", (31.5, 53.7, 32.8)),
    (
        "MLP, fc: 1024 -> 1024 -> 1024 -> 80*28^2",
        "ablations/mask_rcnn_R50_FPN_MLP3",
        (31.5, 54.0, 32.6),
    ),
    (
        "FCN, conv: 256 -> 256 -> 256 -> 256 -> 256 -> 80",
        "mask_rcnn_R50_FPN",
        (33.6, 55.2, 35.3),
        "the same model as Table 2a, ResNet-50-FPN",
    ),
]
_CLASS_AGNOSTIC = [
    ("class-specific masks", "mask_rcnn_R50_C4", (30.3,), _SAME),
    ("class-agnostic masks", "ablations/mask_rcnn_R50_C4_agnostic", (29.7,)),
]
_ROIPOOL_FPN = [
    (
        "RoIPool with FPN",
        "ablations/mask_rcnn_R50_FPN_RoIPool",
        (),
        "the paper prints only RoIAlign's gain over it: 1.5 mask AP, 0.5 box AP",
    ),
]
_TABLE_3 = [
    ("Faster R-CNN+++, ResNet-101-C4", None, (34.9, 55.7, 37.4, 15.6, 38.7, 50.9), _NOT_OURS),
    (
        "Faster R-CNN w FPN, ResNet-101-FPN",
        "ablations/faster_rcnn_R101_FPN_RoIPool",
        (36.2, 59.1, 39.0, 18.2, 39.0, 48.2),
        f"{_NOT_OURS}, arXiv:1612.03144, Table 4",
    ),
    (
        "Faster R-CNN by G-RMI, Inception-ResNet-v2",
        None,
        (34.7, 55.5, 36.7, 13.5, 38.1, 52.0),
        _NOT_OURS,
    ),
    (
        "Faster R-CNN w TDM, Inception-ResNet-v2-TDM",
        None,
        (36.8, 57.7, 39.2, 16.2, 39.8, 52.1),
        _NOT_OURS,
    ),
    (
        "Faster R-CNN, RoIAlign, ResNet-101-FPN",
        "faster_rcnn_R101_FPN",
        (37.3, 59.6, 40.3, 19.8, 40.2, 48.8),
        "Mask R-CNN, trained without the mask branch",
    ),
    ("Mask R-CNN, ResNet-101-FPN", "mask_rcnn_R101_FPN", (38.2, 60.3, 41.7, 20.1, 41.1, 50.2)),
    ("Mask R-CNN, ResNeXt-101-FPN", "mask_rcnn_X101_FPN", (39.8, 62.3, 43.4, 22.1, 43.2, 51.2)),
]
_KEYPOINT_R50 = "keypoints/keypoint_rcnn_R50_FPN"
_TABLE_4 = [
    ("CMU-Pose+++", None, (61.8, 84.9, 67.5, 57.1, 68.2), _NOT_OURS),
    ("G-RMI", None, (62.4, 84.0, 68.5, 59.1, 68.1), f"{_NOT_OURS}; COCO and MPII, two models"),
    ("Mask R-CNN, keypoint-only", _KEYPOINT_R50, (62.7, 87.0, 68.4, 57.4, 71.1)),
    (
        "Mask R-CNN, keypoint & mask",
        "keypoints/keypoint_mask_rcnn_R50_FPN",
        (63.1, 87.3, 68.7, 57.8, 71.4),
    ),
]
_TABLE_5 = [
    ("Faster R-CNN", "keypoints/faster_rcnn_R50_FPN_person", (52.5, None, None)),
    ("Mask R-CNN, mask-only", "keypoints/mask_rcnn_R50_FPN_person", (53.6, 45.8, None)),
    ("Mask R-CNN, keypoint-only", _KEYPOINT_R50, (50.7, None, 64.2)),
    ("Mask R-CNN, keypoint & mask", "keypoints/keypoint_mask_rcnn_R50_FPN", (52.0, 45.1, 64.7)),
]
_TABLE_6 = [
    ("RoIPool", "keypoints/keypoint_rcnn_R50_FPN_RoIPool", (59.8, 86.2, 66.7, 55.1, 67.4)),
    ("RoIAlign", _KEYPOINT_R50, (64.2, 86.6, 69.7, 58.7, 73.0)),
]
_FINE, _FINE_COCO = (f"cityscapes/mask_rcnn_R50_FPN_fine{end}" for end in ("", "_coco"))
_APPENDIX = "truck, bus and train on val are from the text of appendix A"
_TABLE_7_VAL = [
    ("InstanceCut, fine + coarse", None, (15.8, None, None, None), _NOT_OURS),
    ("DWT, fine", None, (19.8, None, None, None), _NOT_OURS),
    ("SGN, fine + coarse", None, (29.2, None, None, None), _NOT_OURS),
    ("Mask R-CNN, fine", _FINE, (31.5, 28.8, 53.5, 33.0), _APPENDIX),
    ("Mask R-CNN, fine + COCO", _FINE_COCO, (36.4, 38.0, 57.5, 41.2), _APPENDIX),
]
# AP, AP50, then the AP of person, rider, car, truck, bus, train, motorcycle, bicycle
_TABLE_7_TEST = [
    (
        "InstanceCut, fine + coarse",
        None,
        (13.0, 27.9, 10.0, 8.0, 23.7, 14.0, 19.5, 15.2, 9.3, 4.7),
        _NOT_OURS,
    ),
    ("DWT, fine", None, (15.6, 30.0, 15.1, 11.7, 32.9, 17.1, 20.4, 15.0, 7.9, 4.9), _NOT_OURS),
    ("SAIS, fine", None, (17.4, 36.7, 14.6, 12.9, 35.7, 16.0, 23.2, 19.0, 10.3, 7.8), _NOT_OURS),
    (
        "DIN, fine + coarse",
        None,
        (20.0, 38.8, 16.5, 16.7, 25.7, 20.6, 30.0, 23.4, 17.1, 10.1),
        _NOT_OURS,
    ),
    (
        "SGN, fine + coarse",
        None,
        (25.0, 44.9, 21.8, 20.1, 39.4, 24.8, 33.2, 30.8, 17.7, 12.4),
        _NOT_OURS,
    ),
    ("Mask R-CNN, fine", _FINE, (26.2, 49.9, 30.5, 23.7, 46.9, 22.8, 32.2, 18.6, 19.1, 16.0)),
    (
        "Mask R-CNN, fine + COCO",
        _FINE_COCO,
        (32.0, 58.1, 34.8, 27.0, 49.1, 30.1, 40.9, 30.9, 24.1, 18.7),
    ),
]
_IN5K = (
    "needs weights/data that are not public: no X-101 pre-trained on ImageNet-5k, a subset of the "
    "full ImageNet with 5000 classes, was released; of that pre-training detectron2's catalog has "
    "X-152-32x8d alone (ImageNetPretrained/FAIR/X-152-32x8d-IN5k)"
)
_DISTILLATION = (
    "needs weights/data that are not public: the 120k unlabeled COCO images are, the labels that "
    "the authors' models gave them, and the weights trained on those, are not"
)
_TABLE_8 = [
    ("original baseline, X-101-FPN", "mask_rcnn_X101_FPN", (36.7, 59.5, 38.9, 39.6, 61.5, 43.2)),
    (
        "+ updated baseline, X-101-FPN",
        "enhanced/mask_rcnn_X101_FPN_updated",
        (37.0, 59.7, 39.0, 40.5, 63.0, 43.7),
    ),
    (
        "+ e2e training, X-101-FPN",
        "enhanced/mask_rcnn_X101_FPN_e2e",
        (37.6, 60.4, 39.9, 41.7, 64.1, 45.2),
    ),
    ("+ ImageNet-5k, X-101-FPN", None, (38.6, 61.7, 40.9, 42.7, 65.1, 46.6), _IN5K),
    (
        "+ train-time augm., X-101-FPN",
        "enhanced/mask_rcnn_X101_FPN_augm",
        (39.2, 62.5, 41.6, 43.5, 65.9, 47.2),
    ),
    ("+ deeper, X-152-FPN", "enhanced/mask_rcnn_X152_FPN", (39.7, 63.2, 42.2, 44.1, 66.4, 48.4)),
    (
        "+ Non-local, X-152-FPN-NL",
        "enhanced/mask_rcnn_X152_FPN_nonlocal",
        (40.3, 64.4, 42.8, 45.0, 67.8, 48.9),
    ),
    (
        "+ test-time augm., X-152-FPN-NL",
        "enhanced/mask_rcnn_X152_FPN_nonlocal_TTA",
        (41.8, 66.0, 44.8, 47.3, 69.3, 51.5),
    ),
]
_TABLE_9 = [
    ("original baseline, R-50-FPN", _KEYPOINT_R50, (64.2, 86.6, 69.7, 58.7, 73.0)),
    (
        "+ updated baseline, R-50-FPN",
        "keypoints/keypoint_rcnn_R50_FPN_updated",
        (65.1, 86.6, 70.9, 59.9, 73.6),
    ),
    ("+ deeper, R-101-FPN", "keypoints/keypoint_rcnn_R101_FPN", (66.1, 87.7, 71.7, 60.5, 75.0)),
    ("+ ResNeXt, X-101-FPN", "keypoints/keypoint_rcnn_X101_FPN", (67.3, 88.0, 73.3, 62.2, 75.6)),
    ("+ data distillation, X-101-FPN", None, (69.1, 88.9, 75.3, 64.1, 77.1), _DISTILLATION),
    (
        "+ test-time augm., X-101-FPN",
        "keypoints/keypoint_rcnn_X101_FPN_TTA",
        (70.4, 89.3, 76.8, 65.8, 78.1),
    ),
]

# In the order of the paper.
PRINTED: tuple[Row, ...] = (
    *_make_rows("1", "test-dev", _MASK_SIZES, _TABLE_1),
    *_make_rows("2a", "minival", _MASK, _TABLE_2A),
    *_make_rows("2b", "minival", _MASK, _TABLE_2B),
    *_make_rows("2c", "minival", _MASK, _TABLE_2C),
    *_make_rows("2d", "minival", _MASK + _BOX, _TABLE_2D),
    *_make_rows("2e", "minival", _MASK, _TABLE_2E),
    *_make_rows("text", "minival", ("segm/AP",), _CLASS_AGNOSTIC),
    *_make_rows("text", "minival", (), _ROIPOOL_FPN),
    *_make_rows("3", "test-dev", _BOX_SIZES, _TABLE_3),
    *_make_rows("4", "test-dev", _KEYPOINT, _TABLE_4),
    *_make_rows("5", "minival", ("bbox/AP", "segm/AP", "keypoints/AP"), _TABLE_5),
    *_make_rows("6", "minival", _KEYPOINT, _TABLE_6),
    *_make_rows("7", "val", _CITY_VAL, _TABLE_7_VAL),
    *_make_rows("7", "test", _CITY, _TABLE_7_TEST),
    *_make_rows("8", "minival", _MASK + _BOX, _TABLE_8),
    *_make_rows("9", "minival", _KEYPOINT, _TABLE_9),
)
