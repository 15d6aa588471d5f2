"""What the report computes: changed keys, the choice of images, masks, charts."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from mask_rcnn_ext.config import get_cfg
from mask_rcnn_ext.data.bands import read_picture
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.report.charts import run_charts, smooth
from mask_rcnn_ext.report.instances import decode_masks
from mask_rcnn_ext.report.run_data import (
    list_changed_keys,
    read_predictions,
    read_run,
    spread_evenly,
)

SIDE = 40


@pytest.fixture
def run_folder(tmp_path):
    (tmp_path / "config.yaml").write_text(get_cfg().dump(), encoding="utf-8")
    (tmp_path / "results.json").write_text('{"segm": {"AP": 1.0}, "run": {}}', encoding="utf-8")
    return tmp_path


def test_damaged_results_are_an_error_that_names_the_file(run_folder):
    (run_folder / "results.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"results\.json: not json"):
        read_run(run_folder)


@pytest.mark.parametrize("name", ["results.json", "coco_instances_results.json"])
def test_a_file_without_permission_is_an_error_that_names_it(run_folder, monkeypatch, name):
    predictions = run_folder / "inference" / "some_test" / "coco_instances_results.json"
    predictions.parent.mkdir(parents=True)
    predictions.write_text("[]", encoding="utf-8")
    run = read_run(run_folder)

    def denied(path, *args, **kwargs):
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, *args, **kwargs)

    monkeypatch.setattr("mask_rcnn_ext.files.open", denied, raising=False)
    with pytest.raises(UserError, match=f"cannot read .*{name}: Permission denied"):
        read_predictions(read_run(run_folder) if name == "results.json" else run, "some_test")


def test_metrics_of_a_killed_and_resumed_run(run_folder):
    lines = [
        {"iteration": 19, "total_loss": 3.0},
        {"iteration": 39, "total_loss": float("nan")},
        {"iteration": 59, "total_loss": 9.0},
        {"iteration": 39, "total_loss": 2.0},  # resumed here
        {"iteration": 59, "total_loss": 1.0, "segm/AP": None, "lr": float("nan")},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"iteration": 79, "tot'
    for end in (b"", b"\xff"):  # a disk may also keep a part of a letter, or other bytes
        (run_folder / "metrics.json").write_bytes(text.encode() + end)
        run = read_run(run_folder)
        assert run.history == {"total_loss": ([19, 39, 59], [3.0, 2.0, 1.0])}
        assert run.missing == ["metrics.json: 1 damaged line(s) left out."]


def test_changed_keys_are_those_that_were_set(tmp_path):
    cfg = get_cfg()
    cfg.SOLVER.STEPS = (10, 20)
    cfg.MASK_RCNN_EXT.CHANNELS_LAST = True
    (tmp_path / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    assert list_changed_keys(read_run(tmp_path).config) == [
        ("MASK_RCNN_EXT.CHANNELS_LAST", "True", ""),
        ("SOLVER.STEPS", "[10, 20]", "[30000]"),
    ]


def test_images_are_chosen_evenly():
    assert spread_evenly(9, 3) == [1, 4, 7]
    assert spread_evenly(2, 12) == [0, 1]
    assert spread_evenly(0, 12) == []
    chosen = spread_evenly(200, 12)
    assert len(set(chosen)) == 12
    assert max(np.diff(chosen)) - min(np.diff(chosen)) <= 1


def test_a_mask_that_pycocotools_could_not_read_is_refused():
    """Predictions and registered data reach the pictures without a check of their own."""
    far = [[5, 5, 20, 5, 20, -2147483648, 5, 20]]
    with pytest.raises(UserError, match="broken mask 1 of an image: polygon that leads more"):
        decode_masks([[[5, 5, 20, 5, 20, 20]], far], SIDE, SIDE)
    with pytest.raises(UserError, match=r"broken mask 0 .* bitmap of \(9, 8\), the image is"):
        decode_masks([np.zeros((9, 8), dtype=np.uint8)], SIDE, SIDE)


def test_polygons_rle_and_bitmaps_decode_to_the_same_mask():
    bitmap = np.zeros((SIDE, SIDE), dtype=np.uint8)
    bitmap[3:13, 2:12] = 1
    rle = mask_util.encode(np.asfortranarray(bitmap))
    polygon = [[2.0, 3.0, 12.0, 3.0, 12.0, 13.0, 2.0, 13.0]]
    masks = decode_masks([polygon, rle, bitmap], SIDE, SIDE).unpack().numpy()
    assert (masks == bitmap.astype(bool)).all()
    half = decode_masks([bitmap], SIDE, SIDE, shrink=0.5).unpack()
    assert half.shape == (1, SIDE // 2, SIDE // 2)
    assert half.sum() == pytest.approx(25, abs=5)


def test_an_image_of_another_size_than_its_annotations_is_an_error(tmp_path):
    Image.new("RGB", (8, 4)).save(tmp_path / "a.png")
    record = {"file_name": str(tmp_path / "a.png"), "height": 8, "width": 4}
    with pytest.raises(UserError, match=r"expected 4 x 8 pixels .* got 8 x 4"):
        read_picture(record)


def test_the_charts_of_a_run():
    """The last values are in the legends; long curves stay small; the same run, the same SVG."""
    noise = np.random.default_rng(0).normal(size=9000).tolist()
    history = {
        "total_loss": (list(range(9000)), noise),
        "loss_mask": ([19, 39], [0.75, 0.5]),
        "loss_mask/old": ([19], [1.0]),
        "own_val/segm/AP": ([19, 39, 59], [0.0, 41.04, 20.0]),
        "lr": ([0], [0.0]),
    }
    charts = run_charts(history)
    assert [chart.title for chart in charts] == [
        *("Total loss", "Losses by part", "Test AP", "Learning rate"),
    ]
    assert charts[1].legend == [(0, "loss_mask", "0.5")]
    assert charts[2].legend == [(0, "own_val/mask AP", "20.0")]
    assert charts[2].svg.count("<use") == 3  # a mark for each value
    assert charts[3].svg.count("<use") == 1  # a line through one point would not be seen
    assert charts[2].alt.endswith("own_val/mask AP 20.0")
    assert all(len(chart.svg) < 80_000 for chart in charts)
    assert all("var(--s0)" in chart.svg and "#2f5fd0" not in chart.svg for chart in charts)
    assert [chart.svg for chart in run_charts(history)] == [chart.svg for chart in charts]
    assert run_charts({}) == []


def test_the_charts_of_a_run_with_validation_losses():
    """Each is drawn beside its training loss, and the best iteration is marked."""
    history = {
        "total_loss": (list(range(60)), [3.0] * 60),
        "loss_mask": ([19, 39], [0.75, 0.5]),
        "segm/AP": ([19, 39, 60], [0.0, 41.04, 20.0]),
        "validation_loss/total_loss": ([19, 39, 60], [4.0, 2.0, 2.5]),
        "validation_loss/loss_mask": ([19, 39, 60], [0.9, 0.8, 1.7]),
    }
    total, parts, quality = run_charts(history, best=39)
    assert total.legend == [(0, "training", "3"), (1, "validation", "2.5")]
    assert total.svg.count("stroke-dasharray") >= 2  # the dashed curve, the dotted line
    assert total.alt.endswith("at the end training 3, validation 2.5; the best iteration is 39")
    assert parts.legend == [(0, "loss_mask", "0.5")]  # one colour, solid and dashed
    assert parts.svg.count("<use") == 3  # the points of validation
    assert ">best</text>" in quality.svg
    assert ">best</text>" not in parts.svg
    named = {f"{test}/{name}": history[name] for test in "ab" for name in list(history)[3:]}
    total, *_ = run_charts({**named, "total_loss": history["total_loss"]})
    assert total.legend[1:] == [(1, "validation", "2.5")]
    assert ">best</text>" not in total.svg


def test_smoothing_keeps_a_line_and_calms_noise():
    noise = np.random.default_rng(0).normal(size=400)
    assert smooth(noise).std() < 0.4 * noise.std()
    np.testing.assert_allclose(smooth([2.0] * 100), 2.0)
    line = np.arange(400.0)
    np.testing.assert_allclose(smooth(line)[20:-20], line[20:-20])
    assert smooth([1.0]).tolist() == [1.0]
