"""Heads, images and proposals for the tests of `FCISROIHeads`."""

import numpy as np
import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.structures import BitMasks, Boxes, Instances

from mask_rcnn_ext.layers import PSROIPool
from mask_rcnn_ext.modeling.fcis import FCISROIHeads

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


def features_of(images, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (images, 4, HEIGHT // 8, WIDTH // 8)
    return {"res5": torch.randn(shape, generator=generator).requires_grad_()}
