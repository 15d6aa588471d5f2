"""The comparison's pictures and its page, from hand-made masks and numbers."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from mask_rcnn_ext.overlap.comparison import METRICS
from mask_rcnn_ext.overlap.metrics import COUNTS
from mask_rcnn_ext.report.comparison_page import (
    level_chart,
    shown,
    write_comparison,
)
from mask_rcnn_ext.report.comparison_pictures import Case, Side, cases_sheet, draw_case
from mask_rcnn_ext.report.drawing.pictures import instance_color

RED = (255, 0, 40)  # of seams


def near(picture, color, within=12):
    """Return where a picture has a colour, (H, W) bool."""
    return np.abs(picture.astype(int) - color).max(axis=2) <= within


def make_case(side=100, offset=0, seams=(), objects=(0, 1)):
    """Return two boxes that overlap on columns 40 to 60; the second model has seams."""
    first, second = np.zeros((2, side, side), dtype=bool)
    first[offset + 30 : offset + 70, offset + 20 : offset + 60] = True
    second[offset + 35 : offset + 65, offset + 40 : offset + 80] = True
    contested = first & second
    truth = np.stack([first & ~second, second])
    sides = (
        Side(truth, objects, [], "no seam"),
        Side(truth, objects, [np.asarray(s, dtype=np.float64) for s in seams], "a seam"),
    )
    grey = np.full((side, side, 3), 90, dtype=np.uint8)
    return Case("a.png", grey, truth, contested, sides, "2 objects")


def test_seams_and_contested_regions_are_outlined_where_they_are():
    # Shown are columns 20 to 80 and a margin: 70 pixels from 15 on, in both directions.
    drawn = draw_case(make_case(seams=[[(50, 40), (50, 60)]]), 700)
    assert [tile.shape for tile in drawn.tiles] == [(700, 700, 3)] * 3
    assert drawn.texts == ("2 objects", "no seam", "a seam")
    truth, first, second = (near(tile, RED) for tile in drawn.tiles)
    assert not truth.any()
    assert not first.any()
    rows, columns = np.nonzero(second)
    assert columns.mean() == pytest.approx((50 - 15) * 10, abs=3)
    assert (rows.min(), rows.max()) == pytest.approx(((40 - 15) * 10, (60 - 15) * 10), abs=8)
    for tile in drawn.tiles:
        rows, columns = np.nonzero(near(tile, (255, 255, 255)))
        assert (columns.min(), columns.max()) == pytest.approx((250, 449), abs=4)
        assert (rows.min(), rows.max()) == pytest.approx((200, 499), abs=4)
    dashes = near(drawn.tiles[0], (255, 255, 255))[:, 245:256].any(axis=1)[205:495]
    assert 0.3 < dashes.mean() < 0.7


def test_a_large_image_is_cut_to_where_objects_meet():
    def seam(offset):
        return [(50 + offset, 40 + offset), (50 + offset, 60 + offset)]

    small, large = (
        draw_case(make_case(side, offset, [seam(offset)]), 300)
        for side, offset in ((100, 0), (900, 500))
    )
    for one, other in zip(small.tiles, large.tiles, strict=True):
        np.testing.assert_array_equal(one, other)


def test_of_a_large_image_with_seams_only_their_objects_are_shown():
    small = make_case(seams=[[(50, 40), (50, 60)]])
    large = make_case(900, 500, [[(550, 540), (550, 560)]])
    far = np.zeros_like(large.truth)
    far[0, 10:60, 10:60] = far[1, 30:80, 30:80] = True
    contested = large.contested | (far[0] & far[1])
    truth = np.concatenate([large.truth, far])
    case = Case("a.png", large.image, truth, contested, large.sides, "4 objects")
    np.testing.assert_array_equal(draw_case(case, 300).tiles[2], draw_case(small, 300).tiles[2])


def test_without_overlap_all_of_the_image_is_shown():
    case = make_case()
    case = Case("a", case.image, case.truth, np.zeros((100, 100), bool), case.sides, "")
    tile = draw_case(case, 200).tiles[0]
    columns = np.nonzero(near(tile, instance_color(1), 40))[1]
    assert (columns.min(), columns.max()) == pytest.approx((40, 119), abs=2)


def test_a_match_has_its_objects_colour_and_red_is_left_to_the_seams():
    tiles = draw_case(make_case(objects=(1, None)), 700).tiles
    for index in (1, 2):
        assert near(tiles[0], instance_color(index)).sum() > 500
    assert near(tiles[1], instance_color(2)).sum() > 500  # matched with the second object
    assert not near(tiles[1], instance_color(1)).any()
    assert near(tiles[1], instance_color(3)).sum() > 500  # matched with none
    assert not near(tiles[0], instance_color(0)).any()


def test_no_prediction_and_no_object():
    none = np.zeros((0, 40, 60), dtype=bool)
    sides = (Side(none, [], [], ""), Side(none, [], [], ""))
    image = np.full((40, 60, 3), 7, dtype=np.uint8)
    case = Case("a", image, none, np.zeros((40, 60), bool), sides, "")
    for tile in draw_case(case, 120).tiles:
        assert tile.shape == (80, 120, 3)
        assert (tile == 7).all()


def test_the_sheet_names_its_columns():
    drawn = draw_case(make_case(), 380)
    one, two = (cases_sheet([drawn] * n, ["A", "B"], "heading") for n in (1, 2))
    assert (one.shape[1], two.shape[1]) == (3 * 310 + 10, 6 * 310 + 10)


# The page


def row(a, b, low=None, high=None):
    return {"a": a, "b": b, "difference": a - b, "low": low, "high": high}


@pytest.fixture
def content():
    metrics = {name: row(50.0, 40.0, 5.0, 15.0) for name in METRICS}
    metrics["overlap/AP_heavy"] = row(33.0, 21.5, 9.25, 13.75)
    metrics["errors/leak"] = row(2.0, 6.0, -5.0, -3.0)
    metrics["errors/miss"] = row(3.0, 2.0, -0.5, 2.5)
    counts = {name: 1000 + index for index, name in enumerate(COUNTS)}
    return {
        "dataset": "shapes <val>",
        "names": ["Mask R-CNN", "FCIS"],
        "files": [["a.json"], ["b.json"]],
        "counts": {"a": {**counts, "images": 1234}, "b": {**counts, "matched": 77}},
        "draws": 100,
        "seed": 0,
        "method": "the method",
        "metrics": metrics,
        "seeds": [],
        "notes": ["a note"],
    }


def test_the_page_the_json_and_the_sheet(tmp_path, content):
    drawn = [draw_case(make_case(seams=[[(50, 40), (50, 60)]]), 200)] * 2
    written = write_comparison(tmp_path / "out", content, drawn)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("comparison.html", "comparison.json", "comparison.png"),
    ]
    assert all(path.is_file() for path in written)
    page = written[1].read_text()
    assert page.count("data:image/jpeg;base64,") == 6
    assert "1,234 images" in page
    assert "shapes &lt;val&gt;" in page
    assert "+11.5 (+9.2 to +13.8)" in page  # under the bars
    assert "http" not in page
    assert "<script" not in page
    assert json.loads(written[0].read_text()) == content
    with Image.open(written[2]) as sheet:
        assert sheet.width == 1870


def test_the_reading_knows_which_direction_is_good(tmp_path, content):
    (tmp_path / "comparison.png").touch()  # of an earlier comparison, with pictures
    page = write_comparison(tmp_path, content, [])[1].read_text()

    def said(name):
        metric = METRICS[name]
        label = f"{metric.label}, {metric.unit}" if metric.unit else metric.label
        return page.split(f">{label}</th>")[1].split("</tr>")[0]

    assert ">better<" in said("AP/AP50")
    assert ">better<" in said("errors/leak")
    assert ">worse<" in said("errors/double_claim")
    assert ">not told apart<" in said("errors/miss")
    assert "\u22124.0" in said("errors/leak")
    assert "+10.000" in said("errors/seam_length")
    assert ">a note<" in page
    assert "77 objects" in page
    assert not (tmp_path / "comparison.png").exists()
    assert "No pictures." in page


def test_a_number_that_is_missing_is_a_dash_and_null(tmp_path, content):
    content["metrics"]["overlap/AP_none"] = row(math.nan, math.nan, math.nan, math.nan)
    written = write_comparison(tmp_path, content, [])
    metrics = json.loads(written[0].read_text())["metrics"]
    assert set(metrics["overlap/AP_none"].values()) == {None}
    page = written[1].read_text()
    assert ">nan<" not in page.lower()
    assert page.count(">\u2013<") >= 5  # three bars' worth of numbers, and the row of the table


def test_every_seed_is_on_the_page(tmp_path, content):
    seeds = [{"seed": n, "metrics": content["metrics"]} for n in (1, 2)]
    page = write_comparison(tmp_path, {**content, "seeds": seeds}, [])[1].read_text()
    assert ">Seed 1<" in page
    assert ">Seed 2<" in page
    assert page.count('<td class="num">+11.5 (+9.2 to +13.8)</td>') == 2


def test_bars_are_as_high_as_their_numbers(content):
    content["metrics"]["overlap/AP_none"] = row(60.0, 30.0)
    chart = level_chart(content["metrics"], content["counts"]["a"])
    first, second = chart.bars[:2]
    assert first.height == pytest.approx(2 * second.height, abs=0.2)
    assert (first.text, second.text) == ("60.0", "30.0")
    assert first.y + first.height == pytest.approx(chart.bottom)
    tick = next(tick for tick in chart.y_ticks if tick.text == "60")
    assert tick.at == pytest.approx(first.y, abs=0.2)
    assert chart.groups[0][1:] == ("no overlap: 1,002", "+30.0")
    assert first.x + chart.bar_width < second.x


def test_zeros_give_a_chart_too(content):
    zeros = {name: row(0.0, 0.0) for name in METRICS}
    chart = level_chart(zeros, content["counts"]["a"])
    assert [bar.height for bar in chart.bars] == [0] * 6


def test_numbers_are_printed_with_a_minus_and_never_as_minus_zero():
    assert shown(-1.26) == "\u22121.3"
    assert shown(-0.01, signed=True) == "+0.0"
    assert shown(None) == "\u2013"
