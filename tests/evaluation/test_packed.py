"""Evaluation without an image for each mask: the same results, in memory that stays small."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, DatasetEvaluators
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.layers import mask_ops
from support import REPO, write_coco
from tiny_fcis import fcis_cfg, fcis_model, image_of
from tiny_model import tiny_cfg, tiny_model

from mask_rcnn_ext.data.own_data import register_own_data
from mask_rcnn_ext.engine.trainer import Trainer
from mask_rcnn_ext.evaluation.coco import MaskRCNNCOCOEvaluator
from mask_rcnn_ext.evaluation.fcis_comparison import FCISComparisonEvaluator
from mask_rcnn_ext.evaluation.packed import pack_evaluation
from mask_rcnn_ext.layers.packed_masks import PackedMasks
from mask_rcnn_ext.modeling.fcis.tta import FCISWithTTA
from mask_rcnn_ext.modeling.meta_arch import MaskRCNN
from mask_rcnn_ext.modeling.packed_outputs import PackedOutputs
from mask_rcnn_ext.modeling.test_time_augmentation import MaskRCNNWithTTA


@pytest.fixture
def own(tmp_path, forget_data_sets):
    path, images = write_coco(tmp_path / "val", images=3, seed=1)
    register_own_data("", "", str(path), str(images), clean_dir=str(tmp_path / "clean"))
    return "own_val"


class Reader(DatasetEvaluator):
    """Stands for a user's evaluator: it keeps the outputs that it gets."""

    def __init__(self):
        self.seen = []

    def process(self, inputs, outputs):
        self.seen += [output["instances"] for output in outputs]

    def evaluate(self):
        return {"user": {"images": len(self.seen)}}


def model_of(kind: str) -> torch.nn.Module:
    if kind.startswith("FCIS"):
        vote = str("without" not in kind)
        cfg = fcis_cfg("MODEL.FCIS.MASK_VOTING", vote, "TEST.AUG.MIN_SIZES", "(64,)")
        model = fcis_model(cfg)
        return FCISWithTTA(cfg, model) if "augmented" in kind else model
    cfg, model = tiny_cfg(2), tiny_model(2).eval()
    if "threshold" in kind:
        model.__class__, model.mask_threshold = MaskRCNN, 0.4
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.FLIP = (64,), False
    return MaskRCNNWithTTA(cfg, model) if "augmented" in kind else model


KINDS = ["Mask R-CNN", "Mask R-CNN, threshold", "Mask R-CNN, augmented"]
KINDS += ["FCIS", "FCIS without votes", "FCIS, augmented"]


@pytest.mark.parametrize("kind", KINDS)
def test_evaluators_get_what_the_model_gives(kind, own, tmp_path, monkeypatch):
    model = model_of(kind)
    inputs = [{**image_of(64, 96, seed=seed), "image_id": seed} for seed in (1, 2)]
    inputs[1] |= {"height": 150, "width": 230}
    coco = MaskRCNNCOCOEvaluator(own, tasks=("bbox", "segm"), output_dir=str(tmp_path))
    overlaps, reader = FCISComparisonEvaluator(own, None), Reader()
    _, packed, (evaluator,) = pack_evaluation(
        Trainer, model, [DatasetEvaluators([coco, reader, overlaps])]
    )
    assert type(packed) is PackedOutputs
    for one in (coco, overlaps):
        one.reset()
    with torch.no_grad():
        expected = [output["instances"] for output in model(inputs)]
        with monkeypatch.context() as patch:
            patch.setattr(mask_ops, "paste_masks_in_image", None)  # nothing pastes into images
            outputs = packed(inputs)
        assert all(type(o["instances"].pred_masks) is PackedMasks for o in outputs)
        evaluator.process(inputs, outputs)
    for image, instances, seen, found in zip(
        inputs, expected, reader.seen, coco._predictions, strict=True
    ):
        assert 3 < len(instances) == len(seen)
        assert seen.image_size == instances.image_size == (image["height"], image["width"])
        assert seen.pred_masks.any()
        for name in ("scores", "pred_classes", "pred_masks"):
            assert torch.equal(seen.get(name), instances.get(name)), name
        assert torch.equal(seen.pred_boxes.tensor, instances.pred_boxes.tensor)
        instances.pred_masks = np.asarray(instances.pred_masks)
        lines = instances_to_coco_json(instances, image["image_id"])
        assert found == {"image_id": image["image_id"], "instances": lines}
        assert [list(line) for line in found["instances"]] == [list(line) for line in lines]
        rles = [line["segmentation"]["counts"].encode() for line in lines]
        assert [one.mask["counts"] for one in overlaps._found[image["image_id"]]] == rles


class Overriding(MaskRCNNCOCOEvaluator):
    """A user's subclass, written for masks (N, H, W)."""

    def process(self, inputs, outputs):
        self.shapes = [output["instances"].pred_masks.shape for output in outputs]
        super().process(inputs, outputs)


def test_evaluators_that_do_not_read_packed_masks_keep_their_tensors(own):
    model, inputs = model_of("Mask R-CNN"), [{**image_of(64, 96), "image_id": 1}]
    for others in ([Reader()], [Overriding(own, ("segm",))], [COCOEvaluator(own, ("segm",))]):
        assert pack_evaluation(Trainer, model, others) == (Trainer, model, others)
    both = [MaskRCNNCOCOEvaluator(own, ("segm",)), Overriding(own, ("segm",))]
    _, packed, (evaluator,) = pack_evaluation(Trainer, model, [DatasetEvaluators(both)])
    evaluator.reset()
    with torch.no_grad():
        evaluator.process(inputs, packed(inputs))
    assert both[1].shapes == [(10, 64, 96)]
    assert both[0]._predictions == both[1]._predictions


class Downstream(MaskRCNN):
    """A model of a user's, which may finish its results in its own way."""


def test_models_of_others_are_run_as_they_are(own):
    model, coco = model_of("Mask R-CNN"), [MaskRCNNCOCOEvaluator(own, ("segm",))]
    model.__class__ = Downstream
    assert pack_evaluation(Trainer, model, coco) == (Trainer, model, coco)


def test_the_trainer_evaluates_packed_masks_and_leaves_the_model_as_it_was(own, monkeypatch):
    cfg, model = tiny_cfg(2), tiny_model(2).train()
    cfg.DATASETS.TEST, cfg.DATALOADER.NUM_WORKERS = (own,), 0
    frozen = model.backbone.bottom_up.stem.eval()
    plain = MaskRCNNCOCOEvaluator(own, tasks=("bbox", "segm"))
    results = Trainer.test(cfg, model, plain)
    assert model.training
    assert results["segm"]["AP"] >= 0
    monkeypatch.setattr("mask_rcnn_ext.evaluation.packed.pack_outputs", lambda model: model)
    whole = MaskRCNNCOCOEvaluator(own, tasks=("bbox", "segm"))
    expected = Trainer.test(cfg, model, whole)
    assert plain._predictions == whole._predictions
    assert len(plain._predictions) == 3
    np.testing.assert_equal(results, expected)
    assert frozen.training == model.backbone.bottom_up.stem.training


def test_the_trainer_reads_the_data_before_it_builds_an_evaluator(own, monkeypatch):
    """Reading draws an embedded data set, and gives the metadata its classes."""
    done = []

    class Users(Trainer):
        @classmethod
        def build_test_loader(cls, cfg, name):
            done.append("read")
            return super().build_test_loader(cfg, name)

        @classmethod
        def build_evaluator(cls, cfg, name, folder=None):
            done.append("build")
            return MaskRCNNCOCOEvaluator(name, tasks=("bbox", "segm"))

    cfg, model = tiny_cfg(2), tiny_model(2).eval()
    cfg.DATASETS.TEST, cfg.DATALOADER.NUM_WORKERS = (own,), 0
    results = Users.test(cfg, model)
    assert done == ["read", "build"]
    np.testing.assert_equal(
        results, Users.test(cfg, model, MaskRCNNCOCOEvaluator(own, ("bbox", "segm")))
    )


_LARGE = """
import resource, sys, torch
import detectron2.evaluation
from detectron2.structures import Boxes, Instances
from mask_rcnn_ext.evaluation.packed import convert_to_coco
from mask_rcnn_ext.modeling.postprocessing import postprocess_packed

number, height, width = 2000, 3000, 4000
generator = torch.Generator().manual_seed(0)
sides = 20 * 10 ** torch.rand(number, 2, generator=generator)  # 20 to 200 pixels
sides[:3] = torch.tensor([width, height])
low = torch.rand(number, 2, generator=generator) * (torch.tensor([width, height]) - sides)
coarse = torch.rand(number, 1, 4, 4, generator=generator)
probs = torch.nn.functional.interpolate(coarse, size=(28, 28), mode="bilinear")
raw = Instances((height, width), pred_boxes=Boxes(torch.cat([low, low + sides], 1)),
                scores=torch.ones(number), pred_classes=torch.zeros(number, dtype=torch.int64),
                pred_masks=probs)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
results = convert_to_coco(postprocess_packed(raw, height, width), 1)
assert len(results) == number
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no module resource")
def test_2000_objects_of_a_large_image_take_little_memory():
    """As images of 4000 x 3000 they take 24 GB."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _LARGE],
        capture_output=True, text=True, cwd=REPO, check=True,
    )  # fmt: skip
    assert int(done.stdout) < (1000 if sys.platform != "darwin" else 1000 * 1024)
