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
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
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
_PAIRS_AT_ONCE = 1 << 18  # pairs whose boxes are compared together


@dataclasses.dataclass
class _Object:
    """An object in a frame: its class, its box XYXY, and its mask, or the whole box without one."""

    label: int
    box: Floats
    crop: MaskCrop
    area: int

    def move(self, shift: Floats) -> "_Object":
        """Return the object at another place; the mask moves by whole pixels."""
        if not shift.any():
            return self
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
        expected = [track.expect(self._frame) for track in self._tracks]
        found: dict[int, _Track] = {}
        for measure in (_measure_iou, _measure_nearness):
            self._assign(expected, objects, found, measure)
        boxes = np.array([one.box for one in objects]).reshape(-1, 4)
        for place, one in enumerate(objects):
            if place in found:
                self._follow(found[place], one, _touches(place, boxes))
            else:
                number, now = next(self._numbers), self._frame
                found[place] = _Track(number, one, now, one.area, last_seen=now)
                self._tracks.append(found[place])
        return [found[place].number for place in range(len(objects))]

    def _assign(
        self,
        expected: Sequence[_Object],
        objects: Sequence[_Object],
        found: dict[int, _Track],
        measure: Callable[[Sequence[_Object], Sequence[_Object]], Floats],
    ) -> None:
        """Add the best pairs of free objects and free tracks to `found`.

        Args:
            expected: the object of each track at its predicted place.
            objects: the objects of this frame.
            found: the index of an object -> its track.
            measure: returns the gain of each pair, (T, N); 0 for a pair that must not be.
        """
        taken = {track.number for track in found.values()}
        rows = [row for row, track in enumerate(self._tracks) if track.number not in taken]
        free = [place for place in range(len(objects)) if place not in found]
        gains = measure([expected[row] for row in rows], [objects[place] for place in free])
        costs = np.negative(gains, out=gains)  # T * N values may be 200 MB
        for row, column in zip(*linear_sum_assignment(costs), strict=True):
            if costs[row, column]:
                found[free[column]] = self._tracks[rows[row]]

    def _follow(self, track: _Track, one: _Object, meets: bool) -> None:
        """Update a track with its object in this frame; `meets`: whether it touches another."""
        expected, elapsed = track.expect(self._frame), self._frame - track.frame
        track.last_seen = self._frame
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


def _touches(place: int, boxes: Floats) -> bool:
    """Return whether the box at `place` overlaps another of the boxes, or ends where it begins."""
    box = boxes[place]
    near = ((boxes[:, :2] < box[2:] + 1) & (boxes[:, 2:] > box[:2] - 1)).all(axis=1)
    near[place] = False
    return bool(near.any())


def _cover(whole: _Object, part: _Object) -> _Object:
    """Return the whole object, moved as little as needed for its box to contain that of a part."""
    low, high = part.box[:2] - whole.box[:2], part.box[2:] - whole.box[2:]
    return whole.move(np.minimum(low, 0) + np.maximum(high, 0))


def _find_centre(box: Floats) -> Floats:
    centre: Floats = (box[:2] + box[2:]) / 2
    return centre


def _measure_iou(ones: Sequence[_Object], others: Sequence[_Object]) -> Floats:
    """Return the IoU of the masks of each pair of one class; 0 if it is below `_LEAST_IOU`."""
    gains = np.zeros((len(ones), len(others)))
    for row, column in _list_candidates(ones, others):
        one, other = ones[row], others[column]
        common = one.crop.count_common(other.crop)
        iou = common / max(1, one.area + other.area - common)
        gains[row, column] = iou if iou >= _LEAST_IOU else 0
    return gains


def _list_candidates(
    ones: Sequence[_Object], others: Sequence[_Object]
) -> Iterator[tuple[int, int]]:
    """Yield the pairs of one class whose masks can have an IoU of `_LEAST_IOU`.

    Their windows share enough pixels: the masks share no more of them.
    """
    first, second = _find_windows(ones), _find_windows(others)
    areas, other_areas = (np.array([one.area for one in each]) for each in (ones, others))
    for rows, same in _compare_labels(ones, others):
        area = areas[rows, None]
        most = np.minimum(_find_common(first[rows], second), np.minimum(area, other_areas))
        possible = same & (most / np.maximum(1, area + other_areas - most) >= _LEAST_IOU)
        for row, column in np.argwhere(possible).tolist():
            yield rows.start + row, column


def _measure_nearness(ones: Sequence[_Object], others: Sequence[_Object]) -> Floats:
    """Return the nearness of each pair of one class; 0 if it is below `_LEAST_NEAR`.

    It is the IoU of the enlarged boxes, or `_INSIDE` times the common share of the smaller one.
    """
    gains = np.zeros((len(ones), len(others)))
    first, second = _enlarge(ones), _enlarge(others)
    areas, other_areas = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second))
    for rows, same in _compare_labels(ones, others):
        area, common = areas[rows, None], _find_common(first[rows], second)
        iou = np.zeros_like(common)
        np.divide(common, area + other_areas - common, out=iou, where=common > 0)
        smaller = np.maximum(1, np.minimum(area, other_areas))
        near = np.maximum(iou, _INSIDE * common / smaller)
        gains[rows] = np.where(same & (near >= _LEAST_NEAR), near, 0)
    return gains


def _compare_labels(
    ones: Sequence[_Object], others: Sequence[_Object]
) -> Iterator[tuple[slice, npt.NDArray[np.bool_]]]:
    """Yield some rows of all pairs, and which of these pairs have one class, until all are done."""
    labels, other_labels = (np.array([one.label for one in each]) for each in (ones, others))
    step = max(1, _PAIRS_AT_ONCE // max(1, len(others)))
    for start in range(0, len(ones), step):
        rows = slice(start, start + step)
        yield rows, labels[rows, None] == other_labels


def _find_windows(objects: Sequence[_Object]) -> npt.NDArray[np.int64]:
    """Return the rectangles of the masks, (N, 4) XYXY."""
    crops = [one.crop for one in objects]
    edges = [(c.columns.start, c.rows.start, c.columns.stop, c.rows.stop) for c in crops]
    return np.array(edges, dtype=np.int64).reshape(-1, 4)


def _enlarge(objects: Sequence[_Object]) -> Floats:
    """Return the boxes of the second round, (N, 4) XYXY."""
    boxes = np.array([one.box for one in objects]).reshape(-1, 4)
    reach = (boxes[:, 2:] - boxes[:, :2]) * _NEAR
    return np.concatenate([boxes[:, :2] - reach, boxes[:, 2:] + reach], axis=1)


def _find_common(boxes: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the area that each box shares with each of the others, (T, N); all are XYXY."""
    width, height = (
        np.minimum(boxes[:, None, axis + 2], others[:, axis + 2])
        - np.maximum(boxes[:, None, axis], others[:, axis])
        for axis in (0, 1)
    )
    return np.where((width <= 0) | (height <= 0), 0, width * height)
