"""PASCAL VOC: a small copy of its folder is read, trained on, with proposals, and evaluated."""

import json
import pickle
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.pascal_voc import register_pascal_voc
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image
from support import SMALL, TINY_CONFIG, run_train_net

from mask_rcnn_ext import UserError, get_cfg
from mask_rcnn_ext.data.catalog import require_datasets
from mask_rcnn_ext.evaluation.build import build_evaluator, require_known_evaluators
from mask_rcnn_ext.proposals.file import load_training_dicts

CLASSES = ("bird", "cat")
# image -> objects: class, box in 1-based pixels with both ends, whether it is difficult
OBJECTS = {
    "000005": [("bird", (5, 5, 24, 30), 0), ("cat", (31, 11, 60, 40), 0)],
    "000012": [("cat", (11, 5, 40, 34), 0), ("cat", (45, 20, 62, 44), 1)],
    "2007_000027": [("bird", (21, 9, 50, 40), 0)],
}
NAME = "small_voc_2007"


def write_voc(root):
    """Write a folder as VOC2007 of images of 64 x 48 pixels, a rectangle for each object."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Main/trainval.txt").write_text("\n".join(OBJECTS) + "\n")
    for name, objects in OBJECTS.items():
        pixels = np.full((48, 64, 3), 40, np.uint8)
        annotation = ET.Element("annotation")
        size = ET.SubElement(annotation, "size")
        for key, value in (("width", 64), ("height", 48), ("depth", 3)):
            ET.SubElement(size, key).text = str(value)
        for label, box, difficult in objects:
            x1, y1, x2, y2 = box
            pixels[y1 - 1 : y2, x1 - 1 : x2, CLASSES.index(label)] = 220
            element = ET.SubElement(annotation, "object")
            fields = {"name": label, "pose": "Left", "truncated": 0, "difficult": difficult}
            for key, value in fields.items():
                ET.SubElement(element, key).text = str(value)
            bounds = ET.SubElement(element, "bndbox")
            for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
                ET.SubElement(bounds, key).text = str(value)
        ET.ElementTree(annotation).write(root / f"Annotations/{name}.xml")
        Image.fromarray(pixels).save(root / f"JPEGImages/{name}.jpg")


@pytest.fixture
def voc(tmp_path, forget_data_sets):
    """Register the small folder as detectron2 registers VOC 2007; return its path."""
    root = tmp_path / "VOC2007"
    write_voc(root)
    register_pascal_voc(NAME, str(root), "trainval", 2007, CLASSES)
    MetadataCatalog.get(NAME).evaluator_type = "pascal_voc"
    return root


def write_proposals(path, shift=0.0):
    """Write the objects' boxes, moved, and the whole image as proposals, by string ids."""
    boxes = [
        np.array(
            [[x1 - 1, y1 - 1, x2, y2] for _, (x1, y1, x2, y2), _ in objects] + [[0, 0, 64, 48]]
        )
        for objects in OBJECTS.values()
    ]
    content = {
        "ids": list(OBJECTS),
        "boxes": [(each + shift).astype(np.float32) for each in boxes],
        "objectness_logits": [-np.arange(len(each), dtype=np.float32) for each in boxes],
        "bbox_mode": BoxMode.XYXY_ABS,
    }
    path.write_bytes(pickle.dumps(content))


def options(folder, *more):
    return [
        "--config-file", TINY_CONFIG, *SMALL,
        "MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MODEL.MASK_ON", "False",
        "MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NUM_CLASSES", "2",
        "DATASETS.TRAIN", f"('{NAME}',)", "DATASETS.TEST", f"('{NAME}',)",
        "SOLVER.MAX_ITER", "2", "OUTPUT_DIR", str(folder), *more,
    ]  # fmt: skip


def test_a_model_trains_on_it_and_is_evaluated(voc, tmp_path):
    assert run_train_net(*options(tmp_path / "run")) == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert set(results["bbox"]) == {"AP", "AP50", "AP75"}
    assert all(0 <= value <= 100 for value in results["bbox"].values())
    config = (tmp_path / "run/config.yaml").read_text()
    assert "CLASS_NAMES:\n  - bird\n  - cat\n" in config


def test_a_proposal_network_trains_on_it_and_is_evaluated_by_recall(voc, tmp_path):
    rpn = options(tmp_path / "rpn", "MODEL.META_ARCHITECTURE", "ProposalNetwork")
    assert run_train_net(*rpn) == 0
    results = json.loads((tmp_path / "rpn/results.json").read_text())
    assert results["box_proposals"]["AR@1000"] > 0


def test_stored_proposals_of_named_images_are_read(voc, tmp_path):
    path = tmp_path / f"{NAME}.pkl"
    write_proposals(path, shift=1.0)
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.PROPOSAL_FILES_TRAIN = (NAME,), (str(path),)
    cfg.MODEL.LOAD_PROPOSALS = True
    dicts = load_training_dicts(cfg)
    assert [each["image_id"] for each in dicts] == list(OBJECTS)
    for each in dicts:  # VOC's first pixel is 1: the boxes begin at 0
        truth = [annotation["bbox"] for annotation in each["annotations"]]
        assert np.allclose(each["proposal_boxes"][: len(truth)], np.array(truth) + 1)
    assert len(dicts[1]["annotations"]) == 2  # with the difficult one


def test_a_missing_folder_is_told():
    with pytest.raises(UserError, match=r"'voc_2007_trainval' is not there(.|\n)*VOC2007"):
        require_datasets(["voc_2007_trainval"])


def test_wrong_class_count_and_masks_are_told(voc, capsys, tmp_path):
    assert run_train_net(*options(tmp_path / "run", "MODEL.ROI_HEADS.NUM_CLASSES", "20")) == 2
    assert "Set MODEL.ROI_HEADS.NUM_CLASSES 2" in capsys.readouterr().err
    cfg = get_cfg()
    cfg.DATASETS.TEST, cfg.MODEL.MASK_ON = (NAME,), True
    with pytest.raises(UserError, match=f"{NAME}: PASCAL VOC's detection data has boxes only"):
        require_known_evaluators(cfg)


# The evaluator


def evaluate(detections, tmp_path, dataset=NAME, classes=CLASSES):
    """Return the results of image -> [(class, box in 0-based corners, score)]."""
    evaluator = build_evaluator(get_cfg(), dataset, tmp_path)
    assert isinstance(evaluator, PascalVOCDetectionEvaluator)
    evaluator.reset()
    for name in OBJECTS:
        found = detections.get(name, [])
        instances = Instances((48, 64))
        instances.pred_boxes = Boxes(torch.tensor([b for _, b, _ in found]).reshape(-1, 4).float())
        instances.scores = torch.tensor([score for _, _, score in found])
        instances.pred_classes = torch.tensor([classes.index(c) for c, _, _ in found]).long()
        evaluator.process([{"image_id": name}], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


def perfect():
    return {
        name: [
            (c, (x1 - 1, y1 - 1, x2, y2), 0.9) for c, (x1, y1, x2, y2), hard in objects if not hard
        ]
        for name, objects in OBJECTS.items()
    }


def test_a_class_that_the_data_set_lacks_is_told(voc, tmp_path):
    found = {next(iter(OBJECTS)): [("none", (1, 1, 9, 9), 0.9)]}
    with pytest.raises(UserError, match="predicted class 2"):
        evaluate(found, tmp_path, classes=[*CLASSES, "none"])


def test_perfect_boxes_score_100_and_none_scores_0(voc, tmp_path):
    assert evaluate(perfect(), tmp_path) == pytest.approx({"AP": 100, "AP50": 100, "AP75": 100})
    assert evaluate({}, tmp_path) == {"AP": 0, "AP50": 0, "AP75": 0}


def test_a_box_on_a_difficult_object_counts_neither_way(voc, tmp_path):
    found = perfect()
    found["000012"].append(("cat", (44, 19, 62, 44), 0.99))  # the difficult one, first of all
    assert evaluate(found, tmp_path)["AP50"] == pytest.approx(100)


def test_the_ap_of_2007_has_eleven_points(voc, tmp_path):
    """One bird of two: precision 1 up to recall 0.5, 6 points of 11. No false cat."""
    found = perfect()
    del found["2007_000027"]
    assert evaluate(found, tmp_path)["AP50"] == pytest.approx((100 * 6 / 11 + 100) / 2)
    found["000012"].append(("cat", (0, 0, 9, 9), 0.95))  # a false one before both: precision 2 / 3
    assert evaluate(found, tmp_path)["AP50"] == pytest.approx((100 * 6 / 11 + 100 * 2 / 3) / 2)


@pytest.mark.parametrize("year", [2007, 2012])
def test_a_class_without_objects_has_no_ap(voc, tmp_path, year):
    """A false dog changes no mean, since no dog could be found; nor does its place in the list."""
    classes = ("dog", *CLASSES)
    register_pascal_voc("voc_with_dogs", str(voc), "trainval", year, classes)
    MetadataCatalog.get("voc_with_dogs").evaluator_type = "pascal_voc"
    found = perfect()
    found["000005"].append(("dog", (1, 1, 9, 9), 0.99))
    numbers = evaluate(found, tmp_path, "voc_with_dogs", classes)
    assert numbers == pytest.approx({"AP": 100, "AP50": 100, "AP75": 100})
    (voc / "ImageSets/Main/trainval.txt").write_text("")
    numbers = evaluate({}, tmp_path, "voc_with_dogs", classes)
    assert list(numbers) == ["AP", "AP50", "AP75"]
    assert np.isnan(list(numbers.values())).all()
