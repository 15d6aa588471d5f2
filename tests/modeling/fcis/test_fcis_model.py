"""The meta-architecture `FCIS` as a whole: built from a config, trained for a step, run."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from faithful import batch
from support import SMALL
from tiny_fcis import FCIS_CONFIG
from tiny_model import detect
from torch import nn

from mask_rcnn_ext import UserError, load_config
from mask_rcnn_ext.engine.trainer import Trainer
from mask_rcnn_ext.layers import PSROIAlign, PSROIPool

HEIGHT, WIDTH = 64, 80
FCIS_SMALL = [
    *SMALL,
    "MODEL.DEVICE", "cpu",
    "MODEL.FCIS.CONV_DIM", "16",
    "MODEL.FCIS.NUM_BINS", "3",
    "MODEL.FCIS.POOLED_SIZE", "9",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN", "30",
    "MODEL.RPN.POST_NMS_TOPK_TEST", "20",
    "INPUT.MIN_SIZE_TRAIN", "(64,)",
]  # fmt: skip


def config(*overrides):
    return load_config(FCIS_CONFIG, [*FCIS_SMALL, *overrides])


def fcis(*overrides):
    """Return a model of random weights whose scores and masks differ from RoI to RoI."""
    torch.manual_seed(0)
    model = build_model(config(*overrides))
    for layer in (model.roi_heads.conv_new, model.roi_heads.score_maps):
        nn.init.normal_(layer.weight, std=0.5)
    nn.init.normal_(model.roi_heads.box_maps.weight, std=0.05)
    return model


def images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, HEIGHT, WIDTH)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return [{"image": p, "height": HEIGHT, "width": WIDTH} for p in pixels]


def train_step(model, inputs):
    with EventStorage():
        losses = model.train()(inputs)
    sum(losses.values()).backward()
    return losses


VARIANTS = {
    "default": [],
    "no position-sensitive bins": ["MODEL.FCIS.NUM_BINS", "1"],
    "aligned": ["MODEL.FCIS.POOLER_TYPE", "PSROIAlign"],
    "no OHEM": ["MODEL.FCIS.OHEM", "False"],
}


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_a_step_of_training_and_a_run(overrides):
    model = fcis(*overrides)
    heads = model.roi_heads
    bins = heads.pooler.num_bins
    assert heads.score_maps.out_channels == 2 * (heads.num_classes + 1) * bins**2
    assert heads.box_maps.out_channels == 4 * bins**2
    assert isinstance(heads.pooler, PSROIAlign if "PSROIAlign" in overrides else PSROIPool)
    losses = train_step(model, batch(classes=(1, 0)))
    assert set(losses) == {"loss_cls", "loss_mask", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"}
    for name, loss in losses.items():
        assert loss.isfinite(), name
        assert loss > 0, name
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    assert len(detect(model.eval(), *images(1))[0]) > 0


def test_a_few_steps_lower_the_losses():
    model, inputs = fcis(), batch(classes=(1, 0))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    totals = []
    for _ in range(12):
        optimizer.zero_grad()
        losses = train_step(model, inputs)
        totals.append((losses["loss_mask"] + losses["loss_cls"]).item())
        optimizer.step()
    assert totals[-1] < 0.7 * totals[0]


def test_the_result():
    model = fcis().eval()
    inputs = images(1)
    (result,) = detect(model, *inputs)
    count = len(result)
    assert count > 0
    assert set(result.get_fields()) == {"pred_boxes", "scores", "pred_classes", "pred_masks"}
    assert result.image_size == (HEIGHT, WIDTH)
    assert result.pred_boxes.tensor.shape == (count, 4)
    assert (result.scores.dtype, result.pred_classes.dtype) == (torch.float32, torch.int64)
    assert result.pred_masks.dtype == torch.bool
    assert result.pred_masks.shape == (count, HEIGHT, WIDTH)
    tight = BitMasks(result.pred_masks).get_bounding_boxes().tensor
    assert torch.equal(result.pred_boxes.tensor, tight)
    assert (result.scores[:-1] >= result.scores[1:]).all()
    assert result.pred_classes.max() < model.roi_heads.num_classes
    with pytest.raises(NotImplementedError, match="takes no boxes"):
        model.inference(inputs, [result])
    with torch.no_grad():
        rois = model.inference(inputs, do_postprocess=False)[0]
    assert set(rois.get_fields()) == {"proposal_boxes", "class_probs", "roi_masks"}
    assert len(rois) == 40  # 20 proposals, twice


def test_a_batch_gives_what_single_images_give():
    model, inputs = fcis().eval(), images(3)
    together, alone = detect(model, *inputs), [detect(model, image)[0] for image in inputs]
    for ours, single in zip(together, alone, strict=True):
        assert len(ours) == len(single) > 3
        assert ours.pred_classes.tolist() == single.pred_classes.tolist()
        torch.testing.assert_close(ours.scores, single.scores)
        assert (ours.pred_masks != single.pred_masks).float().mean() < 1e-3
    assert not torch.equal(together[0].scores, together[1].scores)


def rois_of(boxes, probs, side=9):
    """RoIs of masks that fill their boxes."""
    rois = Instances((HEIGHT, WIDTH), proposal_boxes=Boxes(torch.tensor(boxes)))
    background = 1 - torch.tensor(probs).sum(1, keepdim=True)
    rois.class_probs = torch.cat([torch.tensor(probs), background], dim=1)
    rois.roi_masks = torch.ones(len(boxes), side, side)
    return rois


@pytest.mark.parametrize("voting", ["True", "False"])
def test_results_are_in_pixels_of_the_output(voting):
    model = fcis("MODEL.FCIS.MASK_VOTING", voting).eval()
    rois = rois_of([[10.0, 20.0, 30.0, 40.0], [50.0, 2.0, 85.0, 20.0]], [[0.7, 0.1], [0.2, 0.6]])
    found = model.detect(rois, 2 * HEIGHT, 3 * WIDTH)
    found = found[found.scores > 0.5]
    assert found.image_size == (128, 240)
    assert found.pred_boxes.tensor.tolist() == [[30, 40, 90, 80], [150, 4, 240, 40]]
    expected = np.zeros((2, 128, 240), dtype=bool)
    expected[0, 40:80, 30:90] = expected[1, 4:40, 150:240] = True
    np.testing.assert_array_equal(found.pred_masks.numpy(), expected)
    assert rois.proposal_boxes.tensor[0].tolist() == [10, 20, 30, 40]  # not in place
    image = {**images(1)[0], "height": 100, "width": 150}
    (result,) = detect(model, image)
    assert result.image_size == (100, 150)
    assert result.pred_masks.shape[1:] == (100, 150)
    image = {"image": image["image"]}  # without a size, the size of the input
    assert detect(model, image)[0].image_size == (HEIGHT, WIDTH)


@pytest.mark.parametrize(("least", "kept"), [("0", 3), ("2", 2), ("3", 1)])
def test_least_size_of_a_roi_is_in_pixels_of_the_network(least, kept):
    model = fcis("MODEL.PROPOSAL_GENERATOR.MIN_SIZE", least).eval()
    boxes = [[10.0, 20.0, 30.0, 40.0], [40.0, 2.0, 42.0, 20.0], [50.0, 40.0, 70.0, 41.9]]
    found = model.detect(rois_of(boxes, [[0.7]] * 3), 4 * HEIGHT, 4 * WIDTH)
    assert len(found) == kept


def test_score_threshold_and_number_of_detections():
    def run(*overrides):
        return detect(fcis(*overrides).eval(), *images(1))[0]

    everything = run()
    few = run("TEST.DETECTIONS_PER_IMAGE", "3")
    assert len(everything) > 5
    assert few.scores.tolist() == everything.scores[:3].tolist()
    threshold = everything.scores[4].item()
    high = run("MODEL.ROI_HEADS.SCORE_THRESH_TEST", str(threshold))
    assert high.scores.tolist() == everything.scores[:5].tolist()
    assert len(run("MODEL.ROI_HEADS.NMS_THRESH_TEST", "0.9")) > len(everything)
    assert not torch.equal(
        run("MODEL.FCIS.VOTE_IOU_THRESH", "0.9").pred_masks, everything.pred_masks
    )
    assert run("MODEL.FCIS.MASK_THRESH", "0.7").pred_masks.sum() < everything.pred_masks.sum()


REFUSED = {
    "heads": (["MODEL.ROI_HEADS.NAME", "StandardROIHeads"], "FCISROIHeads, got StandardROIHeads"),
    "pooler": (
        ["MODEL.FCIS.POOLER_TYPE", "PSROIpool"],
        "got 'PSROIpool'; did you mean 'PSROIPool'",
    ),
    "bins": (["MODEL.FCIS.NUM_BINS", "10"], "got 10 and 9"),
    "no bins": (["MODEL.FCIS.NUM_BINS", "0"], "got 0 and 9"),
    "size": (
        ["MODEL.FCIS.POOLER_TYPE", "PSROIAlign", "MODEL.FCIS.POOLED_SIZE", "10"],
        "a multiple of NUM_BINS 3, got 10",
    ),
    "threshold": (["MODEL.FCIS.MASK_THRESH", "0.0"], r"MASK_THRESH: .* got 0\.0"),
    "passes": (["MODEL.FCIS.NUM_PASSES_TEST", "0"], "NUM_PASSES_TEST: expected 1 or more, got 0"),
    "features": (["MODEL.ROI_HEADS.IN_FEATURES", "['res4', 'res5']"], "one feature map of"),
    "masks": (["MODEL.MASK_ON", "False"], "set MODEL.MASK_ON True"),
}


@pytest.mark.parametrize(("overrides", "message"), REFUSED.values(), ids=REFUSED)
def test_parts_that_do_not_fit_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        build_model(config(*overrides))


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_learning_rates(optimizer):
    def rates(factor):
        cfg = config(
            "MASK_RCNN_EXT.OPTIMIZER", optimizer, "MODEL.FCIS.CONV_LR_FACTOR", factor,
            "SOLVER.WEIGHT_DECAY_BIAS", "0.0", "SOLVER.BASE_LR", "0.01",
        )  # fmt: skip
        built = Trainer.build_optimizer(cfg, model)
        assert isinstance(built, getattr(torch.optim, optimizer))
        names = {id(p): name for name, p in model.named_parameters()}
        groups = built.param_groups
        return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}

    model = build_model(config())
    plain, tripled = rates("1.0"), rates("3.0")
    assert set(plain) == set(tripled) == {name for name, _ in model.named_parameters()}
    for name, (rate, decay) in tripled.items():
        own = name.startswith("roi_heads.conv_new.")
        assert rate == pytest.approx(0.03 if own else 0.01), name
        assert plain[name] == (0.01, decay), name
    assert {decay for _, decay in plain.values()} > {0.0}


def test_mixed_precision():
    model = fcis()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = train_step(model, batch(classes=(1, 0))[:1])
        (result,) = detect(model.eval(), *images(1))
    for name, loss in losses.items():
        assert loss.isfinite(), name
        assert loss.dtype == torch.float32, name
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
    assert len(result) > 0
    assert result.scores.dtype == result.pred_boxes.tensor.dtype == torch.float32
