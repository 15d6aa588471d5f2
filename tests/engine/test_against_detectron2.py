"""Our trainer and detectron2's, given the same random numbers: the same losses and weights."""

import pytest
import torch
from detectron2 import model_zoo
from detectron2.data import build_detection_train_loader
from detectron2.data.datasets import register_coco_instances
from detectron2.data.samplers import TrainingSampler
from detectron2.engine import DefaultTrainer
from detectron2.solver.build import get_default_optimizer_params
from small_runs import same, write_data
from support import SMALL, TINY_CONFIG, write_coco

from mask_rcnn_ext import UserError, argument_parser, derive_recipe
from mask_rcnn_ext.engine.hooks import StepSeed
from mask_rcnn_ext.engine.run import prepare_run
from mask_rcnn_ext.engine.trainer import Trainer

STEPS, SEED, IMAGES = 8, 5, 8
FLOAT32 = [
    "SOLVER.AMP.ENABLED", "False", "MASK_RCNN_EXT.AMP_INFERENCE", "False",
    "MASK_RCNN_EXT.CHANNELS_LAST", "False", "MODEL.DEVICE", "cpu", "DATASETS.TEST", "()",
    "SOLVER.MAX_ITER", str(STEPS), "SEED", str(SEED),
]  # fmt: skip


class PlainAdamW(DefaultTrainer):
    """detectron2's trainer has SGD only; this is AdamW as PyTorch gives it."""

    @classmethod
    def build_optimizer(cls, cfg, model):
        groups = get_default_optimizer_params(
            model,
            base_lr=cfg.SOLVER.BASE_LR,
            weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        )
        weight_decay = cfg.SOLVER.WEIGHT_DECAY
        return torch.optim.AdamW(groups, lr=cfg.SOLVER.BASE_LR, weight_decay=weight_decay)


@pytest.fixture
def trainer(tmp_path):
    """Return a function that builds a trainer of a class on the same data, from the same seed."""
    flags = write_data(tmp_path / "data", train=IMAGES)

    def build(kind, *options):
        folder = str(tmp_path / kind.__name__)
        args = argument_parser().parse_args(
            ["--config-file", TINY_CONFIG, *flags, *SMALL, *FLOAT32, *options, "OUTPUT_DIR", folder]
        )
        with prepare_run(args) as cfg:
            return kind(cfg)

    return build


def train(trainer, batches):
    """Train on the batches; return the losses of every iteration and the weights."""
    trainer._trainer.reset_data_loader(lambda: batches)
    losses, step = [], trainer._trainer.run_step

    def run_step():
        step()
        latest = trainer.storage.latest()
        losses.append({name: value for name, (value, _) in latest.items() if "loss" in name})

    trainer._trainer.run_step = run_step
    trainer.train()
    return losses, trainer.model.state_dict()


class UnfusedAdamW(torch.optim.AdamW):
    """AdamW that ignores `fused`."""

    def __init__(self, *args, fused=None, **kwargs):
        super().__init__(*args, **kwargs)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_the_losses_and_the_weights_are_equal_to_the_bit(trainer, name, monkeypatch):
    """In float32, with the same batches, and with the random numbers that ours has in each step.

    Fused AdamW rounds otherwise, so it is off here.
    """
    monkeypatch.setattr(torch.optim, "AdamW", UnfusedAdamW)
    ours = trainer(Trainer, "MASK_RCNN_EXT.OPTIMIZER", name)
    stock = trainer(DefaultTrainer if name == "SGD" else PlainAdamW)
    assert same(ours.model.state_dict(), stock.model.state_dict())  # before training
    batches = [batch for batch, _ in zip(ours._trainer.data_loader, range(STEPS), strict=False)]
    seed = StepSeed(SEED)
    stock.register_hooks([seed])
    stock._hooks.insert(0, stock._hooks.pop())
    losses, weights = train(ours, batches)
    expected, stock_weights = train(stock, batches)
    assert len(losses) == STEPS
    assert losses == expected
    assert losses[0] != losses[-1]
    assert same(weights, stock_weights)


def test_fused_adamw_differs_from_plain_adamw_by_rounding():
    torch.manual_seed(0)
    start = torch.randn(200)
    ends = []
    for fused in (False, True):
        weights = start.clone().requires_grad_()
        step = torch.optim.AdamW([weights], lr=1e-3, weight_decay=0.05, fused=fused)
        for _ in range(STEPS):
            step.zero_grad()
            weights.sin().sum().backward()
            step.step()
        ends.append(weights.detach())
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-7)


def test_the_images_come_in_the_same_order(trainer):
    """Also when they are grouped by their shape; the flips are drawn from another stream."""
    ours = trainer(Trainer)
    cfg = ours.cfg
    stock = build_detection_train_loader(cfg, sampler=TrainingSampler(IMAGES, seed=SEED))
    orders = []
    for loader in (ours._trainer.data_loader, stock):
        pairs = zip(loader, range(STEPS), strict=False)
        orders.append([[image["file_name"] for image in batch] for batch, _ in pairs])
    assert orders[0] == orders[1]
    assert len({tuple(batch) for batch in orders[0]}) > 2


@pytest.fixture
def stock_cfg(tmp_path, forget_data_sets):
    """Return a small config of detectron2, without our keys, and its data."""
    path, images = write_coco(tmp_path / "data", images=4)
    register_coco_instances("stock", {}, str(path), str(images))
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = "cpu", "", str(tmp_path)
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM, cfg.MODEL.ROI_HEADS.NUM_CLASSES = 32, 2
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("stock",)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (64,), 64
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.DATALOADER.NUM_WORKERS = 2, 1, 0
    return cfg


def test_a_config_of_detectron2_without_our_keys_is_enough(stock_cfg):
    cfg = stock_cfg
    cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.FLIP = True, (64,), False
    cfg.freeze()
    trainer = Trainer(cfg)
    trainer.train()
    assert trainer.cfg.is_frozen()
    assert {"segm", "segm_TTA"} <= {*Trainer.test_all(cfg, trainer.model)}
    assert Trainer.build_optimizer(cfg, trainer.model)
    assert derive_recipe(cfg, trainer.data_loader.dataset.dicts)
    assert "MASK_RCNN_EXT" not in cfg


class OneClass(Trainer):
    """Its mapper makes one class of all."""

    @classmethod
    def build_mapper(cls, cfg, *, is_train):
        return super().build_mapper(cfg, is_train=is_train)


def test_a_class_that_the_model_lacks_is_told_before_training(stock_cfg):
    """In Python too; detectron2's loss fails on its number."""
    stock_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    message = r"NUM_CLASSES is 1, but an object .*\(stock\) has the class 1.*NUM_CLASSES 2 or more"
    with pytest.raises(UserError, match=message):
        Trainer(stock_cfg)
    assert OneClass(stock_cfg)
    stock_cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"  # it knows no classes
    assert Trainer(stock_cfg)


class WithStockLoader(Trainer):
    """As detectron2's tutorials override it."""

    @classmethod
    def build_train_loader(cls, cfg):
        return build_detection_train_loader(cfg)


def test_a_trainer_may_have_detectron2s_loader(stock_cfg, caplog):
    stock_cfg.DATASETS.TEST = ()
    for iterations in (1, 2):
        stock_cfg.SOLVER.MAX_ITER = iterations
        trainer = WithStockLoader(stock_cfg)
        trainer.resume_or_load(resume=iterations == 2)
        trainer.train()
        assert trainer.iter == iterations
        told = "is not our TrainLoader: it does not skip the images" in caplog.text
        assert told == (iterations == 2)
