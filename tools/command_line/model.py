"""The options that name a trained model, and the config of the model that they name.

The scripts import this before `--help` ends, so nothing slow may be imported at the top.
"""

import argparse
import os
from typing import Any

__all__ = ["add_config_options", "add_model", "add_overrides", "load_config_of_model"]


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the argument for the model, and the options that can replace it."""
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="file of a trained model that contains its config"
    )
    add_config_options(parser)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add `--config-file` and `--weights`."""
    parser.add_argument(
        "--config-file",
        metavar="CFG",
        help="a yaml file, such as the config.yaml of a run, or the name of one of our configs "
        "(default: the config in the model file)",
    )
    parser.add_argument(
        "--weights", metavar="W", help="the model with --config-file (default: its MODEL.WEIGHTS)"
    )


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add `--opts`, which takes the rest of the line."""
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config overrides; last on the line",
    )


def load_config_of_model(args: argparse.Namespace) -> Any:
    """Return the config of the model that the options of `add_model` name.

    `MODEL.WEIGHTS` is the model.

    Raises:
        UserError: no model is given or several are, or the config cannot be read.
    """
    from mask_rcnn_ext import UserError
    from mask_rcnn_ext.model_files import is_checkpoint, is_exported
    from mask_rcnn_ext.prediction.predictor import resolve_config

    named = args.config_file or args.weights
    if bool(args.model) == bool(named):
        raise UserError(
            "expected one model: a file such as model_final.pth, or --config-file and --weights"
        )
    if args.model and os.path.isfile(args.model):
        known = is_checkpoint(args.model) or is_exported(args.model)
        if not (known or args.model.endswith((".yaml", ".yml"))):
            raise UserError(
                f"{args.model} is not a model: expected a file such as model_final.pth, "
                "model.safetensors, model.onnx or model.xml"
            )
    cfg = resolve_config(args.model or named)
    cfg.merge_from_list(args.opts)
    if args.weights:
        cfg.MODEL.WEIGHTS = args.weights
    return cfg
