"""The comparison's pictures and its page, from hand-made masks and numbers."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from mask_rcnn_ext.layers.packed_masks import PackedMasks
from mask_rcnn_ext.overlap.comparison import METRICS
from mask_rcnn_ext.overlap.metrics import COUNTS
from mask_rcnn_ext.report.comparison_gallery import Case, Side, draw_case, make_case_sheet
from mask_rcnn_ext.report.comparison_page import (
    Comparison,
    Difference,
    SeedDifferences,
    draw_levels,
    write_comparison,
)
from mask_rcnn_ext.report.drawing.pictures import choose_color
from mask_rcnn_ext.report.json_records import from_json, to_json
from mask_rcnn_ext.report.text import judge_interval, to_text


def near(picture, color, within=12):
    """Return where a picture has a colour, (H, W) bool."""
    return np.abs(picture.astype(int) - color).max(axis=2) <= within


def make_case(side=100, offset=0, objects=(0, 1)):
    """Return two boxes that overlap on columns 40 to 60."""
    first, second = np.zeros((2, side, side), dtype=bool)
    first[offset + 30 : offset + 70, offset + 20 : offset + 60] = True
    second[offset + 35 : offset + 65, offset + 40 : offset + 80] = True
    contested = first & second
    truth = PackedMasks.pack(np.stack([first & ~second, second]))
    sides = (Side(truth, objects, "leak 0 %"), Side(truth, objects, "leak 9 %"))
    grey = np.full((side, side, 3), 90, dtype=np.uint8)
    return Case("a.png", grey, truth, contested, sides, "2 objects")


def test_contested_regions_are_outlined_where_they_are():
    # Shown are columns 20 to 80 and a margin: 70 pixels from 15 on, in both directions.
    drawn = draw_case(make_case(), 700)
    assert [tile.shape for tile in drawn.tiles] == [(700, 700, 3)] * 3
    assert drawn.texts == ("2 objects", "leak 0 %", "leak 9 %")
    for tile in drawn.tiles:
        rows, columns = np.nonzero(near(tile, (255, 255, 255)))
        assert (columns.min(), columns.max()) == pytest.approx((250, 449), abs=4)
        assert (rows.min(), rows.max()) == pytest.approx((200, 499), abs=4)
    dashes = near(drawn.tiles[0], (255, 255, 255))[:, 245:256].any(axis=1)[205:495]
    assert 0.3 < dashes.mean() < 0.7


def test_a_large_image_is_cut_to_where_objects_meet():
    small, large = (
        draw_case(make_case(side, offset), 300) for side, offset in ((100, 0), (900, 500))
    )
    for one, other in zip(small.tiles, large.tiles, strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_overlap_all_of_the_image_is_shown():
    case = make_case()
    case = Case("a", case.image, case.truth, np.zeros((100, 100), bool), case.sides, "")
    tile = draw_case(case, 200).tiles[0]
    columns = np.nonzero(near(tile, choose_color(0), 40))[1]
    assert (columns.min(), columns.max()) == pytest.approx((40, 119), abs=2)


def test_a_match_has_its_objects_colour():
    tiles = draw_case(make_case(objects=(1, None)), 700).tiles
    for index in (0, 1):
        assert near(tiles[0], choose_color(index)).sum() > 500
    assert near(tiles[1], choose_color(1)).sum() > 500  # matched with the second object
    assert not near(tiles[1], choose_color(0)).any()
    assert near(tiles[1], choose_color(2)).sum() > 500  # matched with none


def test_no_prediction_and_no_object():
    none = PackedMasks((40, 60), [])
    sides = (Side(none, [], ""), Side(none, [], ""))
    image = np.full((40, 60, 3), 7, dtype=np.uint8)
    case = Case("a", image, none, np.zeros((40, 60), bool), sides, "")
    for tile in draw_case(case, 120).tiles:
        assert tile.shape == (80, 120, 3)
        assert (tile == 7).all()


def test_the_sheet_names_its_columns():
    drawn = draw_case(make_case(), 380)
    one, two = (make_case_sheet([drawn] * n, ["A", "B"], "heading") for n in (1, 2))
    assert (one.shape[1], two.shape[1]) == (3 * 310 + 10, 6 * 310 + 10)


# The page


def row(a, b, low=None, high=None):
    return Difference(a, b, a - b, low, high)


@pytest.fixture
def comparison():
    metrics = {name: row(50.0, 40.0, 5.0, 15.0) for name in METRICS}
    metrics["overlap/AP_heavy"] = row(33.0, 21.5, 9.25, 13.75)
    metrics["errors/leak"] = row(2.0, 6.0, -5.0, -3.0)
    metrics["errors/miss"] = row(3.0, 2.0, -0.5, 2.5)
    counts = {name: 1000 + index for index, name in enumerate(COUNTS)}
    return Comparison(
        dataset="shapes <val>",
        names=["Mask R-CNN", "FCIS"],
        files=[["a.json"], ["b.json"]],
        counts={"a": {**counts, "images": 1234}, "b": {**counts, "matched": 77}},
        draws=100,
        seed=0,
        method="the method",
        metrics=metrics,
        seeds=[],
        notes=["a note"],
        lines={
            "axis/excess": {
                "a": {"value": 1.5, "low": 1.25, "high": 1.75},
                "b": {"value": 1.0, "low": 0.75, "high": 1.25},
                "ratio": {"value": 1.5, "low": 1.125, "high": 1.875},
            },
            "same_part/one_class/difference": {
                "a": {"value": -1.0, "low": -3.0, "high": 1.0},
                "b": {"value": 5.0, "low": 4.0, "high": 6.0},
                "difference": {"value": -6.0, "low": -8.0, "high": -4.0},
            },
        },
        parts=7,
    )


def test_the_page_the_json_and_the_sheet(tmp_path, comparison):
    drawn = [draw_case(make_case(), 200)] * 2
    written = write_comparison(tmp_path / "out", comparison, drawn)
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
    assert json.loads(written[0].read_text()) == dataclasses.asdict(comparison)
    with Image.open(written[2]) as sheet:
        assert sheet.width == 1870
    before = [path.read_bytes() for path in written]
    write_comparison(tmp_path / "out", comparison, drawn)
    assert [path.read_bytes() for path in written] == before


def test_the_reading_knows_which_direction_is_good(tmp_path, comparison):
    page = write_comparison(tmp_path, comparison, [])[1].read_text()

    def said(name):
        metric = METRICS[name]
        label = f"{metric.label}, {metric.unit}" if metric.unit else metric.label
        return page.split(f">{label}</th>")[1].split("</tr>")[0]

    assert ">better<" in said("AP/AP50")
    assert ">better<" in said("errors/leak")
    assert ">worse<" in said("errors/double_claim")
    assert ">not told apart<" in said("errors/miss")
    assert "\u22124.0" in said("errors/leak")
    assert ">a note<" in page
    assert "77 objects" in page
    assert "No pictures." in page


def test_lines_and_parts_are_on_the_page_with_their_intervals(tmp_path, comparison):
    page = write_comparison(tmp_path, comparison, [])[1].read_text()
    excess = page.split(">axis excess</th>")[1].split("</tr>")[0]
    for text in ("1.50 (1.25 to 1.75)", "\u00d7 1.50", "1.12 to 1.88", ">higher<"):
        assert text in excess
    same = page.split(">same-part error, pairs of one class, points</th>")[1].split("</tr>")[0]
    for text in ("\u22121.0 (\u22123.0 to 1.0)", "\u22126.0", "\u22128.0 to \u22124.0", ">better<"):
        assert text in same


def test_only_a_picture_of_an_earlier_comparison_is_removed(tmp_path, comparison):
    picture = tmp_path / "comparison.png"
    picture.touch()  # of somebody else
    write_comparison(tmp_path, comparison, [])
    assert picture.exists()
    write_comparison(tmp_path, comparison, [])  # now there is an earlier comparison
    assert not picture.exists()


def test_a_number_that_is_missing_is_a_dash_and_null(tmp_path, comparison):
    comparison.metrics["overlap/AP_none"] = row(math.nan, math.nan, math.nan, math.nan)
    written = write_comparison(tmp_path, comparison, [])
    metrics = json.loads(written[0].read_text())["metrics"]
    assert set(metrics["overlap/AP_none"].values()) == {None}
    page = written[1].read_text()
    assert "nan" not in page.lower()
    assert page.count(">\u2013<") >= 5  # three bars' worth of numbers, and the row of the table


def test_every_seed_is_on_the_page(tmp_path, comparison):
    seeds = [SeedDifferences(n, comparison.metrics) for n in (1, 2)]
    comparison = dataclasses.replace(comparison, seeds=seeds)
    page = write_comparison(tmp_path, comparison, [])[1].read_text()
    assert ">Seed 1<" in page
    assert ">Seed 2<" in page
    assert page.count('<td class="num">+11.5 (+9.2 to +13.8)</td>') == 2


def test_bars_are_as_high_as_their_numbers(comparison):
    comparison.metrics["overlap/AP_none"] = row(60.0, 30.0)
    chart = draw_levels(comparison)
    assert chart.legend == [(0, "Mask R-CNN", ""), (1, "FCIS", "")]
    bars = {
        color: [float(y) for y in re.findall(r"[-\d.]+(?=\s|$)", path)]
        for path, color in re.findall(r'<path d="([^"]*)"[^>]*fill: var\(--(s\d)\)', chart.svg)[::3]
    }  # the first of three bars of each model
    first, second = (max(ys[1::2]) - min(ys[1::2]) for ys in (bars["s0"], bars["s1"]))
    assert first == pytest.approx(2 * second, rel=0.01)
    for text in ("60.0", "30.0", "no overlap", "1,002 objects", "+30.0"):
        assert f">{text}</text>" in chart.svg


def test_zeros_give_a_chart_too(comparison):
    zeros = {name: row(0.0, 0.0) for name in METRICS}
    assert draw_levels(dataclasses.replace(comparison, metrics=zeros)).svg.count(">0.0</text>") == 6


def test_numbers_are_printed_with_a_minus_and_never_as_minus_zero():
    assert to_text(-1.26) == "\u22121.3"
    assert to_text(-0.01, signed=True) == "+0.0"
    assert to_text(None) == to_text(math.nan) == "\u2013"


def test_what_an_interval_says():
    assert judge_interval(0.1, 2) == "higher"
    assert judge_interval(-2, -0.1) == "lower"
    assert judge_interval(-0.1, 2) == "not told apart"
    assert judge_interval(None, None) == judge_interval(math.nan, math.nan) == "\u2013"


# Records and json


@dataclasses.dataclass(frozen=True)
class Part:
    size: float


@dataclasses.dataclass(frozen=True)
class Named(Part):
    name: str
    note: str | None = None


@dataclasses.dataclass(frozen=True)
class Whole:
    parts: list[Named | Part]
    more: dict[str, tuple[int, float | None]]
    anything: object = dataclasses.field(metadata={"key": "any/thing"})


def test_records_survive_json():
    whole = Whole([Named(1, "a"), Part(0.25)], {"x": (1, None)}, [math.inf, {"y": (1.5,)}])
    content = to_json(whole)
    assert content == {
        "parts": [{"size": 1, "name": "a"}, {"size": 0.25}],
        "more": {"x": [1, None]},
        "any/thing": [None, {"y": [1.5]}],
    }
    back = from_json(Whole, content)
    assert (back.parts, back.more) == (whole.parts, whole.more)
    assert to_json(back) == content
    assert to_json(Part(0.123456), decimals=2) == {"size": 0.12}


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"parts": [], "more": {}},
        {"parts": {}, "more": {}, "any/thing": 0},
        {"parts": [{"size": "1"}], "more": {}, "any/thing": 0},
        {"parts": [], "more": {"x": [1]}, "any/thing": 0},
    ],
)
def test_json_of_something_else_is_an_error(content):
    with pytest.raises((TypeError, ValueError, KeyError)):
        from_json(Whole, content)
