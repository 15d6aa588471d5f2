"""Drawing instances, sheets of tiles, and files that are whole or not there."""

import os

import numpy as np
import pytest
from overlap_cases import rectangle
from PIL import Image

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.report.drawing.pictures import choose_color, draw_instances, save_png
from mask_rcnn_ext.report.drawing.sheets import make_tile_sheet

GRAY = 90


def gray_image(height=60, width=80):
    return np.full((height, width, 3), GRAY, dtype=np.uint8)


def changed(picture):
    return (picture != GRAY).any(axis=2)


def test_a_mask_tints_its_inside_and_nothing_else():
    image = gray_image()
    mask = rectangle(20, 10, 50, 40, (60, 80))
    picture = draw_instances(image, mask[None])
    around = rectangle(19, 9, 51, 41, (60, 80))  # the outline is antialiased
    assert changed(picture)[mask].all()
    assert not changed(picture)[~around].any()
    blend = GRAY * 0.62 + np.array(choose_color(0)) * 0.38
    np.testing.assert_allclose(picture[25, 35], blend, atol=1)
    assert (image == GRAY).all()  # the input is left alone


def test_the_outline_is_drawn_at_the_scale_of_the_result():
    mask = rectangle(20, 10, 50, 40, (60, 80))
    picture = draw_instances(gray_image(), mask[None], scale=3)
    assert picture.shape == (180, 240, 3)

    def likeness(row):
        return np.abs(picture[row, 105].astype(int) - choose_color(0)).max()

    assert likeness(30) < 25  # the top edge, y = 10 * 3
    assert likeness(30 + 3) > 50  # thinner than one pixel of the image
    around = rectangle(59, 29, 151, 121, (180, 240))
    assert not changed(picture)[~around].any()


def test_a_hole_stays_clear():
    mask = rectangle(10, 10, 50, 50, (60, 80))
    mask[20:40, 20:40] = False
    picture = draw_instances(gray_image(), mask[None], scale=2)
    assert (picture[60, 60] == GRAY).all()
    assert np.abs(picture[60, 2 * 20 - 1].astype(int) - choose_color(0)).max() < 30  # its edge


@pytest.mark.parametrize("scale", [0.37, 0.5, 1.0, 2.5])
def test_the_size_of_the_picture(scale):
    mask = rectangle(0, 0, 83, 61, (61, 83))
    picture = draw_instances(gray_image(61, 83), mask[None], scale=scale)
    assert picture.shape == (round(61 * scale), round(83 * scale), 3)
    assert changed(picture).all()


def test_boxes_only_and_no_instances():
    boxes = np.array([[10.0, 10.0, 30.0, 40.0]])
    picture = draw_instances(gray_image(), boxes=boxes)
    assert (picture[10, 20] == choose_color(0)).all()
    assert (picture[20, 20] == GRAY).all()
    nothing = draw_instances(gray_image(), np.zeros((0, 60, 80), dtype=bool), np.zeros((0, 4)), [])
    assert (nothing == GRAY).all()
    empty_mask = draw_instances(gray_image(), np.zeros((1, 60, 80), dtype=bool), None, ["x"])
    assert (empty_mask == GRAY).all()


def test_colors_are_stable_and_told_apart():
    colors = np.array([choose_color(i) for i in range(24)], dtype=float)
    distances = np.linalg.norm(colors[:, None] - colors[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert distances.min() > 45
    mask = rectangle(20, 10, 50, 40, (60, 80))
    seventh = draw_instances(gray_image(), mask[None], color_ids=[7])
    assert np.abs(seventh[10, 30].astype(int) - choose_color(7)).max() < 25


@pytest.mark.parametrize(
    "box", [[0, 0, 12, 12], [188, 0, 200, 12], [0, 188, 12, 200], [188, 188, 200, 200]]
)
def test_a_label_is_whole_in_every_corner(box):
    def label_pixels(corner):
        boxes = np.array([corner], dtype=float)
        without = draw_instances(gray_image(200, 200), boxes=boxes)
        labelled = draw_instances(gray_image(200, 200), boxes=boxes, labels=["square 0.97"])
        chip = (labelled != without).any(axis=2)
        rows, columns = np.flatnonzero(chip.any(1)), np.flatnonzero(chip.any(0))
        return rows[-1] - rows[0], columns[-1] - columns[0]

    free = label_pixels([90, 90, 102, 102])
    assert label_pixels(box) == free


def test_labels_in_a_crowd_leave_most_of_the_picture_free():
    boxes = np.array([[x, y, x + 8, y + 8] for x in range(0, 190, 10) for y in range(0, 190, 10)])
    bare = draw_instances(gray_image(200, 200), boxes=boxes.astype(float))
    full = draw_instances(gray_image(200, 200), boxes=boxes.astype(float), labels=["0.9"] * 361)
    share = (bare != full).any(axis=2).mean()
    assert 0.02 < share <= 0.16


def test_counts_and_shapes_that_do_not_fit_are_errors():
    mask = rectangle(0, 0, 5, 5, (60, 80))[None]
    with pytest.raises(ValueError, match="one of each for every instance"):
        draw_instances(gray_image(), mask, labels=["a", "b"])
    with pytest.raises(ValueError, match=r"expected \(N, 60, 80\)"):
        draw_instances(gray_image(), mask[:, :50])
    with pytest.raises(ValueError, match="uint8"):
        draw_instances(gray_image().astype(float))
    with pytest.raises(ValueError, match="scale"):
        draw_instances(gray_image(), scale=0)


def solid(height, width, color):
    return np.full((height, width, 3), color, dtype=np.uint8)


def test_a_sheet_shows_every_tile_whole_and_in_order():
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    tiles = [solid(40, 60, color) for color in colors]
    sheet = make_tile_sheet(tiles, ["a", "b", "c"], columns=2)
    places = []
    for color in colors:
        found = (sheet == color).all(axis=2)
        assert found.sum() == 40 * 60
        places.append(np.argwhere(found).mean(axis=0))
    assert places[0][0] == places[1][0] < places[2][0]  # two in the first row
    assert places[0][1] == places[2][1] < places[1][1]


def test_tiles_of_other_shapes_are_fitted_not_stretched():
    sheet = make_tile_sheet([solid(40, 80, (200, 0, 0)), solid(20, 10, (0, 0, 200))], columns=2)
    blue = np.argwhere((sheet == (0, 0, 200)).all(axis=2))
    height, width = blue.max(axis=0) - blue.min(axis=0) + 1
    assert (height, width) == (40, 20)


def test_heading_and_titles_take_room_above_the_tiles():
    tiles = [solid(40, 200, (200, 0, 0))] * 2
    plain = make_tile_sheet(tiles, columns=2)
    titled = make_tile_sheet(
        tiles, ["t" * 500, "u"], 2, "Heading\n" + "word " * 99, ["left", "right"]
    )
    assert titled.shape[1] == plain.shape[1]
    first_row = int(np.argwhere((titled == (200, 0, 0)).all(axis=2))[0][0])
    assert (titled[:first_row] < 100).any(axis=2).any(axis=1).sum() > 40  # rows of text
    assert not (titled[:, -5:] < 100).any()  # wrapped and shortened to the width


def test_lists_that_do_not_fit_a_sheet_are_errors():
    with pytest.raises(ValueError, match="expected tiles"):
        make_tile_sheet([])
    with pytest.raises(ValueError, match="2 titles"):
        make_tile_sheet([gray_image()] * 2, ["one"])
    with pytest.raises(ValueError, match="column titles"):
        make_tile_sheet([gray_image()] * 2, None, 2, "", ["one"])


def test_save_png_is_exact_and_makes_its_folder(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    path = tmp_path / "new" / "picture.png"
    save_png(path, picture)
    assert (np.array(Image.open(path)) == picture).all()
    assert os.listdir(path.parent) == ["picture.png"]


def test_save_png_with_few_colours_is_smaller_and_alike(tmp_path):
    noise = np.random.default_rng(0).normal(0, 6, (40, 50, 3))
    picture = np.clip(gray_image(40, 50) + noise, 0, 255).astype(np.uint8)
    for name, colors in (("all", None), ("few", 16)):
        save_png(tmp_path / name, picture, colors)
    few = np.array(Image.open(tmp_path / "few").convert("RGB")).astype(int)
    assert len(np.unique(few.reshape(-1, 3), axis=0)) <= 16
    assert abs(few - picture).mean() < 6
    assert (tmp_path / "few").stat().st_size < 0.5 * (tmp_path / "all").stat().st_size


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    save_png(path, gray_image())
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match=r"cannot write .*picture.png: No space left"):
        save_png(path, solid(5, 5, (1, 2, 3)))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["picture.png"]
