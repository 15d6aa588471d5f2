"""The MLP mask head of Table 2e by itself."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from mask_head_cases import (
    build,
    features,
    head_cfg,
)

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.modeling.roi_heads.mask_heads import MaskRCNNMLPHead


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
