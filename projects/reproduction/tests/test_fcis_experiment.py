"""The FCIS experiment: its runs, and what is measured in the true boxes."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from reproduction.fcis import change_measurement, experiment
from reproduction.fcis.experiment import (
    EXPERIMENT_MODELS,
    Measurement,
    NestedRun,
    collect,
    measure_data,
    plan_experiment,
)
from reproduction.fcis.given_boxes import predict_in_true_boxes
from reproduction.fcis.inference_changes import list_changes
from reproduction.fcis.own_proposals import predict_with_own_proposals

from mask_rcnn_ext import load_config
from mask_rcnn_ext.data.embedded import EMBEDDED
from mask_rcnn_ext.data.mapper import ImageMapper
from mask_rcnn_ext.modeling.precision import prepare_model
from mask_rcnn_ext.overlap.detections import load_truth

FOUR = "four_nested"


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """Return four images of `nested_shapes_val`, known to detectron2 as "four_nested"."""
    folder, data = tmp_path_factory.mktemp("nested") / "val", EMBEDDED["nested_shapes"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(data.splits, "val", 4)
        data.draw_split("val", folder)
    ids = MetadataCatalog.get("nested_shapes_val").thing_dataset_id_to_contiguous_id
    metadata = MetadataCatalog.get(FOUR)
    metadata.set(image_root=str(folder), thing_dataset_id_to_contiguous_id=ids)
    yield load_truth(folder / "annotations.json")
    MetadataCatalog.pop(FOUR)


def small_model(variant):
    """Return config and model of a variant, narrow and with random weights."""
    options = ["MODEL.DEVICE", "cpu", "MASK_RCNN_EXT.TINY_RESNET.CHANNELS", "[8, 16, 8, 16]"]
    cfg = load_config(NestedRun.under("", variant, 1).config_file, options)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for parameter in model.roi_heads.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return cfg, prepare_model(cfg, model)


def test_the_models_are_trained_seed_by_seed():
    runs = plan_experiment("out", 3)
    assert [run.variant for run in runs[:4]] == list(EXPERIMENT_MODELS)
    assert len(runs) == 10
    assert len(plan_experiment("out", 1)) == 4


@pytest.mark.parametrize("voting", [None, False, True])
def test_detections_are_those_of_the_model(truth, voting):
    """The masks and boxes that are measured are the ones that the model itself returns."""
    cfg, model = small_model("mask_rcnn_tiny_nested" if voting is None else "fcis_tiny_nested_k3")
    if voting is None:
        predictor = model.roi_heads.box_predictor
        predictor.test_score_thresh = 0.0
        for layer in (predictor.cls_score, predictor.bbox_pred):  # else boxes leave the image
            torch.nn.init.normal_(layer.weight, std=1e-4)
    model.mask_voting = voting
    masks = next(predict_with_own_proposals(cfg, model, truth, FOUR))
    image = truth.imgs[masks.instances.image_id]
    path = str(Path(MetadataCatalog.get(FOUR).image_root) / image["file_name"])
    with torch.no_grad():
        (result,) = model([ImageMapper(cfg, is_train=False)({**image, "file_name": path})])
    expected = result["instances"]
    found = masks.voted.instances if voting else masks.instances
    crops = [found.decode_detection(index) for index in range(len(found.scores))]
    kept = [index for index, crop in enumerate(crops) if crop.area or not voting]
    assert len(kept) == len(expected) > 2
    whole = slice(0, image["height"]), slice(0, image["width"])
    for index, mask in zip(kept, expected.pred_masks.numpy(), strict=True):
        np.testing.assert_array_equal(crops[index].cut(*whole), mask)
    if not voting:
        boxes = expected.pred_boxes.tensor.numpy()
        np.testing.assert_allclose(found.detection_rois, boxes, atol=1e-3)
    if voting is not None:
        votes = [len(masks.voted.find_ends(index)) for index in range(len(crops))]
        assert min(votes) >= 1
        assert max(votes) > 1


@pytest.mark.parametrize("variant", ["mask_rcnn_tiny_nested", "fcis_tiny_nested_k3"])
def test_every_object_gets_the_mask_of_its_box_and_class(truth, variant):
    cfg, model = small_model(variant)
    for masks in itertools.islice(predict_in_true_boxes(cfg, model, truth, FOUR), 2):
        count = len(truth.imgToAnns[masks.instances.image_id])
        assert masks.soft.shape == (count, 21, 21)
        assert len(masks.masks) == count == len(masks.predictions)
        for soft, (mask, box) in zip(masks.soft, masks.predictions.values(), strict=True):
            x1, y1, x2, y2 = box.astype(int)
            pasted = mask.cut(slice(y1, y2), slice(x1, x2))
            assert mask.area == np.count_nonzero(pasted), "nothing lies outside of the box"
            assert pasted.mean() == pytest.approx((soft >= masks.threshold).mean(), abs=0.1)


def test_results_of_a_measured_run(truth, tmp_path, monkeypatch):
    """One run: its records are kept in a file, and the numbers of the model come from there."""
    (run, *_) = plan_experiment(tmp_path, 1)
    run.folder.mkdir(parents=True)
    measured = (*small_model(run.variant), truth, FOUR)
    monkeypatch.setattr(experiment, "load_measured", lambda _: measured)
    monkeypatch.setattr(experiment, "measure_data", lambda name: {"name": name})
    monkeypatch.setattr(
        NestedRun, "results", lambda _: {"segm": {"AP": 1.0}, "run": {"train_seconds": 2.0}}
    )
    Measurement(run).make(False)
    lines = [{"iteration": i, "segm/AP": 10.0 + i, "bbox/AP": 20.0} for i in (749, 1499)]
    (run.folder / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    content = collect([run], say=lambda _: None)
    (model,) = content["models"].values()
    pairs = model["same_part"]["k = 3"]
    assert 0 < pairs["one_class/same"]["value"] < 100
    difference = pairs["one_class/same"]["value"] - pairs["one_class/other"]["value"]
    assert pairs["one_class/difference"]["value"] == pytest.approx(difference)
    assert len(model["places"]) == 84
    own = model["own_proposals"]
    assert own["objects"] >= 8
    assert set(own) == {
        *("objects", "matched", "same_part", "errors", "box_sides"),
        "axis",
        "places",
    }
    assert model["voted"] is None, "Mask R-CNN has no votes"
    assert model["runs"][0]["train_seconds"] == 2.0
    assert model["runs"][0]["evaluations"] == [
        {"iteration": 750, "bbox": 20.0, "segm": 759.0},
        {"iteration": 1500, "bbox": 20.0, "segm": 1509.0},
    ]
    classes = content["contrasts"]["same_part"]["classes"][run.variant]["k = 3"]["value"]
    one, two = (pairs[f"{which}/difference"]["value"] for which in ("one_class", "two_classes"))
    assert classes == pytest.approx(one - two)


def test_changes_in_testing_are_measured(truth, tmp_path, monkeypatch):
    """One run of the real model: every change draws other masks, and the file has them all."""
    (run,) = [r for r in plan_experiment(tmp_path, 1) if r.variant == "fcis_tiny_nested_k3"]
    measured = (*small_model(run.variant), truth, FOUR)
    monkeypatch.setattr(change_measurement, "load_measured", lambda _: measured)
    first = sorted(truth.imgs)[:1]
    monkeypatch.setattr(
        change_measurement,
        "predict_in_true_boxes",
        lambda *measured, draw: predict_in_true_boxes(*measured, first, draw),
    )
    step = change_measurement.ChangeMeasurement(run)
    run.folder.mkdir(parents=True)
    step.make(False)
    assert step.state() == "done"
    found = step.read()
    assert list(found) == list(list_changes(3))
    wrong = [
        records[0].same_part["k = 3"].sums["one_class/other/wrong"] for records in found.values()
    ]
    assert len(set(wrong)) == 4


def test_part_shares_of_the_data(truth, monkeypatch):
    """Nested pairs read about 11 % and 50 % of their common area from one part."""
    monkeypatch.setattr(experiment, "load_dataset", lambda _: truth)
    for shares in measure_data("nested_shapes_val").values():
        assert 5 <= shares["k = 7"] <= 20
        assert 35 <= shares["k = 3"] <= 65
