"""RoIs that are pooled on several threads give the same bits."""

import threading

import pytest
import torch
from detectron2.layers import ROIAlign

from mask_rcnn_ext.layers.threaded_roi_layer import ThreadedROILayer

MAPS = torch.randn(2, 5, 24, 32, generator=torch.Generator().manual_seed(0))


class Recorder(ROIAlign):
    """RoIAlign that notes the thread and the RoIs of each call."""

    def forward(self, input, rois):
        calls.append((threading.current_thread().name, len(rois)))
        return super().forward(input, rois)


calls: list[tuple[str, int]] = []


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    calls.clear()
    yield
    torch.set_num_threads(before)


def rois_of(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=generator) * 80 - 10
    sides = torch.rand(count, 2, generator=generator) * 60
    images = torch.randint(0, 2, (count, 1), generator=generator)
    return torch.cat([images, corners, corners + sides], dim=1)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize(("count", "parts"), [(100, 3), (49, 3), (32, 2), (31, 1), (1, 1), (0, 1)])
def test_the_parts_give_the_bits_of_the_whole(count, parts, sampling_ratio):
    layer, rois = Recorder(7, 1 / 4, sampling_ratio), rois_of(count)
    expected = layer(MAPS, rois)
    calls.clear()
    with torch.no_grad():
        pooled = ThreadedROILayer(layer)(MAPS, rois)
    assert torch.equal(pooled, expected)
    assert pooled.shape == (count, 5, 7, 7)
    assert not pooled.requires_grad
    assert len(calls) == parts
    assert sum(size for _, size in calls) == count
    if parts > 1:
        assert all(name.startswith("roi_layer") for name, _ in calls)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_maps_that_need_gradients_get_none(mode):
    weight = torch.ones(1, requires_grad=True)
    with mode():
        pooled = ThreadedROILayer(ROIAlign(7, 1 / 4, 2))(MAPS * weight, rois_of(64))
    assert not pooled.requires_grad


def test_training_is_not_split():
    layer, rois = Recorder(7, 1 / 4, 2), rois_of(100)
    gradients = []
    for pool in (layer, ThreadedROILayer(layer)):
        maps = MAPS.clone().requires_grad_()
        pool(maps, rois).square().sum().backward()
        gradients.append(maps.grad)
    assert torch.equal(*gradients)
    assert [size for _, size in calls] == [100, 100]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit")
def test_autocast_and_traces_are_not_split():
    layer, rois = Recorder(7, 1 / 4, 2), rois_of(100)
    threaded = ThreadedROILayer(layer)
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(threaded(MAPS, rois), layer(MAPS, rois))
        traced = torch.jit.trace(threaded, (MAPS, rois), check_trace=False)
        assert [size for _, size in calls] == [100, 100, 100]
        few = rois_of(5)
        assert torch.equal(traced(MAPS, few), layer(MAPS, few))


def test_an_error_in_a_part_reaches_the_caller():
    with torch.no_grad(), pytest.raises((AssertionError, RuntimeError)):
        ThreadedROILayer(ROIAlign(7, 1 / 4, 2))(MAPS, torch.zeros(100, 4))
