"""`FCISROIHeads`: its losses, the RoIs that count, and the second pass in testing."""

import math

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.structures import BitMasks, Boxes, ImageList, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from reference import fcis as reference

from mask_rcnn_ext.config import get_cfg
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.layers import PSROIPool
from mask_rcnn_ext.modeling.fcis import FCISROIHeads

NAMES = ("loss_cls", "loss_mask", "loss_box_reg")
HEIGHT, WIDTH = 48, 64  # of the images; the map is 6 x 8
CLASSES = 3
OBJECTS = ([(4.0, 6.0, 28.0, 30.0), (30.0, 10.0, 60.0, 44.0)], [2, 0])
NO_OBJECTS = ([], [])


def build_heads(*, spread=0.0, matcher=((0.5,), (0, 1)), ohem_size=128, in_channels=4, conv_dim=8):
    """Return heads; `spread` is the deviation of the weights of the maps, 0: all maps are 0."""
    torch.manual_seed(0)
    heads = FCISROIHeads(
        num_classes=CLASSES,
        batch_size_per_image=128 if ohem_size is None else 10**6,
        positive_fraction=0.25 if ohem_size is None else 1.0,
        proposal_matcher=Matcher(list(matcher[0]), list(matcher[1])),
        proposal_append_gt=True,
        in_feature="res5",
        in_channels=in_channels,
        conv_dim=conv_dim,
        pooler=PSROIPool(3, 6, 1 / 8),
        box2box_transform=Box2BoxTransform(weights=(5.0, 5.0, 2.0, 2.0)),
        smooth_l1_beta=1.0,
        mask_loss_weight=10.0,
        mask_threshold=0.4,
        ohem_size=ohem_size,
        num_passes=2,
    )
    torch.nn.init.normal_(heads.conv_new.weight)
    for layer in (heads.score_maps, heads.box_maps):
        torch.nn.init.normal_(layer.weight, std=spread)
    return heads


def image_of(boxes, classes):
    """Return the targets of an image of ellipses, and its masks."""
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    masks = torch.zeros(len(boxes), HEIGHT, WIDTH, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        across, down = (2 * x - x1 - x2) / (x2 - x1), (2 * y - y1 - y2) / (y2 - y1)
        mask |= across**2 + down**2 < 1
    target = Instances((HEIGHT, WIDTH))
    target.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    target.gt_classes = torch.tensor(classes, dtype=torch.int64)
    target.gt_masks = BitMasks(masks)
    return target


def proposals_of(boxes):
    tensor = torch.as_tensor(np.asarray(boxes, dtype=np.float32)).reshape(-1, 4)
    logits = torch.zeros(len(tensor))
    return Instances((HEIGHT, WIDTH), proposal_boxes=Boxes(tensor), objectness_logits=logits)


def random_boxes(count, seed=0):
    """Half of the boxes near the two objects, half anywhere."""
    rng = np.random.default_rng(seed)
    near = np.array(OBJECTS[0])[rng.integers(0, 2, count // 2)]
    near = near + rng.uniform(-5, 5, near.shape)
    corner = rng.uniform(0, 30, (count - len(near), 2))
    far = np.concatenate([corner, corner + rng.uniform(3, 20, corner.shape)], axis=1)
    return np.concatenate([near, far]).clip(0, [WIDTH, HEIGHT, WIDTH, HEIGHT])


def features_of(images):
    generator = torch.Generator().manual_seed(0)
    shape = (images, 4, HEIGHT // 8, WIDTH // 8)
    return {"res5": torch.randn(shape, generator=generator).requires_grad_()}


def train(heads, boxes, targets):
    """Return the sampled proposals, the losses, and the features that they come from."""
    count = len(targets)
    features = features_of(count)
    images = ImageList(torch.zeros(count, 3, HEIGHT, WIDTH), [(HEIGHT, WIDTH)] * count)
    with EventStorage():
        sampled, losses = heads.train()(images, features, [proposals_of(b) for b in boxes], targets)
    assert set(losses) == set(NAMES)
    return sampled, losses, features


def infer(heads, boxes):
    """Return the RoIs of one image."""
    features = features_of(1)
    images = ImageList(torch.zeros(1, 3, HEIGHT, WIDTH), [(HEIGHT, WIDTH)])
    with torch.no_grad():
        results, losses = heads.eval()(images, features, [proposals_of(boxes)])
    assert losses == {}
    return results[0]


def losses_of_the_loop(heads, features, sampled, targets, ohem):
    """Return the three losses by the literal loops; `sampled`: the proposals of each image."""
    totals = np.zeros(3)
    for index, (proposals, target) in enumerate(zip(sampled, targets, strict=True)):
        boxes = proposals.proposal_boxes.tensor.tolist()
        maps = heads.compute_maps({"res5": features["res5"][index : index + 1]})
        pooled = heads.pool(maps, [Boxes(torch.tensor(boxes, dtype=torch.float32))])
        gt_boxes, gt_classes = target.gt_boxes.tensor.tolist(), target.gt_classes.tolist()
        per_roi = []
        for roi, box in enumerate(boxes):
            class_, number = reference.label(box, gt_boxes, gt_classes, CLASSES)
            mask = deltas = None
            if number is not None:
                instance = target.gt_masks.tensor[number].numpy()
                mask = reference.mask_target(instance, box, gt_boxes[number], 6)
                deltas = reference.encode(box, gt_boxes[number])
            arrays = (part[roi].detach().double().numpy() for part in pooled)
            per_roi.append(reference.roi_loss(*arrays, class_, mask, deltas))
        totals += reference.image_losses(per_roi, 128 if ohem is None else ohem, ohem is not None)
    return totals / len(targets)


@pytest.mark.parametrize("background", [0, 20])
def test_undecided_mask_of_one_positive_roi(background):
    boxes = [(40.0, 2.0, 60.0, 20.0)] * background
    _, losses, _ = train(build_heads(), [boxes], [image_of(OBJECTS[0][:1], [1])])
    assert losses["loss_mask"].item() == pytest.approx(10 * math.log(2) / 128)
    assert losses["loss_box_reg"].item() == 0  # the RoI is the object itself
    assert losses["loss_cls"].item() == pytest.approx(math.log(CLASSES + 1))


@pytest.mark.parametrize("ohem", [12, 40, 128])
def test_losses_with_ohem_are_those_of_the_loop(ohem):
    heads = build_heads(spread=0.05, ohem_size=ohem)
    boxes = [random_boxes(30, seed=1), random_boxes(24, seed=2)]
    targets = [image_of(*OBJECTS), image_of(OBJECTS[0][:1], [1])]
    sampled, losses, features = train(heads, boxes, targets)
    assert [len(s) for s in sampled] == [32, 25]  # all, and the objects
    expected = losses_of_the_loop(heads, features, sampled, targets, ohem)
    assert [losses[n].item() for n in NAMES] == pytest.approx(expected.tolist(), rel=1e-4)
    assert expected.min() > 0


def test_without_ohem_128_are_drawn_a_quarter_of_them_positive():
    heads = build_heads(spread=0.05, ohem_size=None)
    boxes = [random_boxes(300, seed=1), random_boxes(40, seed=2)]
    targets = [image_of(*OBJECTS), image_of(OBJECTS[0][1:], [1])]
    sampled, losses, features = train(heads, boxes, targets)
    assert len(sampled[0]) == 128
    assert (sampled[0].gt_classes < CLASSES).sum() == 32
    assert len(sampled[1]) == 41  # all, where there are fewer
    expected = losses_of_the_loop(heads, features, sampled, targets, None)
    assert [losses[n].item() for n in NAMES] == pytest.approx(expected.tolist(), rel=1e-4)


def test_ohem_keeps_the_hardest_and_only_they_learn():
    heads = build_heads(spread=0.05, ohem_size=5)
    pooled = []
    pool = heads.pool
    heads.pool = lambda *args: pooled.append(pool(*args)) or pooled[-1]
    _, losses, _ = train(heads, [random_boxes(30)], [image_of(*OBJECTS)])
    gradient = torch.autograd.grad(sum(losses.values()), pooled[0][0])[0]
    assert (gradient.flatten(1).abs().sum(1) > 0).sum() == 5


@pytest.mark.parametrize("ohem", [128, None], ids=["OHEM", "random"])
@pytest.mark.parametrize(
    ("objects", "counts"),
    [
        ([OBJECTS, NO_OBJECTS], [10, 10]),
        ([OBJECTS, OBJECTS], [10, 0]),
        ([OBJECTS, NO_OBJECTS], [10, 0]),
        ([NO_OBJECTS, NO_OBJECTS], [10, 10]),
        ([NO_OBJECTS, NO_OBJECTS], [0, 0]),
    ],
    ids=["no object", "no proposal", "neither", "no object in the batch", "nothing at all"],
)
@pytest.mark.parametrize("masks", [True, False], ids=["masks", "no field where no object"])
def test_images_without_objects_or_proposals(objects, counts, ohem, masks):
    heads = build_heads(spread=0.05, ohem_size=ohem)
    targets = [image_of(*o) for o in objects]
    for target in targets:
        if not masks and not len(target):
            target.remove("gt_masks")  # as detectron2's mapper does
    boxes = [random_boxes(count, seed=3) for count in counts]
    sampled, losses, features = train(heads, boxes, targets)
    for loss in losses.values():
        assert loss.isfinite()
        assert loss.requires_grad
    sum(losses.values()).backward()
    for name, parameter in heads.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    if not any(len(o[0]) for o in objects):
        assert losses["loss_mask"].item() == losses["loss_box_reg"].item() == 0
        assert (losses["loss_cls"].item() > 0) == (sum(counts) > 0)
    targets = [image_of(*o) for o in objects]
    expected = losses_of_the_loop(heads, features, sampled, targets, ohem)
    assert [losses[n].item() for n in NAMES] == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-9)


def test_ignored_rois_are_left_out():
    """Below an IoU of 0.1 no background: what VOC's models do."""
    heads = build_heads(spread=0.05, matcher=((0.1, 0.5), (-1, 0, 1)))
    inside = [(4.0, 6.0, 28.0, 18.125), (4.0, 6.0, 28.0, 15.0)]  # IoU 0.505 and 0.375
    far = [(40.0, 30.0, 50.0, 40.0), (4.0, 6.0, 9.0, 11.0)]  # 0 and 0.04
    target = image_of(OBJECTS[0][:1], [1])
    sampled, losses, features = train(heads, [inside + far], [target])
    kept = sampled[0].proposal_boxes.tensor.tolist()
    assert sorted(kept) == sorted(list(b) for b in [*inside, OBJECTS[0][0]])
    assert sorted(sampled[0].gt_classes.tolist()) == [1, 1, 3]
    expected = losses_of_the_loop(heads, features, sampled, [target], 128)
    assert [losses[n].item() for n in NAMES] == pytest.approx(expected.tolist(), rel=1e-4)


def test_polygons_are_refused():
    target = image_of(*OBJECTS)
    polygon = np.array([4.0, 6, 28, 6, 28, 30])
    target.gt_masks = PolygonMasks([[polygon], [polygon]])
    with pytest.raises(UserError, match=r"INPUT\.MASK_FORMAT bitmask, got PolygonMasks"):
        train(build_heads(), [[]], [target])


def set_deltas(heads, deltas):
    """Make the box maps say the same four deltas everywhere."""
    torch.nn.init.zeros_(heads.box_maps.weight)
    with torch.no_grad():
        heads.box_maps.bias.copy_(torch.tensor(deltas).repeat_interleave(heads.pooler.num_bins**2))


def test_without_deltas_the_second_pass_repeats_the_first():
    heads = build_heads(spread=0.05)
    set_deltas(heads, [0.0] * 4)
    boxes = random_boxes(10)
    rois = infer(heads, boxes)
    assert len(rois) == 20
    # a box becomes its centre and size and a box again
    first, second = rois.proposal_boxes.tensor.split(10)
    torch.testing.assert_close(first, torch.as_tensor(boxes, dtype=torch.float32), rtol=0, atol=0)
    torch.testing.assert_close(second, first, rtol=0, atol=1e-5)
    for field in ("class_probs", "roi_masks"):
        first, second = rois.get(field).split(10)
        torch.testing.assert_close(second, first)


def test_the_second_pass_is_on_the_boxes_of_the_deltas():
    heads = build_heads(spread=0.05)
    deltas = [0.7, -0.4, 0.3, -0.5]
    set_deltas(heads, deltas)
    boxes = random_boxes(10)
    rois = infer(heads, boxes)
    moved = [reference.decode(box, deltas, HEIGHT, WIDTH) for box in boxes]
    np.testing.assert_allclose(rois.proposal_boxes.tensor[10:].numpy(), moved, atol=1e-4)
    heads.num_passes = 1
    again = infer(heads, rois.proposal_boxes.tensor[10:].numpy())  # the deltas of these do nothing
    assert len(again) == 10
    torch.testing.assert_close(again.class_probs, rois.class_probs[10:])
    torch.testing.assert_close(again.roi_masks, rois.roi_masks[10:])
    heads.num_passes = 3
    assert len(infer(heads, boxes)) == 30


def test_targets_are_normalised_as_often_as_deltas_are_un_normalised():
    heads = build_heads()
    box, gt = (8.0, 9.0, 30.0, 25.0), OBJECTS[0][0]
    set_deltas(heads, reference.encode(box, gt))
    torch.testing.assert_close(
        infer(heads, [box]).proposal_boxes.tensor, torch.tensor([box, gt]), rtol=0, atol=1e-4
    )
    transform = Box2BoxTransform(weights=(5.0, 5.0, 2.0, 2.0))
    pair = (torch.tensor([box]), torch.tensor([gt]))
    assert transform.get_deltas(*pair)[0].tolist() == pytest.approx(reference.encode(box, gt))


def test_results_of_the_rois():
    heads = build_heads(spread=0.5)
    rois = infer(heads, random_boxes(10))
    maps = heads.compute_maps(features_of(1))
    scores = heads.pool(maps, [rois.proposal_boxes])[0].detach()
    assert rois.class_probs.shape == (20, CLASSES + 1)
    assert rois.roi_masks.shape == (20, 6, 6)
    for roi, (probs, mask) in enumerate(zip(rois.class_probs, rois.roi_masks, strict=True)):
        logits = torch.tensor(reference.class_logits(scores[roi].numpy()), dtype=probs.dtype)
        torch.testing.assert_close(probs, logits.softmax(0), rtol=0, atol=1e-5)
        best = scores[roi, int(logits[:-1].argmax())]
        torch.testing.assert_close(mask, best.softmax(0)[1])
    assert infer(heads, []).roi_masks.shape == (0, 6, 6)


def test_heads_of_a_config_are_those_of_keyword_arguments():
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_HEADS.IN_FEATURES, cfg.MODEL.ROI_HEADS.NUM_CLASSES = ["res5"], CLASSES
    cfg.MODEL.FCIS.CONV_DIM, cfg.MODEL.FCIS.NUM_BINS, cfg.MODEL.FCIS.POOLED_SIZE = 64, 3, 6
    heads = FCISROIHeads(cfg, {"res5": ShapeSpec(channels=32, stride=8)})
    shapes = {name: value.shape for name, value in heads.state_dict().items()}
    of_arguments = build_heads(in_channels=32, conv_dim=64).state_dict()
    assert shapes == {name: value.shape for name, value in of_arguments.items()}
    assert {name.split(".")[0] for name in shapes} == {"conv_new", "score_maps", "box_maps"}
    assert heads.pooler.spatial_scale == 1 / 8
    for name, value in heads.state_dict().items():
        assert (value.std() - 0.01).abs() < 0.002 if "weight" in name else not value.any(), name


def test_masks_of_given_boxes_are_those_of_the_same_rois():
    """The class may be another one than the best: its maps are read then."""
    heads, boxes = build_heads(spread=1.0).eval(), random_boxes(6)
    rois = infer(heads, boxes)[:6]  # the first pass
    best = rois.class_probs[:, :-1].argmax(dim=1)
    given = Instances((HEIGHT, WIDTH), pred_boxes=rois.proposal_boxes, pred_classes=best)
    none = Instances((HEIGHT, WIDTH), pred_boxes=Boxes(torch.zeros(0, 4)), pred_classes=best[:0])
    features = {"res5": features_of(1)["res5"].detach().repeat(2, 1, 1, 1)}
    with torch.no_grad():
        first, second = heads.forward_with_given_boxes(features, [given, none])
        assert torch.equal(first.pred_masks[:, 0], rois.roi_masks)
        assert second.pred_masks.shape == (0, 1, 6, 6)
        given.pred_classes = (best + 1) % CLASSES
        (other,) = heads.forward_with_given_boxes(features_of(1), [given])
    assert not torch.equal(other.pred_masks[:, 0], rois.roi_masks)
