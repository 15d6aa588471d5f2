"""`MASK_RCNN_EXT.MASK_HEAD.PREDICTOR_STD`: the first weights of the mask predictor."""

import pytest
import torch
from mask_heads_to_test import build, every_head, head_cfg

from mask_rcnn_ext.errors import UserError


@pytest.mark.parametrize("std", [0.18, 0.5])
@pytest.mark.parametrize(("resolution", "num_conv"), [(0, 1), (14, 0), (28, 1)])
@every_head
def test_wider_first_weights_of_the_predictor(name, resolution, num_conv, std):
    """The key scales the weights of the predictor, and nothing else."""
    stock = build(head_cfg(name, resolution=resolution, num_conv=num_conv)).state_dict()
    cfg = head_cfg(name, resolution=resolution, num_conv=num_conv)
    cfg.MASK_RCNN_EXT.MASK_HEAD.PREDICTOR_STD = std
    wide = build(cfg).state_dict()
    assert wide.keys() == stock.keys()
    torch.testing.assert_close(wide.pop("predictor.weight"), stock["predictor.weight"] * std / 1e-3)
    assert all(torch.equal(weights, stock[key]) for key, weights in wide.items())


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), float("inf")])
@every_head
def test_a_predictor_needs_a_positive_deviation(name, std):
    cfg = head_cfg(name)
    cfg.MASK_RCNN_EXT.MASK_HEAD.PREDICTOR_STD = std
    with pytest.raises(UserError, match=r"PREDICTOR_STD: expected .* above 0"):
        build(cfg)
