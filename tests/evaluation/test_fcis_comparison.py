"""The overlap metrics as an evaluator: alone, next to COCO's, in several processes, by config."""

import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluators
from detectron2.structures import Boxes, Instances
from overlap_cases import rectangle
from small_runs import train_small
from support import make_annotation, mask_config, register_json, write_coco

from mask_rcnn_ext import UserError
from mask_rcnn_ext.data.own_data import register_own_data
from mask_rcnn_ext.evaluation import fcis_comparison
from mask_rcnn_ext.evaluation.build import build_evaluator, require_known_evaluators
from mask_rcnn_ext.evaluation.coco import MaskRCNNCOCOEvaluator
from mask_rcnn_ext.evaluation.fcis_comparison import FCISComparisonEvaluator
from mask_rcnn_ext.overlap.comparison import (
    compute_metrics,
    load_results,
    load_truth,
    measure,
)

HEIGHT, WIDTH = 48, 64


@pytest.fixture
def own(tmp_path):
    """Register four images of overlapping rectangles; yield the data set's name and its json."""
    path, images = write_coco(tmp_path / "val", images=4, seed=1)
    register_own_data("", "", str(path), str(images), clean_dir=str(tmp_path / "clean"))
    return "own_val", json.loads(path.read_text())


def outputs_of(content, image_id, shift=0):
    """Return a model's output that is the ground truth, moved to the right."""
    masks, classes, scores = [], [], []
    for a in (a for a in content["annotations"] if a["image_id"] == image_id):
        x, y, w, h = a["bbox"]
        masks.append(rectangle(x + shift, y, x + w + shift, y + h, (HEIGHT, WIDTH)))
        classes.append({3: 0, 10: 1}[a["category_id"]])
        scores.append(0.9 - 0.01 * len(scores))
    instances = Instances((HEIGHT, WIDTH))
    instances.pred_masks = torch.from_numpy(np.stack(masks))
    instances.pred_boxes = Boxes(torch.zeros(len(masks), 4))
    instances.scores, instances.pred_classes = torch.tensor(scores), torch.tensor(classes)
    return {"instances": instances}


def run(evaluator, content, shift=0, images=(1, 2, 3, 4)):
    evaluator.reset()
    for image_id in images:
        evaluator.process([{"image_id": image_id}], [outputs_of(content, image_id, shift)])
    return evaluator.evaluate()


def test_the_evaluator_measures_what_a_result_file_gives(own, tmp_path):
    name, content = own
    both = DatasetEvaluators(
        [
            MaskRCNNCOCOEvaluator(name, tasks=("bbox", "segm"), output_dir=str(tmp_path)),
            FCISComparisonEvaluator(name, tmp_path),
        ]
    )
    results = run(both, content, shift=2)
    assert list(results) == [
        *("bbox", "segm", "boundary", "overlap", "overlap_same", "errors"),
        "lines",
    ]
    truth = load_truth(MetadataCatalog.get(name).json_file)
    summary = compute_metrics(
        measure(truth, load_results(tmp_path / "coco_instances_results.json", truth))
    )
    for task in ("boundary", "overlap", "overlap_same", "errors"):
        assert repr(results[task]) == repr(summary[task])
    assert summary["AP"]["AP"] == pytest.approx(results["segm"]["AP"])
    written = json.loads((tmp_path / "fcis_comparison.json").read_text())
    assert written["dataset"] == name
    assert written["metrics"]["AP"]["AP"] == pytest.approx(results["segm"]["AP"])
    assert "against_reference" not in written


def test_the_evaluator_compares_with_a_reference(own, tmp_path, caplog):
    name, content = own
    coco = MaskRCNNCOCOEvaluator(name, tasks=("segm",), output_dir=str(tmp_path))
    run(coco, content, shift=3)
    reference = tmp_path / "coco_instances_results.json"
    with caplog.at_level("INFO"):
        results = run(FCISComparisonEvaluator(name, tmp_path, reference), content)
    assert results["against_reference"]["AP_AP"] > 5
    assert "95 % interval" in caplog.text
    written = json.loads((tmp_path / "fcis_comparison.json").read_text())
    entry = written["against_reference"]["AP/AP"]
    assert entry["a"] == pytest.approx(100)
    assert entry["low"] <= entry["difference"] <= entry["high"]


def test_same_part_errors_of_a_model_with_parts(own, tmp_path, caplog):
    """The boxes are all 0, so no pixel lies in two RoIs; the names are there, without numbers."""
    name, content = own
    evaluator = FCISComparisonEvaluator(name, tmp_path, parts=7)
    with caplog.at_level("INFO"):
        results = run(evaluator, content)
    assert next(iter(results["lines"])) == "axis_excess"
    assert math.isnan(results["lines"]["same_part_one_class_difference"])
    written = json.loads((tmp_path / "fcis_comparison.json").read_text())
    assert written["parts"] == 7
    assert written["lines"]["same_part/one_class/difference"]["value"] is None
    assert "Pixel error where both RoIs read the same part" in caplog.text
    assert list(run(FCISComparisonEvaluator(name, None), content)["lines"]) == ["axis_excess"]


def test_as_many_detections_count_as_for_coco(tmp_path, forget_data_sets):
    """150 small objects of one class, all found."""
    boxes = [(4 * (n % 15), 4 * (n // 15), 3, 3) for n in range(150)]
    objects = [make_annotation(n + 1, 1, 3, box) for n, box in enumerate(boxes)]
    content = {
        "images": [{"id": 1, "height": HEIGHT, "width": WIDTH}],
        "annotations": objects,
        "categories": [{"id": 3, "name": "cat"}],
    }
    register_json("many", tmp_path / "many.json", content)
    cfg = mask_config(*NAMED, "TEST.DETECTIONS_PER_IMAGE", "150")
    results = run(build_evaluator(cfg, "many", tmp_path), content, images=[1])
    assert results["segm"]["AP"] == results["overlap"]["AP_none"] == pytest.approx(100)
    cfg.TEST.DETECTIONS_PER_IMAGE = 50  # COCO takes 100
    results = run(build_evaluator(cfg, "many", tmp_path), content, images=[1])
    assert results["overlap"]["AP_none"] == pytest.approx(results["segm"]["AP"])
    assert results["segm"]["AP"] == pytest.approx(100 * 67 / 101)  # recalls up to 100 of 150


def test_perfect_predictions(own):
    name, content = own
    results = run(FCISComparisonEvaluator(name, None), content)
    assert results["boundary"]["AP"] == pytest.approx(100)
    # The rectangles' masks lie on one another, so two claim the same pixels even so.
    assert results["errors"].pop("double_claim") > 0
    assert results["errors"] == dict.fromkeys(results["errors"], 0.0)


def test_shares_of_several_processes_are_joined(own, tmp_path, monkeypatch):
    """Two processes see two images each, and one image both; the second one returns nothing."""
    name, content = own
    first, second = (FCISComparisonEvaluator(name, None) for _ in range(2))
    run(first, content, shift=2, images=(1, 2))
    run(second, content, shift=2, images=(2, 3, 4))
    whole = run(FCISComparisonEvaluator(name, None), content, shift=2)
    monkeypatch.setattr(fcis_comparison.comm, "gather", lambda data, dst: [data, second._found])
    assert repr(first.evaluate()) == repr(whole)
    monkeypatch.setattr(fcis_comparison.comm, "is_main_process", lambda: False)
    assert second.evaluate() == {}


def test_an_evaluator_that_saw_nothing_gives_zeros(own):
    evaluator = FCISComparisonEvaluator(own[0], None)
    evaluator.reset()
    results = evaluator.evaluate()
    assert results["boundary"]["AP"] == 0
    assert math.isnan(results["errors"]["leak"])


def test_a_data_set_without_a_json_gets_one(own, tmp_path, forget_data_sets):
    name, content = "own_dicts", own[1]
    DatasetCatalog.register(name, lambda: DatasetCatalog.get(own[0]))
    MetadataCatalog.get(name).set(
        thing_classes=["cat", "dog"], thing_dataset_id_to_contiguous_id={3: 0, 10: 1}
    )
    with pytest.raises(UserError, match="output_dir"):
        FCISComparisonEvaluator(name, None)
    results = run(FCISComparisonEvaluator(name, tmp_path / "out"), content)
    assert results["boundary"]["AP"] == pytest.approx(100)


def test_a_model_without_masks_is_told(own):
    instances = outputs_of(own[1], 1)["instances"]
    instances.remove("pred_masks")
    evaluator = FCISComparisonEvaluator(own[0], None)
    with pytest.raises(UserError, match=r"MODEL\.MASK_ON"):
        evaluator.process([{"image_id": 1}], [{"instances": instances}])


NAMED = ("MASK_RCNN_EXT.EVALUATORS", "['FCISComparisonEvaluator']")


def test_it_is_named_in_a_config(own, tmp_path):
    assert isinstance(build_evaluator(mask_config(), own[0], tmp_path), MaskRCNNCOCOEvaluator)
    evaluator = build_evaluator(mask_config(*NAMED), own[0], tmp_path)
    kinds = [type(part) for part in evaluator._evaluators]
    assert kinds == [MaskRCNNCOCOEvaluator, FCISComparisonEvaluator]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MASK_RCNN_EXT.EVALUATORS", "['FCISComparison']"), "mean 'FCISComparisonEvaluator'"),
        ((*NAMED, "MODEL.MASK_ON", "False"), "predicts none"),
        ((*NAMED, "MODEL.META_ARCHITECTURE", "ProposalNetwork"), "predicts none"),
    ],
    ids=["unknown name", "boxes only", "proposals only"],
)
def test_a_config_that_cannot_be_evaluated_is_refused(own, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        require_known_evaluators(mask_config(*overrides))
    with pytest.raises(UserError, match=message):
        build_evaluator(mask_config(*overrides), own[0], tmp_path)


def test_train_net_prints_it(coco_pair, tmp_path, capsys):
    out = tmp_path / "out"
    keys = ["SOLVER.MAX_ITER", "2", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", *NAMED]
    assert train_small(coco_pair, out, *keys) == 0
    results = json.loads((out / "results.json").read_text())
    assert {"bbox", "segm", "boundary", "overlap", "overlap_same", "errors"} <= set(results)
    assert (out / "inference/own_val/fcis_comparison.json").is_file()
    output = capsys.readouterr()
    assert "Overlap metrics of own_val" in output.out + output.err


@pytest.mark.parametrize("label", [-1, 2])
def test_a_class_that_the_data_set_lacks_is_told(own, label):
    evaluator = FCISComparisonEvaluator(own[0], None)
    output = outputs_of(own[1], 1)
    output["instances"].pred_classes[0] = label
    evaluator.process([{"image_id": 1}], [output])
    with pytest.raises(UserError, match=f"own_val has 2 classes, .* predicted class {label}"):
        evaluator.evaluate()
