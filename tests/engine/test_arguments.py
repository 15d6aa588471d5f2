"""The command line is detectron2's, with the flags for own data."""

import argparse

import pytest
from detectron2.engine import default_argument_parser

from mask_rcnn_ext import argument_parser

THEIRS = default_argument_parser()._actions


@pytest.mark.parametrize("theirs", THEIRS, ids=lambda action: action.dest)
def test_each_argument_is_detectron2s(theirs):
    (ours,) = (action for action in argument_parser()._actions if action.dest == theirs.dest)
    assert type(ours) is type(theirs)
    for field in ("option_strings", "default", "type", "nargs", "choices", "help", "metavar"):
        assert getattr(ours, field) == getattr(theirs, field), field


@pytest.mark.parametrize("epilog", [None, "Examples: ..."])
def test_the_help_ends_like_detectron2s(epilog):
    ours, theirs = argument_parser(epilog), default_argument_parser(epilog)
    assert ours.epilog == theirs.epilog
    assert ours.formatter_class is theirs.formatter_class is argparse.RawDescriptionHelpFormatter


def test_nothing_else_is_added_but_own_data_the_recipe_and_slurm():
    added = {a.dest for a in argument_parser()._actions} - {a.dest for a in THEIRS}
    files = {"train_json", "train_images", "val_json", "val_images"}
    others = {"strict_data", "split", "group_by", "auto", "epochs", "slurm", "slurm_options"}
    assert added == files | others


def test_keys_and_values_come_after_the_flags():
    args = argument_parser().parse_args(["--num-gpus", "2", "--strict-data", "SEED", "3"])
    assert (args.num_gpus, args.strict_data, args.opts) == (2, True, ["SEED", "3"])
