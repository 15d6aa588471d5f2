"""The published numbers of the line R-CNN, Fast R-CNN, Faster R-CNN, Mask R-CNN, each by itself.

Every number is its paper's own; none was measured by us. Those of Mask R-CNN are rows of its Tables
1 and 3, see `tables`. VOC's mAP is the AP of boxes at IoU 0.5, COCO's AP that at IoU 0.5 to 0.95.
Times are of the papers' own machines, so they compare within a paper only.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mask_rcnn_ext.paper.tables import PRINTED

__all__ = ["LINEAGE", "Published", "published_for", "summaries_of"]

_RCNN = "arXiv:1311.2524"
_FAST = "arXiv:1504.08083"
_FASTER = "arXiv:1506.01497"
_RESNET = "arXiv:1512.03385, Table 9"
_FPN = "arXiv:1612.03144, Table {}"
_MASK = "arXiv:1703.06870v3"


@dataclass(frozen=True)
class Published:
    """One number that a paper prints.

    Attributes:
        method: "R-CNN", "Fast R-CNN", "Faster R-CNN" or "Mask R-CNN".
        model: the network, and what the number's model has beyond the method: "VGG-16",
            "AlexNet, SVMs and box regression".
        trained_on: the detection data; "VOC 2007" is its trainval, "VOC 2007+2012" that of both,
            "COCO train" the 80k images of 2014, "COCO trainval" 40k more, "COCO trainval35k" 35k of
            these.
        tested_on: "VOC 2007 test", "COCO test-dev", "COCO minival" (coco_2017_val), "COCO val" (40k
            images of 2014).
        metric: "mAP" (VOC's), "box AP", "box AP50", ..., "mask AP", all in 0-100; "seconds per
            image", "hours of training".
        value: the number.
        source: the paper, with the table where one is known.
        config: relative to `configs/`, without `.yaml`; None: none of ours is that model.
        note: hardware, or what the number is of.
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
        """What the number is of, in one line."""
        note = f", {self.note}" if self.note else ""
        return f"{self.method}, {self.model}, on {self.trained_on} ({self.tested_on}{note})"


_SVM = "AlexNet, SVMs"
_RIDGE = "AlexNet, SVMs and box regression"
_SVM_CONFIG = "lineage/rcnn_AlexNet_svm"
_VOC07, _VOC12 = ("VOC 2007", "VOC 2007 test"), ("VOC 2012", "VOC 2012 test")
_VOC10 = ("VOC 2012", "VOC 2010 test")
_PER_IMAGE, _TRAINING = "seconds per image", "hours of training"


def _rcnn() -> Iterator[Published]:
    name = "R-CNN"
    softmax = "AlexNet, softmax"
    yield Published(name, softmax, *_VOC07, "mAP", 50.9, _RCNN, "lineage/rcnn_AlexNet")
    yield Published(name, _SVM, *_VOC07, "mAP", 54.2, _RCNN)
    yield Published(name, _RIDGE, *_VOC07, "mAP", 58.5, _RCNN, _SVM_CONFIG)
    for data, without, with_regression in ((_VOC10, 50.2, 53.7), (_VOC12, 49.6, 53.3)):
        yield Published(name, _SVM, *data, "mAP", without, _RCNN)
        yield Published(name, _RIDGE, *data, "mAP", with_regression, _RCNN)
    for seconds, device in ((13.0, "GPU"), (53.0, "CPU")):
        note = f"{device}, proposals and features"
        yield Published(name, _SVM, *_VOC07, _PER_IMAGE, seconds, _RCNN, note=note)
    vgg, source = "VGG-16, SVMs and box regression", f"{_FAST}, Table 4"
    yield Published(name, vgg, *_VOC07, "mAP", 66.0, source, "lineage/rcnn_VGG16")
    note = "K40 GPU, without proposals"
    yield Published(name, vgg, *_VOC07, _PER_IMAGE, 47.0, source, note=note)
    yield Published(name, vgg, *_VOC07, _TRAINING, 84.0, source, note="K40 GPU")


def _fast_rcnn() -> Iterator[Published]:
    name, vgg, config = "Fast R-CNN", "VGG-16", "lineage/fast_rcnn_VGG16"
    note, source = "K40 GPU, without proposals", f"{_FAST}, Table 4"
    yield Published(name, vgg, *_VOC07, "mAP", 66.9, _FAST, config)
    yield Published(name, vgg, "VOC 2007+2012", "VOC 2007 test", "mAP", 70.0, _FAST)
    yield Published(name, vgg, *_VOC07, _PER_IMAGE, 0.32, source, note=note)
    shortened = "VGG-16, fc6 and fc7 of low rank"
    yield Published(name, shortened, *_VOC07, _PER_IMAGE, 0.22, source, note=note)
    yield Published(name, vgg, *_VOC07, _TRAINING, 9.5, source, note="K40 GPU")
    for metric, value in (("box AP", 19.7), ("box AP50", 35.9)):
        coco = ("COCO train", "COCO test-dev")
        yield Published(name, vgg, *coco, metric, value, _FAST, f"{config}_COCO")
    values = {"AP": 31.9, "AP50": 54.7, "APs": 15.7, "APm": 36.5, "APl": 45.5}
    yield from _fpn_baseline(name, values, _FPN.format(2), "lineage/fast_rcnn_R50_C4")


def _faster_rcnn() -> Iterator[Published]:
    name, vgg, config = "Faster R-CNN", "VGG-16", "lineage/faster_rcnn_VGG16"
    unshared = "VGG-16, features not shared"
    yield Published(name, unshared, *_VOC07, "mAP", 68.5, _FASTER)
    yield Published(name, vgg, *_VOC07, "mAP", 69.9, _FASTER, config)
    yield Published(name, vgg, "VOC 2007+2012", "VOC 2007 test", "mAP", 73.2, _FASTER)
    for model, seconds in ((vgg, 0.198), ("ZF", 0.059)):
        note = "K40 GPU, with proposals"
        yield Published(name, model, *_VOC07, _PER_IMAGE, seconds, _FASTER, note=note)
    coco = f"{config}_COCO"
    yield Published(name, vgg, "COCO train", "COCO test-dev", "box AP", 21.5, _FASTER, coco)
    yield Published(name, vgg, "COCO trainval", "COCO test-dev", "box AP", 21.9, _FASTER)
    for model, ap, ap50, of in (
        (vgg, 21.2, 41.5, coco),
        ("ResNet-101-C4", 27.2, 48.4, "lineage/faster_rcnn_R101_C4"),
    ):
        data = ("COCO train", "COCO val")
        yield Published(name, model, *data, "box AP", ap, _RESNET, of)
        yield Published(name, model, *data, "box AP50", ap50, _RESNET, of)
    values = {"AP": 31.6, "AP50": 53.1, "APs": 13.2, "APm": 35.6, "APl": 47.1}
    yield from _fpn_baseline(name, values, _FPN.format(3), "lineage/faster_rcnn_R50_C4")
    data = ("COCO trainval35k", "COCO minival")
    yield Published(name, "ResNet-50-FPN", *data, "box AP", 33.9, _FPN.format(3))
    for model, seconds in (
        ("ResNet-50-C4", 0.32),
        ("ResNet-50-FPN", 0.148),
        ("ResNet-101-FPN", 0.172),
    ):
        source = _FPN.partition(",")[0]
        yield Published(name, model, *data, _PER_IMAGE, seconds, source, note="M40 GPU")


def _fpn_baseline(
    name: str, values: dict[str, float], source: str, config: str
) -> Iterator[Published]:
    data = ("COCO trainval35k", "COCO minival")
    for metric, value in values.items():
        yield Published(name, "ResNet-50-C4", *data, f"box {metric}", value, source, config)


def _mask_rcnn() -> Iterator[Published]:
    """Yield the rows of Tables 1 and 3 that are Mask R-CNN's or Faster R-CNN's on its features."""
    for row in PRINTED:
        method, _, model = row.name.partition(", ")
        if row.table not in ("1", "3") or method not in ("Mask R-CNN", "Faster R-CNN"):
            continue
        for key, value in row.published.items():
            task, metric = key.split("/")
            kind = {"bbox": "box", "segm": "mask"}[task]
            source = f"{_MASK}, Table {row.table}"
            data = ("COCO trainval35k", "COCO test-dev")
            yield Published(method, model, *data, f"{kind} {metric}", value, source, row.config)
    data = ("COCO trainval35k", "COCO test-dev")
    model, config = "ResNet-101-FPN", "mask_rcnn_R101_FPN"
    note = "M40 GPU, without 0.015 s on the CPU"
    yield Published("Mask R-CNN", model, *data, _PER_IMAGE, 0.195, _MASK, config, note)


def _all() -> Iterable[Published]:
    for part in (_rcnn, _fast_rcnn, _faster_rcnn, _mask_rcnn):
        yield from part()


# In the order of the papers; within one method those of one paper are together.
LINEAGE: tuple[Published, ...] = tuple(_all())


def published_for(config: str) -> tuple[Published, ...]:
    """Return the published numbers that a config stands for.

    Args:
        config: relative to `configs/`, with or without `.yaml`.
    """
    name = config.removesuffix(".yaml")
    return tuple(number for number in LINEAGE if number.config == name)


def summaries_of(config: str) -> list[str]:
    """Return what the header of a config says of its numbers: a line for each subject and source.

    Args:
        config: as of `published_for`.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for number in published_for(config):
        texts = found.setdefault((number.source, number.subject), [])
        texts.append(f"{number.metric} {number.value}")
    return [f"{', '.join(place)}: {', '.join(texts)}." for place, texts in found.items()]
