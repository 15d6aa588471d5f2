"""Configs and trained models by name: this package's, and those of detectron2's model zoo.

The functions are those of `detectron2.model_zoo` and take its names too; one import serves both:

    from mask_rcnn_ext import model_zoo
    model_zoo.get_config("mask_rcnn_R50_FPN")  # ours; ".yaml" may be left out
    model_zoo.get("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml", trained=True)  # its

A name that both have ("Base-RCNN-FPN.yaml") means ours.

The other way round there is no door: `detectron2.model_zoo.get_config("mask_rcnn_ext/...")` cannot
find our configs. It looks for files in its own installed folder only, so ours would have to be
written there; and it merges them into detectron2's default config, which lacks this package's keys.
Either would change detectron2 for every other project in the environment.

With `trained=True` one of our configs gets the checkpoint of detectron2's zoo that fits its row of
the paper, as `paper.py` lists them. The settings that the checkpoint was trained with and that
change its predictions (its RoI layer, its pixel normalisation) then replace the config's, and the
log says which. No checkpoint is the paper's own: detectron2's authors trained them, by another
schedule and with other augmentation.
"""

import functools
import importlib.util
import logging
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.modeling import build_model
from torch import nn

from . import paper
from .config import ExtCfgNode, add_mask_rcnn_ext_config, get_cfg, load_config
from .errors import UserError, nearest

__all__ = ["get", "get_checkpoint_url", "get_config", "get_config_file"]

_logger = logging.getLogger(__name__)

_URL_PREFIX = "https://dl.fbaipublicfiles.com/detectron2/"


def _config_root() -> Path:
    """Return the folder of yaml files: in an installed wheel, or beside the package."""
    package = Path(__file__).resolve().parent
    for root in (package / "configs", package.parent / "configs"):
        if root.is_dir():
            return root
    raise UserError(f"no configs folder in {package} or beside it; reinstall mask_rcnn_ext")


def _our_names() -> list[str]:
    root = _config_root()
    return sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))


@functools.cache
def _stock_names() -> dict[str, str]:
    """Return detectron2's zoo: names without suffix -> with; of two, the yaml.

    The folder is listed without importing `detectron2.model_zoo`, which needs `pkg_resources`.
    """
    spec = importlib.util.find_spec("detectron2.model_zoo")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    names: dict[str, str] = {}
    for root in (Path(folder) / "configs" for folder in folders):
        for suffix in (".py", ".yaml"):  # a yaml replaces the .py of the same name
            for path in root.rglob(f"*{suffix}"):
                name = path.relative_to(root).as_posix()
                names[name.removesuffix(suffix)] = name
                names[name] = name
    return names


def _stock_zoo() -> ModuleType:
    try:
        from detectron2 import model_zoo
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pkg_resources":
            raise
        raise UserError(
            "detectron2's model zoo needs pkg_resources, which setuptools 81 and later lack. "
            "Run: pip install 'setuptools<81'. The configs of mask_rcnn_ext work without"
        ) from error
    zoo: ModuleType = model_zoo
    return zoo


def _resolve(name: str) -> tuple[str, bool]:
    """Return one of our names without suffix and True, or one of detectron2's and False."""
    stem = name.removesuffix(".yaml")
    # Quicker than to list all of them; ".." and folders elsewhere are not in a plain relative path.
    plain = not os.path.isabs(stem) and ".." not in stem.split("/")
    if plain and (_config_root() / f"{stem}.yaml").is_file():
        return stem, True
    ours, stock = _our_names(), _stock_names()
    if name in stock:
        return stock[name], False
    hint = nearest(stem, [*ours, *dict.fromkeys(stock.values())])
    raise UserError(
        f"no config {name!r}{hint}"
        + ("" if hint else f"; ours: {', '.join(ours)}; and those of detectron2's model zoo")
    )


def get_config_file(name: str) -> str:
    """Return the path of the config called `name`.

    Args:
        name: relative to `configs/`, with or without `.yaml`: `"mask_rcnn_R50_FPN"`,
            `"shapes/mask_rcnn_tiny_FPN.yaml"`; or one of detectron2's zoo, likewise.

    Raises:
        UserError: there is no such config. The message names the nearest one.
    """
    resolved, is_ours = _resolve(name)
    if is_ours:
        return str(_config_root() / f"{resolved}.yaml")
    path: str = _stock_zoo().get_config_file(resolved)
    return path


def get_checkpoint_url(name: str) -> str:
    """Return the URL of the trained model for the config called `name`.

    For one of ours it is the checkpoint of detectron2's zoo that fits its row of the paper. Load it
    with `get` or `get_config`, which also merge the settings that it was trained with.

    Args:
        name: see `get_config_file`.

    Raises:
        UserError: there is no such config, or no trained model for it; the message says why.
    """
    resolved, is_ours = _resolve(name)
    if is_ours:
        return _url(_fitting_checkpoint(resolved))
    try:
        url: str = _stock_zoo().get_checkpoint_url(resolved)
    except RuntimeError as error:
        raise UserError(
            f"{resolved}: detectron2's zoo has the config, but no trained model for it. Take "
            "trained=False, or train it"
        ) from error
    return url


def get_config(name: str, trained: bool = False) -> Any:
    """Return the config called `name`, to be changed at will.

    Args:
        name: see `get_config_file`.
        trained: set MODEL.WEIGHTS to the URL of the trained model, see `get_checkpoint_url`, and
            merge the settings that it was trained with. Otherwise MODEL.WEIGHTS is the config's
            own: in most, the backbone's ImageNet weights.

    Returns:
        An `ExtCfgNode`, for detectron2's yaml files too. A `.py` file of detectron2's zoo gives
        omegaconf's DictConfig, as `detectron2.model_zoo.get_config` does.

    Raises:
        UserError: see `get_config_file` and `get_checkpoint_url`.
    """
    resolved, is_ours = _resolve(name)
    if not is_ours:
        if trained:
            get_checkpoint_url(resolved)  # refuses with a reason
        # detectron2 reads its own files: some hold python tags, which `load_config` refuses.
        stock = _stock_zoo().get_config(resolved, trained=trained)
        if resolved.endswith(".py"):
            return stock
        cfg = ExtCfgNode(stock)
        add_mask_rcnn_ext_config(cfg)
        return cfg
    cfg = load_config(get_config_file(resolved))
    if trained:
        checkpoint = _fitting_checkpoint(resolved)
        cfg.merge_from_list(list(checkpoint.overrides))
        cfg.MODEL.WEIGHTS = _url(checkpoint)
        _logger.info("%s", _describe(resolved, checkpoint))
    return cfg


def get(name: str, trained: bool = False, device: str | torch.device | None = None) -> nn.Module:
    """Build the model of the config called `name` and load its weights.

    Args:
        name: see `get_config_file`.
        trained: load the trained model, every weight of it. Otherwise, as detectron2 does, load
            what MODEL.WEIGHTS names, in most configs the backbone's ImageNet weights; the rest is
            random.
        device: where the model goes; default: the config's MODEL.DEVICE, or the CPU, with a line in
            the log, where that asks for CUDA and there is none.

    Returns:
        The model, in training mode, as detectron2's `get`.

    Raises:
        UserError: see `get_config` and `Checkpointer.load`; or there is no such device.
    """
    # The engine imports this module, so it is imported late.
    from .checkpoint.checkpointer import Checkpointer
    from .modeling.precision import choose_device, prepare_model

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


def _url(checkpoint: paper.Checkpoint) -> str:
    return f"{_URL_PREFIX}{checkpoint.config.removesuffix('.yaml')}/{checkpoint.path}"


def _fitting_checkpoint(name: str) -> paper.Checkpoint:
    """Return the best checkpoint for our config `name`; raise a UserError that says why not."""
    rows = paper.get_rows(name)
    if not rows:
        raise UserError(
            f"{name}: no trained model, since this config is no row of the paper (detectron2's own "
            "are to be had under its names). Train it: "
            f"python train_net.py --config-file configs/{name}.yaml"
        )
    checkpoints = [checkpoint for row in rows for checkpoint in row.checkpoints]
    for checkpoint in checkpoints:
        if checkpoint.fit != "different":
            return checkpoint
    # Table 7 prints one model twice, on val and on test.
    where = "; ".join(dict.fromkeys(f"{_table(row.table)}, {row.name!r}" for row in rows))
    if checkpoints:
        other = checkpoints[0]
        reason = (
            f"The nearest one, {other.config}, is of another model: {other.note}. It is to be had "
            f"under that name: model_zoo.get({other.config!r}, trained=True)"
        )
    else:
        notes = [row.note for row in rows if row.note]
        reason = f"detectron2's zoo has none for it{f' ({notes[0]})' if notes else ''}"
    raise UserError(
        f"{name} ({where}): no trained model fits. {reason}. To train this one: "
        f"python train_net.py --num-gpus 8 --config-file configs/{name}.yaml"
    )


def _table(table: str) -> str:
    return "the paper's text" if table == "text" else f"Table {table}"


def _describe(name: str, checkpoint: paper.Checkpoint) -> str:
    """Return one line on the checkpoint that stands in for `name`."""
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
