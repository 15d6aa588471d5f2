"""The script that draws the docs' pictures: its command is the one in the docs, and its errors."""

import shlex

import draw_docs_images
import pytest
from draw_docs_images import ROOT

from mask_rcnn_ext import UserError


def test_the_augmented_picture_is_made_by_the_command_in_the_docs():
    text = (ROOT / "docs/own_data.md").read_text(encoding="utf-8")
    (block,) = [block for block in text.split("\n\n") if "--output augmented.png" in block]
    command = shlex.split(draw_docs_images._AUGMENTED.format(output="augmented.png"))
    assert shlex.split(block.replace("\\\n", " ")) == ["python", *command]


def test_what_is_missing_is_named_before_a_picture_is_written(tmp_path, monkeypatch):
    args = draw_docs_images.parse_args(["--demo", str(tmp_path), "--dsb2018", str(tmp_path / "no")])
    monkeypatch.setattr(draw_docs_images, "_IMAGES", tmp_path)
    monkeypatch.setattr(draw_docs_images, "CHROMIUM", None)
    with pytest.raises(UserError, match="expected a browser, found none"):
        draw_docs_images.draw_images(args)
    monkeypatch.setattr(draw_docs_images, "CHROMIUM", "chromium")
    with pytest.raises(UserError, match=r"has no report\.html: run `make demo` first"):
        draw_docs_images.draw_images(args)
    for name in ("report.html", "predictions.png", "model_final.pth"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"no has no annotations_train\.json"):
        draw_docs_images.draw_images(args)
    assert not list(tmp_path.glob("demo_*"))
