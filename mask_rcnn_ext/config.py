"""Every config key that this package adds, and strict, safe loading of configs.

`get_cfg()` is detectron2's default config plus the keys below; their defaults leave every stock
model as it was. Reading a yaml never runs code from it, and an unknown key is an error that names
the nearest known one.
"""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.config import get_cfg as detectron2_get_cfg
from detectron2.utils.file_io import PathManager

from .errors import UserError, nearest

__all__ = [
    "ExtCfgNode",
    "add_mask_rcnn_ext_config",
    "config_hash",
    "flat_config",
    "get_cfg",
    "load_config",
]


class ExtCfgNode(CfgNode):
    """detectron2's `CfgNode` with safe yaml and errors that name the nearest known key."""

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        """Merge a yaml file and its `_BASE_` files.

        Args:
            cfg_filename: path of the yaml.
            allow_unsafe: detectron2 defaults to True, which runs Python code named by tags in the
                yaml. Here the default is False: such a file is refused.

        Raises:
            UserError: the file is missing, is not yaml, holds a python tag, an unknown key, or a
                value of the wrong type.
        """
        if not PathManager.isfile(cfg_filename):
            raise UserError(f"config file not found: {cfg_filename} (looked from {os.getcwd()})")
        try:
            super().merge_from_file(cfg_filename, allow_unsafe=allow_unsafe)
        except yaml.constructor.ConstructorError as error:
            raise UserError(
                f"{cfg_filename}: refused, since {error.problem} (line {_line(error)}); a config "
                "holds plain values only. Remove the tag."
            ) from error
        except yaml.YAMLError as error:
            raise UserError(f"{cfg_filename}: not a yaml file: {error}") from error
        except (OSError, KeyError, ValueError, AssertionError, TypeError, AttributeError) as error:
            raise _explain(self, error, cfg_filename) from error

    def merge_from_list(self, cfg_list: Sequence[str]) -> None:
        """Merge `[KEY, VALUE, KEY, VALUE, ...]` as given on a command line.

        Raises:
            UserError: an odd number of words, an unknown key, or a value of the wrong type.
        """
        if len(cfg_list) % 2:
            raise UserError(
                "expected KEY VALUE pairs after the options, got "
                f"{len(cfg_list)} word(s): {' '.join(cfg_list)!r}"
            )
        for key, value in zip(cfg_list[::2], cfg_list[1::2], strict=True):
            try:
                super().merge_from_list([key, value])
            except (KeyError, ValueError, AssertionError, TypeError, AttributeError) as error:
                raise _explain(self, error, "command line", key) from error


def _line(error: yaml.MarkedYAMLError) -> int | str:
    return error.problem_mark.line + 1 if error.problem_mark else "unknown"


def flat_config(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (key with dots, value) of every value, in the order of the config."""
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from flat_config(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _walk_keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from _walk_keys(value, f"{prefix}{key}.")


def _explain(cfg: CfgNode, error: Exception, source: str, key: str | None = None) -> UserError:
    """Make of yacs's or fvcore's exception one line with the file, key and nearest known key."""
    message = (
        str(error) if isinstance(error, OSError) else str(error.args[0] if error.args else error)
    )
    if (
        "on-existent" in message
    ):  # yacs: "Non-existent config key: X" (file), "Non-existent key: X" (list)
        key = key or message.rsplit(":", 1)[-1].strip()
        return UserError(f"{source}: unknown config key {key!r}{nearest(key, _walk_keys(cfg))}")
    hint = ""
    if "(<class 'float'> vs. <class 'int'>)" in message:
        hint = ". Write whole numbers with a point there, such as 2.0"
    return UserError(f"{source}: {f'{key}: ' if key else ''}{message}{hint}")


def _declare(node: CfgNode, key: str, default: Any) -> None:
    """Add `key`; leave a value of the same type that is there, refuse one of another type."""
    if key not in node:
        node[key] = default
    elif type(node[key]) is not type(default):
        raise ValueError(
            f"config key {key} is already there as {node[key]!r}; mask_rcnn_ext needs a "
            f"{type(default).__name__}"
        )


def add_mask_rcnn_ext_config(cfg: CfgNode) -> None:
    """Add this package's keys to `cfg`, in place. Calling it twice changes nothing.

    Args:
        cfg: a detectron2 config. Values that are already set are kept.

    Raises:
        ValueError: another project declared one of the keys with another type.
    """
    node = type(cfg)  # yacs merges only nodes of one class
    _declare(cfg, "MASK_RCNN_EXT", node())
    ext = cfg.MASK_RCNN_EXT
    # Class names and their ids in the annotation file, in the model's order. Filled in when a run
    # starts, so that the run's config.yaml and its weights are enough to predict with.
    _declare(ext, "CLASS_NAMES", [])
    _declare(ext, "CATEGORY_IDS", [])
    # A user's own COCO-format data; `train_net.py --train-json F --train-images D ...` sets these
    # four. When they are set, DATASETS.TRAIN and TEST, the class count and INPUT.MASK_FORMAT follow
    # from the files.
    _declare(ext, "DATA", node())
    for key in ("TRAIN_JSON", "TRAIN_IMAGES", "VAL_JSON", "VAL_IMAGES"):
        _declare(ext.DATA, key, "")
    # Make a malformed annotation an error; by default it is dropped and counted.
    _declare(ext.DATA, "STRICT", False)
    # Mixed precision is switched on by detectron2's SOLVER.AMP.ENABLED, on CUDA and on CPU. "auto"
    # is float16 with loss scaling on CUDA (detectron2's choice) and bfloat16 on CPU.
    _declare(ext, "AMP_DTYPE", "auto")
    # Use the same autocast in evaluation and prediction (detectron2 evaluates in float32).
    _declare(ext, "AMP_INFERENCE", False)
    # Keep weights in the channels_last memory format: faster convolutions with AMP on CPU and on
    # CUDA.
    _declare(ext, "CHANNELS_LAST", False)
    # "SGD" is detectron2's; "AdamW" uses SOLVER.BASE_LR and WEIGHT_DECAY, and detectron2's rules
    # for norms and biases. It learns faster from scratch in few iterations.
    _declare(ext, "OPTIMIZER", "SGD")
    # Evaluators beside COCO's, by name. "FCISComparisonEvaluator": AP by overlap level, Boundary
    # AP, and the errors where objects meet.
    _declare(ext, "EVALUATORS", [])
    # Parts of the model, by their names ("backbone", "backbone.bottom_up.res2",
    # "proposal_generator"), whose weights and batch statistics training leaves as they are.
    _declare(ext, "FREEZE", [])

    _declare_mask_head_keys(cfg.MODEL.ROI_MASK_HEAD)
    _declare_rcnn_keys(cfg.MODEL, node)
    _declare_fcis_keys(cfg.MODEL, node)
    _declare_backbone_keys(cfg.MODEL, node)


def _declare_mask_head_keys(mask_head: CfgNode) -> None:
    """Add what `MaskRCNNFCNHead`, `MaskRCNNMLPHead` and the meta-architecture `MaskRCNN` read."""
    # "sigmoid": one binary mask per class (the paper's choice); "softmax": the classes and the
    # background compete at each pixel (Table 2b).
    _declare(mask_head, "LOSS", "sigmoid")
    # Side of the predicted masks: 14, 28, 56 or 112. 0: twice the side of the pooled features.
    _declare(mask_head, "OUTPUT_RESOLUTION", 0)
    # The MLP branch (Table 2e): number of hidden layers and their width. Names, meaning and
    # defaults are those of detectron2's PointRend project.
    _declare(mask_head, "NUM_FC", 2)
    _declare(mask_head, "FC_DIM", 1024)
    # A pixel belongs to the pasted mask from this probability on (section 3.1, "Inference").
    _declare(mask_head, "PASTE_THRESH", 0.5)


def _declare_rcnn_keys(model: CfgNode, node: type[CfgNode]) -> None:
    """Add what the meta-architecture `RCNN` and `ClassifierBoxHead` read."""
    _declare(model, "RCNN", node())
    rcnn = model.RCNN
    # Side of the warped crops, of which CROP_CONTEXT pixels on every side show what surrounds the
    # proposal.
    _declare(rcnn, "CROP_SIZE", 227)
    _declare(rcnn, "CROP_CONTEXT", 16)
    # Crops that the backbone takes at once in testing: less needs less memory.
    _declare(rcnn, "CROPS_PER_BATCH", 256)
    # "softmax": class scores and boxes learned with the backbone. "svm": one linear SVM per class
    # and ridge regression of the boxes, which tools/train_rcnn_svm.py fits to a trained backbone.
    _declare(rcnn, "SCORER", "softmax")
    # What an SVM pays for an error on one of its class's objects, beside 1 for one on a background
    # proposal. Too little where features are few or objects rare, and a margin of -1 everywhere is
    # the best there is.
    _declare(rcnn, "SVM_POSITIVE_WEIGHT", 2.0)
    # Of `ClassifierBoxHead`: share of the units of its fully connected layers that training drops.
    _declare(model.ROI_BOX_HEAD, "DROPOUT", 0.0)


def _declare_fcis_keys(model: CfgNode, node: type[CfgNode]) -> None:
    """Add what the meta-architecture `FCIS` and `FCISROIHeads` read beside detectron2's keys."""
    _declare(model, "FCIS", node())
    fcis = model.FCIS
    # k: every map comes in k x k position-sensitive copies, one for each part of an object.
    _declare(fcis, "NUM_BINS", 7)
    # P, the side of the pooled maps, and so of the masks.
    _declare(fcis, "POOLED_SIZE", 21)
    # "PSROIPool": the paper's; "PSROIAlign": bilinear samples, nothing rounded, P a multiple of k.
    _declare(fcis, "POOLER_TYPE", "PSROIPool")
    # Of PSROIAlign: n x n samples in each of the P x P cells; 0: as many as it spans feature cells.
    _declare(fcis, "POOLER_SAMPLING_RATIO", 0)
    # Channels of the 1 x 1 convolution before the score maps, and its learning rate beside
    # SOLVER.BASE_LR.
    _declare(fcis, "CONV_DIM", 1024)
    _declare(fcis, "CONV_LR_FACTOR", 3.0)
    # Train on the MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE RoIs of the largest loss, of all proposals;
    # False: on that many random ones, MODEL.ROI_HEADS.POSITIVE_FRACTION of them positive at most.
    _declare(fcis, "OHEM", True)
    # Weight of the mask loss; those of the class and box losses are 1.
    _declare(fcis, "MASK_LOSS_WEIGHT", 10.0)
    # How often RoIs are pooled in testing: after each time but the last they are moved to the
    # predicted boxes, and the results of all times are kept.
    _declare(fcis, "NUM_PASSES_TEST", 2)
    # A pixel belongs to a mask from this probability on: in targets, in votes, in the result.
    _declare(fcis, "MASK_THRESH", 0.4)
    # Each detection's mask is the average of those of all RoIs whose box has at least this IoU with
    # its own, weighted by their scores. False: its own mask, and its RoI as the box.
    _declare(fcis, "MASK_VOTING", True)
    _declare(fcis, "VOTE_IOU_THRESH", 0.5)


def _declare_backbone_keys(model: CfgNode, node: type[CfgNode]) -> None:
    # The non-local blocks (Table 8) of `build_nonlocal_resnet_fpn_backbone`: each of these stages
    # has one, before its last residual block.
    _declare(model, "NON_LOCAL", node())
    _declare(model.NON_LOCAL, "STAGES", ["res4"])

    # Any feature extractor of timm, `build_timm_backbone` and `build_timm_fpn_backbone`. The number
    # of input channels is that of MODEL.PIXEL_MEAN.
    _declare(model, "TIMM", node())
    _declare(model.TIMM, "NAME", "resnet18")
    _declare(model.TIMM, "PRETRAINED", False)  # download timm's weights

    # The small ResNet of the embedded-data configs, `build_tiny_resnet_backbone` and
    # `build_tiny_resnet_fpn_backbone`.
    _declare(model, "TINY_RESNET", node())
    tiny = model.TINY_RESNET
    _declare(tiny, "STEM_CHANNELS", 32)
    _declare(tiny, "CHANNELS", [32, 64, 128, 256])  # of res2..res5, strides 4, 8, 16, 32
    _declare(
        tiny, "BLOCKS", [2, 2, 2, 2]
    )  # basic blocks per stage; [2, 2, 2, 2] is ResNet-18's layout
    _declare(tiny, "NORM", "BN")
    # 2: res4 keeps the resolution of res3 (stride 8), and so does what follows; for heads on C4 and
    # C5. With MODEL.RESNETS.RES5_DILATION 2 only res5 keeps that of res4 (stride 16).
    _declare(tiny, "RES4_DILATION", 1)


def get_cfg() -> ExtCfgNode:
    """Return a new config: detectron2's defaults and this package's keys.

    `merge_from_file` and `merge_from_list` of the result are strict and safe, see `ExtCfgNode`.
    """
    cfg = ExtCfgNode(detectron2_get_cfg())
    add_mask_rcnn_ext_config(cfg)
    return cfg


def load_config(
    config_file: str | None,
    overrides: Sequence[str] = (),
    *,
    add_keys: Callable[[ExtCfgNode], None] | None = None,
) -> ExtCfgNode:
    """Return the config of `config_file` with `overrides` (`[KEY, VALUE, ...]`) merged last.

    Args:
        config_file: path of a yaml; None: the defaults.
        overrides: a flat list of keys and values.
        add_keys: declares a project's own keys on the defaults, before anything is merged.

    Raises:
        UserError: see `ExtCfgNode`.
    """
    cfg = get_cfg()
    if add_keys:
        add_keys(cfg)
    if config_file:
        cfg.merge_from_file(config_file)
    cfg.merge_from_list(list(overrides))
    return cfg


def config_hash(cfg: CfgNode, seed: int, without: Collection[str] = ()) -> str:
    """Return the SHA-256 of what a run with `seed` does.

    It is of the keys that are not at their default, without `OUTPUT_DIR`: a key that a later
    version adds leaves the runs valid.

    Args:
        cfg: of the run.
        seed: in place of the config's.
        without: keys, with dots, that do not count either.
    """
    defaults = _flat_lists(get_cfg)
    values = {key: _as_lists(value) for key, value in flat_config(cfg)}
    changed = {key: value for key, value in values.items() if value != defaults.get(key)}
    changed.update(SEED=seed)
    for key in ("OUTPUT_DIR", *without):
        changed.pop(key, None)
    return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()


@functools.cache
def _flat_lists(make: Callable[[], CfgNode]) -> dict[str, Any]:
    """Return the values of the config that `make` gives; building the defaults takes a while."""
    return {key: _as_lists(value) for key, value in flat_config(make())}


def _as_lists(value: Any) -> Any:
    """Return a value with lists for tuples, which a dumped config has in their place."""
    return [_as_lists(entry) for entry in value] if isinstance(value, list | tuple) else value
