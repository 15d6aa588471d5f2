"""TIFF files that `--tile` reads part by part are those that the usual reader reads alike."""

import itertools
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tiny_model import tiny_cfg

from mask_rcnn_ext.data.images import read_bgr
from mask_rcnn_ext.prediction.image_files import find_images, predict_files
from mask_rcnn_ext.prediction.tiles import Tile, Tiling
from mask_rcnn_ext.prediction.windows import TiffWindows

tifffile = pytest.importorskip("tifffile")
SHAPE = (60, 80)


class Decoding:
    """Stands for tifffile with imagecodecs, which decodes pixels of fewer than 8 bits."""

    def __init__(self, page):
        self.page = page

    def __getattr__(self, name):
        return getattr(self.page, name)

    def decode(self, data, number, **tables):
        return (np.zeros((1, *SHAPE, 1), dtype=np.uint8),)


def write_gray(path, bits: int) -> None:
    """Write one strip of gray pixels of some bits."""
    height, width = SHAPE
    data = bytes(range(256))[: height * width * bits // 8] * (height * width * bits // 8 // 256 + 1)
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1)]
    tags += [(278, height), (279, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    path.write_bytes(head + data + struct.pack("<H", len(tags)) + entries + bytes(4))


@pytest.mark.parametrize(("bits", "parts"), [(2, False), (4, False), (8, True)])
def test_pixels_of_fewer_than_8_bits_are_read_as_a_whole(tmp_path, monkeypatch, bits, parts):
    path = tmp_path / "x.tif"
    write_gray(path, bits)
    assert read_bgr(path).shape == (*SHAPE, 3)
    first = tifffile.TiffPages.__getitem__
    monkeypatch.setattr(tifffile.TiffPages, "__getitem__", lambda *a: Decoding(first(*a)))
    windows = TiffWindows.open(path)
    assert (windows is not None) == parts
    if windows is not None:
        windows.close()


@pytest.mark.parametrize(
    ("alpha", "parts"), [("unassalpha", True), ("unspecified", True), ("assocalpha", False)]
)
def test_colours_that_alpha_multiplies_are_read_as_a_whole(tmp_path, alpha, parts):
    image = np.random.default_rng(0).integers(0, 256, (*SHAPE, 4), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", image, photometric="rgb", extrasamples=[alpha])
    windows = TiffWindows.open(tmp_path / "x.tif")
    assert (windows is not None) == parts
    if windows is not None:
        assert (windows.read(Tile(0, 0, *SHAPE)) == read_bgr(tmp_path / "x.tif")).all()
        windows.close()


@pytest.mark.parametrize("read", [read_bgr, TiffWindows.open])
def test_only_the_first_of_some_pages_is_read_and_told(tmp_path, caplog, read, monkeypatch):
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        for value in (0, 99, 200):
            page = np.full((*SHAPE, 3), value, dtype=np.uint8)
            file.write(page, photometric="rgb", rowsperstrip=7)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**9 if read is read_bgr else 9)
    found = read(tmp_path / "x.tif")
    assert f"{tmp_path / 'x.tif'}: only the first of 3 frames or pages is read" in caplog.text
    if isinstance(found, TiffWindows):
        assert not found.read(Tile(0, 0, *SHAPE)).any()
        found.close()
        caplog.clear()
        assert TiffWindows.open(tmp_path / "x.tif", max(SHAPE)) is None  # no larger than a tile
        assert not caplog.text  # the usual reader tells it


def test_an_image_with_too_many_pixels_for_coco_masks_is_told_before_the_prediction(tmp_path):
    path = str(tmp_path / "slide.tif")
    tile = zlib.compress(bytes(4096 * 4096))
    shape = {"shape": (65_536, 65_536), "tile": (4096, 4096), "compression": "zlib"}
    tifffile.imwrite(path, itertools.repeat(tile, 16 * 16), dtype="uint8", **shape)
    predictor, failed = SimpleNamespace(cfg=tiny_cfg(), batch_size=1), []
    predictor.stream_packed = list
    files, tiling = find_images([path]), Tiling(4096, 512)
    found = predict_files(predictor, files, lambda _, reason: failed.append(reason), tiling=tiling)
    assert not list(found)
    assert failed == [
        f"{path}: an image of 65,536 x 65,536 pixels is too large for COCO's run-length masks: "
        "expected at most 4,294,967,295 pixels. Cut it into several images"
    ]
