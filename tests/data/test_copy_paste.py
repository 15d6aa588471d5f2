"""Copy-paste: pasted objects cover what is below, and the loader draws the same ones again."""

import itertools

import numpy as np
import pytest
import torch
from detectron2.data.samplers import TrainingSampler
from detectron2.structures import Boxes, Instances, Keypoints
from drawn_objects import draw_record, make_cfg, tight_box

from mask_rcnn_ext.data.copy_paste import CopyPaste, paste_instances
from mask_rcnn_ext.data.loader import TrainLoader, seed_everything
from mask_rcnn_ext.data.mapper import ImageMapper


def make_samples(tmp_path, shift: int, **keys):
    cfg = make_cfg(COPY_PASTE=1.0, **keys)
    cfg.INPUT.MIN_SIZE_TRAIN = (90,)
    mapper = ImageMapper(cfg, is_train=True)
    own = mapper(draw_record(tmp_path / "own.png", "polygon"))
    other = mapper(draw_record(tmp_path / "other.png", "polygon", shift=shift))
    return own, other


def test_pasted_objects_cover_what_is_below(tmp_path):
    own, other = make_samples(tmp_path, shift=-5)
    before = own["image"].clone(), own["instances"].gt_masks.tensor.clone()
    paste_instances(own, other["image"], other["instances"][[1]])
    instances = own["instances"]
    assert instances.gt_classes.tolist() == [0, 1, 2, 1]
    masks = instances.gt_masks.tensor
    pasted = other["instances"].gt_masks.tensor[1]
    assert torch.equal(masks[3], pasted)
    assert torch.equal(masks[:3], before[1] & ~pasted)
    assert torch.equal(own["image"], torch.where(pasted, other["image"], before[0]))
    for mask, box in zip(masks, instances.gt_boxes.tensor.tolist(), strict=True):
        assert box == tight_box(mask.numpy())


def test_an_object_that_is_covered_as_a_whole_is_dropped(tmp_path):
    own, other = make_samples(tmp_path, shift=0)
    paste_instances(own, other["image"], other["instances"])  # the same three, in the same places
    assert own["instances"].gt_classes.tolist() == [0, 1, 2]
    assert own["instances"].gt_masks.nonempty().all()


def test_pasting_into_a_smaller_image_cuts_and_into_an_empty_one_works(tmp_path):
    own, other = make_samples(tmp_path, shift=0)
    small = {"image": own["image"][:, :50, :80].clone(), "instances": Instances((50, 80))}
    small["instances"].gt_boxes = Boxes(torch.zeros(0, 4))
    small["instances"].gt_classes = torch.zeros(0, dtype=torch.int64)  # as of an image without any
    paste_instances(small, other["image"], other["instances"])
    assert small["instances"].gt_classes.tolist() == [0]  # the others lie outside
    assert small["instances"].gt_masks.tensor.shape == (1, 50, 80)
    (mask,) = small["instances"].gt_masks.tensor.numpy()
    assert np.array_equal(mask, other["instances"].gt_masks.tensor[0, :50, :80].numpy())
    assert small["instances"].gt_boxes.tensor.tolist() == [tight_box(mask)]


def test_a_covered_keypoint_is_not_visible_and_one_outside_is_not_there(tmp_path):
    own, other = make_samples(tmp_path, shift=0)
    for sample, points in ((own, [[105, 20, 2], [20, 25, 2]]), (other, [[100, 5, 2], [300, 5, 2]])):
        sample["instances"].gt_keypoints = Keypoints(torch.tensor([points] * 3, dtype=torch.float))
    paste_instances(own, other["image"], other["instances"][[1]])
    points = own["instances"].gt_keypoints.tensor
    assert points[0].tolist() == [[105, 20, 1], [20, 25, 2]]
    assert points[-1].tolist() == [[100, 5, 2], [0, 0, 0]]


def make_loader(tmp_path, workers: int):
    cfg = make_cfg(
        COPY_PASTE=0.5, ROTATION=30.0, SCALE_JITTER=[0.5, 1.5], BRIGHTNESS=0.2, HUE=0.1, BLUR=1.0
    )
    records = []
    for index in range(4):
        record = draw_record(tmp_path / f"{index}.png", "polygon", shift=4 * index)
        records.append({**record, "image_id": index})
    return TrainLoader(
        records, ImageMapper(cfg, is_train=True), TrainingSampler(len(records), seed=3),
        batch_size=2, num_workers=workers, seed=3, mix=CopyPaste(0.5),
    )  # fmt: skip


def test_the_loader_gives_the_same_samples_with_workers_and_after_a_restart(tmp_path):
    plain, parallel, later = (make_loader(tmp_path, workers) for workers in (0, 2, 0))
    later.batches.start = 4
    whole = list(itertools.islice(iter(plain), 8))
    for start, loader in ((0, parallel), (4, later)):
        for expected, batch in zip(whole[start:], iter(loader), strict=False):
            for a, b in zip(expected, batch, strict=True):
                assert torch.equal(a["image"], b["image"])
                assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)
                assert torch.equal(a["instances"].gt_masks.tensor, b["instances"].gt_masks.tensor)
    counts = {len(sample["instances"]) for batch in whole for sample in batch}
    assert max(counts) > 3, "nothing was pasted"


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.25, 35, 65), (1.0, 200, 200)])
def test_the_share_of_images_that_get_objects(share, least, most):
    seed_everything(0)
    drawn = []
    for _ in range(200):
        CopyPaste(share)({}, lambda: drawn.append(1) or {"instances": ()})
    assert least <= len(drawn) <= most
