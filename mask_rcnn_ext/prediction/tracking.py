"""Gives an object the same id in all frames of a video.

A track stores the mask of its object and the speed of the object, and so predicts where the mask
will be in the next frame. SciPy's linear assignment then pairs tracks and instances of the same
class in two rounds: first by the IoU of masks, then by the IoU of boxes enlarged by half or by how
much of one box is inside the other, which finds objects that move fast or are partly hidden. If the
mask of an object is smaller than before it met another one, the object counts as partly hidden. Its
track keeps its shape and its speed, so it is found again on the other side; the part that is seen
corrects its place. A track ends when its object is not seen for some frames.

Of the maintained packages for tracking, `trackers` follows boxes only and installs another OpenCV,
and `supervision` has no tracker any more.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from detectron2.structures import Instances
from scipy.optimize import linear_sum_assignment

from ..arrays import Floats
from ..layers.packed_masks import MaskCrop

__all__ = ["Tracker"]


_LEAST_IOU, _LEAST_NEAR = 0.3, 0.1
_NEAR = 0.5  # share of its sides by which a box is enlarged in the second round
_INSIDE = 0.3  # what a box inside another counts there, as an IoU
_HIDDEN = 0.95  # an object with less than this share of its whole area may be partly hidden
_NEW_SPEED = 0.4  # the weight of the newest movement


@dataclasses.dataclass
class _Object:
    """An object in a frame: its class, its box XYXY, and its mask, or the whole box without one."""

    label: int
    box: Floats
    crop: MaskCrop
    area: int

    def move(self, shift: Floats) -> "_Object":
        """Return the object at another place; the mask moves by whole pixels."""
        x, y = np.rint(shift).astype(int).tolist()
        crop = MaskCrop(self.crop.top + y, self.crop.left + x, self.crop.mask)
        return _Object(self.label, self.box + np.tile(shift, 2), crop, self.area)


@dataclasses.dataclass
class _Track:
    """An object that is followed."""

    number: int
    seen: _Object  # the whole object, at the place where it was in `frame`
    frame: int
    area: int  # of the whole object, as far as it was seen
    speed: Floats = dataclasses.field(default_factory=lambda: np.zeros(2))  # x, y, pixels a frame
    last_seen: int = 0
    hidden_since: int | None = None

    def expect(self, frame: int) -> _Object:
        """Return the object at its predicted place."""
        return self.seen.move(self.speed * (frame - self.frame))


class Tracker:
    """Gives ids to the instances of one frame after another.

    Args:
        patience: number of frames for which an object that is not seen keeps its id.
    """

    def __init__(self, patience: int = 30) -> None:
        self._patience = patience
        self._tracks: list[_Track] = []
        self._numbers = itertools.count(1)
        self._frame = 0

    def update(self, instances: Instances) -> list[int]:
        """Return the ids of the instances of the next frame; the first object has the id 1.

        Args:
            instances: instances on the CPU; `pred_masks`, if present, are `PackedMasks`.
        """
        self._frame += 1
        objects = _list_objects(instances)
        oldest = self._frame - self._patience
        self._tracks = [track for track in self._tracks if track.last_seen >= oldest - 1]
        found: dict[int, _Track] = {}
        for measure, least in ((_measure_iou, _LEAST_IOU), (_measure_nearness, _LEAST_NEAR)):
            self._assign(objects, found, measure, least)
        for place, one in enumerate(objects):
            if place in found:
                others = [other for other in objects if other is not one]
                self._follow(found[place], one, others)
            else:
                number, now = next(self._numbers), self._frame
                found[place] = _Track(number, one, now, one.area, last_seen=now)
                self._tracks.append(found[place])
        return [found[place].number for place in range(len(objects))]

    def _assign(
        self,
        objects: Sequence[_Object],
        found: dict[int, _Track],
        measure: Callable[[_Object, _Object], float],
        least: float,
    ) -> None:
        """Add the best pairs of free objects and free tracks to `found`."""
        taken = {track.number for track in found.values()}
        tracks = [track for track in self._tracks if track.number not in taken]
        free = [place for place in range(len(objects)) if place not in found]
        gains = np.zeros((len(tracks), len(free)))
        for row, track in enumerate(tracks):
            expected = track.expect(self._frame)
            for column, place in enumerate(free):
                if expected.label == objects[place].label:
                    gains[row, column] = measure(expected, objects[place])
        gains[gains < least] = 0
        for row, column in zip(*linear_sum_assignment(-gains), strict=True):
            if gains[row, column]:
                found[free[column]] = tracks[row]

    def _follow(self, track: _Track, one: _Object, others: Sequence[_Object]) -> None:
        """Update a track with its object in this frame; `others` are all other objects."""
        expected, elapsed = track.expect(self._frame), self._frame - track.frame
        track.last_seen = self._frame
        meets = _touches(one, others)
        if meets and one.area < _HIDDEN * track.area:
            track.hidden_since = track.hidden_since or self._frame
            if self._frame - track.hidden_since < self._patience:
                track.seen, track.frame = _cover(expected, one), self._frame
                return
            # It has become smaller. The centre of a smaller mask says nothing about its speed.
            track.area, track.hidden_since = one.area, None
            track.seen, track.frame = one, self._frame
            return
        track.area = max(track.area, one.area) if meets else one.area
        track.hidden_since = None
        movement = (_find_centre(one.box) - _find_centre(track.seen.box)) / max(1, elapsed)
        new = not track.speed.any()
        track.speed = movement if new else track.speed + _NEW_SPEED * (movement - track.speed)
        track.seen, track.frame = one, self._frame


def _list_objects(instances: Instances) -> list[_Object]:
    boxes = instances.pred_boxes.tensor.numpy().astype(np.float64)
    masks = list(instances.pred_masks) if instances.has("pred_masks") else None
    objects = []
    for place, (box, label) in enumerate(zip(boxes, instances.pred_classes.tolist(), strict=True)):
        if masks is not None:
            crop = masks[place].trim()
        else:
            x0, y0, x1, y1 = np.rint(box).astype(int).tolist()
            crop = MaskCrop(y0, x0, np.ones((max(1, y1 - y0), max(1, x1 - x0)), dtype=bool))
        objects.append(_Object(label, box, crop, int(crop.mask.sum())))
    return objects


def _touches(one: _Object, others: Sequence[_Object]) -> bool:
    """Return whether the box of an object overlaps another box, or ends where it begins."""
    boxes = np.array([other.box for other in others]).reshape(-1, 4)
    near = (boxes[:, :2] < one.box[2:] + 1) & (boxes[:, 2:] > one.box[:2] - 1)
    return bool(near.all(axis=1).any())


def _cover(whole: _Object, part: _Object) -> _Object:
    """Return the whole object, moved as little as needed for its box to contain that of a part."""
    low, high = part.box[:2] - whole.box[:2], part.box[2:] - whole.box[2:]
    return whole.move(np.minimum(low, 0) + np.maximum(high, 0))


def _find_centre(box: Floats) -> Floats:
    centre: Floats = (box[:2] + box[2:]) / 2
    return centre


def _measure_iou(one: _Object, other: _Object) -> float:
    common = one.crop.count_common(other.crop)
    return common / max(1, one.area + other.area - common)


def _measure_nearness(one: _Object, other: _Object) -> float:
    boxes = _enlarge(one.box), _enlarge(other.box)
    smaller = max(1.0, min(map(_find_area, boxes)))
    return max(_measure_boxes(*boxes), _INSIDE * _find_common(*boxes) / smaller)


def _enlarge(box: Floats) -> Floats:
    reach = (box[2:] - box[:2]) * _NEAR
    return np.concatenate([box[:2] - reach, box[2:] + reach])


def _measure_boxes(one: Floats, other: Floats) -> float:
    """Return the IoU of two boxes."""
    common = _find_common(one, other)
    return common / (_find_area(one) + _find_area(other) - common) if common else 0.0


def _find_common(one: Floats, other: Floats) -> float:
    """Return the area that two boxes share."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    return 0.0 if (sides <= 0).any() else float(sides.prod())


def _find_area(box: Floats) -> float:
    return float((box[2:] - box[:2]).prod())
