"""The RoI layers against literal loops, hand-made values, gradients and half precision."""

import numpy as np
import pytest
import torch
from reference.roi_layers import c_round, roi_layer
from torch import nn

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.layers import gathered_roi_align
from mask_rcnn_ext.layers.gathered_roi_align import GatheredROIAlign
from mask_rcnn_ext.layers.roi_layers import (
    FullPrecisionROIAlign,
    FullPrecisionROIPool,
    round_half_away,
)
from mask_rcnn_ext.modeling.poolers import OUR_TYPES, POOLER_TYPES

SCALE = 1 / 16
HEIGHT, WIDTH = 9, 11  # the map; the image is 144 x 176
GATHERED = {"GatheredROIAlign": "ROIAlign", "GatheredROIAlignV2": "ROIAlignV2"}
TYPES = (*POOLER_TYPES, *GATHERED)
EDGES = {
    "partly outside": [(-40.3, 20.7, 60.2, 90.1), (100.6, 90.3, 230.9, 200.4)],
    "outside": [
        (-200.3, 10, -90.7, 60),
        (300.2, 10, 350.9, 60),
        (10, -200.3, 60, -90.7),
        (10, 300.2, 60, 350.9),
    ],
    "zero size": [(70.4, 50.8, 70.4, 50.8), (70.4, 20.2, 70.4, 90.1), (0, 0, 0, 0)],
    "one cell": [(32, 48, 48, 64), (33.1, 49.2, 46.3, 61.7)],
    "huge": [(-3000.3, -2500.2, 4000.1, 3500.7)],
    "whole map": [(0, 0, 176, 144)],
    "inverted": [(100.3, 80.2, 60.1, 30.7)],
    # of the corners on the map: 0.5, 1.5, 2.5, 4.5; -0.5, -1.5, 3.5; -2.5
    "halves": [(8, 24, 40, 72), (-8, -24, 56, 40), (24, 8, 72, 56), (-40, -8, 24, 24)],
    # RoIWarp's samples lie at -1, -0.5, 0, ... and at ..., 10, 10.5, 11: on its limits. Two
    # boxes are not whole, so that no sample of ROIAlignV2 lies on a limit.
    "limits": [(-16, -16, 48, 48), (112, 80, 176, 144), (-16, 16, 14, 48), (160, 112, 190, 158)],
}


def layer(name: str, size: int, samples: int = 2) -> nn.Module:
    if name in ("ROIAlign", "ROIAlignV2"):
        return FullPrecisionROIAlign((size, size), SCALE, samples, aligned=name == "ROIAlignV2")
    if name in GATHERED:
        return GatheredROIAlign((size, size), SCALE, samples, aligned=name.endswith("V2"))
    if name == "ROIPool":
        return FullPrecisionROIPool((size, size), SCALE)
    return OUR_TYPES[name](size, SCALE, samples)


def feature_maps(dtype=torch.float64, seed=0, shape=(2, 3, HEIGHT, WIDTH)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def random_rois(count: int, seed: int = 0) -> torch.Tensor:
    """Boxes on both images, some of them over the border."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([176.0, 144.0])
    side = torch.rand(count, 2, generator=generator) * 90 + 5
    batch = torch.arange(count)[:, None] % 2
    return torch.cat([batch, centre - side / 2, centre + side / 2], dim=1).double()


def rois_of(boxes) -> torch.Tensor:
    boxes = torch.tensor(boxes, dtype=torch.float64)
    return torch.cat([torch.arange(len(boxes))[:, None] % 2, boxes], dim=1)


def assert_like_the_loop(name, features, rois, size, samples=2):
    # float32 boxes are float32 for the loop as well
    rois = rois.to(features.dtype)
    loop = GATHERED.get(name, name)
    expected = roi_layer(loop, features.numpy(), rois.numpy(), size, SCALE, samples)
    output = layer(name, size, samples)(features, rois)
    assert output.dtype == features.dtype
    assert output.shape == (len(rois), features.shape[1], size, size)
    tolerance = 1e-11 if features.dtype == torch.float64 else 1e-4
    np.testing.assert_allclose(output.double().numpy(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", TYPES)
def test_random_boxes(name, dtype):
    for size in (3, 7):
        assert_like_the_loop(name, feature_maps(dtype), random_rois(20, seed=size), size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", TYPES)
def test_edge_boxes(name, edge, dtype):
    for size in (1, 4, 7):
        assert_like_the_loop(name, feature_maps(dtype, seed=1), rois_of(EDGES[edge]), size)


@pytest.mark.parametrize("samples", [0, 1, 3])
@pytest.mark.parametrize("name", [n for n in TYPES if n != "ROIPool"])
def test_sampling_ratio(name, samples):
    rois = torch.cat([random_rois(8, seed=5), rois_of([boxes[0] for boxes in EDGES.values()])])
    assert_like_the_loop(name, feature_maps(), rois, 4, samples)


def test_sampling_ratio_0_is_2_for_ours():
    features, rois = feature_maps(), random_rois(6)
    for name in OUR_TYPES:
        assert torch.equal(layer(name, 4, 0)(features, rois), layer(name, 4, 2)(features, rois))
        assert not torch.equal(layer(name, 4, 1)(features, rois), layer(name, 4, 2)(features, rois))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # the value of a cell is its column; the box is columns 2 to 6, bins of one column
        ("ROIAlign", [2.5, 3.5, 4.5, 5.5]),  # the centre of the bin
        ("ROIAlignV2", [2.0, 3.0, 4.0, 5.0]),  # in coordinates where cell 2 covers 2 to 3
        ("ROIAlignMax", [2.75, 3.75, 4.75, 5.75]),  # the farther sample
        ("ROIWarpMax", [2.5, 3.5, 4.5, 5.5]),  # samples at 0 and 1/2 of the bin
        ("ROIWarpAve", [2.25, 3.25, 4.25, 5.25]),
        ("ROIWarpV1Max", [3.0, 4.0, 5.0, 6.0]),  # samples at 0, 1/2 and 1: the last one
        ("ROIWarpV1Ave", [2.5, 3.5, 4.5, 5.5]),  # the middle of the bin
        ("ROIPool", [3.0, 4.0, 5.0, 6.0]),  # five columns in bins of 1.25: 2-3, 3-4, 4-5, 5-6
    ],
)
def test_a_ramp_by_hand(name, expected):
    features = torch.arange(WIDTH, dtype=torch.float64).expand(1, 1, HEIGHT, WIDTH)
    output = layer(name, 4)(features, torch.tensor([[0.0, 32, 32, 96, 96]], dtype=torch.float64))
    np.testing.assert_allclose(output[0, 0].numpy(), np.tile(expected, (4, 1)), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_halves_are_rounded_away_from_zero(dtype):
    below = torch.nextafter(torch.tensor(0.5, dtype=dtype), torch.tensor(0.0, dtype=dtype))
    values = torch.tensor(
        [0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.4, -0.6, 7, -7, 1e6 + 0.5, below, -below],
        dtype=dtype,
    )
    assert round_half_away(values).tolist() == [c_round(v) for v in values.tolist()]
    assert round_half_away(values).tolist()[:7] == [0, 1, 2, 3, -1, -2, -3]


def test_warp_repeats_the_border_for_half_a_cell_only():
    """Between 0.5 and 1 cell outside, RoIAlign still repeats the border; RoIWarp is 0 there."""
    features = torch.ones(1, 1, HEIGHT, WIDTH, dtype=torch.float64)
    rois = torch.tensor([[0, -16, 32, 16, 64]], dtype=torch.float64)  # columns -1 to 1
    output = layer("ROIWarpAve", 4)(features, rois)
    # samples at -1, -0.75 | -0.5, -0.25 | 0, 0.25 | 0.5, 0.75
    assert output[0, 0, 0].tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize(("name", "left"), [("ROIWarp", True), ("ROIWarpV1", False)])
@pytest.mark.parametrize("kind", ["Max", "Ave"])
def test_only_mncs_late_form_samples_up_and_left_of_the_middle(name, left, kind):
    """A mirrored map gives the mirrored result, unless the samples of a bin lie to one side."""
    features = feature_maps(seed=4)
    pool = layer(name + kind, 4)
    flipped = pool(features.flip(2, 3), rois_of([(48, 32, 144, 96)])).flip(2, 3)
    # the box's mirror image on the map, whose cells have their centres at 0 to 10 and 0 to 8
    mirrored = pool(features, rois_of([(160 - 144, 128 - 96, 160 - 48, 128 - 32)]))
    assert torch.allclose(flipped, mirrored, rtol=0, atol=1e-12) != left


def test_a_cell_of_mncs_first_form_leaves_out_points_outside():
    features = -torch.ones(1, 1, HEIGHT, WIDTH, dtype=torch.float64)
    rois = torch.tensor([[0, -32, 32, 32, 64]], dtype=torch.float64)  # columns -2 to 2
    for kind in ("Max", "Ave"):
        # Cells begin at -2, -1.5 | -1, -0.5 | 0, ... The first two have no point on the map and are
        # 0; the third has one, its end at -0.5.
        output = layer(f"ROIWarpV1{kind}", 4)(features, rois)
        assert output[0, 0, 0].tolist() == [0, -1, -1, -1]


@pytest.mark.parametrize("name", TYPES)
def test_gradcheck(name):
    features = feature_maps(seed=2, shape=(2, 2, 5, 6)).requires_grad_()
    boxes = [(3.2, 5.1, 60.7, 70.3), (-20.4, -11.3, 30.2, 40.8), (8, 24, 40, 72), (50, 50, 50, 50)]
    pool = layer(name, 3)
    assert torch.autograd.gradcheck(lambda x: pool(x, rois_of(boxes)), features)


@pytest.mark.parametrize("name", TYPES)
def test_no_boxes(name):
    features = feature_maps().requires_grad_()
    output = layer(name, 7)(features, torch.zeros(0, 5))
    assert output.shape == (0, 3, 7, 7)
    output.sum().backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", TYPES)
def test_half_precision_features(name, dtype, autocast):
    features = feature_maps(dtype).requires_grad_()
    # Both dtypes make 136 of 135.97, which the layers with whole corners then take for one cell
    # more: 8.498 and 8.5 on the map.
    rois = torch.cat([random_rois(12, seed=3), rois_of([(20.4, 30.3, 135.97, 100.6)])]).float()
    pool = layer(name, 7)
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        output = pool(features, rois)
    exact = pool(features.detach().float(), rois)
    assert output.dtype == dtype
    assert torch.equal(output, exact.to(dtype))
    rounded = pool(features.detach().float(), rois.to(dtype).float())
    assert not torch.equal(output, rounded.to(dtype))  # the boxes were not rounded
    output.float().sum().backward()
    assert features.grad.dtype == dtype
    assert features.grad.abs().sum() > 0


@pytest.mark.parametrize("name", TYPES)
def test_autocast_leaves_float32_as_it_is(name):
    features, rois = feature_maps(torch.float32), random_rois(12, seed=3).float()
    pool = layer(name, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = pool(features, rois)
    assert output.dtype == torch.float32
    assert torch.equal(output, pool(features, rois))


@pytest.mark.parametrize("name", [n for n in TYPES if n not in GATHERED])
def test_can_be_scripted(name):
    """As detectron2's own layers can, which its export needs."""
    features, rois = feature_maps(), random_rois(5)
    pool = layer(name, 4)
    scripted = torch.jit.script(pool)
    for dtype in (torch.float64, torch.bfloat16):
        x = features.to(dtype)
        assert torch.equal(scripted(x, rois), pool(x, rois))


@pytest.mark.parametrize("samples", [0, 2])
def test_gathering_in_blocks_changes_nothing(samples, monkeypatch):
    pool, features, rois = layer("GatheredROIAlign", 7, samples), feature_maps(), random_rois(20)
    whole = pool(features, rois)
    monkeypatch.setattr(gathered_roi_align, "_BLOCK", 500)
    torch.testing.assert_close(pool(features, rois), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("samples", [2, 3])
@pytest.mark.parametrize("sides", [(9, 600), (9, 20), (600, 580)], ids=["mixed", "near", "far"])
def test_gathering_joins_samples_that_are_near_to_each_other(sides, samples):
    """Samples up to a feature cell apart share their cells; the boxes of a batch may differ."""
    boxes = [[n % 2, 3.3 * n, 5.7 + n, 3.3 * n + sides[n % 2], 5.7 + n + sides[n % 2]]
             for n in range(6)]  # fmt: skip
    # other numbers of cells down and across
    boxes.append([0, 10, 10, 10 + sides[1], 10 + sides[0]])
    rois, results = torch.tensor(boxes, dtype=torch.float64), []
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 40, 44, generator=generator, dtype=torch.float64)
    for pool in (layer("GatheredROIAlign", 7, samples), layer("ROIAlign", 7, samples)):
        features = maps.clone().requires_grad_()
        output = pool(features, rois)
        (output**2).sum().backward()
        results.append((output.detach(), features.grad))
    torch.testing.assert_close(*results, rtol=0, atol=1e-11)


@pytest.mark.parametrize("cls", OUR_TYPES.values())
def test_arguments(cls):
    with pytest.raises(UserError, match=f"{cls.__name__}: expected a sampling ratio of 0.*got -1"):
        cls(7, SCALE, -1)
    assert repr(cls((7, 5), 0.25)) == (
        f"{cls.__name__}(output_size=(7, 5), spatial_scale=0.25, sampling_ratio=2)"
    )
    assert cls((7, 5), SCALE)(feature_maps(), random_rois(2)).shape == (2, 3, 7, 5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", TYPES)
def test_cuda_gives_what_the_cpu_gives(name, dtype):
    # Boxes on the limits of a layer may fall to either side of them on another device.
    edges = [box for edge, boxes in EDGES.items() if edge != "limits" for box in boxes]
    rois = torch.cat([random_rois(20), rois_of(edges)]).float()
    outputs, gradients = [], []
    for device in ("cpu", "cuda"):
        features = feature_maps(dtype).to(device).requires_grad_()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            output = layer(name, 7)(features, rois.to(device))
        assert output.dtype == dtype
        output.float().square().sum().backward()
        outputs.append(output.detach().float().cpu())
        gradients.append(features.grad.float().cpu())
    relative = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(outputs[1], outputs[0], rtol=relative, atol=relative)
    scale = gradients[0].abs().max().item()
    torch.testing.assert_close(gradients[1], gradients[0], rtol=relative, atol=relative * scale)
