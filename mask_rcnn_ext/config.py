"""Strict, safe loading of configs; what differs from the defaults, and a hash of it.

`get_cfg()` is detectron2's default config plus the keys in `config_keys`. Reading a yaml never runs
code from it, and an unknown key is an error that names the most similar known key.
"""

import copy
import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable, Collection, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.config import get_cfg as detectron2_get_cfg

from .config_keys import add_mask_rcnn_ext_config
from .config_node import ExtCfgNode, flat_config, publish_class_names, require_config_node
from .old_names import restore_old_names
from .run_files import SPLIT_NAMES

__all__ = [
    "ExtCfgNode",
    "add_mask_rcnn_ext_config",
    "allow_new_keys",
    "complete_config",
    "config_hash",
    "find_changed_keys",
    "flat_config",
    "get_cfg",
    "keys_of",
    "load_config",
]

logger = logging.getLogger(__name__)


def complete_config(cfg: CfgNode) -> CfgNode:
    """Return the config itself or, if it lacks keys of this package, a copy with them.

    Raises:
        UserError: see `require_config_node`.
    """
    require_config_node(cfg)
    if _flat_lists(get_cfg).keys() <= {key for key, _ in flat_config(cfg)}:
        return cfg
    completed = cfg.clone()
    completed.defrost()
    add_mask_rcnn_ext_config(completed)
    if cfg.is_frozen():
        completed.freeze()
    return completed


def get_cfg() -> ExtCfgNode:
    """Return a new config: detectron2's and our defaults. Merging into it is strict and safe."""
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
        add_keys: adds a project's own keys to the defaults, before the file is merged.

    Raises:
        UserError: see `ExtCfgNode`.
    """
    cfg = get_cfg()
    if add_keys:
        add_keys(cfg)
    if config_file:
        cfg.merge_from_file(config_file)
        _follow_run(cfg, config_file)
    cfg.merge_from_list(list(overrides))
    publish_class_names(cfg)
    return cfg


def _follow_run(cfg: ExtCfgNode, config_file: str) -> None:
    """Let the config of a run that was moved or copied name the parts of `--split` next to it."""
    own, folder = cfg.MASK_RCNN_EXT.DATA, os.path.dirname(os.path.abspath(config_file))
    if os.path.basename(config_file) != "config.yaml":
        return
    for key, name in SPLIT_NAMES.items():
        part = os.path.join("data", name)
        # OUTPUT_DIR may be relative, and is still that of the first place.
        before = os.path.normpath(os.path.join(cfg.OUTPUT_DIR, part))
        here = os.path.join(folder, part)
        if own[key].endswith(os.path.join(os.sep, before)) and os.path.isfile(here):
            logger.info("MASK_RCNN_EXT.DATA.%s is the run's own: %s", key, here)
            own[key] = here


def allow_new_keys(cfg: CfgNode) -> None:
    """Let a config take unknown keys, as `add_keys`, for a reader that only shows the values."""
    cfg.set_new_allowed(True)


def keys_of(cfg: CfgNode) -> Callable[[CfgNode], None]:
    """Return a function, as `add_keys`, that adds the keys of `cfg` that a project has declared."""
    return lambda target: _add_missing(target, cfg)


def _add_missing(target: CfgNode, source: CfgNode) -> None:
    for key, value in source.items():
        if key not in target:
            target[key] = copy.deepcopy(value)
        elif isinstance(value, CfgNode):
            _add_missing(target[key], value)


def find_changed_keys(cfg: CfgNode) -> dict[str, Any]:
    """Return the keys of `cfg`, with dots, that differ from their default, and their values.

    Tuples become lists, as in a dumped config.
    """
    defaults = _flat_lists(get_cfg)
    values = {key: _as_lists(value) for key, value in flat_config(cfg)}
    return {key: value for key, value in values.items() if value != defaults.get(key)}


def config_hash(cfg: CfgNode, seed: int, without: Collection[str] = ()) -> str:
    """Return a SHA-256 that identifies the work of a run.

    It covers the keys that differ from their default, except `OUTPUT_DIR`. So the hash of an
    earlier run stays the same if a later version adds or renames keys.

    Args:
        cfg: the run's config.
        seed: replaces the seed of the config.
        without: more keys, with dots, that do not count.
    """
    changed = find_changed_keys(cfg)
    changed.update(SEED=seed)
    for key in ("OUTPUT_DIR", *without):
        changed.pop(key, None)
    changed = restore_old_names(changed)
    return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()


@functools.cache
def _flat_lists(make: Callable[[], CfgNode]) -> dict[str, Any]:
    """Return the values of the config that `make` builds; cached, since building is slow."""
    return {key: _as_lists(value) for key, value in flat_config(make())}


def _as_lists(value: Any) -> Any:
    """Return the value with lists in place of tuples, as in a dumped config."""
    return [_as_lists(entry) for entry in value] if isinstance(value, list | tuple) else value
