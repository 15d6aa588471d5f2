"""tools/inspect_model.py prints what a checkpoint holds, and what it lacks."""

import pickle

import inspect_model as tool  # tools/ is on the path
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from small_runs import read_error
from support import write_coco
from tiny_model import tiny_cfg, tiny_model

from mask_rcnn_ext.checkpoint.checkpointer import Checkpointer
from mask_rcnn_ext.checkpoint.description import describe_run
from mask_rcnn_ext.files import file_sha256


def inspect(path, capsys) -> list[str]:
    assert tool.main([str(path)]) == 0
    return capsys.readouterr().out.splitlines()


def test_what_a_file_of_a_run_says(tmp_path, capsys):
    cfg, json_file = tiny_cfg(2), write_coco(tmp_path / "data", images=1)[0]
    cfg.DATASETS.TEST, cfg.MASK_RCNN_EXT.DATA.VAL_JSON = ("own_val",), str(json_file)
    cfg.MASK_RCNN_EXT.CLASS_NAMES = ["cat", "dog"]
    checkpointer = Checkpointer(
        tiny_model(2), str(tmp_path), class_names=["cat", "dog"], description=describe_run(cfg, 7)
    )
    best = {"metric": "segm/AP", "value": 45.5, "iteration": 9}
    checkpointer.save_weights("model_best", iteration=9, best=best)
    lines = inspect(tmp_path / "model_best.pth", capsys)
    for expected in (
        "classes: cat, dog (2)",
        "images: 3 channels, BGR (INPUT.FORMAT)",
        "  resized to 64 pixels on the shorter side, at most 96 on the longer one "
        "(INPUT.MIN_SIZE_TEST, INPUT.MAX_SIZE_TEST)",
        "  minus [103.53, 116.28, 123.675] (MODEL.PIXEL_MEAN)",
        "trained for: 10 iterations",
        "best model: segm/AP 45.5",
        "seed: 7",
        "started from: random weights",
        f"test data: own_val, annotations.json, SHA-256 {file_sha256(str(json_file))}",
        "  MODEL.ROI_HEADS.NUM_CLASSES: 2",
        "  MASK_RCNN_EXT.CLASS_NAMES: ['cat', 'dog']",
    ):
        assert expected in lines
    assert not any("MODEL.PIXEL_STD:" in line or "WEIGHTS:" in line for line in lines)  # defaults


@pytest.mark.parametrize(("mean", "said"), [([1.0], "1 channel,"), ([1.0] * 6, "6 channels,")])
def test_the_channels_of_a_reader_of_its_own_are_counted(tmp_path, capsys, mean, said):
    cfg = tiny_cfg(2)
    cfg.MODEL.PIXEL_MEAN = mean
    torch.save({"model": tiny_model(2).state_dict(), **describe_run(cfg, 7)}, tmp_path / "m.pth")
    assert f"images: {said} BGR (INPUT.FORMAT)" in inspect(tmp_path / "m.pth", capsys)


def test_a_model_that_resizes_no_image_says_so(tmp_path, capsys):
    cfg = tiny_cfg(2)
    cfg.INPUT.MIN_SIZE_TEST = 0
    torch.save({"model": tiny_model(2).state_dict(), **describe_run(cfg, 7)}, tmp_path / "m.pth")
    assert "  not resized (INPUT.MIN_SIZE_TEST 0)" in inspect(tmp_path / "m.pth", capsys)


def test_the_weights_of_each_part_are_counted(tmp_path, capsys):
    weights = {
        "backbone.conv.weight": torch.zeros(4, 3, 2, 2), "backbone.conv.bias": torch.zeros(4),
        "roi_heads.mask_head.w": torch.zeros(5), "roi_heads.box_head.w": torch.zeros(1000, 2),
        "epoch": torch.tensor(3),
    }  # fmt: skip
    torch.save({"model": weights}, tmp_path / "m.pth")
    lines = inspect(tmp_path / "m.pth", capsys)
    start = lines.index("weights, with the statistics of norms: 2,058")
    assert lines[start + 1 : start + 5] == [
        "  backbone: 52",
        "  roi_heads.mask_head: 5",
        "  roi_heads.box_head: 2,000",
        "  epoch: 1",
    ]


@pytest.mark.parametrize(("key", "name"), [("blobs", "m.pkl"), ("model_state", "m.pyth")])
def test_the_weights_of_other_programs_are_counted(tmp_path, capsys, key, name):
    content = {key: {"conv1_w": np.zeros((2, 3), np.float32)}}
    if name.endswith(".pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / name)
    assert "weights, with the statistics of norms: 6" in inspect(tmp_path / name, capsys)


def test_what_a_file_lacks_is_said(tmp_path, capsys):
    torch.save(tiny_model(2).state_dict(), tmp_path / "old.pth")
    lines = inspect(tmp_path / "old.pth", capsys)
    assert "classes: their names are not in the file" in lines
    assert "provenance: not in the file (versions, data, seed)" in lines
    assert lines[-1].startswith(f"config: {tmp_path / 'old.pth'} contains no config")


def test_a_file_of_somebody_else_cannot_steer_the_terminal(tmp_path, capsys):
    content = {"class_names": ["a\x1b[2Jb\nseed: 1"], "provenance": {"data": 3, "seed": "\r9"}}
    torch.save({"model": 7, **content, "config": "A: 1", "iteration": "x"}, tmp_path / "m.pth")
    lines = inspect(tmp_path / "m.pth", capsys)
    assert r"classes: a\x1b[2Jb\nseed: 1 (1)" in lines
    assert r"seed: \r9" in lines
    assert lines[-2:] == ["config: 1 value other than the defaults", "  A: 1"]


def test_the_config_of_a_model_with_keys_of_a_project_is_printed(tmp_path, capsys):
    cfg = tiny_cfg(2)
    cfg.MODEL.PROJECT = CfgNode({"WEIGHT": 0.3})
    torch.save({"model": tiny_model(2).state_dict(), **describe_run(cfg, 7)}, tmp_path / "m.pth")
    lines = inspect(tmp_path / "m.pth", capsys)
    assert "  MODEL.ROI_HEADS.NUM_CLASSES: 2" in lines
    assert "  MODEL.PROJECT.WEIGHT: 0.3" in lines
    assert "images: 3 channels, BGR (INPUT.FORMAT)" in lines


@pytest.mark.parametrize("content", [None, b"no checkpoint"])
def test_a_file_that_cannot_be_read(tmp_path, capsys, content):
    if content:
        (tmp_path / "m.pth").write_bytes(content)
    assert tool.main([str(tmp_path / "m.pth")]) == 2
    assert "m.pth" in read_error(capsys)
