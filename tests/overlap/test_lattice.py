"""The share of spurious contour on the lattice of the RoIs: by hand, then against loops."""

import json

import numpy as np
import pytest
from overlap_cases import rectangle
from reference.lattice import lattice_sums
from reference.overlap import coco_of, dataset_of, text_rle, tight_box

from mask_rcnn_ext.overlap.detections import load_results
from mask_rcnn_ext.overlap.lattice import measure_lattice, pool_records, summarize_lattice

SIZE = 100
NUMBERS = ("share", "chance", "ratio", "density_ratio")


# A square and the frame around it, whose boxes make all of the image contested. The lattice lines
# of the RoI are at 15, 29, 43, 57, 71 and 85: a spacing of 14.
BIG = rectangle(2, 2, 98, 98)
OBJECTS = [{"mask": BIG}, {"mask": ~BIG}]
ROI = [1.0, 1.0, 98.0, 98.0]
STAIRS = BIG & (np.add.outer(np.arange(SIZE), np.arange(SIZE)) < 109)


def entry(mask, bbox=ROI, image_id=1, score=0.9, category=1):
    return {
        "image_id": image_id,
        "category_id": category,
        "score": score,
        "segmentation": text_rle(mask),
        "bbox": [float(v) for v in bbox],
    }


def truth_of(images=1):
    return coco_of(dataset_of([OBJECTS] * images))


@pytest.fixture
def records_of(tmp_path):
    def make(entries, truth=None, **options):
        path = tmp_path / "results.json"
        path.write_text(json.dumps(entries))
        truth = truth or truth_of()
        return measure_lattice(truth, load_results(path, truth, with_boxes=True), **options)

    return make


def value(summary, name):
    return summary[name]["value"]


def above(y):
    """Return the big square cut off at y: a straight edge of horizontal cracks."""
    return BIG & rectangle(0, 0, SIZE, y)


def left_of(x):
    return BIG & rectangle(0, 0, x, SIZE)


@pytest.mark.parametrize("cut", [above, left_of])
@pytest.mark.parametrize("prefix", ["", "seams/"])
def test_an_edge_on_a_lattice_line(records_of, cut, prefix):
    summary = summarize_lattice(records_of([entry(cut(57)), entry(~BIG, score=0.8)]))
    assert value(summary, f"{prefix}share") == 1
    assert value(summary, f"{prefix}chance") == pytest.approx(1 / 14)
    assert value(summary, f"{prefix}ratio") == pytest.approx(14)
    assert value(summary, f"{prefix}density_ratio") is None  # nothing on the other lines
    assert summary["counts"]["edges/dense_on"] == summary["counts"]["edges/cracks"] > 80
    assert summary["counts"]["rois"] == 2


@pytest.mark.parametrize("cut", [above, left_of])
@pytest.mark.parametrize("prefix", ["", "seams/"])
def test_an_edge_half_a_spacing_off(records_of, cut, prefix):
    """Its midpoints are half a pixel from the lines that it crosses, but not parallel to them."""
    summary = summarize_lattice(records_of([entry(cut(64))]))
    assert value(summary, f"{prefix}share") == value(summary, f"{prefix}ratio") == 0
    assert value(summary, f"{prefix}chance") == pytest.approx(1 / 14)


def test_a_short_edge_is_no_seam(records_of):
    """The sides of a notch of 10 x 10, two of them on lattice lines; a seam here has 14.4 px."""
    summary = summarize_lattice(records_of([entry(BIG & ~rectangle(43, 57, 53, 67))]))
    assert value(summary, "share") == 0.5
    assert summary["counts"]["seams/cracks"] == 0
    assert value(summary, "seams/share") is None


@pytest.mark.parametrize(("shift", "share"), [(0.5, 1), (0.51, 0), (-0.5, 1), (-0.51, 0)], ids=str)
def test_the_tolerance_is_half_a_pixel_of_real_lines(records_of, shift, share):
    summary = summarize_lattice(records_of([entry(above(57), [1, 1 + shift, 98, 98])]))
    assert value(summary, "share") == share


def test_a_larger_tolerance_reaches_farther(records_of):
    summary = summarize_lattice(records_of([entry(above(57), [1, 1.8, 98, 98])], tolerance=0.8))
    assert value(summary, "share") == 1
    assert value(summary, "chance") == pytest.approx(1.6 / 14)


def test_the_number_of_bins(records_of):
    """Two bins have one line, at 50."""
    on, off = (summarize_lattice(records_of([entry(above(y))], k=2, cells=6)) for y in (50, 57))
    assert value(on, "ratio") == pytest.approx(49)
    assert value(off, "ratio") == 0


def test_a_staircase_meets_each_line_once(records_of):
    """At 45 degrees, from (98, 12) to (12, 98): each whole x and each whole y has one crack."""
    summary = summarize_lattice(records_of([entry(STAIRS)]))
    counts = summary["counts"]
    assert counts["edges/on"] == 2 * 6
    assert value(summary, "share") == 12 / counts["edges/cracks"]
    assert 155 < counts["edges/cracks"] < 172
    assert value(summary, "ratio") == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("extent", "narrow", "narrow_cells", "on"),
    [(13.9, 1, 0, 6), (14, 0, 1, 6), (21, 0, 1, 6), (21.1, 0, 0, 6)],
    ids=str,
)
def test_a_direction_of_narrow_bins_is_left_out(records_of, extent, narrow, narrow_cells, on):
    """The x direction of a RoI that is elsewhere: its lines, from 110 on, meet no crack."""
    (record,) = records_of([entry(STAIRS, [110, 1, extent, 98])])
    whole = records_of([entry(STAIRS)])[0].sums["edges/cracks"]
    assert record.counts["narrow"] == narrow
    assert record.counts["narrow_cells"] == narrow_cells
    assert record.counts["left_out"] == (whole / 2 if narrow else 0)
    assert record.sums["edges/cracks"] + record.counts["left_out"] == whole
    assert record.sums["edges/on"] == on


def test_the_sides_of_the_roi_are_neither_on_the_lattice_nor_expected_to_be(records_of):
    summary = summarize_lattice(records_of([entry(above(60), [1, 1, 98, 59])]))
    assert summary["counts"]["edges/cracks"] > 80
    assert value(summary, "share") == value(summary, "chance") == 0
    assert value(summary, "ratio") is None


def test_the_density_is_per_line(records_of):
    """One image has its edge on a lattice line, the other on a line between cells at 61.67."""
    entries = [entry(above(57)), entry(above(62), image_id=2)]
    summary = summarize_lattice(records_of(entries, truth_of(2)))
    assert value(summary, "share") == 0.5
    assert value(summary, "density_ratio") == pytest.approx((1 / 6) / (1 / 12))
    assert summary["density_ratio"]["low"] == 0
    assert summary["density_ratio"]["high"] is None  # some draws have the first image only


def test_each_detection_has_its_own_roi(records_of):
    """In the file, images alternate and the best score of an image comes last."""
    elsewhere = [1, 8, 98, 98]  # half a spacing off
    entries = [
        entry(~BIG, elsewhere, 2, 0.3),
        entry(~BIG, elsewhere, 1, 0.4),
        entry(above(57), elsewhere, 2, 0.9),
        entry(above(57), ROI, 1, 0.9),
    ]
    first, second = records_of(entries, truth_of(2))
    assert first.sums["edges/on"] == first.sums["edges/cracks"] > 80
    assert second.sums["edges/on"] == 0 < second.sums["edges/cracks"]


def test_objects_that_hardly_overlap_do_not_count(records_of):
    """Boxes of 20 x 20 that share 1 x 20, as in the test of the spurious edge."""
    left = {"mask": rectangle(10, 10, 30, 30), "bbox": [10, 10, 20, 20]}
    right = {"mask": rectangle(30, 10, 49, 30), "bbox": [29, 10, 20, 20]}
    notch = left["mask"] & ~rectangle(24, 16, 30, 24)
    for extent, rois in ((20, 0), (25, 1)):  # IoU 20 / 780, and 120 / 780
        right["bbox"] = [49 - extent, 10, extent, 20]
        truth = coco_of(dataset_of([[left, right]]))
        (record,) = records_of([entry(notch, [5, 5, 30, 30])], truth)
        assert record.counts["rois"] == rois
        assert (record.sums["edges/cracks"] > 0) == bool(rois)


@pytest.mark.parametrize(
    "entries",
    [[], [entry(BIG), entry(~BIG)], [entry(rectangle(2, 2, 20, 20))]],
    ids=["empty file", "no spurious contour", "no match"],
)
def test_nothing_to_measure(records_of, entries):
    summary = summarize_lattice(records_of(entries))
    nothing = {"value": None, "low": None, "high": None}
    for name in NUMBERS:
        assert summary[name] == summary[f"seams/{name}"] == nothing
    assert summary["counts"]["edges/cracks"] == 0
    json.dumps(summary, allow_nan=False)


@pytest.mark.parametrize(("y", "counts"), [(6, False), (10, True)], ids=["m=1", "m=2"])
def test_only_the_neighbours_of_a_lattice_line_are_its_control(records_of, y, counts):
    """The lines at 5.67 and 10.33; the first is beside the RoI's side."""
    (record,) = records_of([entry(rectangle(2, y, 98, 98))])
    assert (record.sums["edges/dense_off"] > 0) == counts


def notched(rng):
    """Return the big square with notches whose sides are as likely to be at any place in it."""
    mask = BIG.copy()
    for _ in range(10):
        w, h = rng.integers(4, 10, 2)
        x, y = (int(rng.integers(2 - side, 99)) for side in (w, h))
        mask[max(0, y) : y + h, max(0, x) : x + w] = False
    return mask


def test_places_that_know_nothing_of_the_lattice(records_of):
    rng = np.random.default_rng(3)
    entries = []
    for image in range(1, 61):
        x1, y1 = rng.uniform(0, 2, 2)
        entries.append(entry(notched(rng), [x1, y1, *rng.uniform(95, 99, 2)], image))
    summary = summarize_lattice(records_of(entries, truth_of(60)))
    for name in ("ratio", "density_ratio"):
        assert summary[name]["low"] < 1 < summary[name]["high"], name
        assert value(summary, name) == pytest.approx(1, abs=0.15), name
        assert summary[name]["high"] - summary[name]["low"] < 0.6, name


def half_plane_of(rng, x, y):
    """Return (48, 48): one side of a line at a random angle a bit off a point."""
    rows, columns = np.mgrid[:48, :48]
    angle = rng.uniform(0, 2 * np.pi)
    return (columns + 0.5 - x) * np.cos(angle) + (rows + 0.5 - y) * np.sin(angle) < 3.5


@pytest.mark.parametrize("seed", range(4))
def test_sums_are_those_of_loops_over_cracks(records_of, seed):
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:48, :48]
    shapes = []
    for _ in range(3):
        cy, cx = rng.uniform(16, 32, 2)
        ry, rx = rng.uniform(9, 14, 2)
        shapes.append(((rows - cy) / ry) ** 2 + ((columns - cx) / rx) ** 2 < 1)
    masks = [s & ~np.logical_or.reduce([*shapes[i + 1 :], s & False]) for i, s in enumerate(shapes)]
    masks = [mask for mask in masks if mask.sum() > 60]
    entries, found = [], {}
    for index, mask in enumerate(masks):
        box = np.array(tight_box(mask))
        cut = mask & half_plane_of(rng, *(box[:2] + box[2:] / 2))
        roi = box + rng.uniform(-2, 2, 4)
        # Each object is of its own class, so that nothing else can match it.
        entries.append(entry(cut, roi, score=float(rng.uniform()), category=index + 1))
        found[index] = (cut, roi)
        assert (cut & mask).sum() / mask.sum() >= 0.5
    objects = [{"mask": mask, "category_id": i + 1} for i, mask in enumerate(masks)]
    dataset = dataset_of([objects], size=(48, 48), categories=(1, 2, 3))
    for k, cells in ((3, 3), (7, 3), (3, 2), (5, 4)):
        (record,) = records_of(entries, coco_of(dataset), k=k, cells=cells * k)
        boxes = [a["bbox"] for a in dataset["annotations"]]
        expected = lattice_sums(masks, boxes, found, k, cells * k)
        got = {name.removeprefix("edges/"): value for name, value in record.sums.items()}
        got |= record.counts
        assert got["cracks"] > 10
        assert got.pop("expected") == pytest.approx(expected.pop("expected"), rel=0.01)
        assert {name: got[name] for name in expected} == expected


def test_trainings_are_pooled_image_by_image(records_of):
    first = records_of([entry(above(57)), entry(above(64), image_id=2)], truth_of(2))
    second = records_of([entry(above(64)), entry(above(64), image_id=2)], truth_of(2))
    pooled = pool_records([first, second])
    assert [record.image_id for record in pooled] == [1, 2]
    assert value(summarize_lattice(pooled), "share") == 0.25
    assert [r.sums["edges/on"] > 0 for r in pooled] == [True, False]
    assert pooled[0].counts["rois"] == 2
    with pytest.raises(ValueError, match="same images"):
        pool_records([first, second[:1]])
    with pytest.raises(ValueError, match="at least one training"):
        pool_records([])


def test_the_seed_makes_the_intervals(records_of):
    rng = np.random.default_rng(0)
    entries = [entry(notched(rng), image_id=image) for image in range(1, 11)]
    records = records_of(entries, truth_of(10))
    again = [summarize_lattice(records, draws=200, seed=seed)["ratio"] for seed in (1, 1, 2)]
    assert again[0] == again[1]
    assert again[0]["low"] != again[2]["low"]
    assert again[0]["value"] == again[2]["value"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 1}, "expected k >= 2"),
        ({"tolerance": 0}, "expected k >= 2"),
        ({"tolerance": 1}, "expected k >= 2"),
        ({"cells": 20}, "expected a multiple of 7, 14 or more, as cells, got 20"),
        ({"cells": 7}, "expected a multiple of 7, 14 or more, as cells, got 7"),
    ],
    ids=str,
)
def test_options_out_of_range(records_of, options, message):
    with pytest.raises(ValueError, match=message):
        records_of([], **options)


def test_no_records():
    with pytest.raises(ValueError, match="at least one image"):
        summarize_lattice([])
