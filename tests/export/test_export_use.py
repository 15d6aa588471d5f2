"""Exported files in use: several threads, and files that were copied in part."""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny_model import picture

from mask_rcnn_ext import Predictor
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.export.export_model import export_model


def test_threads_may_share_a_predictor(path):
    predictor = Predictor(path)
    images = [picture(60 + 5 * seed, 90, seed) for seed in range(6)]
    expected = predictor(images)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(predictor, images * 4))
    for ours, theirs in zip(found, expected * 4, strict=True):
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-4)


def test_an_openvino_file_needs_its_second_file(openvino_path, tmp_path):
    alone, other = tmp_path / "model.xml", tmp_path / "model.bin"
    shutil.copy(openvino_path, alone)
    with pytest.raises(UserError, match=r"model\.bin is not next to it.*Copy both files"):
        Predictor(alone)
    other.write_bytes(openvino_path.with_suffix(".bin").read_bytes()[:100])
    with pytest.raises(UserError, match=r"openvino cannot open it .*Incorrect weights in bin file"):
        Predictor(alone)


def test_a_config_that_was_not_saved_fits(cfg, onnx_path):
    """Its nested tuples are lists in the file."""
    assert len(Predictor(cfg, onnx_path)(picture(50, 90, 5)))


def test_a_model_with_the_keys_of_a_project(cfg, images, tmp_path):
    cfg = cfg.clone()
    cfg.MODEL.OF_A_PROJECT = "old"
    path = export_model(cfg, tmp_path, images)
    assert len(Predictor(cfg, path)(images[0]))
    with pytest.raises(UserError, match=r"unknown config key 'MODEL\.OF_A_PROJECT'"):
        Predictor(path)
    cfg.MODEL.OF_A_PROJECT = "new"
    with pytest.raises(UserError, match=r"OF_A_PROJECT \(exported with 'old', now 'new'\)"):
        Predictor(cfg, path)


@pytest.mark.parametrize(
    ("format", "names"),
    [
        ("onnx", ["export.json", "model.onnx"]),
        ("openvino", ["export.json", "model.xml", "model.bin"]),
        ("safetensors", ["model.safetensors"]),
    ],
)
def test_a_file_that_no_export_has_written_stays(format, names, cfg, images, tmp_path):
    if format == "openvino":
        pytest.importorskip("openvino", reason='needs pip install "mask_rcnn_ext[openvino]"')
    for name in names:
        (tmp_path / name).write_text("[1]")
        with pytest.raises(UserError, match=rf"that no export has written: {re.escape(name)}\."):
            export_model(cfg, tmp_path, images, format=format)
        assert (tmp_path / name).read_text() == "[1]"
        (tmp_path / name).unlink()
    (tmp_path / "mine.txt").touch()
    for _ in range(2):  # an earlier export is replaced
        export_model(cfg, tmp_path, images, format=format)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", *names}
