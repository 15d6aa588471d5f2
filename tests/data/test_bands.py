"""Images of many channels and of more than 8 bits: the numbers of the file, or a sentence."""

import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from mask_rcnn_ext import UserError
from mask_rcnn_ext.data.bands import (
    order_bands,
    read_bands,
    read_bands_header,
    read_picture,
    scale_for_display,
)

H, W = 6, 9


def values(channels: int, dtype=np.uint16) -> np.ndarray:
    """(H, W, `channels`), all different, far beyond 255 for deep types."""
    step = 1 if np.dtype(dtype).itemsize == 1 else 70
    return (np.arange(H * W * channels).reshape(H, W, channels) * step).astype(dtype)


def assert_reads(path, expected, channels: int) -> None:
    image = read_bands(path, channels)
    assert image.dtype == np.float32
    assert np.array_equal(image, expected.astype(np.float32))
    header = read_bands_header(path, channels)
    assert (header.height, header.width) == expected.shape[:2]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_npy_in_both_layouts(tmp_path, channels, dtype):
    image = values(channels, dtype)
    np.save(tmp_path / "last.npy", image)
    assert_reads(tmp_path / "last.npy", image, channels)
    np.save(tmp_path / "first.npy", image.transpose(2, 0, 1))
    assert_reads(tmp_path / "first.npy", image, channels)
    if channels == 1:
        np.save(tmp_path / "plain.npy", image[:, :, 0])
        assert_reads(tmp_path / "plain.npy", image, 1)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("layout", ["last", "pages"])
def test_tiff(tmp_path, dtype, layout):
    tifffile = pytest.importorskip("tifffile")
    for channels in (1, 5):
        image = values(channels, dtype)
        stored = image if layout == "last" else image.transpose(2, 0, 1)
        planes = {"planarconfig": "contig"} if layout == "last" and channels > 1 else {}
        tifffile.imwrite(tmp_path / "x.tif", stored, photometric="minisblack", **planes)
        assert_reads(tmp_path / "x.tif", image, channels)


def test_without_tifffile_the_message_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    Image.fromarray(values(1)[:, :, 0]).save(tmp_path / "x.tif")
    for read in (read_bands, read_bands_header):
        with pytest.raises(UserError, match="needs the package tifffile: pip install"):
            read(tmp_path / "x.tif", 1)


def test_png_of_16_bits_gray_and_colour(tmp_path):
    gray = values(1)
    Image.fromarray(gray[:, :, 0]).save(tmp_path / "gray.png")
    assert_reads(tmp_path / "gray.png", gray, 1)
    for channels, to_file in ((3, [2, 1, 0]), (4, [2, 1, 0, 3])):
        colour = values(channels)
        cv2.imwrite(str(tmp_path / "colour.png"), colour[:, :, to_file])  # OpenCV takes BGR
        assert_reads(tmp_path / "colour.png", colour, channels)


def test_8_bit_files_keep_their_channels(tmp_path):
    for channels, mode in ((1, "L"), (3, "RGB"), (4, "RGBA")):
        image = values(channels, np.uint8)
        Image.fromarray(image.squeeze()).convert(mode).save(tmp_path / "x.png")
        assert_reads(tmp_path / "x.png", image, channels)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = values(1, np.uint8)
    Image.fromarray(image[:, :, 0]).save(tmp_path / "x.png", exif=exif)
    assert_reads(tmp_path / "x.png", np.rot90(image, -1), 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_and_16_bit_png_are_turned_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = values(3, np.uint8)
    Image.fromarray(image).save(tmp_path / "x.tif", exif=exif)
    Image.fromarray(image).save(tmp_path / "small.png", exif=exif)
    with Image.open(tmp_path / "x.tif") as file:
        upright = np.asarray(ImageOps.exif_transpose(file))
    assert_reads(tmp_path / "x.tif", upright, 3)
    assert_reads(tmp_path / "small.png", upright, 3)
    # No writer at hand gives 16-bit colour with EXIF: the block is put after the header.
    cv2.imwrite(str(tmp_path / "deep.png"), image[:, :, ::-1].astype(np.uint16) * 256)
    content, block = (tmp_path / "deep.png").read_bytes(), exif.tobytes().removeprefix(b"Exif\0\0")
    checksum = zlib.crc32(b"eXIf" + block).to_bytes(4, "big")
    chunk = len(block).to_bytes(4, "big") + b"eXIf" + block + checksum
    (tmp_path / "deep.png").write_bytes(content[:33] + chunk + content[33:])
    assert_reads(tmp_path / "deep.png", upright.astype(np.uint16) * 256, 3)


def test_the_channels_of_a_turned_tiff_stay_the_channels(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    image = values(5, np.uint16)
    for planes, tag in ((np.moveaxis(image, 2, 0), "separate"), (image, "contig")):
        tifffile.imwrite(
            tmp_path / "x.tif", planes, photometric="minisblack", planarconfig=tag,
            extratags=[(0x0112, 3, 1, 6, True)],
        )  # fmt: skip
        assert_reads(tmp_path / "x.tif", np.rot90(image, -1), 5)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((H, W, 4)), r"5 channel\(s\), \(H, W, 5\) or \(5, H, W\), got .*\(6, 9, 4\)"),
        (np.zeros((H, W)), r"got an array of shape \(6, 9\)"),
        (np.zeros((0, W, 5)), r"got an array of shape \(0, 9, 5\)"),
        (np.zeros((H, W, 5), complex), "real numbers, got complex"),
        (np.full((H, W, 5), np.nan), "not finite"),
        (np.full((H, W, 5), 1e300), "not finite"),
        (np.array([{}], dtype=object), "cannot be read as an image"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, array, message):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=rf"x\.npy: .*{message}"), np.errstate(over="ignore"):
        read_bands(tmp_path / "x.npy", 5)


def test_a_broken_or_missing_file_is_named(tmp_path):
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY nonsense")
    (tmp_path / "x.png").write_bytes(b"")
    for name in ("x.npy", "x.png", "absent.npy"):
        for read in (read_bands, read_bands_header):
            with pytest.raises(UserError, match=name):
                read(tmp_path / name, 5)


def test_a_tiff_without_a_page_is_named(tmp_path):
    pytest.importorskip("tifffile")
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0" + (1000).to_bytes(4, "little"))
    with pytest.raises(UserError, match=r"a\.tif: cannot be read .* there is no page"):
        read_bands(path, 2)


def test_three_channels_follow_the_format_of_the_model():
    image = values(3)
    assert np.array_equal(order_bands(image, "BGR"), image[:, :, ::-1])
    assert np.array_equal(order_bands(image, "RGB"), image)
    assert np.array_equal(order_bands(values(5), "BGR"), values(5))


def test_a_picture_has_the_first_three_channels_scaled(tmp_path):
    ramp = np.linspace(0, 1, 101)[:, None, None] * np.array([1000, 3e5, -7, 4, 5])
    shown = scale_for_display(np.broadcast_to(ramp, (101, 40, 5)))
    assert shown.shape == (101, 40, 3)
    assert shown[50, 0].tolist() == [128, 128, 128]
    assert shown[[0, 1], 0].tolist() == [[0, 0, 255]] * 2
    assert shown[[99, 100], 0].tolist() == [[255, 255, 0]] * 2
    assert scale_for_display(np.full((4, 4, 1), 9.0)).tolist() == np.zeros((4, 4, 3)).tolist()
    np.save(tmp_path / "x.npy", np.broadcast_to(ramp, (101, 40, 5)))
    record = {"file_name": str(tmp_path / "x.npy"), "height": 101, "width": 40}
    assert np.abs(read_picture(record).astype(int) - shown).max() <= 1  # read as float32
    with pytest.raises(UserError, match=r"x\.npy"):
        read_picture({**record, "width": 41})
