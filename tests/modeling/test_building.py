"""A value that detectron2 refuses gives one sentence with its key; other code keeps its error."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from detectron2.modeling import ROI_BOX_HEAD_REGISTRY
from support import SMALL, TINY_CONFIG
from tiny_model import tiny_cfg
from torch import nn

from mask_rcnn_ext import Predictor, UserError, load_config
from mask_rcnn_ext.engine.trainer import Trainer
from mask_rcnn_ext.modeling import building
from mask_rcnn_ext.modeling.building import SkipRandomWeights, build_model, explain_config_errors


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("MODEL.FPN.OUT_CHANNELS", "-8", "negative dimension"),
        ("MODEL.FPN.NORM", "XYZ", "KeyError: XYZ. It comes from MODEL.FPN.NORM 'XYZ'"),
        ("MODEL.RPN.IN_FEATURES", "['p9']", "KeyError: p9. It comes from MODEL.RPN.IN_FEATURES"),
        ("MODEL.ROI_HEADS.IN_FEATURES", "['p9']", "It comes from MODEL.ROI_HEADS.IN_FEATURES"),
        ("MODEL.ROI_MASK_HEAD.POOLER_TYPE", "XYZ",
         "detectron2/modeling/poolers.py refuses it with ValueError: Unknown pooler type: XYZ. It "
         "comes from MODEL.ROI_MASK_HEAD.POOLER_TYPE 'XYZ'"),
        ("MODEL.ROI_BOX_HEAD.NAME", "''", "box_head.py refuses it with KeyError: No object"),
        ("MODEL.ROI_MASK_HEAD.NAME", "''", "No object named '' found in 'ROI_MASK_HEAD' registry"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", "[[8], [16]]", "the model of this config cannot be built"),
    ],
)  # fmt: skip
def test_the_message_names_the_key(key, value, said):
    cfg = load_config(TINY_CONFIG, [*SMALL, "MODEL.DEVICE", "cpu", key, value])
    for build in (build_model, Trainer.build_model, Predictor):
        with pytest.raises(UserError) as caught:
            build(cfg)
        assert said in str(caught.value)


def test_the_message_names_no_default():
    """The message of detectron2 has the word "sigmoid", which is another key's default."""
    cfg = load_config(TINY_CONFIG, [*SMALL, "MODEL.ROI_BOX_HEAD.USE_FED_LOSS", "True"])
    with pytest.raises(UserError, match="use sigmoid cross entropy loss with federated loss") as e:
        build_model(cfg)
    assert "It comes from" not in str(e.value)


def test_a_schedule_too():
    cfg = load_config(TINY_CONFIG, ["SOLVER.LR_SCHEDULER_NAME", "XYZ"])
    said = r"It comes from SOLVER\.LR_SCHEDULER_NAME 'XYZ'"
    with pytest.raises(UserError, match=said), explain_config_errors(cfg, "the schedule"):
        Trainer.build_lr_scheduler(cfg, None)


@pytest.mark.parametrize("folder", ["mask_rcnn_ext_project", "torch_project", "project"])
def test_a_project_next_to_the_package_is_not_part_of_it(folder):
    """Its name begins with the name of the package, or of torch."""
    packages = {"mask_rcnn_ext_project": building._PACKAGE, "torch_project": torch.__path__[0]}
    root = os.path.dirname(packages.get(folder, "/"))
    names = {"torch": torch}
    exec(compile("def build(): torch.nn.Linear(-1, 2)", f"{root}/{folder}/head.py", "exec"), names)
    cfg = load_config(TINY_CONFIG)
    with pytest.raises(RuntimeError, match="-1"), explain_config_errors(cfg, "the model"):
        names["build"]()


@pytest.mark.parametrize(
    "fail", [lambda: {}["missing"], lambda: torch.einsum("ij,jk", torch.ones(2), torch.ones(2))]
)
def test_a_defect_of_a_project_keeps_its_traceback(fail, monkeypatch):
    cfg = load_config(TINY_CONFIG, [*SMALL, "MODEL.DEVICE", "cpu"])
    monkeypatch.setitem(ROI_BOX_HEAD_REGISTRY._obj_map, "OwnBoxHead", lambda *_: fail())
    cfg.MODEL.ROI_BOX_HEAD.NAME = "OwnBoxHead"
    for build in (build_model, Predictor):  # the second one skips random weights
        with pytest.raises((KeyError, RuntimeError), match=r"missing|einsum"):
            build(cfg)


class Layers(nn.Module):
    """A layer and a buffer that no file has."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3)
        nn.init.normal_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.register_buffer("phases", torch.zeros(4).normal_(), persistent=False)


def test_random_weights_are_skipped_in_this_thread_only(monkeypatch):
    # Fresh memory is anything; here it is 7.
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(7))
    before = torch.get_rng_state()
    with SkipRandomWeights():
        skipped = Layers()
        with ThreadPoolExecutor() as threads:
            elsewhere = threads.submit(nn.Linear, 2, 2).result()
    assert (skipped.layer.weight == 7).all()
    assert (skipped.layer.bias == 0).all()
    assert skipped.phases.std() > 0
    assert (elsewhere.weight != 7).all()
    assert not torch.equal(before, torch.get_rng_state())  # the buffer, and the other thread
    assert (Layers().layer.weight != 7).all()


def test_a_predictor_draws_no_random_weights(tiny_weights):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    predictor = Predictor(tiny_cfg(3), tiny_weights, device="cpu")
    assert torch.equal(before, torch.get_rng_state())
    expected = torch.load(tiny_weights, weights_only=True)["model"]
    found = predictor.model.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
