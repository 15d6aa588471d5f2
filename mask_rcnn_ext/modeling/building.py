"""Builds a model; explains the values of a config that detectron2 fails on."""

import contextlib
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import detectron2
import fvcore
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model as detectron2_build_model
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from ..config import find_changed_keys
from ..errors import UserError, name_some, shorten

__all__ = ["SkipRandomWeights", "build_model", "explain_config_errors", "unwrap"]

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_LIBRARIES = (*torch.__path__, *fvcore.__path__)
_ERRORS = (
    *(KeyError, ValueError, AssertionError, TypeError, AttributeError, IndexError),
    *(RuntimeError, ArithmeticError),  # of PyTorch
)


def build_model(cfg: CfgNode) -> nn.Module:
    """Return the model that detectron2's `build_model` builds.

    Raises:
        UserError: detectron2 cannot build it, because of a value in the config.
    """
    with explain_config_errors(cfg, "the model"):
        model: nn.Module = detectron2_build_model(cfg)
    return model


# These functions of `torch.nn.init` ask a mode as a whole. Its other ones call those of tensors.
_DRAWING = (
    *(Tensor.normal_, Tensor.uniform_),
    *(nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_, nn.init.kaiming_uniform_),
)


class SkipRandomWeights(TorchFunctionMode):
    """Builds models faster, with unset weights, inside a `with` block of this thread.

    Drawing the random weights takes most of the time in which a model is built. Load every weight
    of the model afterwards: what the file lacks would be anything. Random buffers are drawn, but
    with one seed they are not those of a model that was built without this block.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call an operation of PyTorch, unless it fills a parameter with random numbers."""
        kwargs = kwargs or {}
        if func in _DRAWING:
            filled = args[0] if args else kwargs["tensor"]
            if isinstance(filled, nn.Parameter):  # a buffer may be in no file
                return filled
        return func(*args, **kwargs)


def unwrap(model: nn.Module) -> nn.Module:
    """Return a model without the DistributedDataParallel and the `torch.compile` around it."""
    while isinstance(model, DistributedDataParallel) or "_orig_mod" in model._modules:
        (model,) = model.children()
    return model


@contextlib.contextmanager
def explain_config_errors(cfg: CfgNode, what: str) -> Iterator[None]:
    """Turn an error that detectron2 raises while it reads a config into a `UserError`.

    Errors of PyTorch, such as for a negative size, and of fvcore's registries are turned as well if
    detectron2 or this package called them. Errors of other code, such as a user's project, are
    not: they need their traceback.

    Args:
        cfg: the config.
        what: the name of the part that is built, for the message.
    """
    try:
        yield
    except UserError:
        raise
    except _ERRORS as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_of_mode(f)]
        callers = [f for f in frames if not _is_in(f.filename, _LIBRARIES)]
        last = callers[-1]
        of_library = last is not frames[-1]
        known = (*detectron2.__path__, *((_PACKAGE,) if of_library else ()))
        if not _is_in(last.filename, known):
            raise
        said = str(error.args[0]) if error.args else (last.line or "").strip()
        keys = _find_keys(cfg, said)
        where = f". It comes from {name_some(keys)}" if keys else ""
        root = _PACKAGE if _is_in(last.filename, [_PACKAGE]) else detectron2.__path__[0]
        folder = os.path.dirname(root)
        raise UserError(
            f"{what} of this config cannot be built: {os.path.relpath(last.filename, folder)} "
            f"refuses it with {type(error).__name__}: {shorten(said, 300)}{where}"
        ) from error


def _is_in(path: str, folders: Iterable[str]) -> bool:
    """Return whether a file is in one of the folders, at any depth."""
    return path.startswith(tuple(os.path.join(folder, "") for folder in folders))


def _find_keys(cfg: CfgNode, said: str) -> list[str]:
    """Return the keys, with their values, that an error message mentions by their value.

    A default value is no mistake: the message uses its word for something else.
    """
    found = []
    for key, value in find_changed_keys(cfg).items():
        texts = [item for item in _list_texts(value) if len(item) > 1]
        if any(said == text or f" {text}" in f" {said}".replace("'", " ") for text in texts):
            found.append(f"{key} {value!r}")
    return found


def _list_texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple):
        return [text for item in value for text in _list_texts(item)]
    return []


def _is_of_mode(frame: traceback.FrameSummary) -> bool:
    """Return whether a frame only passes a call on to PyTorch, see `SkipRandomWeights`."""
    return frame.name == "__torch_function__" and frame.filename == __file__
