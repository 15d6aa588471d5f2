"""Ends a training whose loss or gradients are NaN or infinite, before they reach the weights.

A model whose weights are NaN cannot be trained further, and its checkpoint is useless. So gradients
are checked before each step of the optimizer, and the run ends with a message about the cause.
"""

import contextlib
import itertools
import logging
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_hook

from ..errors import UserError, name_some
from ..modeling.building import unwrap

__all__ = ["CheckGradients", "explain_bad_numbers", "restore_statistics"]

logger = logging.getLogger(__name__)


class CheckGradients(HookBase):
    """Raises `FloatingPointError` after a backward pass that gave NaN or infinite gradients.

    It is a hook of the inner loop, `SimpleTrainer` or `AutocastTrainer`. With a scaled loss
    (float16), infinite gradients are usual: the scaler leaves out these steps.
    """

    def after_backward(self) -> None:
        """Look at the gradients of all parameters."""
        loop: Any = self.trainer
        if getattr(loop, "grad_scaler", None) is not None:
            return
        gradients = [p.grad for p in loop.model.parameters() if p.grad is not None]
        if gradients and not _is_finite(gradients):
            raise FloatingPointError("a gradient is NaN or infinite")


def _is_finite(tensors: list[Tensor]) -> bool:
    # The sum of squares takes much less time than the largest value, but overflows above 1e19.
    if torch.stack(torch._foreach_norm(tensors)).isfinite().all():
        return True
    largest = torch._foreach_norm(tensors, float("inf"))  # NaN where there is a NaN
    return bool(torch.stack(largest).isfinite().all())


@contextlib.contextmanager
def restore_statistics(model: nn.Module) -> Iterator[None]:
    """Restore the statistics of batch norms if the block raises.

    The forward pass of a step changes them before the loss can be checked.
    """
    norms = (module for module in model.modules() if isinstance(module, _BatchNorm))
    kept = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    try:
        yield
    except BaseException:
        for buffer, before in kept:
            buffer.copy_(before)
        raise


def explain_bad_numbers(trainer: Any, error: FloatingPointError) -> UserError:
    """Write the state before the step to a file, and return the error that ends the run.

    The step is computed again with the same random numbers, to find the first layer with NaN.

    Args:
        trainer: the `Trainer` whose step failed.
        error: the error of the step.
    """
    name = f"nonfinite_{trainer.iter:07d}"
    path = os.path.join(trainer.cfg.OUTPUT_DIR, f"{name}.pth")
    gradients = [
        parameter_name
        for parameter_name, parameter in trainer.model.named_parameters()
        if parameter.grad is not None and not parameter.grad.isfinite().all()
    ]
    state = {**trainer.state_dict(), "iteration": trainer.iter - 1}
    # A complete checkpoint, which `--resume` does not take.
    trainer.checkpointer.save_weights(name, trainer=state, iteration=trainer.iter - 1)
    batch = getattr(trainer._trainer.data_loader, "last_batch", None) or []
    weight = _find_bad_weight(trainer.model)
    if weight:
        fix = (
            f"Start from other weights than {trainer.cfg.MODEL.WEIGHTS!r}"
            if trainer.iter == 0 and trainer.cfg.MODEL.WEIGHTS
            else f"Lower SOLVER.BASE_LR ({trainer.cfg.SOLVER.BASE_LR:g}) and start again, or "
            "resume a checkpoint from before"
        )
        return UserError(
            f"iteration {trainer.iter}: the weight {weight} is NaN or infinite, before the step. "
            f"The state is in {path}. {fix}"
        )
    trainer.step_seed.before_step()
    found = _find_origin(trainer._trainer, batch, gradients, str(error))
    mapped = [image for image in batch if isinstance(image, Mapping)]
    images = [str(image["file_name"]) for image in mapped if "file_name" in image]
    last = trainer.checkpointer.get_checkpoint_file()
    resume = (
        f"The checkpoint {last} is from before: lower the rate and continue from it with --resume"
        if last
        else "There is no checkpoint from before: lower the rate and start again"
    )
    return UserError(
        f"iteration {trainer.iter}: {found}. Images: {name_some(images) or 'not known'}. The "
        f"weights before this step are finite and in {path}. Usual causes: SOLVER.BASE_LR "
        f"({trainer.cfg.SOLVER.BASE_LR:g}) too high for SOLVER.IMS_PER_BATCH "
        f"({trainer.cfg.SOLVER.IMS_PER_BATCH}), SOLVER.WARMUP_ITERS "
        f"({trainer.cfg.SOLVER.WARMUP_ITERS}) too low, or wrong boxes. {resume}"
    )


def _find_origin(loop: Any, batch: list[Any], gradients: list[str], said: str) -> str:
    """Compute the losses of a batch again and describe what is not finite.

    A project may have a loader that does not keep its batch, or a loop that gives its model other
    arguments. Then the losses are not known, and the words of the error, `said`, remain.
    """
    for image in batch:
        pixels = image.get("image") if isinstance(image, Mapping) else None
        if isinstance(pixels, Tensor) and not pixels.isfinite().all():
            return "an image has NaN or infinite values"
    names = {module: name for name, module in unwrap(loop.model).named_modules() if name}
    first: list[str] = []

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        if first or module not in names:
            return
        if not all(math.isfinite(x) for x in _list_largest(output)):
            first.append(names[module])

    losses: dict[str, float] = {}
    handle = register_module_forward_hook(look)
    try:
        with torch.no_grad():
            found = getattr(loop, "compute_losses", loop.model)(batch) if batch else {}
            if isinstance(found, Tensor):
                found = {"total_loss": found}  # as in detectron2's loop
            if isinstance(found, Mapping):
                losses = {name: float(loss) for name, loss in found.items()}
    except Exception as error:  # detectron2's RPN raises one for its boxes
        logger.debug("the step again: %s", error)
    finally:
        handle.remove()
    bad = [f"{name} is {loss:g}" for name, loss in losses.items() if not math.isfinite(loss)]
    if losses:
        said = ", ".join(bad) or "the losses are finite"
    else:
        said = "there are no losses" if first else " ".join(said.split()).rstrip(".!")
    if first:
        return f"{said}, and the first layer with NaN or infinite outputs is {first[0]}"
    if gradients:
        return f"{said}, and the gradients of {name_some(gradients)} are NaN or infinite"
    return said


def _find_bad_weight(model: nn.Module) -> str | None:
    """Return the name of a parameter or buffer that is not finite, or None."""
    model = unwrap(model)
    tensors = itertools.chain(model.named_parameters(), model.named_buffers())
    return next((name for name, tensor in tensors if not tensor.isfinite().all()), None)


def _list_largest(output: Any) -> Iterator[float]:
    """Return the largest absolute value of each tensor in the output of a layer."""
    if isinstance(output, Tensor):
        if output.is_floating_point() and output.numel():
            yield float(output.detach().abs().max())
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _list_largest(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _list_largest(value)
