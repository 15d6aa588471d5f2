"""The FCN and MLP mask heads: stock at the defaults, and consistent at every other setting."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY, build_model, detector_postprocess
from detectron2.modeling.roi_heads.mask_head import build_mask_head
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from faithful import assert_same_tensors, batch
from mask_heads_to_test import (
    CLASSES,
    agnostic_or_not,
    build,
    every_head,
    every_loss,
    features,
    head_cfg,
)
from tiny_model import detect

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.modeling.roi_heads import MaskRCNNFCNHead, MaskRCNNMLPHead


def ellipses(boxes):
    """Return bit masks of an ellipse inside each XYXY box, cut by a diagonal."""
    ys, xs = (torch.arange(n)[:, None] + 0.5 for n in (120, 140))
    masks = []
    for x0, y0, x1, y1 in boxes:
        v, u = (ys - (y0 + y1) / 2) / (y1 - y0) * 2, ((xs - (x0 + x1) / 2) / (x1 - x0) * 2).T
        masks.append((u**2 + v**2 < 1) & (u < 0.5 + v))
    return torch.stack(masks)


BOXES = [[4.0, 7.0, 90.0, 100.0], [30.0, 20.0, 110.0, 112.0], [60.5, 5.25, 135.0, 80.5]]


def training_image(rows=slice(None)):
    instances = Instances((120, 140))
    instances.proposal_boxes = Boxes(torch.tensor(BOXES))
    instances.gt_classes = torch.tensor([2, 0, 1])
    instances.gt_masks = BitMasks(ellipses(BOXES))
    return instances[rows]


def detected_image(rows=slice(None)):
    instances = Instances((120, 140))
    instances.pred_boxes = Boxes(torch.tensor(BOXES))
    instances.pred_classes = torch.tensor([2, 0, 1])
    instances.scores = torch.tensor([0.9, 0.8, 0.7])
    return instances[rows]


def loss_of(head, x, images):
    head.train()
    with EventStorage():
        losses = head(x, images)
    assert list(losses) == ["loss_mask"]
    return losses["loss_mask"]


def masks_of(head, x, images):
    head.eval()
    with torch.no_grad():
        return [image.pred_masks for image in head(x, images)]


@agnostic_or_not
@pytest.mark.parametrize("resolution", [0, 28])
@pytest.mark.parametrize(("num_conv", "norm"), [(0, ""), (2, ""), (2, "GN")])
def test_fcn_at_the_default_is_detectron2s(agnostic, resolution, num_conv, norm):
    results = []
    for name in ("MaskRCNNFCNHead", "MaskRCNNConvUpsampleHead"):
        cfg = head_cfg(name, agnostic=agnostic, resolution=resolution, num_conv=num_conv)
        cfg.MODEL.ROI_MASK_HEAD.NORM, cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = norm, 32
        head = build(cfg)
        state, after = head.state_dict(), torch.rand(1)  # what comes next draws the same numbers
        torch.nn.init.normal_(head.predictor.weight, std=0.5)
        loss = loss_of(head, features(3), [training_image()])
        loss.backward()
        gradients = {name: p.grad for name, p in head.named_parameters()}
        masks = masks_of(head, features(3), [detected_image()])[0]
        results.append((state, {"loss": loss, "masks": masks, "after": after, **gradients}))
    for ours, stock in zip(*results, strict=True):
        assert_same_tensors(ours, stock)


@every_head
@every_loss
@agnostic_or_not
@pytest.mark.parametrize("side", [0, 14, 28, 56, 112])
def test_every_output_resolution(name, loss, agnostic, side):
    head = build(head_cfg(name, loss=loss, agnostic=agnostic, resolution=side))
    side = side or 28
    channels = (1 if agnostic else CLASSES) + (loss == "softmax")
    assert head.layers(features(3)).shape == (3, channels, side, side)
    value = loss_of(head, features(3), [training_image()])
    # Untrained logits are near 0: every one of `channels` answers is as likely as the others.
    answers = channels if loss == "softmax" else 2
    assert value.item() == pytest.approx(torch.log(torch.tensor(float(answers))).item(), abs=0.05)
    masks = masks_of(head, features(3), [detected_image(slice(0, 2)), detected_image(slice(2, 3))])
    assert [tuple(m.shape) for m in masks] == [(2, 1, side, side), (1, 1, side, side)]
    assert all(((m > 0) & (m < 1)).all() for m in masks)


@every_head
@every_loss
@agnostic_or_not
@pytest.mark.parametrize("side", [14, 28, 56, 112])
def test_perfect_logits_give_the_ground_truth_back(name, loss, agnostic, side):
    """Target, logits, reading and pasting agree: no transposition, no shift, no other side."""
    head = build(head_cfg(name, loss=loss, agnostic=agnostic, resolution=side))
    channels, side = head.layers(features(1)).shape[1:3]
    truth = ellipses(BOXES)
    inside = BitMasks(truth).crop_and_resize(torch.tensor(BOXES), side)
    logits = torch.full((3, channels, side, side), -9.0)
    for row, label in enumerate([0, 0, 0] if agnostic else [2, 0, 1]):
        logits[row, label][inside[row]] = 9
        if loss == "softmax":
            logits[row, -1][~inside[row]] = 9
    with EventStorage():
        assert head.mask_loss(logits, [training_image()]).item() < 1e-3
    for head.softmax_argmax in (False, True):  # how softmax masks are read
        image = detected_image()
        head.mask_inference(logits, [image])
        pasted = detector_postprocess(image, 120, 140).pred_masks
        overlap = (pasted & truth).sum((1, 2)) / (pasted | truth).sum((1, 2))
        assert (overlap > (0.9 if side == 14 else 0.95)).all(), overlap


@every_head
def test_a_key_reads_softmax_masks_by_the_likeliest_channel(name):
    cfg = head_cfg(name, loss="softmax")
    literal = build(cfg)
    cfg.MODEL.ROI_MASK_HEAD.SOFTMAX_ARGMAX = True
    argmax = build(cfg)
    assert_same_tensors(argmax.state_dict(), literal.state_dict())
    masks = [masks_of(head, features(3), [detected_image()])[0] for head in (literal, argmax)]
    # Untrained: four channels of about a quarter each.
    assert masks[0].mean().item() == pytest.approx(1 / 4, abs=0.05)
    assert masks[1].mean().item() == pytest.approx(1 / 2, abs=0.05)


@pytest.mark.parametrize(
    ("side", "resolution", "layers"),
    [
        (14, 0, ["mask_fcn1", "deconv", "predictor"]),
        (14, 14, ["mask_fcn1", "predictor"]),
        (14, 56, ["mask_fcn1", "deconv", "deconv2", "predictor"]),
        (14, 112, ["mask_fcn1", "deconv", "deconv2", "deconv3", "predictor"]),
        (7, 14, ["mask_fcn1", "deconv", "predictor"]),  # the paper's C4
        (7, 28, ["mask_fcn1", "deconv", "deconv2", "predictor"]),
        (7, 7, ["mask_fcn1", "predictor"]),
    ],
)
def test_number_of_deconvolutions(side, resolution, layers):
    head = build(head_cfg(resolution=resolution), side)
    assert list(dict.fromkeys(key.split(".")[0] for key in head.state_dict())) == layers
    for name, module in head.named_modules():
        if "deconv" in name and "relu" not in name:
            assert (module.kernel_size, module.stride) == ((2, 2), (2, 2))
            assert (module.in_channels, module.out_channels) == (8, 8)
            assert module.weight.std().item() == pytest.approx((2 / 32) ** 0.5, rel=0.2)  # MSRA
            assert not module.bias.any()
    # Each deconvolution is followed by its ReLU: nothing negative reaches the predictor.
    seen = []
    head.predictor.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    head.layers(features(2, side))
    assert seen[0].min() == 0 < seen[0].max()


def test_without_convolution_and_deconvolution_the_predictor_fits_the_features():
    head = build(head_cfg(resolution=14, num_conv=0))
    assert list(head.state_dict()) == ["predictor.weight", "predictor.bias"]
    assert head.layers(features(2)).shape == (2, CLASSES, 14, 14)
    assert 0 < head.predictor.weight.abs().max() < 0.01
    assert not head.predictor.bias.any()


@pytest.mark.parametrize("resolution", [30, 42, 7, 20, -28])
def test_resolution_that_does_not_fit(resolution):
    with pytest.raises(UserError, match=r"OUTPUT_RESOLUTION: .*14, 28, 56, 112.*got") as error:
        build(head_cfg(resolution=resolution))
    assert str(resolution) in str(error.value)


@every_head
@pytest.mark.parametrize(
    ("loss", "hint"), [("sofmax", "did you mean 'softmax'"), ("dice", "got 'dice'"), (3, "got 3")]
)
def test_unknown_loss_is_an_error_when_the_head_is_built(name, loss, hint):
    with pytest.raises(UserError, match=rf"LOSS: expected sigmoid or softmax, .*{hint}"):
        build(head_cfg(name, loss=loss))


@every_head
def test_input_shape_without_a_side(name):
    with pytest.raises(UserError, match="input_shape"):
        build_mask_head(head_cfg(name, resolution=28), ShapeSpec(channels=6))
    levels = {"p2": ShapeSpec(channels=6)}  # what detectron2 gives a head without a RoI layer
    with pytest.raises(UserError, match=r"POOLER_TYPE: .* such as ROIAlignV2, got ''"):
        build_mask_head(head_cfg(name, resolution=28), levels)


@every_head
def test_features_of_another_side_than_announced(name):
    """detectron2's Res5ROIHeads announces the side before res5 halves it."""
    head = build(head_cfg(name, resolution=28), side=14).eval()
    with pytest.raises(UserError, match=r"side 14, but gets side 7.*MaskRCNNRes5ROIHeads"):
        head(features(3, side=7), [detected_image()])


def test_fcn_at_the_default_takes_any_side_as_detectron2s_does():
    head = build(head_cfg(), side=14)
    assert masks_of(head, features(3, side=7), [detected_image()])[0].shape == (3, 1, 14, 14)


@every_head
@every_loss
@pytest.mark.parametrize("resolution", [14, 28, 112])
def test_gradient_reaches_every_parameter(name, loss, resolution):
    head = build(head_cfg(name, loss=loss, resolution=resolution))
    x = features(3).requires_grad_()
    loss_of(head, x, [training_image()]).backward()
    assert x.grad.abs().sum() > 0
    for key, parameter in head.named_parameters():
        assert parameter.grad.abs().sum() > 0, key


@every_head
@every_loss
def test_no_roi(name, loss):
    head = build(head_cfg(name, loss=loss))
    value = loss_of(head, features(0), [training_image(slice(0, 0))])
    assert value.item() == 0
    value.backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())
    assert masks_of(head, features(0), [detected_image(slice(0, 0))])[0].shape == (0, 1, 28, 28)


@every_head
@every_loss
def test_order_of_the_rois_does_not_matter(name, loss):
    head, x, order = build(head_cfg(name, loss=loss)), features(3), torch.tensor([2, 0, 1])
    torch.nn.init.normal_(head.predictor.weight)
    plain = masks_of(head, x, [detected_image()])[0]
    permuted = masks_of(head, x[order], [detected_image()[order]])[0]
    torch.testing.assert_close(permuted, plain[order])
    losses = [
        loss_of(head, x, [training_image()]),
        loss_of(head, x[order], [training_image()[order]]),
    ]
    torch.testing.assert_close(*losses)


@every_head
@every_loss
def test_bfloat16_autocast(name, loss):
    head = build(head_cfg(name, loss=loss))
    exact = loss_of(head, features(3), [training_image()])
    exact_masks = masks_of(head, features(3), [detected_image()])[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss_of(head, features(3), [training_image()])
        masks = masks_of(head, features(3), [detected_image()])[0]
    value.backward()
    assert value.item() == pytest.approx(exact.item(), rel=1e-2)
    torch.testing.assert_close(masks.float(), exact_masks, atol=1e-2, rtol=0)
    assert all(p.grad.isfinite().all() for p in head.parameters())


@every_head
@every_loss
@agnostic_or_not
def test_built_from_cfg_and_from_arguments_are_the_same(name, loss, agnostic):
    from_cfg = build(head_cfg(name, loss=loss, agnostic=agnostic, resolution=56))
    widths = {"conv_dims": [8, 8]} if name == "MaskRCNNFCNHead" else {"fc_dims": [16, 16]}
    torch.manual_seed(3)
    from_arguments = ROI_MASK_HEAD_REGISTRY.get(name)(
        ShapeSpec(channels=6, height=14, width=14),
        num_classes=1 if agnostic else CLASSES,
        loss=loss,
        output_resolution=56,
        loss_weight=2.0,
        **widths,
    )
    assert_same_tensors(from_cfg.state_dict(), from_arguments.state_dict())
    single, double = (
        loss_of(h, features(3), [training_image()]) for h in (from_cfg, from_arguments)
    )
    assert torch.equal(double, 2 * single)


def test_a_subclass_brings_its_own_loss():
    """The hook for downstream heads; nothing else has to be overridden."""

    class Constant(MaskRCNNFCNHead):
        def mask_loss(self, logits, instances):
            return logits.sum() * 0 + 7

    head = Constant(head_cfg(), ShapeSpec(channels=6, height=14, width=14))
    assert loss_of(head, features(3), [training_image()]).item() == 7


@every_head
@every_loss
def test_a_whole_model_trains_a_step(name, loss):
    cfg = head_cfg(name, loss=loss, resolution=56)
    torch.manual_seed(0)
    model = build_model(cfg)
    image = batch(classes=(1, 2))[0]
    predictor = model.roi_heads.mask_head.predictor
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    before = predictor.weight.detach().clone()
    with EventStorage():
        losses = model([image])
        sum(losses.values()).backward()
    optimizer.step()
    assert losses["loss_mask"] > 0
    assert not torch.equal(before, predictor.weight)
    (found,) = detect(model.eval(), {**image, "height": 80, "width": 120})
    assert len(found) > 0
    assert found.pred_masks.shape == (len(found), 80, 120)
    assert found.pred_masks.dtype == torch.bool


def test_mlp_takes_any_resolution_but_a_negative_one():
    assert build(head_cfg("MaskRCNNMLPHead", resolution=21)).layers(features(1)).shape[-1] == 21
    with pytest.raises(UserError, match=r"OUTPUT_RESOLUTION: .*\(28\), got -1"):
        build(head_cfg("MaskRCNNMLPHead", resolution=-1))


def test_mlp_without_hidden_layer():
    cfg = head_cfg("MaskRCNNMLPHead")
    cfg.MODEL.ROI_MASK_HEAD.NUM_FC = 0
    with pytest.raises(UserError, match="NUM_FC"):
        build(cfg)


@pytest.mark.parametrize("num_fc", [2, 3])
def test_mlp_of_the_paper(num_fc):
    """Table 2e: 1024-1024-80*28^2 and 1024-1024-1024-80*28^2, on 256 x 14 x 14."""
    with torch.device("meta"):  # 115 million weights
        head = MaskRCNNMLPHead(
            ShapeSpec(channels=256, height=14, width=14), num_classes=80, fc_dims=[1024] * num_fc
        )
    shapes = [tuple(p.shape) for p in head.parameters() if p.dim() == 2]
    widths = [256 * 14 * 14] + [1024] * num_fc + [80 * 28**2]
    assert shapes == list(zip(widths[1:], widths[:-1], strict=True))


def test_mlp_by_hand():
    head = build(head_cfg("MaskRCNNMLPHead"))
    torch.nn.init.normal_(head.predictor.weight)
    torch.nn.init.normal_(head.predictor.bias)
    x = features(2)
    h = x.reshape(2, -1)
    for fc in (head.hidden.fc1, head.hidden.fc2):
        h = (h @ fc.weight.T + fc.bias).clamp(min=0)
    logits = head.layers(x)
    for label, row, column in ((0, 0, 0), (1, 3, 20), (2, 27, 27)):
        index = (label * 28 + row) * 28 + column
        expected = h @ head.predictor.weight[index] + head.predictor.bias[index]
        torch.testing.assert_close(logits[:, label, row, column], expected)


def test_mlp_starts_as_detectron2s_layers_do():
    head = build(head_cfg("MaskRCNNMLPHead"))
    weights = head.predictor.weight
    assert weights.std().item() == pytest.approx(0.001, rel=0.05)
    for fc in (head.hidden.fc1, head.hidden.fc2):
        bound = (3 / fc.in_features) ** 0.5  # c2_xavier_fill: uniform
        assert fc.weight.abs().max().item() == pytest.approx(bound, rel=0.1)
    assert not any(p.any() for n, p in head.named_parameters() if n.endswith("bias"))
