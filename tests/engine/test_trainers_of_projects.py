"""Subclasses of `Trainer` as detectron2's projects write them."""

import contextlib
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import GeneralizedRCNNWithTTA
from small_runs import list_files, read_weights
from support import SMALL, TINY_CONFIG, write_coco

from mask_rcnn_ext import MaskRCNNCOCOEvaluator, Predictor, Trainer, UserError, load_config

AUGMENTED = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(64,)", "TEST.AUG.FLIP", "False"]


@pytest.fixture
def train(tmp_path, forget_data_sets):
    """Return a function that trains with a subclass and KEY VALUE pairs; it returns the trainer."""
    path, images = write_coco(tmp_path / "data", images=4)
    for name in ("project", "project2"):
        register_coco_instances(name, {}, str(path), str(images))
    keys = [
        "MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NUM_CLASSES", "2", "SOLVER.IMS_PER_BATCH", "2",
        "DATASETS.TRAIN", "('project',)", "DATASETS.TEST", "('project',)",
        "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "OUTPUT_DIR", str(tmp_path / "out"),
    ]  # fmt: skip

    def run(kind, *more, change=lambda trainer: None):
        torch.manual_seed(0)
        trainer = kind(load_config(TINY_CONFIG, [*SMALL, *keys, *more]))
        trainer.resume_or_load(resume=False)
        change(trainer)
        trainer.train()
        return trainer

    return run


class WithPairs(Trainer):
    """Its mapper returns two views of an image, and its model learns from both."""

    @classmethod
    def build_mapper(cls, cfg, *, is_train):
        mapper = DatasetMapper(cfg, is_train)
        return (lambda record: (mapper(record), mapper(record))) if is_train else mapper

    @classmethod
    def build_model(cls, cfg):
        model = super().build_model(cfg)
        once = model.forward
        model.forward = lambda batch: once([view for pair in batch for view in pair])
        return model


@pytest.mark.parametrize("policy", ["error", "skip"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_mapper_may_return_something_else_than_a_dict(policy, workers, train, tmp_path):
    if policy == "skip":
        (tmp_path / "data/images/000.png").write_bytes(b"broken")
    keys = ["DATALOADER.NUM_WORKERS", str(workers), "MASK_RCNN_EXT.DATA.ON_BAD_IMAGE", policy]
    trainer = train(WithPairs, *keys, "DATASETS.TEST", "()")
    batch = trainer.data_loader.last_batch
    assert [[type(view) for view in pair] for pair in batch] == [[dict, dict], [dict, dict]]


class OfDetectron2sMapper(Trainer):
    @classmethod
    def build_mapper(cls, cfg, *, is_train):
        return DatasetMapper(cfg, is_train).__call__


@pytest.mark.parametrize(
    ("kind", "masks", "got"),
    [
        (OfDetectron2sMapper, "polygon", "PolygonMasks"),
        (WithPairs, "polygon", "tuple"),
        (OfDetectron2sMapper, "bitmask", None),
    ],
)
def test_copy_paste_tells_which_mapper_it_needs(kind, masks, got, train):
    keys = ["MASK_RCNN_EXT.AUGMENTATION.COPY_PASTE", "1.0", "INPUT.MASK_FORMAT", masks]
    keys += ["DATASETS.TEST", "()"]
    if got is None:
        assert train(kind, *keys).iter == 2
        return
    with pytest.raises(UserError, match=rf"COPY_PASTE: expected a mapper .*BitMasks, got {got}\."):
        train(kind, *keys, "DATALOADER.NUM_WORKERS", "1")


def test_a_mapper_that_keeps_no_annotations_is_told_by_the_validation_loss(train):
    with pytest.raises(UserError, match="VALIDATION_LOSS: expected annotations with every"):
        train(OfDetectron2sMapper, "MASK_RCNN_EXT.VALIDATION_LOSS", "True")


class Count(DatasetEvaluator):
    def reset(self):
        self.count = 0

    def process(self, inputs, outputs):
        self.count += sum(output["instances"].pred_masks.dim() == 3 for output in outputs)

    def evaluate(self):
        return {"count": {"images": self.count}}


@pytest.mark.parametrize("kind", ["list", "none"])
def test_build_evaluator_may_return_what_inference_on_dataset_takes(kind, train):
    class Evaluated(Trainer):
        @classmethod
        def build_evaluator(cls, cfg, dataset_name):
            return [Count(), MaskRCNNCOCOEvaluator(dataset_name)] if kind == "list" else None

    results = train(Evaluated)._last_eval_results
    assert results.get("count") == ({"images": 4} if kind == "list" else None)
    assert ("segm" in results) == (kind == "list")


class WithoutFolder(Trainer):
    """`build_evaluator` has the arguments of detectron2's `DefaultTrainer`."""

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return MaskRCNNCOCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR)


def test_an_evaluator_without_a_folder_keeps_the_files_of_the_plain_evaluation(train):
    trainer = train(WithoutFolder, *AUGMENTED)
    assert {"segm", "segm_TTA"} <= {*trainer._last_eval_results}
    name = "coco_instances_results.json"
    assert {name, f"inference_TTA/{name}"} <= list_files(Path(trainer.cfg.OUTPUT_DIR))


class OfDetectron2(Trainer):
    """`test_with_TTA` of detectron2's `tools/train_net.py`, which adds the suffix itself."""

    @classmethod
    def test_with_TTA(cls, cfg, model):
        model = GeneralizedRCNNWithTTA(cfg, model)
        evaluators = [MaskRCNNCOCOEvaluator(name) for name in cfg.DATASETS.TEST]
        found = cls.test(cfg, model, evaluators)
        return OrderedDict({f"{name}_TTA": metrics for name, metrics in found.items()})


def test_test_with_tta_may_add_the_suffix(train):
    assert {*train(OfDetectron2, *AUGMENTED)._last_eval_results} == {
        *("bbox", "segm", "bbox_TTA", "segm_TTA")
    }
    two = ["DATASETS.TEST", "('project', 'project2')"]
    results = train(OfDetectron2, *AUGMENTED, *two)._last_eval_results
    assert {*results} == {"project", "project2"}
    assert {*results["project2"]} == {"bbox", "segm", "bbox_TTA", "segm_TTA"}


DIVERGES = ["SOLVER.WARMUP_ITERS", "0", "SOLVER.AMP.ENABLED", "False", "SOLVER.MAX_ITER", "9"]


class WithStockLoader(Trainer):
    """Its loader does not keep the batch that it has yielded."""

    @classmethod
    def build_train_loader(cls, cfg):
        return build_detection_train_loader(cfg)


def test_a_step_whose_batch_is_not_known_ends_with_its_own_words(train):
    with pytest.raises(UserError, match=r"has diverged\. Images: not known\. .*too high for"):
        train(WithStockLoader, *DIVERGES, "SOLVER.BASE_LR", "1e30")


def test_a_step_that_cannot_be_repeated_ends_with_its_own_words(train):
    def call_the_model_in_another_way(trainer):
        once, loop = trainer.model.forward, trainer._trainer
        trainer.model.forward = lambda batch, branch: once(batch)

        def run_step():
            loop.model(next(loop._data_loader_iter), "supervised")
            raise FloatingPointError("Loss became infinite or NaN at iteration=0!\nloss_dict = {}")

        loop.run_step = run_step

    message = r"iteration 0: Loss became infinite or NaN at iteration=0! loss_dict = {}\. Images: /"
    with pytest.raises(UserError, match=message):
        train(Trainer, *DIVERGES, change=call_the_model_in_another_way)


def test_a_weight_that_has_overflowed_in_a_step_is_not_blamed_on_the_first_weights(train):
    message = r"iteration 1: the weight .*before the step\. .*Lower SOLVER\.BASE_LR \(1e\+38\)"
    with pytest.raises(UserError, match=message):
        train(Trainer, *DIVERGES, "SOLVER.BASE_LR", "1e38")


class Compiled(Trainer):
    @classmethod
    def build_model(cls, cfg):
        return torch.compile(super().build_model(cfg), backend="eager")


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # Dynamo's own
def test_a_compiled_model_is_trained_and_saved_as_the_plain_one(train, tmp_path):
    keys = [
        "SOLVER.AMP.ENABLED", "False", "MASK_RCNN_EXT.FREEZE", "['backbone.bottom_up.stem']",
        "MASK_RCNN_EXT.BACKBONE_LR_FACTOR", "0.5", "SEED", "1", "MASK_RCNN_EXT.EMA.ENABLED", "True",
    ]  # fmt: skip
    saved = tmp_path / "out/model_final.pth"
    train(Trainer, *keys)
    plain = read_weights(saved)
    # The model is wrapped but not compiled, which is faster; PyTorch before 2.6 compiles it.
    with getattr(torch.compiler, "set_stance", contextlib.nullcontext)("force_eager"):
        trainer = train(Compiled, *keys)
    compiled = read_weights(saved)
    assert compiled.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-5)
    assert Predictor(str(saved))
    torch.save({"model": trainer.model.state_dict()}, tmp_path / "by_hand.pth")
    assert next(iter(read_weights(tmp_path / "by_hand.pth"))).startswith("_orig_mod.")
    assert Predictor(trainer.cfg, tmp_path / "by_hand.pth")
