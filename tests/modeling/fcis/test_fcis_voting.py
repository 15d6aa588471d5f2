"""Mask voting: hand-made cases, and random scenes against the loop over pixels."""

import numpy as np
import pytest
import torch
from reference import fcis as reference

from mask_rcnn_ext.modeling.fcis.voting import (
    paste_masks,
    render_mask,
    select_detections,
    vote_masks,
)

HEIGHT, WIDTH = 40, 50
FCIS = {"score_threshold": 1e-3, "nms_threshold": 0.3, "limit": 100}
BOX = (10.0, 8.0, 18.0, 16.0)  # 8 x 8 pixels, as many as a mask has cells


def tensors(boxes, probs, masks):
    boxes = torch.as_tensor(np.asarray(boxes, dtype=np.float32)).reshape(-1, 4)
    probs = torch.as_tensor(np.asarray(probs, dtype=np.float32))
    return boxes, probs, torch.as_tensor(np.asarray(masks, dtype=np.float32))


def voted(boxes, probs, masks, *, voting=True, **selection):
    boxes, probs, masks = tensors(boxes, probs, masks)
    selected = select_detections(boxes, probs, **{**FCIS, **selection})
    common = {"image_size": (HEIGHT, WIDTH), "mask_threshold": 0.4}
    if voting:
        return vote_masks(boxes, probs, masks, selected, iou_threshold=0.5, **common)
    return paste_masks(boxes, probs, masks, selected, **common)


def boxes_of(found):
    return found.pred_boxes.tensor.tolist()


def in_image(mask, box=BOX):
    canvas = np.zeros((HEIGHT, WIDTH), dtype=bool)
    canvas[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = mask
    return canvas


def random_mask(seed=0, side=8):
    return np.random.default_rng(seed).random((side, side))


def test_one_roi_is_its_own_mask_with_a_tight_box():
    mask = np.zeros((8, 8))
    mask[2:5, 1:7] = 0.4  # from the threshold on
    mask[3, 3] = 0.39
    found = voted([BOX], [[0.25]], [mask])
    assert found.scores.tolist() == [0.25]
    assert found.pred_classes.tolist() == [0]
    assert boxes_of(found) == [[11, 10, 17, 13]]
    np.testing.assert_array_equal(found.pred_masks[0].numpy(), in_image(mask >= 0.4))
    assert (found.pred_boxes.tensor.dtype, found.scores.dtype) == (torch.float32, torch.float32)
    assert (found.pred_classes.dtype, found.pred_masks.dtype) == (torch.int64, torch.bool)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((0.9, 0.1), [True, False]),
        ((0.5, 0.5), [True, True]),
        ((0.61, 0.39), [True, False]),
        ((0.06, 0.04), [True, True]),  # of the sum, not of 1
    ],
)
def test_two_rois_of_one_box_with_disjoint_masks(scores, expected):
    masks = np.zeros((2, 8, 8))
    masks[0, :, :3] = masks[1, :, 5:] = 1
    found = voted([BOX, BOX], [[s] for s in scores], masks)
    assert found.scores.tolist() == pytest.approx([scores[0]])
    seen = in_image(masks[0] * expected[0] + masks[1] * expected[1] > 0)
    np.testing.assert_array_equal(found.pred_masks[0].numpy(), seen)


def test_masks_are_cut_before_they_are_averaged():
    """The average of the probabilities, 0.5, would be in the mask, but the votes average 0.3."""
    masks = np.stack([np.full((8, 8), 0.39), np.full((8, 8), 0.8)])
    masks[0, 0] = 1
    found = voted([BOX, BOX], [[0.7], [0.3]], masks)
    assert boxes_of(found) == [[10, 8, 18, 9]]


@pytest.mark.parametrize(
    ("low", "high", "first", "last"),
    [(10.5, 19.5, 10, 18), (11.5, 17.5, 12, 16), (10.4, 18.6, 10, 18), (-0.5, 8.5, 0, 8)],
)
def test_a_box_that_ends_at_half_a_pixel_is_rounded_to_even(low, high, first, last):
    """As the released Python: the last pixel, `high` - 1, is what is rounded."""
    crop = render_mask(torch.ones(7, 7), torch.tensor([low, low, high, high]), 40, 40, 0.4)
    assert crop.top == crop.left == first
    assert crop.mask.shape == (last + 1 - first,) * 2


def test_an_empty_mask_is_dropped():
    other = (30.0, 20.0, 38.0, 28.0)
    masks = np.stack([np.full((8, 8), 0.39), np.full((8, 8), 0.41)])
    found = voted([BOX, other], [[0.9], [0.2]], masks)
    assert boxes_of(found) == [list(other)]
    assert found.scores.tolist() == pytest.approx([0.2])
    assert len(found) == 1
    assert len(voted([BOX], [[0.9]], masks[:1])) == 0


def test_suppressed_rois_vote_and_far_ones_do_not():
    boxes = [BOX, (12.0, 8.0, 20.0, 16.0), (14.0, 8.0, 22.0, 16.0)]  # IoU 0.6 and 1 / 3
    masks = np.ones((3, 8, 8))
    found = voted(boxes, [[0.5], [0.45], [0.4]], masks)
    assert boxes_of(found) == [[10, 8, 20, 16]]  # the second widens it, not the third
    # and of whatever class they are: here all three are of class 1, the first of class 0 as well
    probs = [[0.5, 0.6], [0.45, 0.5], [0.001, 0.55]]
    found = voted(boxes, probs, masks)
    assert boxes_of(found[found.pred_classes == 0]) == [[10, 8, 20, 16]]


@pytest.mark.parametrize(
    ("right", "expected"), [(14.0, [10, 8, 18, 16]), (13.9, [14, 8, 18, 16])], ids=["0.5", "less"]
)
def test_an_iou_of_a_half_is_enough_to_vote(right, expected):
    """The first mask is the right half of its box, the second one its left half."""
    masks = np.ones((2, 8, 8))
    masks[0, :, :4] = 0
    found = voted([BOX, (10.0, 8.0, right, 16.0)], [[0.5], [0.7]], masks, nms_threshold=0.9)
    assert boxes_of(found[found.scores == 0.5]) == [expected]


def scene(seed, count=24, classes=3, side=7):
    """RoIs around three places, some over the border of the image, with smooth masks."""
    rng = np.random.default_rng(seed)
    places = np.array([(12, 14, 20, 18), (26, 20, 24, 22), (42, 30, 18, 20)])
    x, y, w, h = (places[rng.integers(0, 3, count)] + rng.normal(0, 2.5, (count, 4))).T
    boxes = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1)
    limit = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
    boxes = np.clip(boxes, 0, limit).astype(np.float32)
    logits = rng.normal(0, 2, (count, classes + 1))
    probs = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True))[:, :-1].astype(np.float32)
    i, j = np.mgrid[:side, :side] - (side - 1) / 2
    scale = rng.uniform(1.5, 4, (count, 2, 1, 1))
    masks = 1 / (1 + np.exp(2 * ((i / scale[:, 0]) ** 2 + (j / scale[:, 1]) ** 2 - 1)))
    masks += rng.normal(0, 0.1, masks.shape)
    return boxes, probs, masks.clip(0, 1).astype(np.float32)


@pytest.mark.parametrize("limit", [100, 7])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_scenes_are_those_of_the_loop(seed, limit):
    boxes, probs, masks = scene(seed)
    expected = reference.vote(
        *(a.astype(np.float64) for a in (boxes, probs, masks)), HEIGHT, WIDTH, limit=limit
    )
    found = voted(boxes, probs, masks, limit=limit)
    assert 3 < len(expected) <= limit
    assert len(found) == len(expected)
    expected.sort(key=lambda detection: -detection[1])
    assert found.scores.tolist() == pytest.approx([score for _, score, _, _ in expected])
    assert found.pred_classes.tolist() == [class_ for class_, _, _, _ in expected]
    assert boxes_of(found) == [list(box) for _, _, box, _ in expected]
    np.testing.assert_array_equal(found.pred_masks.numpy(), np.stack([d[3] for d in expected]))


@pytest.mark.parametrize("floor", [1e-3, 0.2])
def test_selection_is_that_without_a_score_filter_before_nms(floor):
    boxes, probs, _ = scene(5, count=40)
    probs[::3] *= 1e-3  # many RoIs below the floor
    rois, classes = select_detections(
        torch.as_tensor(boxes), torch.as_tensor(probs), **{**FCIS, "score_threshold": floor}
    )
    expected = reference.detections(boxes.astype(np.float64), probs, floor=floor)
    assert set(zip(rois.tolist(), classes.tolist(), strict=True)) == set(expected)
    scores = probs[rois.numpy(), classes.numpy()]
    assert (np.diff(scores) <= 0).all()


def test_no_more_than_the_limit_are_kept_of_equal_scores():
    """The one deviation from the reference, which keeps all that score as high as the last."""
    boxes = [(x, 0.0, x + 8, 8.0) for x in (0.0, 10.0, 20.0, 30.0)]
    probs = [[0.5, 0.3], [0.3, 0.2], [0.25, 0.3], [0.1, 0.1]]
    found = select_detections(*tensors(boxes, probs, [])[:2], **{**FCIS, "limit": 2})
    pairs = list(zip(*(part.tolist() for part in found), strict=True))
    assert pairs[0] == (0, 0)
    assert len(pairs) == 2
    kept = set(reference.detections(np.array(boxes), np.array(probs), limit=2))
    assert kept == {(0, 0), (1, 0), (0, 1), (2, 1)}
    assert set(pairs) < kept
    found = select_detections(*tensors(boxes, probs, [])[:2], **{**FCIS, "limit": 1})
    assert [part.tolist() for part in found] == [[0], [0]]


@pytest.mark.parametrize(
    "box",
    [(0, 0, 8, 8), (42, 32, 50, 40), (0, 0, 50, 40), (-4, -3, 9.5, 6.5), (45.5, 37.2, 58, 49)],
    ids=str,
)
def test_boxes_on_and_over_the_border(box):
    mask = random_mask()
    expected = reference.paste(mask, box, HEIGHT, WIDTH)
    crop = render_mask(*(torch.tensor(a) for a in (mask, box)), HEIGHT, WIDTH, 0.4)
    seen = np.zeros((HEIGHT, WIDTH), dtype=bool)
    height, width = crop.mask.shape
    assert crop.top >= 0
    assert crop.left >= 0
    seen[crop.top : crop.top + height, crop.left : crop.left + width] = crop.mask.numpy()
    assert expected.any()
    np.testing.assert_array_equal(seen, expected)
    found = voted([box], [[0.5]], [mask])
    np.testing.assert_array_equal(found.pred_masks[0].numpy(), expected)


@pytest.mark.parametrize("voting", [True, False])
def test_boxes_thinner_than_a_pixel(voting):
    boxes = [(20.1, 10.1, 20.4, 10.4), (WIDTH - 0.2, 5, WIDTH, 9), (3, HEIGHT - 0.2, 9, HEIGHT)]
    found = voted(boxes, [[0.9], [0.8], [0.7]], np.ones((3, 8, 8)), voting=voting)
    assert found.pred_masks[0, 10, 20]
    assert found.pred_masks[0].sum() == 1
    assert len(found) == (1 if voting else 3)  # past the last pixel there is none


@pytest.mark.parametrize("voting", [True, False])
def test_nothing_to_detect(voting):
    for boxes, probs in (([], np.zeros((0, 1))), ([BOX], [[1e-4, 0, 1e-5]])):
        found = voted(boxes, probs, np.ones((len(boxes), 8, 8)), voting=voting)
        assert found.pred_boxes.tensor.shape == (0, 4)
        assert found.scores.shape == found.pred_classes.shape == (0,)
        assert found.pred_masks.shape == (0, HEIGHT, WIDTH)
        assert found.pred_masks.dtype == torch.bool


def test_without_voting_each_detection_has_its_own_box_and_mask():
    boxes, probs, masks = scene(3)
    found = voted(boxes, probs, masks, voting=False)
    pairs = reference.detections(boxes.astype(np.float64), probs)
    pairs.sort(key=lambda pair: -probs[pair])
    assert len(found) == len(pairs) > 3
    assert found.pred_classes.tolist() == [c for _, c in pairs]
    for index, (roi, c) in enumerate(pairs):
        assert boxes_of(found)[index] == boxes[roi].tolist()
        assert found.scores[index].item() == probs[roi, c]
        expected = reference.paste(masks[roi].astype(np.float64), boxes[roi], HEIGHT, WIDTH)
        np.testing.assert_array_equal(found.pred_masks[index].numpy(), expected)


def test_a_negative_limit_is_no_limit():
    boxes = [(x, 0.0, x + 8, 8.0) for x in (0.0, 10.0, 20.0)]
    found = select_detections(*tensors(boxes, [[0.5]] * 3, [])[:2], **{**FCIS, "limit": -1})
    assert [part.tolist() for part in found] == [[0, 1, 2], [0, 0, 0]]
