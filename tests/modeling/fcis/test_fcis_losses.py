"""FCIS's pooled scores as classes and masks, mask targets, losses, and the hardest RoIs."""

import math

import numpy as np
import pytest
import torch
from reference import fcis as reference

from mask_rcnn_ext.modeling.fcis.losses import (
    RoILosses,
    compute_class_logits,
    compute_mask_logits,
    compute_roi_losses,
    predict_masks,
    sample_mask_targets,
    select_hardest,
)

HEIGHT, WIDTH = 60, 80


def random_scores(rois=5, classes=4, side=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rois, classes, 2, side, side, generator=generator, dtype=torch.float64)


def test_scores_of_zero_are_undecided():
    pooled = torch.zeros(2, 4, 2, 7, 7)
    assert torch.equal(compute_class_logits(pooled), torch.zeros(2, 4))
    probs = torch.full((2, 4), 0.25)
    assert torch.equal(predict_masks(pooled, probs), torch.full((2, 7, 7), 0.5))


def test_logits_by_hand():
    pooled = torch.zeros(1, 2, 2, 1, 2)
    pooled[0, 0, 0, 0] = torch.tensor([3.0, -1.0])  # outside
    pooled[0, 0, 1, 0] = torch.tensor([1.0, 2.0])  # inside
    # of 3 and 2; not the larger of the means
    assert compute_class_logits(pooled).tolist() == [[2.5, 0.0]]
    assert compute_mask_logits(pooled, torch.tensor([0])).tolist() == [[[-2.0, 3.0]]]
    masks = predict_masks(pooled, torch.tensor([[0.5, 0.5]]))
    expected = [np.exp(1) / (np.exp(1) + np.exp(3)), np.exp(2) / (np.exp(2) + np.exp(-1))]
    assert masks[0, 0].tolist() == pytest.approx(expected)


def test_logits_are_those_of_the_loop():
    pooled = random_scores()
    expected = [reference.class_logits(scores) for scores in pooled.numpy()]
    np.testing.assert_allclose(compute_class_logits(pooled).numpy(), expected, atol=1e-14)


def test_gradient_goes_to_the_larger_score_and_of_equal_ones_to_outside():
    pooled = torch.zeros(1, 1, 2, 1, 4, dtype=torch.float64)
    pooled[0, 0, :, 0] = torch.tensor([[1.0, 0.0, 2.0, -3.0], [0.0, 1.0, 2.0, -3.0]])
    pooled.requires_grad_()
    compute_class_logits(pooled).sum().backward()
    assert pooled.grad[0, 0, :, 0].tolist() == [[0.25, 0, 0.25, 0.25], [0, 0.25, 0, 0]]


def test_gradients_of_the_logits():
    classes = torch.tensor([0, 3, 1, 2, 3])
    for function in (compute_class_logits, lambda p: compute_mask_logits(p, classes)):
        assert torch.autograd.gradcheck(function, random_scores().requires_grad_())


def test_the_mask_is_of_the_best_foreground_class_even_where_the_background_wins():
    pooled = random_scores(rois=3, classes=4)
    probs = torch.tensor([[0.1, 0.2, 0.05, 0.65], [0.3, 0.2, 0.4, 0.1], [0.0, 0.0, 0.01, 0.99]])
    masks = predict_masks(pooled, probs)
    for roi, best in enumerate((1, 2, 2)):
        logits = pooled[roi, best, 1] - pooled[roi, best, 0]
        torch.testing.assert_close(masks[roi], logits.sigmoid())


def test_masks_of_classes_do_not_compete():
    pooled = random_scores()
    classes = torch.tensor([0, 1, 2, 3, 1])
    before = compute_mask_logits(pooled, classes)
    for roi, own in enumerate(classes.tolist()):
        others = [c for c in range(4) if c != own]
        pooled[roi, others] += 7
    assert torch.equal(compute_mask_logits(pooled, classes), before)


def test_order_of_rois_does_not_matter():
    pooled = random_scores()
    probs = compute_class_logits(pooled).softmax(dim=1)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.equal(compute_class_logits(pooled[order]), compute_class_logits(pooled)[order])
    permuted = predict_masks(pooled[order], probs[order])
    torch.testing.assert_close(permuted, predict_masks(pooled, probs)[order])


def test_no_rois_have_no_logits():
    pooled = torch.zeros(0, 4, 2, 7, 7, requires_grad=True)
    logits = compute_class_logits(pooled)
    assert logits.shape == (0, 4)
    assert predict_masks(pooled, logits).shape == (0, 7, 7)
    assert compute_mask_logits(pooled, torch.zeros(0, dtype=torch.int64)).shape == (0, 7, 7)
    logits.sum().backward()


def blob(rng):
    """Return an uneven blob, (H, W) bool, and the box around it."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    cy, cx, a, b = rng.uniform(15, 45), rng.uniform(20, 60), rng.uniform(4, 25), rng.uniform(4, 20)
    mask = ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1
    mask &= rng.random((HEIGHT, WIDTH)) < 0.9  # holes
    rows, columns = np.nonzero(mask)
    return mask, (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def targets_of(masks, boxes, matched, size, threshold=0.4):
    return sample_mask_targets(
        torch.as_tensor(np.asarray(masks)),
        torch.as_tensor(np.asarray(boxes, dtype=np.float32)).reshape(-1, 4),
        torch.as_tensor(matched, dtype=torch.int64),
        size=size,
        threshold=threshold,
    )


@pytest.mark.parametrize("size", [21, 7, 9])
def test_targets_are_those_of_the_loop(size):
    rng = np.random.default_rng(size)
    masks, gt_boxes = zip(*(blob(rng) for _ in range(3)), strict=True)
    boxes, matched = [], []
    for number in (0, 1, 2, 1, 0, 2, 1, 0):
        jitter = rng.uniform(-6, 6, 4)
        limit = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
        boxes.append(np.clip(np.asarray(gt_boxes[number]) + jitter, 0, limit).astype(np.float32))
        matched.append(number)
    boxes += [
        np.float32([0, 0, WIDTH, HEIGHT]), np.float32([WIDTH - 9.5, HEIGHT - 8.5, WIDTH, HEIGHT])
    ]  # fmt: skip
    matched += [0, 1]
    targets = targets_of(masks, boxes, matched, size)
    assert targets.dtype == torch.bool
    for target, box, number in zip(targets.numpy(), boxes, matched, strict=True):
        expected = reference.mask_target(masks[number], box.tolist(), gt_boxes[number], size)
        np.testing.assert_array_equal(target, expected)


def test_targets_of_boxes_smaller_than_a_pixel():
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[10, 20] = mask[-1, -1] = True
    boxes = [
        (20.1, 10.1, 20.4, 10.4),  # 0 x 0 pixels: the one where it begins
        (19.1, 10.1, 19.4, 10.4),
        (WIDTH - 0.2, HEIGHT - 0.2, WIDTH, HEIGHT),  # begins past the last pixel
        (WIDTH, HEIGHT, WIDTH, HEIGHT),
    ]
    targets = targets_of([mask], boxes, [0] * 4, 3)
    assert targets.flatten(1).all(1).tolist() == [True, False, True, True]
    assert targets.flatten(1).any(1).tolist() == [True, False, True, True]


def test_targets_by_hand():
    """Of 4 x 4 pixels to 3 x 3 cells: the middle cell is a mean of four pixels."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[10:14, 20:22] = True
    expected = [[True, True, False]] * 3  # weights of the left half: 5 / 6 or 1, 1 / 2, 0
    assert targets_of([mask], [(20, 10, 24, 14)], [0], 3)[0].tolist() == expected
    half_open = targets_of([mask], [(20, 10, 24, 14)], [0], 3, 0.6)
    assert half_open[0].tolist() == [[True, False, False]] * 3
    # Rounded to whole pixels, halves to even: columns 20 to 22, since the last one is 22.5.
    assert targets_of([mask], [(20.5, 10.4, 23.5, 13.4)], [0], 3, 0.6)[0].tolist() == expected


def test_pixels_of_other_objects_are_background():
    masks = np.zeros((2, HEIGHT, WIDTH), dtype=bool)
    masks[0, 10:31, 10:20] = masks[1, 10:31, 20:31] = True
    box = (10, 10, 31, 31)
    targets = targets_of(masks, [box, box], [0, 1], 21)
    assert torch.equal(targets[0], ~targets[1])
    assert targets[0].sum() == 21 * 10


def test_large_rois_are_sampled_at_points_without_averaging():
    """63 pixels to 21 cells: each cell is the centre of its three pixels."""
    mask = np.zeros((70, 70), dtype=bool)
    mask[1:64:3, 1:64:3] = True
    assert targets_of([mask], [(0, 0, 63, 63)], [0], 21).all()
    assert not targets_of([~mask], [(0, 0, 63, 63)], [0], 21).any()


def random_rois(rng, count=9, classes=4, side=3):
    scores = rng.normal(size=(count, classes, 2, side, side))
    deltas, delta_targets = rng.normal(size=(2, count, 4)) * 1.5
    labels = rng.integers(0, classes, count)
    targets = rng.random((count, side, side)) < 0.5
    return scores, deltas, labels, targets, delta_targets


def losses_of(scores, deltas, labels, targets, delta_targets):
    positive = labels < scores.shape[1] - 1
    return compute_roi_losses(
        torch.as_tensor(scores),
        torch.as_tensor(deltas),
        torch.as_tensor(labels),
        torch.as_tensor(targets[positive]),
        torch.as_tensor(delta_targets[positive]),
        smooth_l1_beta=1.0,
    )


def test_losses_are_those_of_the_loop():
    rois = random_rois(np.random.default_rng(0), count=20)
    assert {0, 3} <= set(rois[2].tolist())
    expected = [reference.roi_loss(*roi) for roi in zip(*rois, strict=True)]
    actual = torch.stack(losses_of(*rois), dim=1)
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-12)
    background = torch.as_tensor(rois[2] == 3)
    assert not actual[background, 1:].any()
    assert actual[~background].min() > 0


def test_undecided_rois():
    scores, deltas = np.zeros((2, 4, 2, 21, 21)), np.zeros((2, 4))
    targets = np.random.default_rng(0).random((2, 21, 21)) < 0.3
    losses = losses_of(scores, deltas, np.array([1, 3]), targets, deltas)
    assert losses.classification.tolist() == pytest.approx([math.log(4)] * 2)
    assert losses.mask.tolist() == pytest.approx([math.log(2), 0])
    assert losses.box.tolist() == [0, 0]


def test_gradients_of_the_losses():
    rois = random_rois(np.random.default_rng(1), count=4)
    scores, deltas = (torch.as_tensor(a).requires_grad_() for a in rois[:2])
    assert torch.autograd.gradcheck(lambda s, d: losses_of(s, d, *rois[2:]), (scores, deltas))


def test_only_positive_rois_move_masks_and_boxes():
    rois = random_rois(np.random.default_rng(2))
    scores, deltas = (torch.as_tensor(a).requires_grad_() for a in rois[:2])
    losses = losses_of(scores, deltas, *rois[2:])
    (losses.mask.sum() + losses.box.sum()).backward()
    for roi, label in enumerate(rois[2].tolist()):
        own = [c for c in range(4) if scores.grad[roi, c].any()]
        assert own == ([label] if label < 3 else [])
        assert bool(deltas.grad[roi].any()) == (label < 3)


@pytest.mark.parametrize("count", [1, 4, 20, 21, 128])
def test_the_hardest_are_ranked_by_the_weighted_sum(count):
    generator = torch.Generator().manual_seed(0)
    losses = RoILosses(*torch.rand(3, 20, generator=generator).requires_grad_().unbind())
    sums = [c + 10 * m + b for c, m, b in zip(*(x.tolist() for x in losses), strict=True)]
    expected = sorted(range(20), key=lambda i: -sums[i])[:count]
    kept = select_hardest(losses, count, 10.0)
    assert len(kept) == min(count, 20)
    assert kept.tolist() == expected
    if count == 4:  # the weight counts
        assert set(select_hardest(losses, count, 0.0).tolist()) != set(expected)
    assert select_hardest(RoILosses(*torch.zeros(3, 0)), count, 10.0).tolist() == []
