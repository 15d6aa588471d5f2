"""The RoI pooler: the same as detectron2's with its layers, and correct with the others."""

import numpy as np
import pytest
import torch
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from reference.roi_layers import roi_layer

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.modeling.poolers import POOLER_TYPES, MaskRCNNROIPooler

STOCK = ("ROIAlign", "ROIAlignV2", "ROIPool")
SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)  # of an image of 256 x 320 pixels


def pyramid(dtype=torch.float32, scales=SCALES, images=2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(images, 3, int(256 * s), int(320 * s), generator=generator)
        .to(dtype)
        .requires_grad_()
        for s in scales
    ]


def boxes_of(*counts: int, seed: int = 0) -> list[Boxes]:
    """For each image boxes of about 40, 150, 300 and 600 pixels, so of every level of FPN."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for count in counts:
        centre = torch.rand(count, 2, generator=generator) * torch.tensor([320.0, 256.0])
        side = torch.tensor([40.0, 150.0, 300.0, 600.0]).repeat(count)[:count, None]
        side = side * (0.8 + 0.4 * torch.rand(count, 2, generator=generator))
        result.append(Boxes(torch.cat([centre - side / 2, centre + side / 2], dim=1)))
    return result


def pool(pooler, features, boxes):
    """Return the output and the gradient of the sum of its squares for each level."""
    output = pooler(features, boxes)
    return output, torch.autograd.grad(output.float().square().sum(), features)


@pytest.mark.parametrize("pooler_type", POOLER_TYPES)
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_one_level_is_the_loop(pooler_type, sampling_ratio):
    scale = 1 / 16
    features, boxes = pyramid(torch.float64, (scale,)), boxes_of(5, 4)
    output = MaskRCNNROIPooler(7, (scale,), sampling_ratio, pooler_type)(features, boxes)
    rois = torch.cat(
        [torch.cat([torch.full((len(b), 1), i), b.tensor], dim=1) for i, b in enumerate(boxes)]
    )
    loop = roi_layer(
        pooler_type, features[0].detach().numpy(), rois.numpy(), 7, scale, sampling_ratio
    )
    np.testing.assert_allclose(output.detach().numpy(), loop, rtol=0, atol=1e-11)


@pytest.mark.parametrize("scales", [(1 / 16,), SCALES], ids=["one level", "FPN"])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("pooler_type", STOCK)
def test_stock_types_are_detectron2s_bit_for_bit(pooler_type, sampling_ratio, scales):
    for size in (7, 14):
        features, boxes = pyramid(scales=scales), boxes_of(9, 6)
        ours, our_gradients = pool(
            MaskRCNNROIPooler(size, scales, sampling_ratio, pooler_type), features, boxes
        )
        stock, gradients = pool(
            ROIPooler(size, scales, sampling_ratio, pooler_type), features, boxes
        )
        assert torch.equal(ours, stock)
        assert all(torch.equal(a, b) for a, b in zip(our_gradients, gradients, strict=True))


@pytest.mark.parametrize("pooler_type", POOLER_TYPES)
def test_the_types_differ(pooler_type):
    """Otherwise the tests above could not fail."""
    features, boxes = pyramid(), boxes_of(9, 6)
    output = MaskRCNNROIPooler(7, SCALES, 2, pooler_type)(features, boxes)
    for other in set(POOLER_TYPES) - {pooler_type}:
        assert not torch.equal(output, MaskRCNNROIPooler(7, SCALES, 2, other)(features, boxes))


@pytest.mark.parametrize("pooler_type", POOLER_TYPES)
def test_levels_are_pooled_as_one_by_one(pooler_type):
    features, boxes = pyramid(), boxes_of(12, 10)
    pooler = MaskRCNNROIPooler(7, SCALES, 2, pooler_type)
    levels = assign_boxes_to_levels(boxes, pooler.min_level, pooler.max_level, 224, 4)
    assert set(levels.tolist()) == {0, 1, 2, 3}
    output = pooler(features, boxes)
    image = torch.cat([torch.full((len(b),), i) for i, b in enumerate(boxes)])
    every = torch.cat([b.tensor for b in boxes])
    for level, scale in enumerate(SCALES):
        single = MaskRCNNROIPooler(7, (scale,), 2, pooler_type)
        mine = [Boxes(every[(levels == level) & (image == i)]) for i in range(2)]
        assert torch.equal(output[levels == level], single([features[level]], mine))


@pytest.mark.parametrize("counts", [(0, 0), (0, 5), (5, 0)], ids=str)
@pytest.mark.parametrize("scales", [(1 / 16,), SCALES], ids=["one level", "FPN"])
@pytest.mark.parametrize("pooler_type", POOLER_TYPES)
def test_images_without_boxes(pooler_type, scales, counts):
    features = pyramid(scales=scales)
    output, gradients = pool(
        MaskRCNNROIPooler(7, scales, 2, pooler_type), features, boxes_of(*counts)
    )
    assert output.shape == (sum(counts), 3, 7, 7)
    for image, count in enumerate(counts):
        total = sum(gradient[image].abs().sum() for gradient in gradients)
        assert (total > 0) == (count > 0)


@pytest.mark.parametrize("pooler_type", POOLER_TYPES)
def test_autocast_in_bfloat16(pooler_type):
    features, boxes = pyramid(torch.bfloat16), boxes_of(9, 6)
    pooler = MaskRCNNROIPooler(7, SCALES, 2, pooler_type)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, gradients = pool(pooler, features, boxes)
    exact = pooler([f.detach().float() for f in features], boxes)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, exact.bfloat16())
    assert all(g.dtype == torch.bfloat16 and g.abs().sum() > 0 for g in gradients)


def test_a_corner_keeps_its_fraction_in_bfloat16():
    """bfloat16 makes 130 of 130.4; detectron2's layer of 2024 then cannot tell the boxes apart."""
    features, rest = pyramid(torch.bfloat16, (1 / 16,), images=1), [70.2, 220.9, 150.3]
    pooler = MaskRCNNROIPooler(7, (1 / 16,), 2, "ROIAlign")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = [pooler(features, [Boxes(torch.tensor([[x, *rest]]))]) for x in (130.4, 130.0)]
    assert not torch.equal(*outputs)


def test_it_is_detectron2s_pooler_otherwise():
    pooler = MaskRCNNROIPooler(
        output_size=(7, 7),
        scales=SCALES,
        sampling_ratio=2,
        pooler_type="ROIWarpMax",
        canonical_box_size=112,
        canonical_level=3,
    )
    stock = ROIPooler((7, 7), SCALES, 2, "ROIAlign", 112, 3)
    assert isinstance(pooler, ROIPooler)
    assert not pooler.state_dict()
    for name in (
        "output_size", "min_level", "max_level", "canonical_level", "canonical_box_size"
    ):  # fmt: skip
        assert getattr(pooler, name) == getattr(stock, name), name


def test_unknown_types_are_errors():
    with pytest.raises(
        UserError, match=r"POOLER_TYPE: expected ROIAlign, .*got 'ROIalignMax'; did you mean"
        " 'ROIAlignMax'"
    ):  # fmt: skip
        MaskRCNNROIPooler(7, (1 / 16,), 2, "ROIalignMax")
    with pytest.raises(UserError, match="ROIWarpAve: expected a sampling ratio"):
        MaskRCNNROIPooler(7, (1 / 16,), -1, "ROIWarpAve")
