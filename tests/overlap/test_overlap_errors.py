"""The errors where objects meet: on masks made by hand, then against loops over pixels."""

import math

import numpy as np
import pytest
from overlap_cases import LOWER, OBJECTS, UPPER, detect, errors_of, metrics_of, rectangle
from reference.overlap import error_values, half_plane, spurious_share, tight_box

SIZE = 100


def percentages_of(objects, detections):
    """Return the task "errors" of one image."""
    return metrics_of([objects], {1: detections})["errors"]


def test_perfect_masks_have_no_error():
    summary = metrics_of([OBJECTS], {1: detect(LOWER, UPPER)})
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
    errors = percentages_of(OBJECTS, detect(leaky, UPPER))
    assert errors["leak"] == pytest.approx(100 * (160 / 960 + 0) / 2)
    # A background pixel is no leak.
    spilled = LOWER | rectangle(10, 20, 20, 60)
    assert percentages_of(OBJECTS, detect(spilled, UPPER))["leak"] == 0


def test_miss_of_known_area():
    # The upper object has 20 x 40 pixels in the contested box; 5 of the 20 columns are left out.
    # The lower one has none there, and does not count.
    short = UPPER & ~rectangle(40, 20, 45, 60)
    errors = percentages_of(OBJECTS, detect(LOWER, short))
    assert errors["miss"] == pytest.approx(100 * 5 / 20)
    outside = UPPER & ~rectangle(75, 20, 80, 60)
    assert percentages_of(OBJECTS, detect(LOWER, outside))["miss"] == 0


def test_double_claim_of_known_area():
    # 4 columns that both claim: 160 of 800 + 1600.
    both = LOWER | rectangle(40, 20, 44, 60)
    errors = percentages_of(OBJECTS, detect(both, UPPER))
    assert errors["double_claim"] == pytest.approx(100 * 160 / 2400)


def test_boxes_that_only_touch_are_no_pair():
    objects = [{"mask": rectangle(5, 5, 30, 30)}, {"mask": rectangle(30, 5, 60, 30)}]
    summary = metrics_of([objects], {1: detect(*(o["mask"] for o in objects))})
    assert summary["counts"]["pairs"] == 0
    assert summary["counts"]["objects_none"] == 2


def test_objects_that_hardly_overlap_are_a_pair_but_not_met():
    """Boxes of 20 x 20 that share 1 x 20: IoU 20 / 780, below 0.05."""
    objects = [{"mask": rectangle(10, 10, 30, 30), "bbox": [10, 10, 20, 20]}]
    objects.append({"mask": rectangle(30, 10, 49, 30), "bbox": [29, 10, 20, 20]})
    leaky = [rectangle(10, 10, 34, 30), objects[1]["mask"]]
    summary = metrics_of([objects], {1: detect(*leaky)})
    for name in ("leak", "miss", "spurious_edge"):
        assert math.isnan(summary["errors"][name])
    assert summary["errors"]["double_claim"] == pytest.approx(100 * 80 / (480 + 380 - 80))
    assert summary["counts"]["pairs"] == 1
    assert summary["counts"]["matched_met"] == 0


def test_the_box_of_a_crowd_is_not_contested():
    """What is left out, and the straight edge of it, lie in the box of a crowd only."""
    crowd = {"mask": rectangle(0, 0, 3, 3), "bbox": [0, 0, 40, 80], "iscrowd": 1}
    short = UPPER & ~rectangle(40, 20, 45, 60)
    third = {"mask": rectangle(70, 10, 90, 20), "bbox": [70, 10, 20, 40]}
    objects = [{"mask": UPPER}, third, {**crowd, "bbox": [0, 0, 50, 80]}]
    errors = percentages_of(objects, detect(short, third["mask"]))
    assert errors["miss"] == errors["spurious_edge"] == errors["seam_share"] == 0
    met = percentages_of(
        [*objects[:2], {**crowd, "bbox": [0, 0, 50, 80], "iscrowd": 0}],
        detect(short, third["mask"]),
    )
    assert met["miss"] > 0
    assert met["spurious_edge"] > 0


# A square and the frame around it. Both boxes are the whole image but for a margin, so everything
# is contested, and the contours of both are far from the middle of the square.
BIG = rectangle(2, 2, 98, 98)


def errors_of_big(prediction):
    """Return the `ImageErrors` of BIG and the frame; the detection of BIG is given."""
    return errors_of([{"mask": BIG}, {"mask": ~BIG}], detect(prediction, ~BIG))


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
    errors = errors_of_big(BIG & half_plane(degrees, place))
    assert errors.means["seam_length"] * 96 == pytest.approx(expected, abs=1.5)
    assert errors.means["seam_share"] == 1
    (seam,) = errors.seams
    x, y = seam.points[-1] - seam.points[0]
    assert math.degrees(math.atan2(y, x)) % 180 == pytest.approx(degrees % 180, abs=1)


def test_a_seam_along_the_pixels_is_exactly_as_long_as_its_pixels():
    """A notch of 31 x 20 pixels inside the object: sides of 31, 20, 31 and 20 pixels."""
    notched = BIG & ~rectangle(30, 40, 61, 60)
    errors = errors_of_big(notched)
    # A corner's neighbour is within 1 px of the chord of the side next to it, and goes with the
    # longer side, which is taken first.
    lengths = sorted(round(seam.length) for seam in errors.seams)
    assert len(lengths) == 4
    assert lengths[2:] == [31, 31]
    assert all(18 <= length <= 20 for length in lengths[:2])


def wave(amplitude, wavelength):
    rows, columns = np.mgrid[:SIZE, :SIZE]
    phase = 2 * math.pi * (columns + 0.5) / wavelength
    return rows + 0.5 < 60 + amplitude * np.sin(phase)


@pytest.mark.parametrize(("amplitude", "wavelength"), [(3, 12), (4, 10)])
def test_a_wavy_edge_is_spurious_but_no_seam(amplitude, wavelength):
    errors = errors_of_big(BIG & wave(amplitude, wavelength)).means
    assert errors["seam_length"] == errors["seam_share"] == 0
    assert errors["spurious_edge"] > 0.1


def test_a_ripple_within_a_pixel_is_still_straight():
    errors = errors_of_big(BIG & wave(0.4, 12)).means
    assert errors["seam_share"] == 1
    assert errors["seam_length"] == pytest.approx(
        (96 - 2 * 0.02 * 96 * math.sqrt(2)) / 96, abs=0.03
    )


def test_a_short_straight_edge_is_no_seam():
    """15 % of the square root of |G| is 14.4 px here: a notch of 14 x 14 has no seam, 15 has."""
    for side, expected in ((13, 0), (17, 1)):
        errors = errors_of_big(BIG & ~rectangle(40, 40, 40 + side, 40 + side)).means
        assert errors["seam_share"] == expected
        assert errors["spurious_edge"] > 0


def test_an_edge_beside_an_objects_contour_is_not_spurious():
    # t is 2 px for small boxes: 2 px off is near, 3 px off is spurious.
    objects = [{"mask": rectangle(10, 10, 50, 40)}, {"mask": rectangle(30, 10, 70, 40) & False}]
    objects[1] = {"mask": rectangle(50, 10, 70, 40), "bbox": [10, 10, 60, 30]}
    for offset, spurious in ((2, False), (3, True)):
        cut = rectangle(10, 10, 50 - offset, 40)
        errors = percentages_of(objects, detect(cut, objects[1]["mask"]))
        assert (errors["spurious_edge"] > 0) == spurious


def test_the_frame_of_the_image_is_no_contour():
    """A mask that reaches the frame, where its object does not, draws no edge there."""
    big = [{"mask": rectangle(10, 10, 90, 90), "bbox": [0, 0, 100, 100]}]
    objects = [*big, {"mask": rectangle(0, 0, 5, 5), "bbox": [0, 0, 100, 100]}]
    everything = np.ones((SIZE, SIZE), dtype=bool)
    errors = percentages_of(objects, detect(everything, objects[1]["mask"]))
    assert errors["spurious_edge"] == 0


def test_a_seam_belongs_to_the_pair_that_holds_most_of_it():
    """Three objects; the cut through the first lies in the box of the third only."""
    objects = [
        {"mask": rectangle(10, 10, 60, 60)},
        {"mask": rectangle(60, 10, 70, 20), "bbox": [50, 10, 20, 12]},
        {"mask": rectangle(10, 60, 60, 70), "bbox": [10, 30, 50, 40]},
    ]
    cut = rectangle(10, 10, 60, 50)
    errors = errors_of(objects, detect(cut, objects[1]["mask"], objects[2]["mask"]))
    # Pairs: (0, 1) and (0, 2); the boxes of 1 and 2 are apart. The cut's ends are within 2 px of
    # the object's sides.
    assert [(pair.objects, pair.seams) for pair in errors.pairs] == [((0, 1), 0), ((0, 2), 1)]
    (seam,) = errors.seams
    assert seam.other == 2
    assert seam.length == pytest.approx(50 - 4, abs=1)
    assert errors.means["seam_length"] == pytest.approx(seam.length / 50 / 2)


def test_an_unmatched_neighbour_makes_a_contested_region_but_no_pair():
    leaky = LOWER | rectangle(40, 20, 44, 60)
    errors = percentages_of(OBJECTS, detect(leaky))
    assert errors["leak"] == pytest.approx(100 * 160 / 960)
    assert math.isnan(errors["double_claim"])
    assert math.isnan(errors["seam_share"])


def test_the_spurious_share_of_a_cut_of_known_length():
    """Left of x = 30 the lower object is whole; a cut at y = 40 goes across its contested part.

    The prediction is 40 x 40 less the corner right of 30 and below 40. Its contour is 160 px. Of
    the cut, the sides at x = 30 and y = 40, only what is in the contested box (x from 30) and more
    than 2 px from the object's contour is spurious: on x = 30, midpoints 40.5 to 57.5; on y = 40,
    midpoints 30.5 to 57.5. Together 18 + 28.
    """
    square = rectangle(20, 20, 60, 60)
    objects = [{"mask": square}, {"mask": rectangle(61, 20, 70, 60), "bbox": [30, 20, 40, 40]}]
    cut = square & ~rectangle(30, 40, 60, 60)
    summary = metrics_of([objects], {1: detect(cut, objects[1]["mask"])})
    assert summary["counts"]["matched_met"] == 2
    assert summary["errors"]["spurious_edge"] == pytest.approx(100 * 46 / 160 / 2)


def test_the_geometry_for_pictures():
    # The left object's mask takes 4 columns of the right one; that edge is a seam of 30 - 4 px.
    left, right = rectangle(10, 10, 30, 40), rectangle(30, 10, 50, 40)
    leaky = left | rectangle(30, 10, 34, 40)
    objects = [{"mask": left, "bbox": [10, 10, 30, 30]}, {"mask": right, "category_id": 2}]
    detections = [
        *detect(right, scores=[0.9], category=2),
        *detect(right, leaky, scores=[0.1, 0.5]),
    ]
    errors = errors_of(objects, detections)
    np.testing.assert_array_equal(errors.contested, rectangle(30, 10, 40, 40))
    assert errors.regions.tolist() == [[30, 10, 40, 40]]
    assert [(m.annotation_id, m.detection) for m in errors.matches] == [(1, 2), (2, 0)]
    assert [pair.objects for pair in errors.pairs] == [(0, 1)]
    assert errors.means["leak"] == pytest.approx(120 / 720 / 2)
    assert errors.means["miss"] == 0
    (seam,) = errors.seams
    assert (seam.points[:, 0] == 34).all()
    assert seam.points[[0, -1], 1].tolist() in ([12.5, 37.5], [37.5, 12.5])
    assert seam.length == 26
    assert seam.relative == pytest.approx(26 / 600**0.5)
    in_percent = percentages_of(objects, detections)
    assert in_percent["leak"] == pytest.approx(100 * errors.means["leak"])
    assert in_percent["seam_length"] == pytest.approx(errors.means["seam_length"])
    empty = errors_of([], detections)
    assert not empty.contested.any()
    assert math.isnan(empty.means["leak"])
    assert empty.matches == empty.pairs == ()


def blob(rng):
    """Return a ragged ellipse."""
    rows, columns = np.mgrid[:48, :48]
    cy, cx = rng.uniform(14, 34, 2)
    ry, rx = rng.uniform(7, 13, 2)
    angle = np.arctan2(rows - cy, columns - cx)
    ragged = 1 + 0.15 * np.sin(rng.integers(2, 9) * angle + rng.uniform(0, 6))
    return ((rows - cy) / ry) ** 2 + ((columns - cx) / rx) ** 2 < ragged**2


@pytest.mark.parametrize("seed", range(6))
def test_errors_are_those_of_loops_over_pixels(seed):
    rng = np.random.default_rng(seed)
    shapes = [blob(rng) for _ in range(4)]
    masks = [s & ~np.logical_or.reduce([*shapes[i + 1 :], s & False]) for i, s in enumerate(shapes)]
    masks = [m for m in masks if m.sum() > 30]
    found = [np.roll(m, rng.integers(-2, 3, 2), axis=(0, 1)) for m in masks]
    for prediction in found[:2]:
        x, y, w, _ = tight_box(prediction)
        prediction[: y + 4, : x + w // 2] = False  # a cut corner
    objects = [{"mask": mask} for mask in masks]
    errors = errors_of(objects, detect(*found, scores=[0.5] * len(found)), size=(48, 48))
    # Which prediction is whose is decided by the matching, which other tests check.
    partners = {m.annotation_id - 1: found[m.detection] for m in errors.matches}
    assert len(partners) >= 2
    boxes = [tight_box(mask) for mask in masks]
    expected = error_values(masks, boxes, partners)
    for name in ("leak", "miss"):
        values = [getattr(m, name) for m in errors.matches if not math.isnan(getattr(m, name))]
        assert values == pytest.approx(expected[name], abs=1e-12)
    assert errors.means["double_claim"] == pytest.approx(np.mean(expected["double_claim"]))
    for match in errors.matches:
        if not math.isnan(match.spurious_edge):
            i = match.annotation_id - 1
            share = spurious_share(masks, boxes, i, partners[i])
            assert match.spurious_edge == pytest.approx(share, abs=1e-12)
