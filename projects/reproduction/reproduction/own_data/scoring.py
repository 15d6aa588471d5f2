"""Evaluates the checkpoints of a run on both halves of the validation images."""

import copy
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.evaluation import DatasetEvaluator

from mask_rcnn_ext.checkpoint.safe_load import load_torch
from mask_rcnn_ext.config import load_config
from mask_rcnn_ext.data.own_data import register_own_data
from mask_rcnn_ext.engine.trainer import Trainer
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.files import read_json, write_json
from mask_rcnn_ext.modeling.precision import prepare_model
from mask_rcnn_ext.overlap.average_precision import AP_METRICS

__all__ = ["VALIDATION_PARTS", "PartEvaluator", "score_checkpoints"]

VALIDATION_PARTS = ("selection", "scoring", "all")  # of the validation images


class PartEvaluator(DatasetEvaluator):
    """Evaluates the predictions of one pass over a data set on several parts of it."""

    def __init__(self, evaluator: DatasetEvaluator, parts: Mapping[str, set[Any]]) -> None:
        """Take an evaluator of the whole data set, and the image ids of each part."""
        self._evaluator, self._parts = evaluator, parts

    def reset(self) -> None:
        """See `DatasetEvaluator`."""
        self._evaluator.reset()

    def process(self, inputs: Any, outputs: Any) -> None:
        """See `DatasetEvaluator`."""
        self._evaluator.process(inputs, outputs)

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Return "<part>/<task>" -> metric -> number."""
        found = OrderedDict()
        for part, ids in self._parts.items():
            evaluator: Any = copy.deepcopy(self._evaluator)  # it changes its predictions
            for task, metrics in evaluator.evaluate(img_ids=sorted(ids)).items():
                found[f"{part}/{task}"] = {name: metrics[name] for name in AP_METRICS}
        return found


def score_checkpoints(folder: Path, val_json: str) -> None:
    """Evaluate the trained weights, not their average; write `scores/scores.json`.

    The file is a list with an entry for each checkpoint of `SOLVER.CHECKPOINT_PERIOD`, in the order
    of training: `iteration`, counted from 1, and for each of `VALIDATION_PARTS` the metrics of
    "segm" and "bbox".

    Args:
        folder: the folder of a run with `MASK_RCNN_EXT.EMA`, whose validation data are the scoring
            half.
        val_json: all validation images.

    Raises:
        UserError: a file cannot be read, or there is no checkpoint.
    """
    cfg = load_config(str(folder / "config.yaml"))
    own, ext = cfg.MASK_RCNN_EXT.DATA, cfg.MASK_RCNN_EXT
    scoring, everything = (
        {image["id"] for image in read_json(path)["images"]} for path in (own.VAL_JSON, val_json)
    )
    parts = dict(zip(VALIDATION_PARTS, (everything - scoring, scoring, everything), strict=True))
    cfg.OUTPUT_DIR = str(folder / "scores")
    classes = list(zip(ext.CATEGORY_IDS, ext.CLASS_NAMES, strict=True))
    data = register_own_data(
        "", "", val_json, own.VAL_IMAGES, clean_dir=cfg.OUTPUT_DIR, classes=classes
    )
    cfg.DATASETS.TEST = (data.val_name,)
    checkpoints = sorted(folder.glob(f"model_{'[0-9]' * 7}.pth"))
    if not checkpoints:
        raise UserError(f"{folder} has no checkpoint to score. Move it away to train again")
    model = prepare_model(cfg, Trainer.build_model(cfg))
    found = []
    for path in checkpoints:
        content = load_torch(str(path))
        if (content["iteration"] + 1) % cfg.SOLVER.CHECKPOINT_PERIOD:
            continue  # the training was interrupted here
        model.load_state_dict(content["trainer"]["hooks"]["WeightAverage"]["weights"])
        evaluator = PartEvaluator(Trainer.build_evaluator(cfg, data.val_name), parts)
        entry: dict[str, Any] = {part: {} for part in VALIDATION_PARTS}
        for name, metrics in Trainer.test(cfg, model, [evaluator]).items():
            part, task = name.split("/")
            entry[part][task] = metrics
        found.append({"iteration": content["iteration"] + 1, **entry})
    write_json(folder / "scores" / "scores.json", found)
