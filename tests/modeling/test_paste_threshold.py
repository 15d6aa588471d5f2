"""`MaskRCNN` is `GeneralizedRCNN`, except for the threshold at which masks are pasted."""

import pytest
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, GeneralizedRCNNWithTTA
from detectron2.structures import Boxes, Instances
from faithful import assert_same_tensors, batch
from tiny_model import detect, tiny_cfg

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.modeling.meta_arch import MaskRCNN


def cfg_with(threshold=0.5, meta="MaskRCNN"):
    cfg = tiny_cfg()
    cfg.MODEL.META_ARCHITECTURE = meta
    cfg.MODEL.ROI_MASK_HEAD.PASTE_THRESH = threshold
    return cfg


def build(cfg):
    torch.manual_seed(0)
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg).eval()
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.01)
    if cfg.MODEL.MASK_ON:
        # Probabilities all over (0, 1): none of the thresholds below is without effect.
        torch.nn.init.normal_(model.roi_heads.mask_head.predictor.weight, std=0.05)
        torch.nn.init.constant_(model.roi_heads.mask_head.predictor.bias, 2.0)
    return model


def images():
    first, second = (image["image"] for image in batch())
    return [{"image": first, "height": 130, "width": 190}, {"image": second}]


def given_boxes():
    boxes = torch.tensor([[5.0, 6.0, 40.0, 50.0], [20.0, 9.0, 60.0, 44.0]])
    return [
        Instances(size, pred_boxes=Boxes(boxes.clone()), pred_classes=torch.tensor([0, 2]))
        for size in ((64, 96), (80, 64))
    ]


def plain(results):
    """Return each image's fields as tensors."""
    fields = []
    for result in results:
        instances = result["instances"] if isinstance(result, dict) else result
        values = instances.get_fields()
        fields.append({k: v.tensor if isinstance(v, Boxes) else v for k, v in values.items()})
    return fields


def assert_equal(mine, theirs):
    for ours, stock in zip(plain(mine), plain(theirs), strict=True):
        assert all(len(value) > 0 for value in stock.values())
        assert_same_tensors(ours, stock)


@pytest.mark.parametrize("given", [False, True], ids=["found boxes", "given boxes"])
@pytest.mark.parametrize("postprocess", [True, False])
def test_at_one_half_inference_is_detectron2s(given, postprocess):
    outputs = []
    for meta in ("MaskRCNN", "GeneralizedRCNN"):
        model = build(cfg_with(meta=meta))
        with torch.no_grad():
            outputs.append(model.inference(images(), given_boxes() if given else None, postprocess))
    assert_equal(*outputs)
    masks = plain(outputs[0])[0]["pred_masks"]
    assert 0 < masks.float().mean() < 1
    first = outputs[0][0]
    size = first["instances"].image_size if postprocess else first.image_size
    assert size == ((130, 190) if postprocess else (64, 96))


def test_masks_are_cut_at_the_threshold():
    with torch.no_grad():
        raw = build(cfg_with()).inference(images(), do_postprocess=False)[0]
    boxes = raw.pred_boxes.tensor * torch.tensor([190 / 96, 130 / 64, 190 / 96, 130 / 64])
    # A negative threshold: the probabilities themselves, as bytes.
    soft = paste_masks_in_image(raw.pred_masks[:, 0], boxes, (130, 190), threshold=-1).float() / 255
    areas = []
    for threshold in (0.2, 0.4, 0.5, 0.7):
        found = detect(build(cfg_with(threshold)), *images())[0]
        assert found.pred_masks.dtype == torch.bool
        assert found.pred_masks[soft >= threshold + 0.01].all()
        assert not found.pred_masks[soft <= threshold - 0.01].any()
        areas.append(int(found.pred_masks.sum()))
    assert areas == sorted(areas, reverse=True)
    assert len(set(areas)) == 4


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.5, 50.0, float("nan")])
def test_a_threshold_that_is_no_probability(threshold):
    with pytest.raises(UserError, match=r"PASTE_THRESH: expected .* above 0 and below 1, got"):
        build(cfg_with(threshold))


def test_built_from_arguments():
    stock = build(cfg_with(meta="GeneralizedRCNN"))
    arguments = GeneralizedRCNN.from_config(cfg_with())
    arguments["backbone"], arguments["roi_heads"] = stock.backbone, stock.roi_heads
    arguments["proposal_generator"] = stock.proposal_generator
    model = MaskRCNN(mask_threshold=0.5, **arguments).eval()
    assert list(model.state_dict()) == list(stock.state_dict())
    assert_equal(detect(model, *images()), detect(build(cfg_with()), *images()))


def test_without_masks():
    cfg = cfg_with(0.3)
    cfg.MODEL.MASK_ON = False
    found = detect(build(cfg), *images())[0]
    assert len(found) > 0
    assert not found.has("pred_masks")


def test_detectron2s_test_time_augmentation_takes_the_model():
    cfg = cfg_with(0.3)
    cfg.TEST.AUG.MIN_SIZES = (64,)
    model = build(cfg)
    assert model.mask_threshold == 0.3
    (found,) = detect(GeneralizedRCNNWithTTA(cfg, model), images()[0])
    assert len(found) > 0
    assert found.pred_masks.shape == (len(found), 130, 190)
