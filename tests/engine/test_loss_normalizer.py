"""RetinaNet's running mean of objects, which is not among its weights, in a resumed run."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from small_runs import read_weights, same, train_small, write_data

from mask_rcnn_ext.engine import hooks
from mask_rcnn_ext.engine.hooks import LossNormalizer

LEVELS = "['res3', 'res4', 'res5']"
RETINANET = [
    "MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.MASK_ON", "False",
    "MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone", "MODEL.BACKBONE.FREEZE_AT", "0",
    "MODEL.RESNETS.RES2_OUT_CHANNELS", "8", "MODEL.RESNETS.WIDTH_PER_GROUP", "8",
    "MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.OUT_FEATURES", LEVELS,
    "MODEL.FPN.IN_FEATURES", LEVELS, "MODEL.RETINANET.NUM_CONVS", "1",
    "SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2", "SOLVER.IMS_PER_BATCH", "1",
]  # fmt: skip


def test_a_resumed_retinanet_has_the_weights_of_an_uninterrupted_one(tmp_path):
    flags = write_data(tmp_path, train=4)
    out = tmp_path / "out"
    assert train_small(flags, out, *RETINANET) == 0
    half = shutil.copytree(out, tmp_path / "half")
    (half / "last_checkpoint").write_text("model_0000001.pth")
    assert train_small([*flags, "--resume"], half, *RETINANET) == 0
    assert same(*(read_weights(folder / "model_final.pth") for folder in (half, out)))


def make_hook(model):
    hook = LossNormalizer()
    hook.trainer = SimpleNamespace(model=model)
    return hook


@pytest.fixture
def detector():
    """A model as FCOS is before its first batch: without the number."""
    return DenseDetector(torch.nn.Identity(), None, ["p3"], pixel_mean=[0.0], pixel_std=[1.0])


def test_each_process_gets_its_own_number_back(detector, monkeypatch):
    hook = make_hook(detector)
    hook.after_step()
    assert hook.state_dict() == {}
    detector.loss_normalizer = 3.0
    monkeypatch.setattr(hooks.comm, "all_gather", lambda mine: [mine, 5.0])
    hook.after_step()
    state = hook.state_dict()
    for rank, number in enumerate([3.0, 5.0, 3.0]):  # the third process is new
        monkeypatch.setattr(hooks.comm, "get_rank", lambda rank=rank: rank)
        hook.load_state_dict(state)
        assert detector.loss_normalizer == number


def test_other_models_have_none():
    hook = make_hook(torch.nn.Linear(1, 1))
    hook.after_step()
    assert hook.state_dict() == {}
