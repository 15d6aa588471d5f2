"""The list of values that a recipe chooses, one row for each config key."""

import functools
from collections.abc import Collection
from typing import Any, NamedTuple

from detectron2.config import CfgNode

__all__ = ["Choice", "Plan", "get_value", "set_value"]


class Choice(NamedTuple):
    """A config key, its value in the run, and the reason for the value."""

    key: str
    value: Any
    reason: str


def get_value(cfg: CfgNode, key: str) -> Any:
    """Return the value of a key with dots."""
    return functools.reduce(lambda node, name: node[name], key.split("."), cfg)


def set_value(cfg: CfgNode, key: str, value: Any) -> None:
    """Set a key with dots; the value keeps the type that the config has there."""
    parent, _, name = key.rpartition(".")
    node = get_value(cfg, parent)
    node[name] = type(node[name])(value)


class Plan:
    """The config with the values that the rules have chosen so far, and a row for each value.

    Attributes:
        cfg: a copy of the run's config, with the values that were chosen.
        reference: the config before the user's own options. The rules scale its values.
        given: the keys that the user has set; they stay.
        rows: the chosen values.
    """

    def __init__(self, cfg: CfgNode, reference: CfgNode, given: Collection[str]) -> None:
        self.cfg, self.reference, self.given = cfg.clone(), reference, frozenset(given)
        self.cfg.defrost()
        self.rows: list[Choice] = []

    def __getitem__(self, key: str) -> Any:
        """Return the value that a key has by now."""
        return get_value(self.cfg, key)

    def choose(self, key: str, value: Any, reason: str) -> None:
        """Set a key and note the reason, unless the user has set it."""
        if key in self.given:
            reason = "yours"
        else:
            set_value(self.cfg, key, value)
        self.rows.append(Choice(key, self[key], reason))
