"""What is kept of an image file, and which images are found to be equal or alike."""

import io

import numpy as np
import pytest
from PIL import Image

from mask_rcnn_ext.data.image_facts import (
    find_alike,
    find_equal_pixels,
    read_image_facts,
    scan_images,
)


def picture(seed: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((80, 60), Image.Resampling.BICUBIC)


def facts_of(folder, **images):
    paths = {}
    for name, image in images.items():
        path = folder / name.replace("_", ".")
        image.save(path)
        paths[str(path)] = image.size[::-1]
    return list(scan_images(paths).values())


@pytest.mark.parametrize(
    ("mode", "name", "kind"),
    [
        ("RGB", "a.jpg", "JPEG RGB, 8 bit"),
        ("L", "a.png", "PNG grey, 8 bit"),
        ("P", "a.gif", "GIF palette, 8 bit"),
        ("1", "a.tif", "TIFF black and white, 1 bit"),
        ("RGBA", "a.png", "PNG RGB with alpha, 8 bit"),
    ],
)
def test_format_mode_and_depth(tmp_path, mode, name, kind):
    picture(0).convert(mode).save(tmp_path / name)
    facts = read_image_facts(str(tmp_path / name))
    assert (facts.kind, facts.width, facts.height, facts.fault) == (kind, 80, 60, "")


def test_files_that_cannot_be_used(tmp_path):
    Image.fromarray(np.zeros((6, 8), dtype=np.uint16)).save(tmp_path / "deep.png")
    deep = read_image_facts(str(tmp_path / "deep.png"))
    assert "more than 8 bits" in deep.fault
    assert deep.kind == "PNG grey, 16 bit"
    (tmp_path / "text.png").write_text("no image")
    assert "cannot be read" in read_image_facts(str(tmp_path / "text.png")).fault
    picture(0).save(tmp_path / "a.png")
    facts = read_image_facts(str(tmp_path / "a.png"), (60, 81))
    assert "expected 81 x 60 pixels" in facts.fault


def test_equal_pixels_in_other_files(tmp_path):
    a, b = picture(1), picture(2)
    facts = facts_of(tmp_path, a_png=a, b_bmp=b, c_bmp=a, d_png=a.transpose(Image.ROTATE_90))
    assert find_equal_pixels(facts) == [[0, 2]]


def test_copies_in_another_size_and_quality_look_alike(tmp_path):
    images = {f"{i}_png": picture(i) for i in range(20)}
    buffer = io.BytesIO()
    images["3_png"].resize((48, 36)).save(buffer, "JPEG", quality=50)
    brighter = Image.eval(images["7_png"], lambda v: v // 2 + 60)
    plain = Image.new("RGB", (80, 60), (5, 5, 5))
    facts = facts_of(tmp_path, **images, e_png=Image.open(buffer), f_png=brighter, g_png=plain)
    assert sorted(find_alike(facts)) == [(3, 20), (7, 21)]
    assert find_alike(facts[:1]) == find_alike([]) == []


def test_alike_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("mask_rcnn_ext.data.image_facts._BLOCK", 2)
    same = picture(0)
    others = {f"{i}_png": picture(i) for i in range(1, 6)}
    facts = facts_of(tmp_path, a_png=same, **others, z_png=Image.eval(same, lambda v: v // 2))
    assert find_alike(facts) == [(0, 6)]
