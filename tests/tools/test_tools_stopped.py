"""SIGTERM in a command that has a temporary folder: the folder goes, and one word says why."""

import os
import signal
import tempfile

import check_dataset
import compute_proposals
import convert_dataset
import export_model
import make_report
import preview_dataset
import pytest
from report_runs import write_run
from small_runs import list_files, write_small_weights
from support import SMALL, TINY_CONFIG, write_coco

from mask_rcnn_ext.export import export_model as exporting


@pytest.fixture
def stop(tmp_path, monkeypatch, capsys):
    """Return a function that stops a command in a function of it, and checks what stays."""

    def stop(tool, owner, name: str, *words) -> None:
        before = list_files(tmp_path)
        monkeypatch.setattr(owner, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
        assert tool.main([str(word) for word in words]) == 143
        assert capsys.readouterr().err.splitlines()[-1] == "interrupted"
        assert list_files(tmp_path) == before
        assert not list((tmp_path / "temporary").iterdir())
        assert not list(tmp_path.rglob(".mask_rcnn_ext-*"))

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    handler = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("the command took no SIGTERM"))
    yield stop
    signal.signal(signal.SIGTERM, handler)


def test_a_report(stop, tmp_path):
    stop(make_report, make_report, "write_report", write_run(tmp_path))


def test_a_preview_a_check_and_a_conversion(stop, tmp_path):
    path, images = write_coco(tmp_path / "data", images=2)
    sheet = ("--json", path, "--images", images, "--output", tmp_path / "sheet.png")
    stop(preview_dataset, preview_dataset, "make_sheet", *sheet)
    pair = ("--train-json", path, "--train-images", images)
    stop(check_dataset, check_dataset, "check_pairs", *pair, "--split", "0.5")
    out = ("--images", images, "--to", "yolo", path, tmp_path / "out")
    stop(convert_dataset, convert_dataset, "write_dataset", *out)


def test_a_computation_of_proposals(stop, tmp_path):
    path, images = write_coco(tmp_path / "data", images=2)
    words = ("--val-json", path, "--val-images", images, "--output", tmp_path / "out")
    stop(compute_proposals, compute_proposals, "compute_proposals", "selective-search", *words)


def test_an_export(stop, tmp_path):
    pytest.importorskip("onnx", reason='needs pip install "mask_rcnn_ext[onnx]"')
    pytest.importorskip("onnxruntime", reason='needs pip install "mask_rcnn_ext[onnx]"')
    keys, images = ("MODEL.DEVICE", "cpu"), write_coco(tmp_path / "data", images=1)[1]
    weights = write_small_weights(tmp_path / "m.pth")
    words = ("--config-file", TINY_CONFIG, "--weights", weights, "--images", images)
    out = ("--output", tmp_path / "out", "--opts", *SMALL, *keys)
    stop(export_model, exporting, "_find_example", *words, *out)
