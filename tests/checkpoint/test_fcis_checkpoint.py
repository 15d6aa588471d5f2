"""FCIS's weights of another class count: fine-tuning works, and a wrong file is another error."""

import logging

import pytest
import torch
from tiny_fcis import fcis_cfg, fcis_model

from mask_rcnn_ext import UserError
from mask_rcnn_ext.checkpoint.checkpointer import Checkpointer
from mask_rcnn_ext.checkpoint.convert_classes import convert_weights
from mask_rcnn_ext.proposals.rpn import get_rpn_keys


@pytest.fixture
def three_classes(tmp_path):
    path = tmp_path / "three.pth"
    torch.save({"model": fcis_model(fcis_cfg()).state_dict()}, path)
    return str(path)


def test_prediction_names_the_class_counts(three_classes):
    model = fcis_model(fcis_cfg(num_classes=5))
    with pytest.raises(UserError, match=r"has 3 classes, the config says 5.*NUM_CLASSES 3"):
        Checkpointer(model).load(three_classes, strict=True)


def test_fine_tuning_starts_the_score_maps_from_scratch(three_classes, caplog):
    model = fcis_model(fcis_cfg(num_classes=5))
    before = model.roi_heads.score_maps.weight.clone()
    with caplog.at_level(logging.INFO):
        Checkpointer(model).load(three_classes, strict=False)
    assert "roi_heads.score_maps" in caplog.text
    assert "the weights have 3 classes and the data has 5" in caplog.text
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert torch.equal(model.roi_heads.score_maps.weight, before)
    loaded = torch.load(three_classes, weights_only=True)["model"]
    assert torch.equal(model.roi_heads.box_maps.weight, loaded["roi_heads.box_maps.weight"])


def test_the_score_maps_of_as_many_other_classes_start_from_scratch(tmp_path):
    first = fcis_model(fcis_cfg())
    Checkpointer(first, str(tmp_path), class_names=["cat", "dog", "cow"]).save("first")
    torch.manual_seed(5)
    model = fcis_model(fcis_cfg())
    torch.nn.init.normal_(model.roi_heads.score_maps.weight)
    before = model.roi_heads.score_maps.weight.clone()
    checkpointer = Checkpointer(model, class_names=["bolt", "nut", "ring"])
    checkpointer.load(str(tmp_path / "first.pth"), strict=False)
    assert torch.equal(model.roi_heads.score_maps.weight, before)
    assert torch.equal(model.roi_heads.box_maps.weight, first.roi_heads.box_maps.weight)


def test_another_number_of_bins_is_no_class_count(three_classes):
    model = fcis_model(fcis_cfg("MODEL.FCIS.NUM_BINS", "3"))
    with pytest.raises(UserError, match=r"does not fit the model: .*(score|box)_maps"):
        Checkpointer(model).load(three_classes, strict=True)


def test_its_classes_are_not_converted(three_classes):
    weights = torch.load(three_classes, weights_only=True)["model"]
    with pytest.raises(UserError, match="FCIS has no such layer and cannot be converted"):
        convert_weights(weights, ["a", "b", "c"], ["a"])


@pytest.mark.parametrize("key", ["OHEM", "MASK_VOTING"])
def test_its_keys_are_none_of_the_rpn(key):
    assert get_rpn_keys(fcis_cfg(f"MODEL.FCIS.{key}", "False")) == get_rpn_keys(fcis_cfg())
    assert get_rpn_keys(fcis_cfg("MODEL.RCNN.CROP_SIZE", "99")) == get_rpn_keys(fcis_cfg())
