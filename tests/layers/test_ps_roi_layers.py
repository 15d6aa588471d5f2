"""The position-sensitive RoI layers against literal loops, FCIS's own numbers and gradients."""

import numpy as np
import pytest
import torch
from reference import fcis as reference

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.layers import PSROIAlign, PSROIPool

SCALE = 1 / 16
HEIGHT, WIDTH = 9, 11  # the map; the image is 144 x 176
TYPES = ("PSROIPool", "PSROIAlign")
SIZES = [(1, 1), (1, 5), (2, 4), (3, 3), (3, 9), (7, 21)]  # bins, output size
EDGES = {
    "over the border": [(-40.3, 20.7, 60.2, 90.1), (100.6, 90.3, 230.9, 200.4)],
    "outside": [(-200.3, 10, -90.7, 60), (300.2, 10, 350.9, 60), (10, -200.3, 60, -90.7)],
    "tiny": [(70.4, 50.8, 70.4, 50.8), (70.4, 20.2, 71.3, 90.1), (0, 0, 0, 0), (8, 8, 9, 9)],
    "last cell": [(160, 128, 176, 144), (170.6, 140.6, 176, 144)],
    "huge": [(-3000.3, -2500.2, 4000.1, 3500.7)],
    "whole map": [(0, 0, 176, 144)],
    "halves": [(8.5, 24.5, 40.5, 73.5), (-8.5, -24.5, 56.5, 40.5), (-0.5, 0.5, 31.5, 32.5)],
}


def layer(name, bins, size, samples=0):
    if name == "PSROIPool":
        return PSROIPool(bins, size, SCALE)
    return PSROIAlign(bins, size, SCALE, samples)


def feature_maps(bins, depth=3, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, depth * bins**2, HEIGHT, WIDTH)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def random_rois(count, seed=0):
    """Boxes on both images, some of them over the border, in float32."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([176.0, 144.0])
    side = torch.rand(count, 2, generator=generator) * 90 + 5
    batch = torch.randint(0, 2, (count, 1), generator=generator)
    return torch.cat([batch, centre - side / 2, centre + side / 2], dim=1)


def rois_of(boxes):
    boxes = torch.tensor(boxes, dtype=torch.float32)
    return torch.cat([torch.arange(len(boxes))[:, None] % 2, boxes], dim=1)


def assert_like_the_loop(name, features, rois, bins, size, samples=0):
    output = layer(name, bins, size, samples)(features, rois)
    assert output.dtype == features.dtype
    if name == "PSROIPool":
        expected = reference.ps_roi_pool(features.numpy(), rois.numpy(), bins, size, SCALE)
    else:
        rois = rois.to(features.dtype)
        expected = reference.ps_roi_align(features, rois, bins, size, SCALE, samples).numpy()
    assert output.shape == expected.shape == (len(rois), 3, size, size)
    exact = features.dtype == torch.float64
    # float32 boxes end 1e-5 cells elsewhere when they are divided in another order
    tolerance = (1e-12 if name == "PSROIPool" else 1e-9) if exact else 1e-4
    np.testing.assert_allclose(output.numpy(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("bins", "size"), [*SIZES, (3, 7), (7, 10)])
@pytest.mark.parametrize("name", TYPES)
def test_random_boxes(name, bins, size, dtype):
    if name == "PSROIAlign" and size % bins:
        with pytest.raises(UserError, match=f"multiple of the {bins} bins, got {size}"):
            layer(name, bins, size)(feature_maps(bins), random_rois(2))
        return
    rois = random_rois(6, seed=size)
    assert set(rois[:, 0].tolist()) == {0, 1}
    assert_like_the_loop(name, feature_maps(bins, dtype=dtype), rois, bins, size)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", TYPES)
def test_edge_boxes(name, edge):
    for bins, size in ((1, 3), (3, 6), (7, 7)):
        assert_like_the_loop(name, feature_maps(bins, seed=1), rois_of(EDGES[edge]), bins, size)


def test_pool_outside_is_exactly_zero():
    output = layer("PSROIPool", 3, 6)(feature_maps(3) + 5, rois_of(EDGES["outside"]))
    assert torch.equal(output, torch.zeros_like(output))


def test_pool_reads_the_last_row_and_column():
    features = torch.zeros(1, 1, HEIGHT, WIDTH)
    features[..., -1, -1] = 1
    output = PSROIPool(1, 2, SCALE)(features, torch.tensor([[0.0, 144, 112, 176, 144]]))
    assert output[0, 0].tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_sampling_ratio(samples):
    assert_like_the_loop("PSROIAlign", feature_maps(3), random_rois(6), 3, 6, samples)


def pooled_row(values, x1, x2):
    """Return (D, 21): what the cells of one row see of (D, 63), a map of 63 columns."""
    features = torch.as_tensor(values, dtype=torch.float64)[None, :, None]
    rois = torch.tensor([[0, x1, 0, x2, 16]], dtype=torch.float64)
    return PSROIPool(1, 21, SCALE)(features, rois)[0, :, 0]


VECTORS = {
    "10.4 to 117.6": (
        (10.4, 117.6),
        [
            (0, 1), (0, 2), (1, 2), (1, 2), (1, 3), (2, 3), (2, 3), (2, 4), (3, 4), (3, 4), (3, 5),
            (4, 5), (4, 5), (4, 6), (5, 6), (5, 6), (5, 7), (6, 7), (6, 7), (6, 8), (7, 8),
        ],
    ),
    "one pixel": ((100, 100), [(6, 7)] * 21),
    "over the border": ((-3, 20.5), [(0, 0)] * 2 + [(0, 1)] * 13 + [(0, 2)] + [(1, 2)] * 5),
}  # fmt: skip


@pytest.mark.parametrize(("bins", "size"), [(7, 7), (7, 21), (3, 9)])
def test_the_samples_of_a_cell_follow_from_its_bin(bins, size, monkeypatch):
    """A cell of a whole number of feature cells has one sample more where its bin is rounded up."""
    corner = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) * 40
    side = 16.0 * size * torch.arange(1, 3).repeat(100)[:, None]
    rois = torch.cat([torch.zeros(200, 1), corner, corner + side], dim=1)
    features, align = feature_maps(bins, dtype=torch.float32), layer("PSROIAlign", bins, size)
    found = align(features, rois)
    monkeypatch.setattr(torch.jit, "is_tracing", lambda: True)  # the form of torchvision's RoIAlign
    torch.testing.assert_close(found, align(features, rois), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("ends", "windows"), VECTORS.values(), ids=VECTORS)
def test_windows_of_the_release(ends, windows):
    """Its boxes count pixels: the last one is at x2, which ends at x2 + 1."""
    seen = pooled_row(torch.eye(63), ends[0], ends[1] + 1)
    expected = torch.zeros(63, 21, dtype=torch.float64)
    for cell, (first, past) in enumerate(windows):
        expected[first:past, cell] = 1 / max(past - first, 1)
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-12)


def test_column_numbers_of_the_release():
    expected = [0, 0.5, 1, 1, 1.5, 2, 2, 2.5, 3, 3, 3.5, 4, 4, 4.5, 5, 5, 5.5, 6, 6, 6.5, 7]
    assert pooled_row(torch.arange(63.0)[None], 10.4, 118.6)[0].tolist() == expected


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("name", TYPES)
def test_a_cell_reads_the_channel_of_its_map_and_bin(name, depth):
    channels = depth * 49
    features = torch.arange(float(channels))[:, None, None].expand(1, channels, HEIGHT, WIDTH)
    output = layer(name, 7, 21)(features, torch.tensor([[0.0, 20, 20, 150, 130]]))
    for d in range(depth):
        for i in range(21):
            for j in range(21):
                expected = (d * 7 + i // 3) * 7 + j // 3
                assert output[0, d, i, j].item() == pytest.approx(expected, abs=1e-4)
    if depth == 3:  # the release's own numbers
        assert output[0, 1, 0].round().tolist() == [v for v in range(49, 56) for _ in range(3)]
        assert output[0, 1, 20, 20].item() == pytest.approx(97, abs=1e-4)


@pytest.mark.parametrize("name", TYPES)
def test_gradcheck(name):
    boxes = [(3.2, 5.1, 60.7, 70.3), (-20.4, -11.3, 30.2, 40.8), (50.2, 50.3, 50.2, 50.3)]
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(2, 4, 4, 5, generator=generator, dtype=torch.float64)
    pool = layer(name, 2, 4)
    assert torch.autograd.gradcheck(lambda x: pool(x, rois_of(boxes)), features.requires_grad_())


def test_gradient_is_spread_uniformly_over_the_window():
    features = feature_maps(3, depth=2).requires_grad_()
    # 80 x 60 pixels from (16, 32): cell (1, 2) of 3 x 3 begins at column 1 + 10 / 3 = 4.33, row
    # 2 + 1.25 = 3.25, and ends at column 6, row 4.5
    output = PSROIPool(3, 3, SCALE)(features, torch.tensor([[1.0, 16, 32, 96, 92]]))
    output[0, 1, 1, 2].backward()
    expected = torch.zeros_like(features)
    expected[1, 9 + 5, 3:5, 4:6] = 1 / 4
    torch.testing.assert_close(features.grad, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("rois", [torch.zeros(0, 5), rois_of(EDGES["outside"])], ids=["0", "off"])
@pytest.mark.parametrize("name", TYPES)
def test_no_box_on_the_map(name, rois):
    features = feature_maps(3).requires_grad_()
    output = layer(name, 3, 6)(features, rois)
    assert output.shape == (len(rois), 3, 6, 6)
    output.sum().backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", TYPES)
def test_half_precision_features(name, dtype, autocast):
    features = feature_maps(3, dtype=dtype).requires_grad_()
    # Both dtypes make 16.5 of 16.495, which is then rounded to 17 pixels: columns 1 to 3 no more.
    rois = torch.cat([random_rois(12, seed=3), rois_of([(16.495, 32, 48, 64)])])
    pool = layer(name, 3, 6)
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        output = pool(features, rois)
    assert output.dtype == torch.float32
    assert torch.equal(output, pool(features.detach().float(), rois))
    # the boxes were not rounded
    assert not torch.equal(output, pool(features.detach().float(), rois.to(dtype).float()))
    output.sum().backward()
    assert features.grad.dtype == dtype
    assert features.grad.abs().sum() > 0


@pytest.mark.parametrize("name", TYPES)
def test_arguments(name):
    with pytest.raises(UserError, match=r"3 x 3 bins: expected a multiple of 9 channels, got 10"):
        layer(name, 3, 6)(torch.zeros(1, 10, 4, 4), torch.zeros(1, 5))
    pool = layer(name, 3, 6, samples=2)
    assert repr(pool) == f"{name}(num_bins=3, output_size=6, spatial_scale=0.0625)"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", TYPES)
def test_cuda_gives_what_the_cpu_gives(name, dtype):
    rois = torch.cat([random_rois(20), rois_of([box for b in EDGES.values() for box in b])])
    outputs, gradients = [], []
    for device in ("cpu", "cuda"):
        features = feature_maps(3, dtype=dtype).to(device).requires_grad_()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            output = layer(name, 3, 6)(features, rois.to(device))
        assert output.dtype == torch.float32
        output.square().sum().backward()
        outputs.append(output.detach().cpu())
        gradients.append(features.grad.float().cpu())
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-4)
    relative = 1e-4 if dtype == torch.float32 else 2e-2
    scale = gradients[0].abs().max().item()
    torch.testing.assert_close(gradients[1], gradients[0], rtol=relative, atol=relative * scale)
    empty = layer(name, 3, 6)(feature_maps(3).cuda().requires_grad_(), torch.zeros(0, 5).cuda())
    empty.sum().backward()


@pytest.mark.gpu
def test_cuda_pool_is_like_the_loop():
    features, rois = feature_maps(7), random_rois(6)
    output = PSROIPool(7, 21, SCALE)(features.cuda(), rois.cuda()).cpu()
    expected = reference.ps_roi_pool(features.numpy(), rois.numpy(), 7, 21, SCALE)
    np.testing.assert_allclose(output.numpy(), expected, rtol=0, atol=1e-12)


def test_the_form_for_onnx_pools_the_same(monkeypatch):
    """Boxes of all places and sizes, also outside the map and with cells without a feature cell."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 3 * 4, 9, 13, generator=generator)
    corners = torch.rand(60, 2, generator=generator) * 260 - 40
    sizes = torch.rand(60, 2, generator=generator) ** 3 * 200
    rois = torch.cat([torch.zeros(60, 1), corners, corners + sizes], dim=1)
    pool = PSROIPool(2, 5, SCALE)
    for boxes in (rois, rois[:0]):
        expected = pool(features, boxes)
        with monkeypatch.context() as patch:
            patch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
            found = pool(features, boxes)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (pool(features, rois) == 0).any()
