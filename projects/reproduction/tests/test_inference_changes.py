"""The changes in testing: soft parts, nine copies, and another RoI layer for a while."""

from types import SimpleNamespace

import pytest
import torch
from detectron2.structures import Boxes, Instances
from reproduction.fcis import inference_changes
from reproduction.fcis.inference_changes import SoftPartsPool, draw_copies, list_changes

from mask_rcnn_ext.layers import PSROIAlign, PSROIPool

ROIS = torch.tensor([[0.0, 8.0, 8.0, 71.0, 71.0]])
POOLER = PSROIPool(3, 21, 1 / 8)


def test_soft_parts_blend_the_maps_of_neighbouring_parts():
    """Maps that are constant: part (a, b) has the value 10 a + b everywhere."""
    maps = (10 * torch.arange(3.0)[:, None] + torch.arange(3.0)).reshape(1, 9, 1, 1)
    blended = SoftPartsPool(POOLER)(maps.expand(1, 9, 10, 10), ROIS)[0, 0]
    # A part has 7 cells, and the centre of cell 3 is the part's: 3.5 / 7 = 0.5. Cell 7's centre is
    # at 7.5 / 7 = 1.0714 parts, 0.5714 from the first part's centre to the second one's.
    weights = {0: 0.0, 3: 0.0, 7: 0.5 / 7 + 0.5, 10: 1.0, 17: 2.0, 20: 2.0}
    for row, down in weights.items():
        for column, across in weights.items():
            assert blended[row, column] == pytest.approx(10 * down + across, abs=1e-5)


def test_soft_parts_keep_the_windows():
    """Where all parts have the same map, the parts do not matter."""
    torch.manual_seed(0)
    maps = torch.rand(1, 2, 1, 10, 10).expand(1, 2, 9, 10, 10).reshape(1, 18, 10, 10)
    torch.testing.assert_close(SoftPartsPool(POOLER)(maps, ROIS), POOLER(maps, ROIS))


def draw_with(function):
    """Return what stands in for `draw_masks`: a function of places in the box, 0 to 1, and it."""

    def draw(model, features, given):
        centres = (torch.arange(21) + 0.5) / 21
        return torch.stack([function(centres, box) for box in given.pred_boxes.tensor])

    return draw


@pytest.fixture
def given():
    boxes = Boxes(torch.tensor([[20.0, 10.0, 62.0, 73.0]]))
    return Instances((90, 90), pred_boxes=boxes, pred_classes=torch.tensor([0]))


def test_copies_take_a_line_between_parts_apart(given, monkeypatch):
    """A line at 1/3 of the box, cell 7, moves by a third of a part, 7 / 3 cells."""
    step = draw_with(lambda centres, box: (centres > 1 / 3).float().expand(21, 21))
    monkeypatch.setattr(inference_changes, "draw_masks", step)
    (mask,) = draw_copies(None, {}, given, parts=3)
    assert mask[10, 6] == pytest.approx(1 / 3)
    assert mask[10, 7] == pytest.approx(2 / 3)
    assert (mask[:, :4] == 0).all()
    assert (mask[:, 11:] == 1).all()


def test_copies_agree_on_what_lies_in_the_image(given, monkeypatch):
    """Masks that depend on the place in the image alone stay, but where no centre is near."""

    def draw_slope(centres, box):
        y = box[1] + centres * (box[3] - box[1])
        return (y / 90)[:, None].expand(21, 21)

    monkeypatch.setattr(inference_changes, "draw_masks", draw_with(draw_slope))
    (mask,) = draw_copies(None, {}, given, parts=3)
    expected = draw_slope((torch.arange(21) + 0.5) / 21, given.pred_boxes.tensor[0])
    torch.testing.assert_close(mask[3:-3], expected[3:-3])
    torch.testing.assert_close(mask, expected, atol=0.02, rtol=0)


def test_another_roi_layer_for_a_while(given, monkeypatch):
    """The trained layer is back afterwards, also if the model fails."""
    heads, seen = SimpleNamespace(pooler=POOLER), []
    model = SimpleNamespace(roi_heads=heads)

    def draw(model, features, given):
        seen.append(type(model.roi_heads.pooler))
        if features:
            raise ValueError("a broken model")
        return torch.zeros(1, 21, 21)

    monkeypatch.setattr(inference_changes, "draw_masks", draw)
    changes = list_changes(3)
    assert list(changes) == ["none", "PSROIAlign", "soft parts", "nine copies, k = 3"]
    for name in ("PSROIAlign", "soft parts"):
        changes[name](model, {}, given)
        assert heads.pooler is POOLER
    assert seen == [PSROIAlign, SoftPartsPool]
    with pytest.raises(ValueError, match="a broken model"):
        changes["PSROIAlign"](model, {"res5": torch.zeros(1)}, given)
    assert heads.pooler is POOLER
    assert list(list_changes(None)) == ["none", "nine copies, k = 7", "nine copies, k = 3"]
