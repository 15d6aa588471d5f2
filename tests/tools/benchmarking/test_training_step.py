"""The benchmark of a training step: its batch and its comparison, not its times."""

import re

import benchmark
import pytest
import torch
from benchmarking import training
from benchmarking.arguments import build_parser
from tiny_model import tiny_cfg

SMALL = ["training", "--size", "64", "96", "--objects", "3", "--classes", "2", "--rounds", "1"]


def test_its_batch_has_ellipses_inside_the_images():
    args = build_parser("").parse_args([*SMALL, "--images", "2"])
    batch = training.make_batch(args)
    assert [one["image"].shape for one in batch] == [(3, 64, 96)] * 2
    assert not torch.equal(batch[0]["image"], batch[1]["image"])
    for one in batch:
        instances = one["instances"]
        boxes = instances.gt_boxes.tensor
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([96.0, 64, 96, 64])).all()
        assert (instances.gt_masks.get_bounding_boxes().tensor - boxes).abs().max() < 1e-3
        assert instances.gt_classes.max() < 2


def test_it_compares_the_losses(local, monkeypatch, capsys):
    monkeypatch.setattr(training.model_zoo, "get_config", lambda _: tiny_cfg(2))
    monkeypatch.setattr(training, "get_config", lambda _: tiny_cfg(2))
    monkeypatch.setattr(training, "get_amp_dtype", lambda _: None)  # no mixed precision
    assert benchmark.main(SMALL) == 0
    rows = [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    found = {row[1]: row[3] for row in rows if row[0] == "1 x 64 x 96"}
    assert [*found] == ["detectron2", "mask_rcnn_ext", "channels_last, gathered"]
    assert re.fullmatch(r"\d+ losses equal", found["mask_rcnn_ext"])
    assert "losses" in found["channels_last, gathered"]


def test_other_losses_are_seen():
    assert training._compare_losses({"a": 2.0}, {"a": 2.0}) == "1 losses equal"
    found = training._compare_losses({"a": 2.1, "b": 1.0}, {"a": 2.0, "b": 1.0})
    assert found == "losses within 5 %"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cuda"], "use cpu"),
        (["--objects", "0"], "--objects: expected 1 or more, got 0"),
    ],
)
def test_wrong_options_are_errors(options, message, capsys):
    assert benchmark.main([*SMALL, *options]) == 2
    assert message in capsys.readouterr().err
