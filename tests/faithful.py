"""Builds our model and detectron2's from the same config and compares them, bit for bit."""

import torch
from detectron2 import model_zoo as stock_zoo
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from detectron2.utils.events import EventStorage
from torch import nn

from mask_rcnn_ext import model_zoo

# Fewer RoIs and detections than in the configs, in both models, so that the tests are quick.
FEW = [
    "MODEL.DEVICE", "cpu",
    "MODEL.WEIGHTS", "",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN", "200",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN", "50",
    "MODEL.RPN.PRE_NMS_TOPK_TEST", "200",
    "MODEL.RPN.POST_NMS_TOPK_TEST", "20",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16",
    # Scores of an untrained model hardly differ from one another: keep them all.
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0",
    "TEST.DETECTIONS_PER_IMAGE", "10",
]  # fmt: skip

# All layers, with a sixteenth of the weights.
NARROW = [
    "MODEL.RESNETS.STEM_OUT_CHANNELS", "16",
    "MODEL.RESNETS.WIDTH_PER_GROUP", "16",
    "MODEL.RESNETS.RES2_OUT_CHANNELS", "64",
    "MODEL.FPN.OUT_CHANNELS", "32",
    "MODEL.ROI_BOX_HEAD.FC_DIM", "64",
    "MODEL.ROI_MASK_HEAD.CONV_DIM", "32",
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", "(32, 32, 32, 32, 32, 32, 32, 32)",
]  # fmt: skip

# Our classes instead of detectron2's.
OUR_CLASSES = [
    "MODEL.META_ARCHITECTURE", "MaskRCNN",
    "MODEL.ROI_HEADS.NAME", "MaskRCNNROIHeads",
    "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNFCNHead",
]  # fmt: skip
OUR_C4_CLASSES = [*OUR_CLASSES, "MODEL.ROI_HEADS.NAME", "MaskRCNNRes5ROIHeads"]

# Stock config -> our classes that make the same model.
MODELS = {
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml": OUR_CLASSES,
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml": OUR_C4_CLASSES,
    "COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x.yaml": OUR_CLASSES,
    "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml": OUR_CLASSES,
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml": OUR_CLASSES,
    "Misc/mask_rcnn_R_50_FPN_1x_cls_agnostic.yaml": OUR_CLASSES,
}


def stock_config(name: str, *overrides: str):
    """Return a config of detectron2's zoo in detectron2's own config class."""
    cfg = stock_zoo.get_config(name)
    cfg.merge_from_list([*FEW, *overrides])
    return cfg


def our_config(name: str, *overrides: str):
    """Return a config by name, ours or detectron2's, with this package's keys."""
    cfg = model_zoo.get_config(name)
    cfg.merge_from_list([*FEW, *overrides])
    return cfg


def build(cfg, seed: int = 7) -> nn.Module:
    """Return the model of `cfg` with random weights that keep activations near one.

    A new model has frozen norms that do nothing, so each residual block doubles the variance and
    every softmax is saturated.
    """
    torch.manual_seed(seed)
    model = build_model(cfg)
    for name, buffer in model.named_buffers():
        if name.endswith("stem.conv1.norm.weight"):
            buffer.fill_(0.02)
        elif name.endswith("conv3.norm.weight"):
            buffer.fill_(0.3)
    return model


def pair(name: str, *overrides: str) -> tuple[nn.Module, nn.Module]:
    """Return (ours, detectron2's) for a key of `MODELS`, from the same seed."""
    ours = build(our_config(name, *MODELS[name], *overrides))
    return ours, build(stock_config(name, *overrides))


def batch(*, classes=(3, 4), keypoints: int = 0, objects: bool = True) -> list[dict]:
    """Return two images, 64 x 96 and 80 x 64, with two instances of `classes` each; or with none.

    Each instance has that many keypoints, all of them visible and inside its box.
    """
    generator = torch.Generator().manual_seed(3)
    images = []
    kept = slice(None) if objects else slice(0, 0)
    for height, width in ((64, 96), (80, 64)):
        instances = Instances((height, width))
        boxes = torch.tensor([[5.0, 6.0, 40.0, 50.0], [20.0, 10.0, 60.0, 44.0]])
        instances.gt_boxes = Boxes(boxes[kept])
        instances.gt_classes = torch.tensor(classes)[kept]
        masks = torch.zeros(2, height, width, dtype=torch.bool)
        masks[0, 6:50, 5:40] = True
        masks[1, 10:44, 20:60] = True
        instances.gt_masks = BitMasks(masks[kept])
        if keypoints:
            inside = torch.rand(2, keypoints, 2, generator=generator)
            points = boxes[:, None, :2] + inside * (boxes[:, None, 2:] - boxes[:, None, :2])
            points = torch.cat([points, torch.full((2, keypoints, 1), 2)], 2)
            instances.gt_keypoints = Keypoints(points[kept])
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        images.append({"image": image, "instances": instances, "height": height, "width": width})
    return images


def losses(model: nn.Module, *, backward: bool = False) -> dict[str, torch.Tensor]:
    """Return the losses of a training step; with `backward`, also the gradients by parameter."""
    model.train()
    model.zero_grad()
    torch.manual_seed(11)  # of the RoI sampling
    with EventStorage():
        keypoints = hasattr(model.roi_heads, "keypoint_head")
        persons = {"classes": (0, 0), "keypoints": 17} if keypoints else {}
        result = dict(model(batch(**persons)))
    if backward:
        sum(result.values()).backward()
        result |= {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    return result


def detections(model: nn.Module) -> list[dict[str, torch.Tensor]]:
    """Return the fields of the detections in each image, as tensors."""
    model.eval()
    inputs = [{k: image[k] for k in ("image", "height", "width")} for image in batch()]
    with torch.no_grad():
        outputs = [output["instances"].get_fields() for output in model(inputs)]
    return [{k: getattr(v, "tensor", v) for k, v in fields.items()} for fields in outputs]


def assert_same_tensors(ours: dict[str, torch.Tensor], stock: dict[str, torch.Tensor]) -> None:
    """Fail unless both have the same names, in the same order, and the same bits."""
    assert list(ours) == list(stock)
    for name, value in stock.items():
        assert torch.equal(ours[name], value), name


def assert_same_detections(ours: nn.Module, stock: nn.Module, *fields: str) -> None:
    """Fail unless both find the same objects, at least one, with `fields`."""
    for mine, its in zip(detections(ours), detections(stock), strict=True):
        assert len(its["scores"]) > 0
        assert {"pred_boxes", "scores", "pred_classes", *fields} <= its.keys()
        assert_same_tensors(mine, its)
