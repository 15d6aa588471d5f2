"""Products by oneDNN: the same outputs as PyTorch's own layers, also for no row."""

import copy

import pytest
import torch
from detectron2.layers import Conv2d
from torch import nn

from mask_rcnn_ext.modeling import onednn_products
from mask_rcnn_ext.modeling.onednn_products import ConvolvedLinear, use_onednn_products


def make_pair(inputs, outputs, bias=True):
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)
    convolved = ConvolvedLinear(inputs, outputs, bias=bias).requires_grad_(False)
    convolved.load_state_dict(layer.state_dict())
    return layer, convolved


@pytest.fixture
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def calls(monkeypatch):
    """Return the list of the rows that each convolution got."""
    found, conv2d = [], torch.nn.functional.conv2d

    def counted(maps, *more, **options):
        found.append(maps.shape[3])
        return conv2d(maps, *more, **options)

    monkeypatch.setattr(onednn_products.F, "conv2d", counted)
    return found


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [100, 333])
def test_large_products_are_equal_up_to_rounding(rows, bias, calls):
    layer, convolved = make_pair(300, 120, bias)
    values = torch.randn(rows, 300)
    found, expected = convolved(values), layer(values)
    assert calls == [rows]
    assert found.shape == expected.shape == (rows, 120)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.double(), layer.double()(values.double()), atol=1e-5, rtol=0)


def test_a_view_with_gaps_is_taken(calls):
    layer, convolved = make_pair(150, 150)
    values = torch.randn(150, 300)[:, ::2]
    torch.testing.assert_close(convolved(values), layer(values), atol=1e-6, rtol=1e-5)
    assert calls == [150]


@pytest.mark.parametrize("shape", [(0, 200), (99, 200), (200,), (2, 120, 200)])
def test_other_inputs_are_computed_as_before(shape, calls):
    layer, convolved = make_pair(200, 150)
    values = torch.randn(shape)
    assert torch.equal(convolved(values), layer(values))
    assert calls == []


def test_narrow_layers_and_mixed_precision_are_computed_as_before(calls):
    layer, convolved = make_pair(200, 81)
    values = torch.randn(150, 200)
    assert torch.equal(convolved(values), layer(values))
    layer, convolved = make_pair(200, 150)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(convolved(values), layer(values))
    doubles = values.double()
    assert torch.equal(convolved.double()(doubles), layer.double()(doubles))
    assert calls == []


@pytest.mark.parametrize("slow", [True, False])
def test_a_model_changes_only_where_products_are_slow(slow, monkeypatch):
    class OwnLinear(nn.Linear):
        """A layer of another project."""

    monkeypatch.setattr(onednn_products, "has_slow_products", lambda: slow)
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 4)), OwnLinear(4, 5))
    keys = list(model.state_dict())
    use_onednn_products(model)
    kind = ConvolvedLinear if slow else nn.Linear
    assert [type(model[0]), type(model[1][0]), type(model[2])] == [kind, kind, OwnLinear]
    assert list(model.state_dict()) == keys


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("shape", [(2, 8, 9, 11), (0, 8, 9, 11)])
def test_convolutions_of_one_cell_are_computed_by_onednn(shape, monkeypatch):
    class OwnConv2d(nn.Conv2d):
        """A layer of another project."""

    monkeypatch.setattr(onednn_products, "has_slow_products", lambda: True)
    torch.manual_seed(0)
    layers = (
        Conv2d(8, 16, 1, stride=2, norm=nn.GroupNorm(2, 16), activation=nn.ReLU()),
        nn.Conv2d(16, 8, 1, padding=1, groups=2),
        nn.Conv2d(8, 8, 3),
        OwnConv2d(8, 5, 1),
    )
    model = nn.Sequential(*layers).eval().requires_grad_(False)
    maps = torch.randn(shape)
    expected = model(maps)
    use_onednn_products(model)
    assert [layer.dilation for layer in layers] == [(2, 2), (2, 2), (1, 1), (1, 1)]
    found = model(maps)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1], indirect=True)
@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.Conv2d(8, 16, 1), (1, 8, 60, 60)), (nn.Linear(200, 150), (150, 200))]
)
def test_one_thread_calls_onednn(layer, shape, monkeypatch):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(onednn_products, "has_slow_products", lambda: True)
    model = copy.deepcopy(nn.Sequential(layer)).requires_grad_(False)
    use_onednn_products(model)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        model(torch.randn(shape))
    assert "aten::mkldnn_convolution" in {event.key for event in profile.key_averages()}


@pytest.fixture
def forget_processor():
    onednn_products.has_slow_products.cache_clear()
    yield
    onednn_products.has_slow_products.cache_clear()


@pytest.mark.usefixtures("forget_processor")
@pytest.mark.parametrize(
    ("vendor", "flags", "slow"),
    [
        ("AuthenticAMD", "avx2 avx512f", True),
        ("AuthenticAMD", "avx2", False),
        ("GenuineIntel", "avx2 avx512f", False),
    ],
)
def test_the_processor_decides(vendor, flags, slow, monkeypatch):
    described = f"vendor_id : {vendor}\nflags : {flags}"
    monkeypatch.setattr(onednn_products, "read_processor", lambda: described)
    for library in (torch.backends.mkl, torch.backends.mkldnn):
        monkeypatch.setattr(library, "is_available", lambda: True)
    assert onednn_products.has_slow_products() is slow
    onednn_products.has_slow_products.cache_clear()
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert not onednn_products.has_slow_products()


@pytest.mark.usefixtures("forget_processor")
def test_without_a_description_of_the_processor_nothing_changes(monkeypatch):
    monkeypatch.setattr(onednn_products, "read_processor", lambda: "")
    assert not onednn_products.has_slow_products()
