"""From pooled inside/outside scores to classes and masks."""

import numpy as np
import pytest
import torch
from reference import fcis as reference

from mask_rcnn_ext.modeling.fcis.scores import class_logits, foreground_masks, mask_logits


def random_scores(rois=5, classes=4, side=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rois, classes, 2, side, side, generator=generator, dtype=torch.float64)


def test_scores_of_zero_are_undecided():
    pooled = torch.zeros(2, 4, 2, 7, 7)
    assert torch.equal(class_logits(pooled), torch.zeros(2, 4))
    probs = torch.full((2, 4), 0.25)
    assert torch.equal(foreground_masks(pooled, probs), torch.full((2, 7, 7), 0.5))


def test_by_hand():
    pooled = torch.zeros(1, 2, 2, 1, 2)
    pooled[0, 0, 0, 0] = torch.tensor([3.0, -1.0])  # outside
    pooled[0, 0, 1, 0] = torch.tensor([1.0, 2.0])  # inside
    assert class_logits(pooled).tolist() == [[2.5, 0.0]]  # of 3 and 2; not the larger of the means
    assert mask_logits(pooled, torch.tensor([0])).tolist() == [[[-2.0, 3.0]]]
    masks = foreground_masks(pooled, torch.tensor([[0.5, 0.5]]))
    expected = [np.exp(1) / (np.exp(1) + np.exp(3)), np.exp(2) / (np.exp(2) + np.exp(-1))]
    assert masks[0, 0].tolist() == pytest.approx(expected)


def test_logits_are_those_of_the_loop():
    pooled = random_scores()
    expected = [reference.class_logits(scores) for scores in pooled.numpy()]
    np.testing.assert_allclose(class_logits(pooled).numpy(), expected, atol=1e-14)


def test_gradient_goes_to_the_larger_score_and_of_equal_ones_to_outside():
    pooled = torch.zeros(1, 1, 2, 1, 4, dtype=torch.float64)
    pooled[0, 0, :, 0] = torch.tensor([[1.0, 0.0, 2.0, -3.0], [0.0, 1.0, 2.0, -3.0]])
    pooled.requires_grad_()
    class_logits(pooled).sum().backward()
    assert pooled.grad[0, 0, :, 0].tolist() == [[0.25, 0, 0.25, 0.25], [0, 0.25, 0, 0]]


def test_gradient():
    classes = torch.tensor([0, 3, 1, 2, 3])
    for function in (class_logits, lambda p: mask_logits(p, classes)):
        assert torch.autograd.gradcheck(function, random_scores().requires_grad_())


def test_the_mask_is_of_the_best_foreground_class_even_where_the_background_wins():
    pooled = random_scores(rois=3, classes=4)
    probs = torch.tensor([[0.1, 0.2, 0.05, 0.65], [0.3, 0.2, 0.4, 0.1], [0.0, 0.0, 0.01, 0.99]])
    masks = foreground_masks(pooled, probs)
    for roi, best in enumerate((1, 2, 2)):
        logits = pooled[roi, best, 1] - pooled[roi, best, 0]
        torch.testing.assert_close(masks[roi], logits.sigmoid())


def test_masks_of_classes_do_not_compete():
    pooled = random_scores()
    classes = torch.tensor([0, 1, 2, 3, 1])
    before = mask_logits(pooled, classes)
    for roi, own in enumerate(classes.tolist()):
        others = [c for c in range(4) if c != own]
        pooled[roi, others] += 7
    assert torch.equal(mask_logits(pooled, classes), before)


def test_order_of_rois():
    pooled = random_scores()
    probs = class_logits(pooled).softmax(dim=1)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.equal(class_logits(pooled[order]), class_logits(pooled)[order])
    permuted = foreground_masks(pooled[order], probs[order])
    torch.testing.assert_close(permuted, foreground_masks(pooled, probs)[order])


def test_no_rois():
    pooled = torch.zeros(0, 4, 2, 7, 7, requires_grad=True)
    logits = class_logits(pooled)
    assert logits.shape == (0, 4)
    assert foreground_masks(pooled, logits).shape == (0, 7, 7)
    assert mask_logits(pooled, torch.zeros(0, dtype=torch.int64)).shape == (0, 7, 7)
    logits.sum().backward()
