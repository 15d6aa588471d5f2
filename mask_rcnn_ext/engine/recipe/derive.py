"""`derive_recipe`: from the training data and the machine to the values of config keys."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode

from ...config import complete_config
from ...errors import UserError
from ...modeling.precision import choose_device
from .facts import Machine, collect_facts, look_at_machine
from .plan import Choice, Plan
from .schedule import choose_batch, choose_length, choose_rate, choose_sampler
from .sizes import choose_anchors, choose_for_crowds, choose_image_size

__all__ = ["derive_recipe", "require_epochs"]


def derive_recipe(
    cfg: CfgNode,
    dataset_dicts: Sequence[Mapping[str, Any]],
    *,
    epochs: float | None = None,
    given: Collection[str] = (),
    reference: CfgNode | None = None,
    machine: Machine | None = None,
) -> list[Choice]:
    """Return values for a training on some images, each with the reason for it.

    Image size, anchors, detections per image, batch size, learning rate, length of the training and
    the sampler are chosen. The rules start from the values of the config and change a value only if
    the data or the machine demand it. Nothing is changed here: `mask_rcnn_ext.engine.recipe.choose`
    puts the values into the config of a run.

    Args:
        cfg: the config of the run, also one from detectron2's `get_cfg()`.
        dataset_dicts: the training images in detectron2's format; at least one object.
        epochs: how often each image is seen. None: 12, and more for small data.
        given: keys, with dots, that the user has set. They keep their value in `cfg`; the others
            follow from it.
        reference: the config without the user's settings, whose learning rate belongs to its batch
            size. None: `cfg`.
        machine: what trains. None: this machine, one process, on `MODEL.DEVICE`, or without a GPU
            on the CPU.

    Returns:
        (key, value, reason) of every key that the rules look at, also where the value stays.

    Raises:
        UserError: there is no object, `epochs` is not positive, or the device does not exist.
    """
    require_epochs(epochs)
    cfg = complete_config(cfg)
    facts = collect_facts(dataset_dicts)
    if machine is None:
        cfg = cfg.clone()
        cfg.defrost()
        choose_device(cfg)
        machine = look_at_machine(cfg.MODEL.DEVICE)
    plan = Plan(cfg, reference or cfg, given)
    choose_image_size(plan, facts, machine.device)
    choose_anchors(plan, facts)
    choose_for_crowds(plan, facts)
    choose_batch(plan, facts, machine)
    choose_rate(plan)
    choose_length(plan, len(dataset_dicts), epochs)
    choose_sampler(plan, facts)
    return plan.rows


def require_epochs(epochs: float | None) -> None:
    """Raise unless the number of epochs is positive and finite, or None."""
    if epochs is not None and not 0 < epochs < float("inf"):
        raise UserError(f"--epochs: expected a positive number, got {epochs:g}")
