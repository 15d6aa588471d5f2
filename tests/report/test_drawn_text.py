"""Text in pictures: letters come from a font that has them."""

import os

import matplotlib as mpl
import matplotlib.font_manager
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, features

from mask_rcnn_ext.report.drawing import text
from mask_rcnn_ext.report.drawing.pictures import draw_instances
from mask_rcnn_ext.report.drawing.text import TextStyle

FONTS = os.path.join(mpl.get_data_path(), "fonts", "ttf")
STIX = os.path.join(FONTS, "STIXGeneral.ttf")  # has circled letters, which DejaVu Sans lacks
STYLE = TextStyle(20)


@pytest.fixture
def machine(monkeypatch):
    """Give this machine the fonts of a list."""
    remembered = (text._find_font, text._list_fonts, text._warn_about_font)

    def install(*paths: str) -> None:
        for function in remembered:
            function.cache_clear()
        monkeypatch.setattr(matplotlib.font_manager, "findSystemFonts", lambda: list(paths))

    yield install
    for function in remembered:
        function.cache_clear()


def drawn(line: str, style: TextStyle = STYLE) -> np.ndarray:
    picture = Image.new("L", (300, 40))
    style.draw(ImageDraw.Draw(picture), (5, 3), line, (255,))
    return np.asarray(picture)


def plain(line: str, path: str) -> np.ndarray:
    """The same by Pillow alone, on the base line of DejaVu Sans."""
    picture = Image.new("L", (300, 40))
    base = ImageFont.truetype(os.path.join(FONTS, "DejaVuSans.ttf"), 20)
    place = (5, 3 + base.getmetrics()[0])
    font = ImageFont.truetype(path, 20)
    ImageDraw.Draw(picture).text(place, line, font=font, fill=255, anchor="ls")
    return np.asarray(picture)


@pytest.mark.parametrize("line", ["person 0.97", "Человек", "سيارة 0.97", ""])
def test_what_dejavu_has_is_drawn_with_it(machine, line):
    machine(STIX)
    for bold, name in ((False, "DejaVuSans.ttf"), (True, "DejaVuSans-Bold.ttf")):
        expected = plain(line, os.path.join(FONTS, name))
        assert (drawn(line, TextStyle(20, bold)) == expected).all()


def test_a_letter_that_it_lacks_comes_from_a_font_of_the_machine(machine, caplog):
    machine(os.path.join(FONTS, "cmr10.ttf"), STIX)
    assert (drawn("Ⓐ 0.97") == plain("Ⓐ 0.97", STIX)).all()
    assert list(STYLE._split("car Ⓐ 1")) == [("car ", STYLE._base), ("Ⓐ 1", STIX)]
    stix = ImageFont.truetype(STIX, 20)
    base = ImageFont.truetype(STYLE._base, 20)
    assert STYLE.measure("car Ⓐ 1") == base.getlength("car ") + stix.getlength("Ⓐ 1")
    assert caplog.text == ""


def test_no_font_for_a_letter_is_told_once_with_the_package_that_helps(machine, caplog, tmp_path):
    (tmp_path / "broken.ttf").write_text("no font")
    machine(str(tmp_path / "broken.ttf"))
    for line in ("人", "ひと", "사람", "人 car"):
        drawn(line)
    assert caplog.text.count("No font of this machine has all letters") == 1
    assert "on Debian or Ubuntu the package fonts-noto-cjk" in caplog.text
    drawn("व्यक्ति")
    assert caplog.text.count("the package fonts-noto-core") == 1


def test_labels_of_instances_use_it(machine):
    machine(STIX)
    image, boxes = np.full((60, 90, 3), 80, np.uint8), np.array([[30.0, 30, 60, 55]])
    with_font = draw_instances(image, boxes=boxes, labels=["Ⓐ"], scale=4)
    machine()
    without = draw_instances(image, boxes=boxes, labels=["Ⓐ"], scale=4)
    assert (with_font != without).any()


@pytest.mark.skipif(not features.check("raqm"), reason="this Pillow draws from left to right")
def test_the_ending_of_a_file_comes_last_whatever_its_name():
    name, whole = (
        drawn("\u0633\u064a\u0627\u0631\u0629"),
        drawn("\u0633\u064a\u0627\u0631\u0629.jpg"),
    )
    ink = np.flatnonzero(name.any(axis=0))
    assert (whole[:, : ink[-1]] == name[:, : ink[-1]]).all()
    assert whole[:, ink[-1] + 1 :].any()


def test_the_score_of_a_long_name_is_in_the_picture():
    image, boxes = np.full((60, 90, 3), 80, np.uint8), np.array([[30.0, 30, 60, 55]])
    first, second = (
        draw_instances(image, boxes=boxes, labels=[f"{'w' * 100} {score}"], scale=4)
        for score in (0.12, 0.97)
    )
    assert (first != second).any()


@pytest.mark.parametrize("end", ["\n", "\r", "\x1c", "\x85", "\u2029"])
def test_the_end_of_a_line_is_a_space(end):
    assert STYLE.measure(f"a{end}b") == STYLE.measure("a b")
    np.testing.assert_array_equal(drawn(f"a{end}b"), drawn("a b"))
