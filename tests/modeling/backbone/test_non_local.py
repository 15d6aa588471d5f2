"""The non-local block (Table 8) and the ResNet-FPN that has it."""

import math

import pytest
import torch
from detectron2.modeling import build_backbone
from tiny_model import tiny_cfg

from mask_rcnn_ext import UserError
from mask_rcnn_ext.modeling.backbone.non_local import NonLocalBlock


def backbone(
    name: str = "mask_rcnn_ext_nonlocal_resnet_fpn_backbone", stages=("res4",), depth: int = 18
):
    cfg = tiny_cfg()
    cfg.MODEL.BACKBONE.NAME = name
    cfg.MASK_RCNN_EXT.NON_LOCAL.STAGES = list(stages)
    if depth != 18:
        cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.WIDTH_PER_GROUP = depth, 8
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 32
    torch.manual_seed(4)
    return build_backbone(cfg).eval()


def randomized(block: NonLocalBlock) -> NonLocalBlock:
    torch.manual_seed(0)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return block


def by_loops(block: NonLocalBlock, features: torch.Tensor) -> torch.Tensor:
    """Equations (1), (4) and (6) of the non-local paper, position by position."""

    def embed(conv, image, y, x):
        return conv.weight[:, :, 0, 0] @ image[:, y, x] + conv.bias

    result = features.clone()
    for n, image in enumerate(features):
        positions = [(y, x) for y in range(image.shape[1]) for x in range(image.shape[2])]
        for i in positions:
            theta, total, summed = embed(block.theta, image, *i), 0.0, 0.0
            for j in positions:
                weight = math.exp(float(theta @ embed(block.phi, image, *j)))
                total += weight
                summed = summed + weight * embed(block.g, image, *j)
            z = block.out.weight[:, :, 0, 0] @ (summed / total) + block.out.bias
            result[n, :, i[0], i[1]] += z
    return result


@pytest.mark.parametrize("channels", [4, 5])
def test_against_the_loops(channels):
    block = randomized(NonLocalBlock(channels)).double()
    features = torch.randn(2, channels, 3, 4, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(block(features), by_loops(block, features))
    assert block.theta.out_channels == channels // 2


def test_it_starts_as_the_identity():
    block = NonLocalBlock(8)
    features = torch.randn(2, 8, 5, 6).to(memory_format=torch.channels_last)
    assert torch.equal(block(features), features)


def test_gradients():
    block = randomized(NonLocalBlock(4)).double()
    features = torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, (features,))


def test_every_parameter_learns_from_the_start():
    """The zero output projection holds the others back for one step only."""
    block = NonLocalBlock(8)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    features, target = torch.randn(1, 8, 4, 4), torch.randn(1, 8, 4, 4)
    for _ in range(2):
        optimizer.zero_grad()
        (block(features) - target).square().sum().backward()
        optimizer.step()
    for name, parameter in block.named_parameters():
        # A constant added to every logit of a softmax does nothing: phi's bias.
        assert parameter.grad.abs().sum() > (-1 if name == "phi.bias" else 0), name


def test_under_autocast():
    block = randomized(NonLocalBlock(8))
    features = torch.randn(1, 8, 4, 4)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        seen = block(features)
    with torch.no_grad():
        torch.testing.assert_close(seen.float(), block(features), atol=0.15, rtol=0.1)


@pytest.mark.parametrize(
    ("depth", "stages", "last_blocks"),
    [(18, ["res4"], [1]), (50, ["res3", "res4"], [3, 5])],
    ids=["basic", "bottleneck"],
)
def test_in_the_backbone(depth, stages, last_blocks):
    """The stock features, bit for bit; the stock keys, and the block's."""
    ours = backbone(stages=stages, depth=depth)
    stock = backbone("build_resnet_fpn_backbone", depth=depth)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features = stock(images)
        for name, seen in ours(images).items():
            assert torch.equal(seen, features[name]), name
    added = [key for key in ours.state_dict() if key not in stock.state_dict()]
    assert added == [
        f"bottom_up.{stage}.non_local.{layer}.{kind}"
        for stage in stages
        for layer in ("theta", "phi", "g", "out")
        for kind in ("weight", "bias")
    ]
    missing, unexpected = ours.load_state_dict(stock.state_dict(), strict=False)
    assert (missing, unexpected) == (added, [])
    assert ours.output_shape() == stock.output_shape()
    for stage, last in zip(stages, last_blocks, strict=True):
        names = [name for name, _ in getattr(ours.bottom_up, stage).named_children()]
        assert names[-2:] == ["non_local", str(last)]


def test_the_block_takes_part():
    """It sits before the last block of res4: p2, which sees res4 from above, changes; res3 not."""
    ours = backbone()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        before, below = ours(images), ours.bottom_up(images)
        randomized(ours.bottom_up.res4.non_local)
        after, below_after = ours(images), ours.bottom_up(images)
        # By hand: the blocks of res4 one after the other.
        seen = below["res3"]
        for name in ("0", "non_local", "1"):
            seen = getattr(ours.bottom_up.res4, name)(seen)
    assert not torch.equal(before["p2"], after["p2"])
    assert torch.equal(below["res3"], below_after["res3"])
    assert not torch.equal(below["res4"], below_after["res4"])
    assert torch.equal(below_after["res4"], seen)


def test_gradients_reach_the_block():
    ours = backbone().train()
    randomized(ours.bottom_up.res4.non_local)
    sum(f.square().sum() for f in ours(torch.randn(1, 3, 64, 64)).values()).backward()
    for name, parameter in ours.bottom_up.res4.non_local.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (["res44"], r"NON_LOCAL.STAGES: expected some of res2, .*'res44'; did you mean 'res4'"),
        (["res4", "res4"], r"'res4' is listed twice"),
    ],
)
def test_stages_that_cannot_be(stages, message):
    with pytest.raises(UserError, match=message):
        backbone(stages=stages)
