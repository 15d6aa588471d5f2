"""Registering a part under a name that only this package has."""

from collections.abc import Callable
from typing import TypeVar

from detectron2.utils.registry import Registry

__all__ = ["register_as"]

Part = TypeVar("Part", bound=Callable[..., object])


def register_as(registry: Registry, name: str) -> Callable[[Part], Part]:
    """Register a class or a function under `name`.

    `Registry.register` takes the name from Python, where it is short because it has a module. In
    the registry it is global and begins with the name of this package (`mask_rcnn_ext.old_names`).
    """

    def register(part: Part) -> Part:
        registry._do_register(name, part)
        return part

    return register
