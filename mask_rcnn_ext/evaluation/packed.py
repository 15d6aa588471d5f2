"""Lets evaluators that can read `PackedMasks` work without an image for each mask."""

from collections.abc import Callable, MutableSequence, Sequence
from typing import Any, TypeVar

import numpy as np
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from torch import nn

from ..layers.packed_masks import PackedMasks
from ..modeling.packed_outputs import pack_outputs

__all__ = ["PackedEvaluator", "convert_to_coco", "pack_evaluation", "takes_packed_masks"]

Process = TypeVar("Process", bound=Callable[..., None])


def takes_packed_masks(process: Process) -> Process:
    """Mark a method `process`: it also reads `pred_masks` that are `PackedMasks`.

    A subclass that replaces the method without the mark gets masks (N, H, W).
    """
    process.takes_packed_masks = True  # type: ignore[attr-defined]
    return process


def pack_evaluation(
    trainer: type[DefaultTrainer],
    model: nn.Module,
    evaluators: DatasetEvaluator | Sequence[DatasetEvaluator] | None,
) -> tuple[type[DefaultTrainer], nn.Module, Sequence[DatasetEvaluator] | None]:
    """Return the arguments with which `DefaultTrainer.test` needs less memory for the same results.

    Args:
        trainer: the class that builds evaluators if none are given. They cannot be built here,
            since the files and classes of a data set are known only after it has been read.
        model: the model to evaluate.
        evaluators: one, one for each data set, or None.

    Returns:
        The same three, or new ones if the model can give `PackedMasks` and an evaluator reads them.
    """
    if isinstance(evaluators, DatasetEvaluator):
        evaluators = [evaluators]
    packed = pack_outputs(model)
    if packed is model:
        return trainer, model, evaluators
    if evaluators is None:
        return _pack_trainer(trainer), packed, None
    leaves = [leaf for one in evaluators for leaf in _list_evaluators(_as_one(one))]
    if not any(_is_marked(leaf) for leaf in leaves):
        return trainer, model, evaluators
    return trainer, packed, [PackedEvaluator(evaluator) for evaluator in evaluators]


def _pack_trainer(trainer: type[DefaultTrainer]) -> type[DefaultTrainer]:
    class Packing(trainer):  # type: ignore[misc,valid-type]
        @classmethod
        def build_evaluator(cls, *args: Any, **kwargs: Any) -> DatasetEvaluator:
            return PackedEvaluator(trainer.build_evaluator(*args, **kwargs))

    return Packing


def _as_one(evaluator: DatasetEvaluator | MutableSequence | None) -> DatasetEvaluator:
    """Return one evaluator, as detectron2's `inference_on_dataset` makes it of a list or None."""
    if evaluator is None or isinstance(evaluator, MutableSequence):
        return DatasetEvaluators(evaluator or [])
    return evaluator


def _is_marked(evaluator: DatasetEvaluator) -> bool:
    return getattr(evaluator.process, "takes_packed_masks", False)


def _list_evaluators(evaluator: DatasetEvaluator) -> list[DatasetEvaluator]:
    # A subclass may pass the outputs on in a way of its own.
    if type(evaluator) is not DatasetEvaluators:
        return [evaluator]
    return [part for one in evaluator._evaluators for part in _list_evaluators(one)]


class PackedEvaluator(DatasetEvaluator):
    """Passes on the outputs of a model with `PackedMasks`.

    An evaluator whose `process` is marked gets them as they are; any other one gets masks
    (N, H, W) bool on the device of the instances, as from the model itself.

    Args:
        evaluator: one evaluator, or several as `DatasetEvaluators` or as a list, or None.
    """

    def __init__(self, evaluator: DatasetEvaluator | MutableSequence | None) -> None:
        self._evaluator = _as_one(evaluator)

    def reset(self) -> None:
        """See the base class."""
        self._evaluator.reset()

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """See the base class."""
        unpacked: list[dict[str, Any]] | None = None
        for evaluator in _list_evaluators(self._evaluator):
            if _is_marked(evaluator):
                evaluator.process(inputs, outputs)
            else:
                unpacked = unpacked or [_unpack(output) for output in outputs]
                evaluator.process(inputs, unpacked)

    def evaluate(self) -> Any:
        """See the base class."""
        return self._evaluator.evaluate()


def _unpack(output: dict[str, Any]) -> dict[str, Any]:
    instances = output["instances"]
    fields = dict(instances.get_fields())
    if isinstance(fields.get("pred_masks"), PackedMasks):
        fields["pred_masks"] = fields["pred_masks"].unpack().to(instances.scores.device)
    return {**output, "instances": Instances(instances.image_size, **fields)}


def convert_to_coco(instances: Instances, image_id: Any) -> list[dict[str, Any]]:
    """Do the same as detectron2's `instances_to_coco_json`; `pred_masks` may be `PackedMasks`.

    Args:
        instances: instances on the CPU; the keypoints are moved by half a pixel, in place.
        image_id: the id for the results.
    """
    fields = dict(instances.get_fields())
    masks = fields.get("pred_masks")
    if not isinstance(masks, PackedMasks):
        if masks is not None:  # NumPy 2 warns of tensors in detectron2's np.array
            fields["pred_masks"] = np.asarray(masks)
        return list(instances_to_coco_json(Instances(instances.image_size, **fields), image_id))
    del fields["pred_masks"]
    results = instances_to_coco_json(Instances(instances.image_size, **fields), image_id)
    for result, rle in zip(results, masks.encode(), strict=True):
        keypoints = {name: result.pop(name) for name in ("keypoints",) if name in result}
        result["segmentation"] = {**rle, "counts": rle["counts"].decode("ascii")}
        result.update(keypoints)  # after the mask, as detectron2 orders them
    return list(results)
