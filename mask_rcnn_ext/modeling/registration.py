"""Registers a class or a function under a name that only this package uses."""

from collections.abc import Callable
from typing import TypeVar

from detectron2.utils.registry import Registry

__all__ = ["register_as"]

Registered = TypeVar("Registered", bound=Callable[..., object])


def register_as(registry: Registry, name: str) -> Callable[[Registered], Registered]:
    """Register a class or a function under `name`.

    `Registry.register` uses the Python name, which can be short because Python also has modules.
    Names in the registry are global, so they begin with the name of this package; see
    `mask_rcnn_ext.old_names`.
    """

    def register(part: Registered) -> Registered:
        registry._do_register(name, part)
        return part

    return register
