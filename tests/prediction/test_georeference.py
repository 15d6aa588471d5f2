"""Where images lie: world files and the tags of GeoTIFFs."""

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from mask_rcnn_ext import UserError
from mask_rcnn_ext.prediction.georeference import read_georeference

KEYS = [1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1]  # projected, pixels are areas


def write_tiff(path, tags=None, orientation=None):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, (kind, value) in (tags or {}).items():
        info.tagtype[tag] = kind
        info[tag] = value
    if orientation:
        info[274] = orientation
    Image.new("RGB", (30, 20)).save(path, tiffinfo=info)


def geotiff(keys, **more):
    tags = {33550: (12, (0.5, 0.25, 0.0)), 33922: (12, (2.0, 4.0, 0.0, 1000.0, 5000.0, 0.0))}
    return {**tags, 34735: (3, tuple(keys)), **more}


def test_a_geotiff_says_where_it_lies(tmp_path):
    write_tiff(tmp_path / "x.tif", geotiff([*KEYS, 3072, 0, 1, 32633]))
    reference = read_georeference(tmp_path / "x.tif")
    assert reference.epsg == 32633
    corners = reference.locate(np.array([[2, 4], [0, 0], [30, 20]]))
    assert corners.tolist() == [[1000, 5000], [999, 5001], [1014, 4996]]


def test_a_matrix_and_coordinates_of_pixel_centres(tmp_path):
    matrix = [2.0, 0.0, 0.0, 100.0, 0.0, -2.0, 0.0, 200.0, *[0.0] * 7, 1.0]
    keys = [1, 1, 0, 2, 1025, 0, 1, 2, 2048, 0, 1, 4326]
    write_tiff(tmp_path / "x.tif", {34264: (12, tuple(matrix)), 34735: (3, tuple(keys))})
    reference = read_georeference(tmp_path / "x.tif")
    assert reference.epsg == 4326
    assert reference.locate(np.array([[0.5, 0.5], [0, 0]])).tolist() == [[100, 200], [99, 201]]


def test_a_system_that_a_user_defined_has_no_code(tmp_path):
    write_tiff(tmp_path / "x.tif", geotiff([*KEYS, 3072, 0, 1, 32767]))
    assert read_georeference(tmp_path / "x.tif").epsg is None


@pytest.mark.parametrize("end", ["jgw", "JGW", "jpgw", "wld"])
def test_a_world_file_says_where_the_first_pixel_s_centre_lies(tmp_path, end):
    Image.new("RGB", (30, 20)).save(tmp_path / "x.jpg")
    (tmp_path / f"x.{end}").write_text("0.5\n0\n0\n-0.25\n1000.25\n4999.875\n")
    reference = read_georeference(tmp_path / "x.jpg")
    assert reference.epsg is None
    assert reference.locate(np.array([[0, 0], [0.5, 0.5]])).tolist() == [
        [1000, 5000],
        [1000.25, 4999.875],
    ]


def test_images_that_lie_nowhere(tmp_path):
    write_tiff(tmp_path / "plain.tif")
    write_tiff(tmp_path / "turned.tif", geotiff(KEYS), orientation=6)
    (tmp_path / "broken.tif").write_bytes(b"II*\0 no more")
    Image.new("RGB", (30, 20)).save(tmp_path / "x.png")
    for name in ("plain.tif", "turned.tif", "broken.tif", "x.png", "missing.jpg"):
        assert read_georeference(tmp_path / name) is None, name


def test_a_world_file_that_is_none_is_told(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "x.png")
    (tmp_path / "x.pgw").write_text("1 0 0 one")
    with pytest.raises(UserError, match=r"x\.pgw: expected six numbers"):
        read_georeference(tmp_path / "x.png")


def test_a_world_file_may_begin_with_a_mark_of_its_encoding(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "x.png")
    (tmp_path / "x.pgw").write_text("1\n0\n0\n-1\n10.5\n19.5\n", encoding="utf-8-sig")
    reference = read_georeference(tmp_path / "x.png")
    assert reference.locate(np.array([[0, 0]])).tolist() == [[10, 20]]


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999"])
def test_no_image_lies_at_nan(tmp_path, number):
    """JSON has no such number."""
    Image.new("RGB", (30, 20)).save(tmp_path / "x.png")
    (tmp_path / "x.pgw").write_text(f"1 0 0 -1 {number} 0")
    with pytest.raises(UserError, match=r"x\.png: its world file or its tags place it at NaN"):
        read_georeference(tmp_path / "x.png")
    tags = geotiff(KEYS) | {33922: (12, (0.0, 0.0, 0.0, float(number), 0.0, 0.0))}
    write_tiff(tmp_path / "x.tif", tags)
    with pytest.raises(UserError, match=r"x\.tif: its world file or its tags place it at NaN"):
        read_georeference(tmp_path / "x.tif")
