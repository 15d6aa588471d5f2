"""Folded norms: the convolution alone gives what it gave with its norm."""

import pytest
import torch
from detectron2.layers import Conv2d, get_norm
from torch import nn

from mask_rcnn_ext.modeling.folding import fold_norms


def randomise(norm: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for name in ("weight", "bias", "running_mean"):
        getattr(norm, name).data.normal_(generator=generator)
    norm.running_var.uniform_(0.1, 3.0, generator=generator)


def test_by_hand():
    """y = (2 x + 1 - 3) / sqrt(4) * 10 + 5 = 10 x - 5."""
    norm = nn.BatchNorm2d(1, eps=0.0)
    conv = Conv2d(1, 1, 1, norm=norm)
    for tensor, value in zip(
        (conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias),
        (2.0, 1.0, 3.0, 4.0, 10.0, 5.0),
        strict=True,
    ):
        nn.init.constant_(tensor, value)
    assert fold_norms(conv) == 1
    assert (conv.weight.item(), conv.bias.item(), conv.norm) == (10.0, -5.0, None)
    assert fold_norms(conv) == 0


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", ["FrozenBN", "BN", "SyncBN", "naiveSyncBN"])
def test_the_output_stays(name, bias):
    torch.manual_seed(0)
    conv = Conv2d(
        6, 8, 3, 2, 1, groups=2, bias=bias, norm=get_norm(name, 8), activation=nn.ReLU()
    ).eval()
    randomise(conv.norm)
    x = torch.randn(2, 6, 9, 9)
    with torch.no_grad():
        expected = conv(x)
        assert fold_norms(nn.Sequential(conv)) == 1
        torch.testing.assert_close(conv(x), expected)
    assert expected.any()
    assert {key: value.dtype for key, value in conv.state_dict().items()} == {
        "weight": torch.float32,
        "bias": torch.float32,
    }


def test_norms_that_depend_on_the_image_stay():
    unknown = type("OwnNorm", (nn.BatchNorm2d,), {})
    for norm in (
        nn.GroupNorm(2, 4),
        nn.BatchNorm2d(4, track_running_stats=False),
        get_norm("LN", 4),
        unknown(4),
        None,
    ):
        conv = Conv2d(3, 4, 1, norm=norm).eval()
        assert fold_norms(conv) == 0
        assert conv.norm is norm
