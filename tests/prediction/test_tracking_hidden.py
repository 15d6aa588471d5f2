"""Objects that are hidden little by little keep their ids."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from mask_rcnn_ext.layers.packed_masks import PackedMasks
from mask_rcnn_ext.prediction.tracking import Tracker

SIZE = (200, 600)
ROWS, COLUMNS = np.ogrid[: SIZE[0], : SIZE[1]]


def find(*masks) -> Instances:
    found = Instances(SIZE)
    places = [np.argwhere(mask) for mask in masks]
    boxes = [[*p.min(0)[::-1], *(p.max(0)[::-1] + 1)] for p in places]
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    found.scores, found.pred_classes = torch.ones(len(masks)), torch.zeros(len(masks)).long()
    found.pred_masks = PackedMasks.pack(np.array(masks))
    return found


def draw_disc(x: int, radius: int) -> np.ndarray:
    return np.hypot(COLUMNS - x, ROWS - 100) < radius


def draw_box(x: int, width: int, top: int = 80, bottom: int = 120) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[top:bottom, max(0, x) : x + width] = True
    return mask


def count_changes(draw, size: int, standing: np.ndarray, speed: int) -> int:
    """Return how often an object that passes behind a standing one gets another id."""
    tracker, ids = Tracker(patience=25), []
    for x in range(100, 500, speed) if speed > 0 else range(500, 100, speed):
        seen = draw(x, size) & ~standing
        if seen.sum() < 60:
            tracker.update(find(standing))
        else:
            ids.append(tracker.update(find(seen, standing))[0])
    return len(set(ids)) - 1


@pytest.mark.parametrize("speed", [-8, 3, 5])
def test_a_disc_that_passes_behind_another_keeps_its_id(speed):
    """In each frame it is only a little smaller than in the frame before."""
    pairs = [(15, 20), (25, 20), (25, 40), (40, 20), (40, 40)]
    changes = [count_changes(draw_disc, r, draw_disc(300, front), speed) for r, front in pairs]
    assert changes == [0] * len(pairs)


@pytest.mark.parametrize("speed", [-8, -3, 3, 5])
def test_the_first_strip_of_an_object_that_comes_back_has_its_id(speed):
    assert count_changes(draw_box, 60, draw_box(300, 100, 20, 180), speed) == 0


@pytest.mark.parametrize("stop", [10, 30, 50])
@pytest.mark.parametrize("speed", [3, 8])
def test_an_object_that_stops_half_hidden_and_turns_round_keeps_its_id(speed, stop):
    tracker, post, ids = Tracker(patience=25), draw_box(300, 40, 60, 140), set()
    way = [min(20 + speed * frame, 240 + stop) for frame in range(90)]
    for x in [*way, *range(240 + stop, 0, -speed)]:
        ids.add(tracker.update(find(post, draw_box(x, 60) & ~post))[1])
    assert len(ids) == 1


@pytest.mark.parametrize("width", [30, 60, 90])
@pytest.mark.parametrize("speed", [3, 5, 8])
def test_an_object_that_always_touches_another_has_a_whole_size_too(speed, width):
    """A frame lies around everything, and the object comes into it from the left."""
    around = np.zeros(SIZE, dtype=bool)
    around[[0, -1]], around[:, [0, -1]] = True, True
    tracker, post, ids = Tracker(patience=25), draw_box(300, 40, 20, 180), set()
    for x in range(2 - width, 500, speed):
        seen = draw_box(x, width) & ~post
        objects = [post, around & ~seen]
        if seen.sum() < 60:
            tracker.update(find(*objects))
        else:
            ids.add(tracker.update(find(*objects, seen))[2])
    assert len(ids) == 1
