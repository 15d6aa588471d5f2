"""Configs and trained models by name, from this package and from detectron2's model zoo.

The functions are the same as in `detectron2.model_zoo`, and take names of both:

    from mask_rcnn_ext import model_zoo
    model_zoo.get_config("mask_rcnn_R50_FPN")  # ours; ".yaml" is optional
    model_zoo.get("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml", trained=True)  # theirs

A name that both have ("Base-RCNN-FPN.yaml") means our config.

detectron2's own functions cannot find our configs: `detectron2.model_zoo.get_config` reads files in
its installed folder only, and merges them into its default config, which lacks this package's keys.
Changing either would change detectron2 for all other projects in the environment.

With `trained=True`, a config of ours gets the checkpoint of detectron2's zoo that fits its row of
the paper; `mask_rcnn_ext.paper` lists the checkpoints. The settings of the checkpoint's training
that change its predictions (the RoI layer, the pixel normalisation) then replace the settings of
the config, and the log names them. detectron2's authors trained all these checkpoints, with another
schedule and another augmentation than the paper.
"""

import functools
import logging
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import detectron2
import torch
from detectron2.config import instantiate
from torch import nn

from . import paper
from .checkpoint.checkpointer import Checkpointer
from .config import ExtCfgNode, complete_config, get_cfg, load_config
from .config_files import find_config_root, list_config_names, suggest_names
from .errors import UserError
from .modeling.building import build_model
from .modeling.precision import choose_device, prepare_model

__all__ = ["get", "get_checkpoint_url", "get_config", "get_config_file"]

logger = logging.getLogger(__name__)

_URL_PREFIX = "https://dl.fbaipublicfiles.com/detectron2/"


@functools.cache
def _list_stock_names() -> dict[str, str]:
    """Return the names in detectron2's zoo, with and without suffix -> file name.

    A name without suffix means the yaml file if there are both. The folder is listed without
    importing `detectron2.model_zoo`, which needs `pkg_resources`.
    """
    root = Path(detectron2.__file__).parent / "model_zoo/configs"
    names: dict[str, str] = {}
    for suffix in (".py", ".yaml"):  # a yaml replaces the .py of the same name
        for path in root.rglob(f"*{suffix}"):
            name = path.relative_to(root).as_posix()
            names[name.removesuffix(suffix)] = name
            names[name] = name
    return names


def _import_stock_zoo() -> ModuleType:
    try:
        from detectron2 import model_zoo
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pkg_resources":
            raise
        raise UserError(
            "detectron2's model zoo needs pkg_resources, which setuptools 81 and later lack. "
            "Run: pip install 'setuptools<81'. The configs of mask_rcnn_ext work without it"
        ) from error
    zoo: ModuleType = model_zoo
    return zoo


def _resolve(name: str) -> tuple[str, bool]:
    """Return our name without suffix and True, or detectron2's file name and False."""
    stem = name.removesuffix(".yaml")
    # Looking for a single file is faster than listing all. Paths out of the folder are not names.
    plain = not os.path.isabs(stem) and ".." not in stem.split("/")
    if plain and (find_config_root() / f"{stem}.yaml").is_file():
        return stem, True
    ours, stock = list_config_names(), _list_stock_names()
    if name in stock:
        return stock[name], False
    hint = suggest_names(stem, [*ours, *dict.fromkeys(stock.values())])
    raise UserError(f"no config {name!r}{hint}, and detectron2's model zoo has more")


def get_config_file(name: str) -> str:
    """Return the path of the config called `name`.

    Args:
        name: relative to `configs/`, with or without `.yaml`: `"mask_rcnn_R50_FPN"`,
            `"shapes/mask_rcnn_tiny_FPN.yaml"`; or a name of detectron2's zoo, likewise.

    Raises:
        UserError: there is no such config. The message suggests the nearest name.
    """
    resolved, is_ours = _resolve(name)
    if is_ours:
        return str(find_config_root() / f"{resolved}.yaml")
    path: str = _import_stock_zoo().get_config_file(resolved)
    return path


def get_checkpoint_url(name: str) -> str:
    """Return the URL of the trained model for the config called `name`.

    For our configs it is the checkpoint of detectron2's zoo that fits the row of the paper. Load it
    with `get` or `get_config`, which also merge the settings of its training.

    Args:
        name: see `get_config_file`.

    Raises:
        UserError: there is no such config, or no trained model for it. The message says why.
    """
    resolved, is_ours = _resolve(name)
    if is_ours:
        return _make_url(_find_checkpoint(resolved))
    try:
        url: str = _import_stock_zoo().get_checkpoint_url(resolved)
    except RuntimeError as error:
        raise UserError(
            f"{resolved}: detectron2's zoo has the config, but no trained model for it. Use "
            "trained=False, or train it"
        ) from error
    return url


def get_config(name: str, trained: bool = False) -> Any:
    """Return the config called `name`, as a new object that may be changed.

    Args:
        name: see `get_config_file`.
        trained: set MODEL.WEIGHTS to the URL of the trained model, see `get_checkpoint_url`, and
            merge the settings of its training. Otherwise MODEL.WEIGHTS stays as in the config; most
            configs name the backbone's ImageNet weights.

    Returns:
        An `ExtCfgNode`, also for detectron2's yaml files. For a `.py` file of detectron2's zoo,
        omegaconf's DictConfig, as from `detectron2.model_zoo.get_config`.

    Raises:
        UserError: see `get_config_file` and `get_checkpoint_url`.
    """
    resolved, is_ours = _resolve(name)
    if not is_ours:
        if trained:
            get_checkpoint_url(resolved)  # raises a UserError without a trained model
        # detectron2 reads its own files. Some have python tags, which `load_config` refuses.
        stock = _import_stock_zoo().get_config(resolved, trained=trained)
        if resolved.endswith(".py"):
            return stock
        return complete_config(ExtCfgNode(stock))
    cfg = load_config(get_config_file(resolved))
    if trained:
        checkpoint = _find_checkpoint(resolved)
        cfg.merge_from_list(list(checkpoint.overrides))
        cfg.MODEL.WEIGHTS = _make_url(checkpoint)
        logger.info("%s", _describe(resolved, checkpoint))
    return cfg


def get(name: str, trained: bool = False, device: str | torch.device | None = None) -> nn.Module:
    """Build the model of the config called `name` and load its weights.

    Args:
        name: see `get_config_file`.
        trained: load all weights of the trained model. Otherwise, as in detectron2, load the file
            in MODEL.WEIGHTS, in most configs the backbone's ImageNet weights; the other weights are
            random.
        device: device of the model. By default the config's MODEL.DEVICE, or the CPU, with a
            warning in the log, if that is a CUDA device and there is none.

    Returns:
        The model, in training mode, as from detectron2's `get`.

    Raises:
        UserError: see `get_config` and `Checkpointer.load`; or there is no such device.
    """
    cfg = get_config(name, trained)
    if isinstance(cfg, ExtCfgNode):
        choose_device(cfg, device)
        model, weights = prepare_model(cfg, build_model(cfg)), cfg.MODEL.WEIGHTS
    else:  # detectron2's lazy config
        place = get_cfg()
        choose_device(place, device)
        model = instantiate(cfg.model).to(torch.device(place.MODEL.DEVICE))
        weights = cfg.get("train", {}).get("init_checkpoint", "")
    Checkpointer(model).load(weights, strict=trained)
    return model.train()


def _make_url(checkpoint: paper.Checkpoint) -> str:
    return f"{_URL_PREFIX}{checkpoint.config.removesuffix('.yaml')}/{checkpoint.path}"


def _find_checkpoint(name: str) -> paper.Checkpoint:
    """Return the best checkpoint for our config `name`; raise a UserError if none fits."""
    rows = paper.get_rows(name)
    if not rows:
        raise UserError(
            f"{name}: no trained model, since this config is no row of the paper (detectron2's "
            "models have detectron2's names). Train it: "
            f"mask-rcnn-ext train --config-file {name}"
        )
    checkpoints = [checkpoint for row in rows for checkpoint in row.checkpoints]
    for checkpoint in checkpoints:
        if checkpoint.fit != "different":
            return checkpoint
    # Table 7 prints one model twice, on val and on test.
    places = (
        ("the paper's text" if row.table == "text" else f"Table {row.table}") + f", {row.name!r}"
        for row in rows
    )
    where = "; ".join(dict.fromkeys(places))
    if checkpoints:
        other = checkpoints[0]
        reason = (
            f"The nearest checkpoint, {other.config}, is another model: {other.note}. Get it with "
            f"model_zoo.get({other.config!r}, trained=True)"
        )
    else:
        notes = [row.note for row in rows if row.note]
        reason = f"detectron2's zoo has none for it{f' ({notes[0]})' if notes else ''}"
    raise UserError(
        f"{name} ({where}): no trained model fits. {reason}. To train this one: "
        f"mask-rcnn-ext train --num-gpus 8 --config-file {name}"
    )


def _describe(name: str, checkpoint: paper.Checkpoint) -> str:
    """Return a line about the checkpoint that is used for `name`."""
    metrics = ("box", checkpoint.box), ("mask", checkpoint.mask), ("keypoint", checkpoint.keypoint)
    figures = ", ".join(f"{what} AP {value:g}" for what, value in metrics if value is not None)
    words = checkpoint.overrides
    settings = ", ".join(f"{k} {v}" for k, v in zip(words[::2], words[1::2], strict=True))
    note = f" ({checkpoint.note})" if checkpoint.note else ""
    return (
        f"{name}: weights of detectron2's {checkpoint.config}"
        f"{f', {figures}' if figures else ''}; fit to the paper's row: {checkpoint.fit}{note}; "
        f"settings it was trained with: {settings or 'the same'}"
    )
