"""A value that detectron2 refuses gives one sentence with its key; other code keeps its error."""

import os

import pytest
import torch
from detectron2.modeling import ROI_BOX_HEAD_REGISTRY
from support import SMALL, TINY_CONFIG

from mask_rcnn_ext import Predictor, UserError, load_config
from mask_rcnn_ext.engine.trainer import Trainer
from mask_rcnn_ext.modeling import building
from mask_rcnn_ext.modeling.building import build_model, explain_config_errors


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("MODEL.FPN.NORM", "XYZ", "KeyError: XYZ. It comes from MODEL.FPN.NORM 'XYZ'"),
        ("MODEL.RPN.IN_FEATURES", "['p9']", "KeyError: p9. It comes from MODEL.RPN.IN_FEATURES"),
        ("MODEL.ROI_HEADS.IN_FEATURES", "['p9']", "It comes from MODEL.ROI_HEADS.IN_FEATURES"),
        ("MODEL.ROI_MASK_HEAD.POOLER_TYPE", "XYZ",
         "detectron2/modeling/poolers.py refuses it with ValueError: Unknown pooler type: XYZ. It "
         "comes from MODEL.ROI_MASK_HEAD.POOLER_TYPE 'XYZ'"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", "[[8], [16]]", "the model of this config cannot be built"),
    ],
)  # fmt: skip
def test_the_message_names_the_key(key, value, said):
    cfg = load_config(TINY_CONFIG, [*SMALL, "MODEL.DEVICE", "cpu", key, value])
    for build in (build_model, Trainer.build_model, Predictor):
        with pytest.raises(UserError) as caught:
            build(cfg)
        assert said in str(caught.value)


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


def test_a_defect_of_a_project_keeps_its_traceback():
    def head(cfg, input_shape):
        return {}["missing"]

    cfg = load_config(TINY_CONFIG, [*SMALL, "MODEL.DEVICE", "cpu"])
    ROI_BOX_HEAD_REGISTRY._obj_map["OwnBoxHead"] = head
    cfg.MODEL.ROI_BOX_HEAD.NAME = "OwnBoxHead"
    try:
        with pytest.raises(KeyError, match="missing"):
            build_model(cfg)
    finally:
        del ROI_BOX_HEAD_REGISTRY._obj_map["OwnBoxHead"]
