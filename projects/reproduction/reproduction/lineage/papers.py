"""The published numbers of R-CNN, Fast R-CNN, Faster R-CNN and Mask R-CNN.

Every number is the paper's own; we measured none. The numbers of Mask R-CNN are rows of its Tables
1 and 3. VOC's mAP is the box AP at IoU 0.5, and COCO's AP is the mean over IoU 0.5 to 0.95. Times
are from the papers' own machines, so compare them within one paper only.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mask_rcnn_ext.paper.tables import PRINTED

__all__ = ["LINEAGE", "Published"]

_RCNN = "arXiv:1311.2524"
_FAST = "arXiv:1504.08083"
_FASTER = "arXiv:1506.01497"
_RESNET = "arXiv:1512.03385, Table 9"
_FPN = "arXiv:1612.03144"
_MASK = "arXiv:1703.06870v3"


@dataclass(frozen=True)
class Published:
    """One number that a paper prints.

    Attributes:
        method: "R-CNN", "Fast R-CNN", "Faster R-CNN" or "Mask R-CNN".
        model: the network, and additions to the method, such as "VGG-16" or "AlexNet, SVMs and box
            regression".
        trained_on: the detection data. "VOC 2007" is its trainval, "VOC 2007+2012" is trainval of
            both years. "COCO train" is the 80k images of 2014, "COCO trainval" has 40k more, and
            "COCO trainval35k" has 35k of these 40k.
        tested_on: "VOC 2007 test", "COCO test-dev", "COCO minival" (coco_2017_val), "COCO val" (40k
            images of 2014).
        metric: "mAP" (VOC's), "box AP", "box AP50", ..., "mask AP", all in 0-100; "seconds per
            image", "hours of training".
        value: the number.
        source: the paper, with the table where one is known.
        config: our config of this model, relative to `configs/`, without `.yaml`; None: none.
        note: the hardware, or what the number includes.
    """

    method: str
    model: str
    trained_on: str
    tested_on: str
    metric: str
    value: float
    source: str
    config: str | None = None
    note: str = ""

    @property
    def subject(self) -> str:
        """The model and the data of the number, in one line."""
        note = f", {self.note}" if self.note else ""
        return f"{self.method}, {self.model}, on {self.trained_on} ({self.tested_on}{note})"


_VOC07, _VOC12 = ("VOC 2007", "VOC 2007 test"), ("VOC 2012", "VOC 2012 test")
_VOC10, _VOC0712 = ("VOC 2012", "VOC 2010 test"), ("VOC 2007+2012", "VOC 2007 test")
_COCO, _COCO_VAL = ("COCO train", "COCO test-dev"), ("COCO train", "COCO val")
_TRAINVAL, _MINIVAL = ("COCO trainval", "COCO test-dev"), ("COCO trainval35k", "COCO minival")
_DEV = ("COCO trainval35k", "COCO test-dev")
_PER_IMAGE, _TRAINING = "seconds per image", "hours of training"


def _rcnn() -> Iterator[Published]:
    svm, ridge = "AlexNet, SVMs", "AlexNet, SVMs and box regression"
    vgg = "VGG-16, SVMs and box regression"
    fast, config = f"{_FAST}, Table 4", "lineage/rcnn_AlexNet"
    for model, data, metric, value, source, *more in (
        ("AlexNet, softmax", _VOC07, "mAP", 50.9, _RCNN, config),
        (svm, _VOC07, "mAP", 54.2, _RCNN),
        (ridge, _VOC07, "mAP", 58.5, _RCNN, f"{config}_svm"),
        (svm, _VOC10, "mAP", 50.2, _RCNN),
        (ridge, _VOC10, "mAP", 53.7, _RCNN),
        (svm, _VOC12, "mAP", 49.6, _RCNN),
        (ridge, _VOC12, "mAP", 53.3, _RCNN),
        (svm, _VOC07, _PER_IMAGE, 13.0, _RCNN, None, "GPU, proposals and features"),
        (svm, _VOC07, _PER_IMAGE, 53.0, _RCNN, None, "CPU, proposals and features"),
        (vgg, _VOC07, "mAP", 66.0, fast, "lineage/rcnn_VGG16"),
        (vgg, _VOC07, _PER_IMAGE, 47.0, fast, None, "K40 GPU, without proposals"),
        (vgg, _VOC07, _TRAINING, 84.0, fast, None, "K40 GPU"),
    ):
        yield Published("R-CNN", model, *data, metric, value, source, *more)


def _fast_rcnn() -> Iterator[Published]:
    vgg, low_rank, c4 = "VGG-16", "VGG-16, fc6 and fc7 of low rank", "ResNet-50-C4"
    fpn, c4_config = f"{_FPN}, Table 2", "lineage/fast_rcnn_R50_C4"
    table, config = f"{_FAST}, Table 4", "lineage/fast_rcnn_VGG16"
    for model, data, metric, value, source, *more in (
        (vgg, _VOC07, "mAP", 66.9, _FAST, config),
        (vgg, _VOC0712, "mAP", 70.0, _FAST),
        (vgg, _VOC07, _PER_IMAGE, 0.32, table, None, "K40 GPU, without proposals"),
        (low_rank, _VOC07, _PER_IMAGE, 0.22, table, None, "K40 GPU, without proposals"),
        (vgg, _VOC07, _TRAINING, 9.5, table, None, "K40 GPU"),
        (vgg, _COCO, "box AP", 19.7, _FAST, f"{config}_COCO"),
        (vgg, _COCO, "box AP50", 35.9, _FAST, f"{config}_COCO"),
        (c4, _MINIVAL, "box AP", 31.9, fpn, c4_config),
        (c4, _MINIVAL, "box AP50", 54.7, fpn, c4_config),
        (c4, _MINIVAL, "box APs", 15.7, fpn, c4_config),
        (c4, _MINIVAL, "box APm", 36.5, fpn, c4_config),
        (c4, _MINIVAL, "box APl", 45.5, fpn, c4_config),
    ):
        yield Published("Fast R-CNN", model, *data, metric, value, source, *more)


def _faster_rcnn() -> Iterator[Published]:
    vgg, c4, fpn = "VGG-16", "ResNet-50-C4", "ResNet-50-FPN"
    config, c4_config = "lineage/faster_rcnn_VGG16", "lineage/faster_rcnn_R50_C4"
    coco, r101 = f"{config}_COCO", "lineage/faster_rcnn_R101_C4"
    table = f"{_FPN}, Table 3"
    for model, data, metric, value, source, *more in (
        ("VGG-16, features not shared", _VOC07, "mAP", 68.5, _FASTER),
        (vgg, _VOC07, "mAP", 69.9, _FASTER, config),
        (vgg, _VOC0712, "mAP", 73.2, _FASTER),
        (vgg, _VOC07, _PER_IMAGE, 0.198, _FASTER, None, "K40 GPU, with proposals"),
        ("ZF", _VOC07, _PER_IMAGE, 0.059, _FASTER, None, "K40 GPU, with proposals"),
        (vgg, _COCO, "box AP", 21.5, _FASTER, coco),
        (vgg, _TRAINVAL, "box AP", 21.9, _FASTER),
        (vgg, _COCO_VAL, "box AP", 21.2, _RESNET, coco),
        (vgg, _COCO_VAL, "box AP50", 41.5, _RESNET, coco),
        ("ResNet-101-C4", _COCO_VAL, "box AP", 27.2, _RESNET, r101),
        ("ResNet-101-C4", _COCO_VAL, "box AP50", 48.4, _RESNET, r101),
        (c4, _MINIVAL, "box AP", 31.6, table, c4_config),
        (c4, _MINIVAL, "box AP50", 53.1, table, c4_config),
        (c4, _MINIVAL, "box APs", 13.2, table, c4_config),
        (c4, _MINIVAL, "box APm", 35.6, table, c4_config),
        (c4, _MINIVAL, "box APl", 47.1, table, c4_config),
        (fpn, _MINIVAL, "box AP", 33.9, table),
        (c4, _MINIVAL, _PER_IMAGE, 0.32, _FPN, None, "M40 GPU"),
        (fpn, _MINIVAL, _PER_IMAGE, 0.148, _FPN, None, "M40 GPU"),
        ("ResNet-101-FPN", _MINIVAL, _PER_IMAGE, 0.172, _FPN, None, "M40 GPU"),
    ):
        yield Published("Faster R-CNN", model, *data, metric, value, source, *more)


def _mask_rcnn() -> Iterator[Published]:
    """Yield the rows of Mask R-CNN and of its Faster R-CNN in the paper's Tables 1 and 3."""
    for row in PRINTED:
        method, _, model = row.name.partition(", ")
        if row.table not in ("1", "3") or method not in ("Mask R-CNN", "Faster R-CNN"):
            continue
        for key, value in row.published.items():
            task, metric = key.split("/")
            kind = {"bbox": "box", "segm": "mask"}[task]
            source = f"{_MASK}, Table {row.table}"
            yield Published(method, model, *_DEV, f"{kind} {metric}", value, source, row.config)
    model, config = "ResNet-101-FPN", "mask_rcnn_R101_FPN"
    note = "M40 GPU, without 0.015 s on the CPU"
    yield Published("Mask R-CNN", model, *_DEV, _PER_IMAGE, 0.195, _MASK, config, note)


# In the order of the papers; for each method, the numbers of one paper are together.
LINEAGE: tuple[Published, ...] = (*_rcnn(), *_fast_rcnn(), *_faster_rcnn(), *_mask_rcnn())
