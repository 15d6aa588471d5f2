"""Image files of every kind: read rightly, or refused by name."""

import contextlib
import io
import logging
import os
import re
import zlib

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import EpsImagePlugin, Image, ImageFile, ImageOps, PngImagePlugin
from support import REPO
from tiny_model import picture

from mask_rcnn_ext.data.annotations import _read_mask
from mask_rcnn_ext.data.bands import read_bands, read_bands_header, read_picture
from mask_rcnn_ext.data.formats.id_images import read_ids
from mask_rcnn_ext.data.formats.voc import _read_numbers
from mask_rcnn_ext.data.image_facts import read_image_facts
from mask_rcnn_ext.data.images import read_bgr, read_header
from mask_rcnn_ext.errors import UserError

H, W = 30, 40
COLOUR = picture(H, W)
GRAY = np.asarray(Image.fromarray(COLOUR).convert("L"))


def save(path, pixels, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def rgb(path) -> np.ndarray:
    """Read an image, (H, W, 3) int."""
    return read_bgr(path)[:, :, ::-1].astype(int)


@pytest.mark.parametrize(
    ("mode", "name", "tolerance"),
    [
        ("RGB", "x.png", 0),
        ("RGBA", "x.png", 0),
        ("P", "x.png", 60),  # 256 colours
        ("P", "x.gif", 60),
        ("CMYK", "x.tif", 0),
        ("CMYK", "x.jpg", 12),
        ("YCbCr", "x.tif", 3),
        ("RGB", "x.jp2", 0),
        ("RGB", "x.bmp", 0),
        ("RGB", "x.webp", 30),
    ],
)
def test_colour_of_every_mode(tmp_path, mode, name, tolerance):
    whole = Image.fromarray(COLOUR)
    image = whole.quantize(256) if mode == "P" else whole.convert(mode)
    path = save(tmp_path / name, image, quality=100)
    assert np.abs(rgb(path) - COLOUR).max() <= tolerance
    assert (read_header(path).width, read_header(path).height) == (W, H)


@pytest.mark.parametrize(("mode", "name"), [("L", "x.png"), ("LA", "x.png"), ("L", "x.tif")])
def test_gray_becomes_three_equal_channels(tmp_path, mode, name):
    path = save(tmp_path / name, Image.fromarray(GRAY).convert(mode))
    assert (rgb(path) == GRAY[:, :, None]).all()


def test_bilevel_is_black_and_white(tmp_path):
    black = GRAY > 128
    assert (rgb(save(tmp_path / "x.tif", black)) == np.where(black, 255, 0)[:, :, None]).all()


def test_hidden_colours_of_transparent_pixels_are_read(tmp_path):
    transparent = np.dstack([COLOUR, np.zeros((H, W), np.uint8)])
    assert (rgb(save(tmp_path / "x.png", transparent)) == COLOUR).all()


def encode_16_bit_colour() -> bytes:
    """A PNG of 2 x 1 pixels with 16 bits per channel, which Pillow cannot write."""
    import cv2

    return cv2.imencode(".png", np.full((1, 2, 3), 4000, np.uint16))[1].tobytes()


DEEP = {
    "gray16.png": GRAY.astype(np.uint16) * 16,
    "gray16.tif": GRAY.astype(np.uint16) * 257,
    "int32.tif": GRAY.astype(np.int32),
    "float32.tif": GRAY.astype(np.float32) / 255,
}


@pytest.mark.parametrize("name", [*DEEP, "colour16.png", "big_endian.tif"])
def test_more_than_8_bits_are_refused_before_the_pixels_are_read(tmp_path, monkeypatch, name):
    if name == "colour16.png":
        (tmp_path / name).write_bytes(encode_16_bit_colour())
    elif name == "big_endian.tif":
        save(tmp_path / name, Image.frombytes("I;16B", (2, 2), bytes(8)))
    else:
        save(tmp_path / name, DEEP[name])
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    for read in (read_header, read_bgr):
        with pytest.raises(UserError, match=rf"{name}: has more than 8 bits per channel"):
            read(tmp_path / name)


def test_a_bitmap_of_16_bits_per_pixel_has_5_or_6_per_channel(tmp_path):
    """BMP with 5, 6 and 5 bits: Pillow's raw mode is BGR;16, which is not deep."""
    import struct

    row = struct.pack("<HH", 0xF800, 0x001F)  # red, blue
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    info = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3, len(row), 0, 0, 0, 0)
    start = 14 + len(info) + len(masks)
    head = b"BM" + struct.pack("<IHHI", start + len(row), 0, 0, start)
    (tmp_path / "x.bmp").write_bytes(head + info + masks + row)
    assert rgb(tmp_path / "x.bmp").tolist() == [[[255, 0, 0], [0, 0, 255]]]


@pytest.mark.parametrize("name", ["x.gif", "x.tif", "x.webp"])
def test_the_first_of_several_frames_is_read_and_it_is_said(tmp_path, caplog, name):
    first = Image.fromarray(COLOUR)
    first = first.quantize(256) if name == "x.gif" else first
    frames = [first, Image.new("RGB", (W, H)), Image.new("RGB", (W, H), "red")]
    path = save(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], lossless=True)
    assert read_header(path).frames == 3
    with caplog.at_level(logging.WARNING):
        assert np.abs(rgb(path) - COLOUR).max() <= 60  # a GIF has 256 colours
    assert f"{name}: only the first of 3 frames or pages is read" in caplog.text


def test_the_second_image_of_a_phone_s_jpeg_does_not_count(tmp_path, caplog):
    second = Image.new("RGB", (W // 2, H // 2))
    path = tmp_path / "x.jpg"
    Image.fromarray(COLOUR).save(path, format="MPO", save_all=True, append_images=[second])
    assert read_header(path).frames == 1
    assert read_bgr(path).shape == (H, W, 3)
    assert caplog.text == ""


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "lzw.tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"webp": {"lossless": True}, "lzw.tif": {"compression": "tiff_lzw"}}
    path = save(tmp_path / f"x.{suffix}", COLOUR, exif=exif, **options.get(suffix, {}))
    turned = {
        1: COLOUR,
        2: COLOUR[:, ::-1],
        3: COLOUR[::-1, ::-1],
        4: COLOUR[::-1],
        5: COLOUR.transpose(1, 0, 2),
        6: np.rot90(COLOUR, -1),
        7: COLOUR[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(COLOUR),
    }[orientation]
    with Image.open(path) as image:
        assert (rgb(path) == np.asarray(ImageOps.exif_transpose(image))).all()
    assert suffix == "jpg" or (rgb(path) == turned).all()
    header = read_header(path)
    assert (header.height, header.width) == turned.shape[:2]
    assert header.rotated == (orientation >= 5)


@pytest.mark.parametrize("name", ["x.jpg", "x.png"])
def test_a_file_that_is_cut_short_is_found_without_decoding_the_whole_ones(
    tmp_path, monkeypatch, name
):
    path = save(tmp_path / name, COLOUR)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    for read in (read_header, read_bgr):
        with pytest.raises(UserError, match=rf"{name}: cannot be read as an image \(.*truncated"):
            read(path)
    path.write_bytes(content + b"a phone adds a film here")
    assert read_header(path).width == W
    path.write_bytes(content)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    assert read_header(path).width == W


def test_what_is_no_image(tmp_path):
    (tmp_path / "x.jpg").write_text("<html>not found</html>")
    expected = r"x\.jpg: cannot be read as an image \(no image format that Pillow knows\)"
    for read in (read_header, read_bgr):
        with pytest.raises(UserError, match=expected):
            read(tmp_path / "x.jpg")
        with pytest.raises(UserError, match=r"y\.jpg: cannot be read .*No such file"):
            read(tmp_path / "y.jpg")


def test_an_odd_exif_block_is_no_fault(tmp_path):
    content = io.BytesIO()
    save(content, COLOUR, format="JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff")
    (tmp_path / "x.jpg").write_bytes(content.getvalue())
    assert read_header(tmp_path / "x.jpg").rotated is False


def test_the_conversion_of_the_docs_keeps_the_levels(tmp_path, monkeypatch):
    page = (REPO / "docs/own_data.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (block,) = (block for block in blocks if "images16" in block)
    (tmp_path / "images16").mkdir()
    save(tmp_path / "images16" / "x.tif", np.linspace(0, 4095, 256).round().astype(np.uint16)[None])
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    assert rgb(tmp_path / "images8" / "x.tif")[0, :, 0].tolist() == list(range(256))


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    for read in (read_bgr, read_header):
        with pytest.raises(UserError, match=r"x\.png: expected an image file, got a pipe"):
            read(tmp_path / "x.png")


def test_an_image_over_the_limit_of_pillow(tmp_path, monkeypatch):
    path = save(tmp_path / "x.png", COLOUR)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", H * W // 2 - 1)
    expected = r"x\.png: .* \(1,200 pixels, more than the limit of 1,198; scale it down, or set"
    for read in (read_bgr, read_header):
        with pytest.raises(UserError, match=expected):
            read(path)


def test_damage_in_the_middle_of_a_png_is_no_black_image(tmp_path):
    path = save(tmp_path / "x.png", COLOUR)
    data = path.read_bytes()
    path.write_bytes(data[:80] + b"\xff" * (len(data) - 100) + data[-20:])
    assert read_header(path).width == W  # only decoding shows it
    with pytest.raises(UserError, match=r"x\.png: cannot be read as an image \("):
        read_bgr(path)


def test_an_orientation_in_any_place_of_a_png_is_in_its_header(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = exif.tobytes()
    stored = [profile.hex()[i : i + 72] for i in range(0, 2 * len(profile), 72)]
    texts = {  # of ImageMagick, and of XMP
        "Raw profile type exif": "\n".join(["", "exif", f"{len(profile):8}", *stored]),
        "XML:com.adobe.xmp": '<x tiff:Orientation="6"/>',
    }
    plain = save(tmp_path / "plain.png", COLOUR).read_bytes()
    assert read_header(tmp_path / "plain.png").height == H
    for key, text in texts.items():
        info = PngImagePlugin.PngInfo()
        info.add_itxt(key, text)
        early = save(tmp_path / "early.png", COLOUR, pnginfo=info)
        ((kind, content, _),) = info.chunks
        chunk = len(content).to_bytes(4, "big") + kind + content
        chunk += zlib.crc32(kind + content).to_bytes(4, "big")
        late = tmp_path / "late.png"  # after the pixels, before the last chunk, as of ExifTool
        late.write_bytes(plain[:-12] + chunk + plain[-12:])
        for path in (early, late):
            header = read_header(path)
            assert (header.height, header.width, header.rotated) == (W, H, True), (key, path)
            assert read_bgr(path).shape == (W, H, 3)


def test_exif_data_that_cannot_be_read_are_left_out(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n       8\nno number")
    path = save(tmp_path / "x.png", COLOUR, pnginfo=info)
    assert read_header(path) == read_header(save(tmp_path / "plain.png", COLOUR))
    assert (rgb(path) == COLOUR).all()


@pytest.mark.parametrize("name", ["x.png", "x.gif", "x.jpg", "x.tif", "x.webp"])
def test_the_pixels_are_those_that_detectron2_reads(tmp_path, name):
    exif = Image.Exif()
    exif[0x0112] = 1 if name == "x.tif" else 6  # detectron2 turns a TIFF twice
    frames = {"save_all": True, "append_images": [Image.new("RGB", (W, H))]}
    path = save(tmp_path / name, COLOUR, exif=exif, **(frames if name in ("x.gif",) else {}))
    assert (read_bgr(path) == read_image(str(path), format="BGR")).all()


@pytest.mark.parametrize(
    "read",
    [
        read_bgr,
        read_header,
        lambda path: read_bands(path, 3),
        lambda path: read_bands_header(path, 3),
        lambda path: read_picture({"file_name": str(path)}),
        lambda path: _read_mask(path.name, [str(path.parent)]),
        read_ids,
        lambda path: _read_numbers(path, np.zeros((256, 3), np.uint8)),
    ],
)
def test_an_eps_file_starts_no_program(tmp_path, monkeypatch, read):
    started = tmp_path / "started"
    script = tmp_path / "gs"
    script.write_text(f"#!/bin/sh\ntouch '{started}'\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", str(script))
    path = tmp_path / "photo.png"  # the content counts, not the name
    Image.fromarray(picture(8, 8)).save(path, format="EPS")
    with pytest.raises(UserError, match=r"EPS is a program that draws; .* Save the image as PNG"):
        read(path)
    assert "EPS is a program" in read_image_facts(str(path)).fault
    assert not started.exists()
    with contextlib.suppress(Exception), Image.open(path) as image:
        image.load()
    assert started.exists()  # by Pillow, when nobody refuses
