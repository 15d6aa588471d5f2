"""The benchmark of the levels of speed: what it compares, not its times."""

import re

import benchmark
import pytest
import torch
from benchmarking import inference
from detectron2.structures import Boxes, Instances
from tiny_model import tiny_cfg


def instances(boxes, classes, masks=None):
    found = Instances((10, 10), pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32)))
    found.scores, found.pred_classes = torch.ones(len(boxes)), torch.tensor(classes)
    found.pred_masks = torch.zeros(len(boxes), 10, 10, dtype=torch.bool)
    for mask, box in zip(found.pred_masks, masks or boxes, strict=True):
        x0, y0, x1, y1 = (int(side) for side in box)
        mask[y0:y1, x0:x1] = True
    return found


TWO = [[0, 0, 4, 4], [2, 2, 9, 9]]


def test_the_comparison_by_hand():
    expected = instances(TWO, [0, 1])
    assert inference.compare_instances(instances(TWO, [0, 1]), expected) == "2 equal"
    # In another order, a side moved by half a pixel, a mask of 12 of 16 pixels.
    moved = [[2, 2, 9, 9], [0, 0, 4, 3.5]]
    other = instances(moved, [1, 0], masks=[[2, 2, 9, 9], [0, 0, 4, 3]])
    said = inference.compare_instances(other, expected)
    assert said == "2 of 2 found; boxes within 0.5 px; mask IoU 0.7500 or more"
    said = inference.compare_instances(instances(TWO, [0, 0]), expected)
    assert said == "1 of 2 found; boxes within 0 px; mask IoU 1.0000 or more"
    assert inference.compare_instances(expected[:0], expected) == "0 of 2 found"


def test_it_compares_each_level_with_detectron2(local, monkeypatch, capsys):
    def small(args):
        cfg = tiny_cfg(args.classes)
        cfg.TEST.DETECTIONS_PER_IMAGE = args.detections
        return cfg

    monkeypatch.setattr(inference, "make_config", small)
    options = ["--size", "64", "96", "--detections", "5", "--classes", "3", "--rounds", "1"]
    assert benchmark.main(["inference", *options]) == 0
    out = capsys.readouterr().out
    rows = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()[3:13]]
    for part, level in ((rows.pop(4), "fast"), (rows.pop(4), "fastest")):
        assert part[1] == f"{level}, products alone"
        assert float(part[2]) > 0
    assert [row[1] for row in rows] == ["detectron2", "exact", "fast", "fastest"] * 2
    assert rows[0][-1] == "baseline"
    assert rows[1][3] == "5 equal"
    assert rows[5][3] == "5 equal", "in COCO's format"
    found = re.fullmatch(r"5 of 5 found; boxes within (\S+) px; mask IoU (\S+) or more", rows[2][3])
    assert float(found[1]) < 1e-3
    assert float(found[2]) >= 0.999
    assert "image 64 x 96, classes 3, detections 5" in out


def test_products_are_convolutions_and_matrix_products():
    image, layer = torch.ones(1, 2, 8, 8), torch.nn.Linear(8, 3)
    conv, up = torch.nn.Conv2d(2, 2, 3), torch.nn.ConvTranspose2d(2, 2, 2)
    calls = [
        lambda: conv(image),
        lambda: up(image),
        lambda: layer(image[0, 0]),
        lambda: image @ image,
        lambda: torch.baddbmm(image[0], image[0], image[0]),
    ]
    for call in calls:
        assert inference._time_products(call)[""] > 0
    for call in (lambda: image.relu(), lambda: image + image, lambda: image.sum()):
        assert inference._time_products(call)[""] == 0


def test_an_exported_model_is_another_contender(local, monkeypatch, capsys):
    pytest.importorskip("onnx", reason='needs pip install "mask_rcnn_ext[onnx]"')
    pytest.importorskip("onnxruntime", reason='needs pip install "mask_rcnn_ext[onnx]"')
    make_config = inference.make_config

    def small(args):
        """Return detectron2's config, which has none of our keys, with narrow layers."""
        cfg = make_config(args)
        cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
        cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
        cfg.MODEL.ROI_BOX_HEAD.FC_DIM, cfg.TEST.DETECTIONS_PER_IMAGE = 32, 10
        return cfg

    monkeypatch.setattr(inference, "make_config", small)
    monkeypatch.setattr(inference, "SPEEDS", ())
    options = ["--size", "64", "96", "--classes", "3", "--rounds", "1", "--engine", "onnx"]
    assert benchmark.main(["inference", *options, "--int8"]) == 0
    rows = [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    row, _ = [row for row in rows if row[1:2] == ["onnx"]]
    assert re.match(r"10 (equal|of 10 found)", row[3])
    row, _ = [row for row in rows if row[1:2] == ["onnx, int8"]]
    assert "10 equal" not in row[3], "it was not quantized"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cuda"], "use cpu"),
        (["--size", "0", "96"], "--size: expected 1 or more, got 0"),
        (["--detections", "0"], "--detections: expected 1 or more, got 0"),
        (["--int8"], "also give --engine"),
    ],
)
def test_wrong_options_are_errors(options, message, capsys):
    assert benchmark.main(["inference", *options]) == 2
    assert message in capsys.readouterr().err
