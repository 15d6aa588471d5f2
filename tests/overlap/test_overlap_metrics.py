"""The errors where objects meet: each on masks made by hand, then against loops over pixels."""

import math

import numpy as np
import pytest
from reference.overlap import (
    coco_of,
    dataset_of,
    half_plane,
    rle,
)

from mask_rcnn_ext.overlap.comparison import Detection, compute_metrics, measure
from mask_rcnn_ext.overlap.image_instances import read_image_instances
from mask_rcnn_ext.overlap.overlap_errors import measure_errors

SIZE = 100


def rectangle(x1, y1, x2, y2):
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[y1:y2, x1:x2] = True
    return mask


def found_of(masks, scores=None, category=1):
    return [
        Detection(category, 0.9 - 0.1 * i if scores is None else scores[i], rle(mask))
        for i, mask in enumerate(masks)
    ]


def errors_of(objects, detections):
    """Return the task "errors" of one image: objects as in `dataset_of`, and detections."""
    return compute_metrics(measure(coco_of(dataset_of([objects])), {1: detections}))["errors"]


# Two objects: the lower is a square of 40; the upper covers its right part, and the box of the
# lower one is that of the whole square, as an amodal annotator would draw it.
LOWER, UPPER = rectangle(20, 20, 40, 60), rectangle(40, 20, 80, 60)
OBJECTS = [{"mask": LOWER, "bbox": [20, 20, 40, 40]}, {"mask": UPPER}]


def test_perfect_masks_have_no_error():
    summary = compute_metrics(
        measure(coco_of(dataset_of([OBJECTS])), {1: found_of([LOWER, UPPER])})
    )
    assert summary["errors"] == dict.fromkeys(summary["errors"], 0.0)
    for task in ("AP", "boundary"):
        assert summary[task] == pytest.approx({"AP": 100, "AP50": 100, "AP75": 100})
    # Boxes of 40 x 40 that share 20 x 40: IoU 800 / 2400.
    assert summary["overlap"]["AP_heavy"] == pytest.approx(100)
    assert math.isnan(summary["overlap"]["AP_none"])
    assert summary["counts"]["pairs"] == 1
    assert summary["counts"]["matched_met"] == 2


def test_leak_of_known_area():
    # 4 columns of 40 of the upper object in the lower's mask of 800: 160 / 960; the upper leaks 0.
    leaky = LOWER | rectangle(40, 20, 44, 60)
    errors = errors_of(OBJECTS, found_of([leaky, UPPER]))
    assert errors["leak"] == pytest.approx(100 * (160 / 960 + 0) / 2)
    # A background pixel is no leak.
    spilled = LOWER | rectangle(10, 20, 20, 60)
    assert errors_of(OBJECTS, found_of([spilled, UPPER]))["leak"] == 0


def test_miss_of_known_area():
    # The upper object has 20 x 40 pixels in the contested box; 5 of the 20 columns are left out.
    # The lower one has none there, and does not count.
    short = UPPER & ~rectangle(40, 20, 45, 60)
    errors = errors_of(OBJECTS, found_of([LOWER, short]))
    assert errors["miss"] == pytest.approx(100 * 5 / 20)
    outside = UPPER & ~rectangle(75, 20, 80, 60)
    assert errors_of(OBJECTS, found_of([LOWER, outside]))["miss"] == 0


def test_double_claim_of_known_area():
    # 4 columns that both claim: 160 of 800 + 1600.
    both = LOWER | rectangle(40, 20, 44, 60)
    errors = errors_of(OBJECTS, found_of([both, UPPER]))
    assert errors["double_claim"] == pytest.approx(100 * 160 / 2400)


def test_objects_apart_have_nothing_to_measure():
    objects = [{"mask": rectangle(5, 5, 30, 30)}, {"mask": rectangle(50, 50, 80, 80)}]
    shifted = [rectangle(5, 5, 30, 28), rectangle(50, 52, 80, 80)]
    errors = errors_of(objects, found_of(shifted))
    assert all(math.isnan(value) for value in errors.values())


def test_boxes_that_only_touch_are_no_pair():
    objects = [{"mask": rectangle(5, 5, 30, 30)}, {"mask": rectangle(30, 5, 60, 30)}]
    summary = compute_metrics(
        measure(coco_of(dataset_of([objects])), {1: found_of([o["mask"] for o in objects])})
    )
    assert summary["counts"]["pairs"] == 0
    assert summary["counts"]["objects_none"] == 2


def test_objects_that_hardly_overlap_are_a_pair_but_not_met():
    """Boxes of 20 x 20 that share 1 x 20: IoU 20 / 780, below 0.05."""
    objects = [{"mask": rectangle(10, 10, 30, 30), "bbox": [10, 10, 20, 20]}]
    objects.append({"mask": rectangle(30, 10, 49, 30), "bbox": [29, 10, 20, 20]})
    leaky = [rectangle(10, 10, 34, 30), objects[1]["mask"]]
    summary = compute_metrics(measure(coco_of(dataset_of([objects])), {1: found_of(leaky)}))
    for name in ("leak", "miss", "spurious_edge"):
        assert math.isnan(summary["errors"][name])
    assert summary["errors"]["double_claim"] == pytest.approx(100 * 80 / (480 + 380 - 80))
    assert summary["counts"]["pairs"] == 1
    assert summary["counts"]["matched_met"] == 0


def test_a_crowd_is_left_out():
    crowd = [*OBJECTS[:1], {"mask": UPPER, "iscrowd": 1}]
    leaky = LOWER | rectangle(40, 20, 44, 60)
    summary = compute_metrics(measure(coco_of(dataset_of([crowd])), {1: found_of([leaky, UPPER])}))
    assert all(math.isnan(value) for value in summary["errors"].values())
    assert summary["counts"]["objects"] == summary["counts"]["crowds"] == 1
    assert summary["counts"]["objects_none"] == 1
    assert summary["AP"]["AP50"] == pytest.approx(100)  # what lies in the crowd is ignored


def test_the_box_of_a_crowd_is_not_contested():
    """What is left out, and the straight edge of it, lie in the box of a crowd only."""
    crowd = {"mask": rectangle(0, 0, 3, 3), "bbox": [0, 0, 40, 80], "iscrowd": 1}
    short = UPPER & ~rectangle(40, 20, 45, 60)
    third = {"mask": rectangle(70, 10, 90, 20), "bbox": [70, 10, 20, 40]}
    objects = [{"mask": UPPER}, third, {**crowd, "bbox": [0, 0, 50, 80]}]
    errors = errors_of(objects, found_of([short, third["mask"]]))
    assert errors["miss"] == errors["spurious_edge"] == errors["seam_share"] == 0
    met = errors_of(
        [*objects[:2], {**crowd, "bbox": [0, 0, 50, 80], "iscrowd": 0}],
        found_of([short, third["mask"]]),
    )
    assert met["miss"] > 0
    assert met["spurious_edge"] > 0


@pytest.mark.parametrize("detections", [{}, {1: []}], ids=["no entry", "empty list"])
def test_no_prediction_at_all(detections):
    summary = compute_metrics(measure(coco_of(dataset_of([OBJECTS, []])), detections))
    assert summary["AP"]["AP"] == summary["boundary"]["AP"] == 0
    assert summary["overlap"]["AP_heavy"] == 0
    assert math.isnan(summary["overlap"]["AP_partial"])
    assert all(math.isnan(value) for value in summary["errors"].values())
    assert summary["counts"]["matched"] == summary["counts"]["detections"] == 0


def test_an_image_without_objects():
    truth = coco_of(dataset_of([OBJECTS, []]))
    found = {1: found_of([LOWER, UPPER])}
    perfect = compute_metrics(measure(truth, found))
    assert perfect["AP"]["AP"] == pytest.approx(100)
    invented = compute_metrics(measure(truth, {**found, 2: found_of([LOWER], [0.99])}))
    assert invented["AP"]["AP"] < 100  # a false detection, the best score of all
    assert invented["overlap"]["AP_heavy"] < 100  # it overlaps nothing: it counts at every level
    assert invented["errors"] == perfect["errors"]


# A disc-free scene for seams: both boxes are all of the image but a margin, so everything is
# contested, and each object's mask is far from the middle of the other.
BIG = rectangle(2, 2, 98, 98)


def seam_errors(prediction, image_errors=False):
    """Return the errors with BIG and a frame around it as the objects; BIG's mask is given."""
    frame = ~BIG
    objects = [{"mask": BIG}, {"mask": frame}]
    truth, found = coco_of(dataset_of([objects])), {1: found_of([prediction, frame])}
    if image_errors:
        return measure_errors(read_image_instances(truth, 1, found))
    return compute_metrics(measure(truth, found))["errors"]


@pytest.mark.parametrize(
    ("degrees", "length"), [(0, 96), (90, 96), (30, 96 / math.cos(math.pi / 6))]
)
def test_a_seam_of_known_length_and_angle(degrees, length):
    """The cut goes through all of a square of 96; its ends are near the square's contour.

    Where the cut comes within t = 2 % of the diagonal of the contour, it is not spurious: at both
    ends, t over the sine of the angle with the contour is missing.
    """
    tilt = math.radians(degrees % 90)
    near_end = 0.02 * 96 * math.sqrt(2) / math.cos(tilt)
    expected = length - 2 * near_end
    # Through a point beyond the middle, so that more than half is left and the mask still matches.
    place = {0: (50, 60), 90: (40, 50), 30: (50, 56)}[degrees]
    errors = seam_errors(BIG & half_plane(degrees, place))
    assert errors["seam_length"] * 96 == pytest.approx(expected, abs=1.5)
    assert errors["seam_share"] == 100
    picture = seam_errors(BIG & half_plane(degrees, place), image_errors=True)
    (seam,) = picture.seams
    x, y = seam.points[-1] - seam.points[0]
    assert math.degrees(math.atan2(y, x)) % 180 == pytest.approx(degrees % 180, abs=1)
    assert picture.means["seam_length"] == pytest.approx(errors["seam_length"])


def test_a_seam_along_the_pixels_is_exactly_as_long_as_its_pixels():
    """A notch of 31 x 20 pixels inside the object: sides of 31, 20, 31 and 20 pixels."""
    notched = BIG & ~rectangle(30, 40, 61, 60)
    picture = seam_errors(notched, image_errors=True)
    # A corner's neighbour is within 1 px of the chord of the side next to it, and goes with the
    # longer side, which is taken first.
    lengths = sorted(round(seam.length) for seam in picture.seams)
    assert len(lengths) == 4
    assert lengths[2:] == [31, 31]
    assert all(18 <= length <= 20 for length in lengths[:2])


def wave(amplitude, wavelength):
    rows, columns = np.mgrid[:SIZE, :SIZE]
    phase = 2 * math.pi * (columns + 0.5) / wavelength
    return rows + 0.5 < 60 + amplitude * np.sin(phase)


@pytest.mark.parametrize(("amplitude", "wavelength"), [(3, 12), (4, 10)])
def test_a_wavy_edge_is_spurious_but_no_seam(amplitude, wavelength):
    errors = seam_errors(BIG & wave(amplitude, wavelength))
    assert errors["seam_length"] == errors["seam_share"] == 0
    assert errors["spurious_edge"] > 10


def test_a_ripple_within_a_pixel_is_still_straight():
    errors = seam_errors(BIG & wave(0.4, 12))
    assert errors["seam_share"] == 100
    assert errors["seam_length"] == pytest.approx(
        (96 - 2 * 0.02 * 96 * math.sqrt(2)) / 96, abs=0.03
    )


def test_a_short_straight_edge_is_no_seam():
    """15 % of the square root of |G| is 14.4 px here: a notch of 14 x 14 has no seam, 15 has."""
    for side, expected in ((13, 0), (17, 100)):
        errors = seam_errors(BIG & ~rectangle(40, 40, 40 + side, 40 + side))
        assert errors["seam_share"] == expected
        assert errors["spurious_edge"] > 0


def test_an_edge_beside_an_objects_contour_is_not_spurious():
    # t is 2 px for small boxes: 2 px off is near, 3 px off is spurious.
    objects = [{"mask": rectangle(10, 10, 50, 40)}, {"mask": rectangle(30, 10, 70, 40) & False}]
    objects[1] = {"mask": rectangle(50, 10, 70, 40), "bbox": [10, 10, 60, 30]}
    for offset, spurious in ((2, False), (3, True)):
        cut = rectangle(10, 10, 50 - offset, 40)
        errors = errors_of(objects, found_of([cut, objects[1]["mask"]]))
        assert (errors["spurious_edge"] > 0) == spurious


def test_the_frame_of_the_image_is_no_contour():
    """A mask that reaches the frame, where its object does not, draws no edge there."""
    big = [{"mask": rectangle(10, 10, 90, 90), "bbox": [0, 0, 100, 100]}]
    objects = [*big, {"mask": rectangle(0, 0, 5, 5), "bbox": [0, 0, 100, 100]}]
    everything = np.ones((SIZE, SIZE), dtype=bool)
    errors = errors_of(objects, found_of([everything, objects[1]["mask"]]))
    assert errors["spurious_edge"] == 0


def test_a_seam_belongs_to_the_pair_that_holds_most_of_it():
    """Three objects; the cut through the first lies in the box of the third only."""
    objects = [
        {"mask": rectangle(10, 10, 60, 60)},
        {"mask": rectangle(60, 10, 70, 20), "bbox": [50, 10, 20, 12]},
        {"mask": rectangle(10, 60, 60, 70), "bbox": [10, 30, 50, 40]},
    ]
    cut = rectangle(10, 10, 60, 50)
    found = found_of([cut, objects[1]["mask"], objects[2]["mask"]])
    truth = coco_of(dataset_of([objects]))
    summary = compute_metrics(measure(truth, {1: found}))
    # Pairs: (1, 2) and (1, 3); the boxes of 2 and 3 are apart. The cut's ends are within 2 px of
    # the object's sides.
    assert summary["counts"]["pairs"] == 2
    assert summary["counts"]["pairs_with_seam"] == 1
    (seam,) = measure_errors(read_image_instances(truth, 1, {1: found})).seams
    assert seam.other == 2
    assert seam.length == pytest.approx(50 - 4, abs=1)
    assert summary["errors"]["seam_length"] == pytest.approx(seam.length / 50 / 2)


def test_an_unmatched_neighbour_makes_a_contested_region_but_no_pair():
    leaky = LOWER | rectangle(40, 20, 44, 60)
    errors = errors_of(OBJECTS, found_of([leaky]))
    assert errors["leak"] == pytest.approx(100 * 160 / 960)
    assert math.isnan(errors["double_claim"])
    assert math.isnan(errors["seam_share"])
