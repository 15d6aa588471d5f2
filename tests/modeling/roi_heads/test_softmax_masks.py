"""The softmax mask loss against a literal loop, hand-made values and the sigmoid loss."""

import math

import numpy as np
import pytest
import torch
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference, mask_rcnn_loss
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

from mask_rcnn_ext.modeling.roi_heads.softmax_masks import softmax_mask_inference, softmax_mask_loss

SCALARS = ("mask_rcnn/accuracy", "mask_rcnn/false_positive", "mask_rcnn/false_negative")
# XYXY: proposals, and the rectangle that each one's ground truth fills. Rectangles lie on the lines
# of the proposals' grids of 8 x 8, so that no cell is cut.
PROPOSALS = [[4.0, 6.0, 36.0, 38.0], [10.0, 0.0, 26.0, 32.0], [2.0, 2.0, 42.0, 34.0]]
OBJECTS = [[4, 6, 20, 38], [12, 8, 40, 40], [12, 10, 32, 22]]


def image(classes, masks="bitmask", rows=slice(None)):
    """Return the `Instances` of one image of 48 x 48: rows of PROPOSALS with their OBJECTS."""
    proposals, objects = PROPOSALS[rows], OBJECTS[rows]
    instances = Instances((48, 48))
    instances.proposal_boxes = Boxes(torch.tensor(proposals).reshape(-1, 4))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    if masks == "polygon":
        rectangles = [[x0, y0, x1, y0, x1, y1, x0, y1] for x0, y0, x1, y1 in objects]
        instances.gt_masks = PolygonMasks([[np.array(r, dtype=float)] for r in rectangles])
    else:
        bits = torch.zeros(len(objects), 48, 48, dtype=torch.bool)
        for row, (x0, y0, x1, y1) in enumerate(objects):
            bits[row, y0:y1, x0:x1] = True
        instances.gt_masks = BitMasks(bits)
    return instances


def logits_of(channels, side=8, count=3, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, side, side, generator=generator, dtype=dtype) * 2


def covered(proposal, rectangle, side):
    """Return which cell centres of a proposal's grid lie in a rectangle: the target, by hand."""
    x0, y0, x1, y1 = proposal
    xs = x0 + (np.arange(side) + 0.5) * (x1 - x0) / side
    ys = y0 + (np.arange(side) + 0.5) * (y1 - y0) / side
    inside_x = (xs >= rectangle[0]) & (xs < rectangle[2])
    inside_y = (ys >= rectangle[1]) & (ys < rectangle[3])
    return inside_y[:, None] & inside_x[None, :]


def loop_loss(logits, targets, classes):
    """Return the loss and its gradient, pixel by pixel."""
    count, channels, side, _ = logits.shape
    total, gradient = 0.0, np.zeros_like(logits)
    for r in range(count):
        for y in range(side):
            for x in range(side):
                wanted = classes[r] if targets[r][y, x] else channels - 1
                exponentials = [math.exp(v) for v in logits[r, :, y, x]]
                share = [e / sum(exponentials) for e in exponentials]
                total -= math.log(share[wanted])
                for c in range(channels):
                    gradient[r, c, y, x] = share[c] - (c == wanted)
    pixels = count * side * side
    return total / pixels, gradient / pixels


@pytest.mark.parametrize("masks", ["bitmask", "polygon"])
@pytest.mark.parametrize(
    ("channels", "classes", "looked_at"),
    [(5, [3, 0, 2], [3, 0, 2]), (2, [3, 0, 2], [0, 0, 0])],
    ids=["specific", "agnostic"],
)
def test_against_a_loop(masks, channels, classes, looked_at):
    logits = logits_of(channels, dtype=torch.float64).requires_grad_()
    targets = [covered(p, o, 8) for p, o in zip(PROPOSALS, OBJECTS, strict=True)]
    with EventStorage():
        loss = softmax_mask_loss(logits, [image(classes, masks)])
    loss.backward()
    expected, gradient = loop_loss(logits.detach().numpy(), targets, looked_at)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(logits.grad.numpy(), gradient, atol=1e-14)


def test_by_hand():
    """Equal logits of K + 1 = 3 channels cost ln 3; a sure and right answer costs nothing."""
    instances = image([1], rows=slice(0, 1))  # the left half of its proposal
    with EventStorage():
        flat = softmax_mask_loss(torch.zeros(1, 3, 8, 8), [instances])
        logits = torch.zeros(1, 3, 8, 8)
        logits[0, 1, :, :4] = 50
        logits[0, 2, :, 4:] = 50
        right = softmax_mask_loss(logits, [instances])
        wrong_class = softmax_mask_loss(logits[:, [1, 0, 2]], [instances])
    assert flat.item() == pytest.approx(math.log(3))
    assert right.item() == 0
    assert wrong_class.item() == pytest.approx(25)  # 50 at half of the pixels


def test_one_class_without_background_logit_is_the_sigmoid():
    foreground = logits_of(1)
    both = torch.cat([foreground, torch.zeros_like(foreground)], dim=1)
    results = []
    for loss, logits in ((softmax_mask_loss, both), (mask_rcnn_loss, foreground)):
        with EventStorage() as storage:
            value = loss(logits, [image([0, 0, 0])])
        results.append([value.item(), *(storage.latest()[name][0] for name in SCALARS)])
    assert results[0] == pytest.approx(results[1], rel=1e-6)
    detections = [detected([0, 0, 0]), detected([0, 0, 0])]
    softmax_mask_inference(both, detections[:1])
    mask_rcnn_inference(foreground, detections[1:])
    torch.testing.assert_close(detections[0].pred_masks, detections[1].pred_masks)


def test_scalars_by_hand():
    """8 x 8 cells, the left 4 columns are ground truth; columns 1 to 5 are predicted."""
    logits = torch.zeros(1, 4, 8, 8)
    logits[:, 3] = 3  # background
    logits[:, 2, :, 1:6] = 9
    with EventStorage() as storage:
        softmax_mask_loss(logits, [image([2], rows=slice(0, 1))])
    accuracy, false_positive, false_negative = (storage.latest()[name][0] for name in SCALARS)
    assert accuracy == pytest.approx(1 - 3 / 8)
    assert false_positive == pytest.approx(2 / 4)
    assert false_negative == pytest.approx(1 / 4)


@pytest.mark.parametrize(("period", "images"), [(0, 0), (1, 3), (20, 3), (7, 0)])
def test_pictures_every_vis_period(period, images):
    stored = []
    for loss, channels in ((softmax_mask_loss, 5), (mask_rcnn_loss, 4)):
        with EventStorage(start_iter=20) as storage:
            loss(logits_of(channels), [image([3, 0, 2])], period)
        stored.append(storage._vis_data)
    ours, stock = stored
    assert len(ours) == images
    assert [(name, picture.shape) for name, picture, _ in ours] == [
        (name, picture.shape) for name, picture, _ in stock
    ]
    for (_, mine, _), (_, theirs, _) in zip(ours, stock, strict=True):
        assert torch.equal(mine[:, :, 8:], theirs[:, :, 8:])  # the ground truth on the right


def test_images_without_a_positive_are_skipped():
    logits = logits_of(5)
    with EventStorage():
        together = softmax_mask_loss(logits, [image([3, 0, 2])])
        none = image([], rows=slice(0, 0))
        split = [none, image([3], rows=slice(0, 1)), none, image([0, 2], rows=slice(1, 3))]
        apart = softmax_mask_loss(logits, split)
    assert together.item() == pytest.approx(apart.item())


@pytest.mark.parametrize("count", [0, 2], ids=["no image", "no positive"])
def test_empty_is_zero_and_attached(count):
    logits = torch.zeros(0, 5, 8, 8, requires_grad=True)
    with EventStorage():
        loss = softmax_mask_loss(logits, [image([], rows=slice(0, 0))] * count)
    assert loss.item() == 0
    loss.backward()
    assert logits.grad.shape == (0, 5, 8, 8)


def detected(classes):
    instances = Instances((48, 48))
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return instances


def test_inference_reads_the_predicted_class():
    logits = logits_of(5)
    images = [detected([3, 0]), detected([]), detected([2])]
    softmax_mask_inference(logits, images)
    exponentials = np.exp(logits.numpy().astype(float))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    assert [tuple(i.pred_masks.shape) for i in images] == [(2, 1, 8, 8), (0, 1, 8, 8), (1, 1, 8, 8)]
    found = torch.cat([i.pred_masks for i in images]).numpy()
    expected = np.stack([probabilities[r, [c]] for r, c in enumerate([3, 0, 2])])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_inference_of_agnostic_masks_looks_at_no_class():
    logits = logits_of(2)
    images = [detected([70, 0, 2])]
    softmax_mask_inference(logits, images)
    torch.testing.assert_close(images[0].pred_masks, logits.softmax(dim=1)[:, :1])


def test_argmax_takes_the_pixels_whose_likeliest_channel_is_the_predicted_class():
    """Among five channels the likeliest often has less than half of the probability."""
    classes = [3, 0, 2]
    logits = logits_of(5, seed=1)
    found = {}
    for argmax in (False, True):
        images = [detected(classes[:2]), detected([]), detected(classes[2:])]
        softmax_mask_inference(logits, images, argmax)
        found[argmax] = torch.cat([i.pred_masks for i in images])[:, 0]
    likeliest = logits.argmax(dim=1) == torch.tensor(classes)[:, None, None]
    assert torch.equal(found[True] > 0.5, likeliest)
    assert (found[False] <= 0.5)[likeliest].any()
    own, *others = (math.exp(logits[0, c, 4, 4]) for c in (3, 0, 1, 2, 4))  # one pixel by hand
    assert found[True][0, 4, 4].item() == pytest.approx(own / (own + max(others)), rel=1e-5)


def test_with_two_channels_both_readings_are_the_same():
    logits, images = logits_of(2), [detected([1, 0, 2])]
    softmax_mask_inference(logits, images)
    literal = images[0].pred_masks
    softmax_mask_inference(logits, images, argmax=True)
    torch.testing.assert_close(images[0].pred_masks, literal)


@pytest.mark.parametrize("argmax", [False, True])
def test_inference_of_nothing(argmax):
    images = [detected([]), detected([])]
    softmax_mask_inference(torch.zeros(0, 5, 8, 8), images, argmax)
    assert all(i.pred_masks.shape == (0, 1, 8, 8) for i in images)


def test_half_precision_logits_are_summed_in_float32():
    logits = logits_of(5).bfloat16()
    with EventStorage(), torch.autocast("cpu", dtype=torch.bfloat16):
        loss = softmax_mask_loss(logits, [image([3, 0, 2])])
        images = [detected([3, 0, 2])]
        softmax_mask_inference(logits, images)
    with EventStorage():
        expected = softmax_mask_loss(logits.float(), [image([3, 0, 2])])
    assert loss.dtype == images[0].pred_masks.dtype == torch.float32
    assert torch.equal(loss, expected)


def test_masks_of_floats_are_cut_at_one_half():
    """A mask class of a user may return shares instead of bits; detectron2's loss allows it."""

    class Soft(BitMasks):
        def crop_and_resize(self, boxes, mask_size):
            return super().crop_and_resize(boxes, mask_size) * 0.6 + 0.1

    instances, soft = image([3, 0, 2]), image([3, 0, 2])
    soft.gt_masks = Soft(instances.gt_masks.tensor)
    with EventStorage():
        losses = [softmax_mask_loss(logits_of(5), [i]) for i in (instances, soft)]
    assert torch.equal(*losses)


def test_masks_must_be_square():
    with pytest.raises(ValueError, match="square"):
        softmax_mask_loss(torch.zeros(1, 3, 8, 4), [image([0], rows=slice(0, 1))])
