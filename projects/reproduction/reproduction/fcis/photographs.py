"""The question of the FCIS experiment on real photographs: nuclei, and a count on COCO.

Few real objects can show the effect: two boxes of one class must overlap so that both read a pixel
from the same part. So these objects are counted first, by their boxes alone. The models are trained
on nuclei (dsb2018). All images with such pairs are held out from training, and measured together
with the validation images. COCO's 158 free photographs are only counted: 92 of them are for
training, too few for masks that are worth measuring.

Predictions, written down before any of these trainings:
  1. With k = 7 there are too few pixels: the interval of FCIS's same-part error minus Mask R-CNN's
     includes zero.
  2. With k = 3 this difference is above zero for the FCIS that has 3 x 3 parts.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mask_rcnn_ext.data.own_data import register_own_data
from mask_rcnn_ext.errors import require_range
from mask_rcnn_ext.files import read_json, write_json
from mask_rcnn_ext.overlap.detections import load_truth
from mask_rcnn_ext.overlap.image_instances import read_image_instances
from mask_rcnn_ext.overlap.intervals import describe_interval
from mask_rcnn_ext.overlap.same_part import draw_same_part
from mask_rcnn_ext.report.json_records import from_json

from ..json_runs import JsonRun, select_images
from ..run_entries import describe_run
from ..training_runs import plan_runs
from .axis_records import draw_axis_runs
from .contrasts import FCIS, RIVAL, describe_ratio
from .experiment import MEASURED_PARTS
from .given_boxes import load_trained, predict_in_true_boxes
from .photograph_pairs import count_pairs, hold_out
from .run_measurement import RunMeasurement
from .true_box_records import (
    TrueBoxRecord,
    draw_right,
    find_overlapping,
    measure_true_boxes,
)

__all__ = [
    "PHOTOGRAPH_MODELS",
    "PhotographMeasurement",
    "PhotographRun",
    "collect_photographs",
    "plan_photographs",
]

# The yaml in configs/shapes that a model builds on -> its name.
PHOTOGRAPH_MODELS = {RIVAL: "Mask R-CNN", **{v: f"FCIS, k = {k}" for k, v in FCIS.items()}}
CLASS, LONGEST = "nucleus", 256  # the class, and the longest side of an image in pixels

# Half of the nuclei are 11 to 20 pixels long. Images are enlarged to 1.25 times their side, so
# that a nucleus covers two or three cells of the stride of 8; the anchors suit it.
_OPTIONS = {
    "MODEL.ROI_HEADS.NUM_CLASSES": 1,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[10, 16, 26, 42, 75]],
    "MODEL.RPN.POST_NMS_TOPK_TEST": 200,
    "INPUT.MIN_SIZE_TRAIN": (320,),
    "INPUT.MAX_SIZE_TRAIN": 320,
    "INPUT.MIN_SIZE_TEST": 320,
    "INPUT.MAX_SIZE_TEST": 320,
    "SOLVER.MAX_ITER": 500,
    "SOLVER.CHECKPOINT_PERIOD": 125,
    "TEST.EVAL_PERIOD": 0,
}


@dataclass(frozen=True)
class PhotographRun(JsonRun):
    """One training on nuclei; the variant is the yaml that its config builds on."""

    def options(self) -> Mapping[str, Any]:
        """See `JsonRun`."""
        return _OPTIONS


def plan_photographs(root: str | Path, folder: str | Path, seeds: int) -> list[PhotographRun]:
    """Write the annotations to train on and to measure; return the runs, seed by seed.

    Args:
        root: the folder of the runs and of the annotations.
        folder: the folder of dsb2018, with `annotations_train.json`, `annotations_val.json` and
            `images/`.
        seeds: trainings of each model.

    Raises:
        UserError: a file is missing or has no nuclei, or `seeds` is not positive.
    """
    require_range("--seeds", seeds, 1)
    contents = [
        select_images(read_json(Path(folder, f"annotations_{split}.json")), CLASS, LONGEST)
        for split in ("train", "val")
    ]
    paths: list[str] = []
    for split, content in zip(("train", "val"), hold_out(*contents), strict=True):
        path = Path(root, "data", f"nuclei_{split}.json")
        write_json(path, content)
        paths += [str(path), str(Path(folder, "images"))]
    return plan_runs(PhotographRun, root, PHOTOGRAPH_MODELS, seeds, files=tuple(paths))


class PhotographMeasurement(RunMeasurement):
    """Measures a finished run's masks in the true boxes, and writes `photographs.json`.

    It measures only images with overlapping boxes of one class.
    """

    file_name, format = "photographs.json", 1

    def find_inputs(self) -> dict[str, Any]:
        """See `Step`; the images to measure are chosen by the annotations."""
        return {**super().find_inputs(), "val_json": self.run.find_other_inputs()["val_json"]}

    def make(self, resume: bool) -> None:
        """See `Step`."""
        cfg, model = load_trained(self.run.folder)
        files, clean = self.run.files, str(self.run.folder / "data")
        dataset = register_own_data("", "", *files[2:], clean_dir=clean).val_name
        assert dataset is not None
        truth = load_truth(files[2])
        images = [
            image_id
            for image_id in truth.imgs
            if find_overlapping(read_image_instances(truth, image_id, {})).any()
        ]
        records = [
            measure_true_boxes(masks, MEASURED_PARTS, only_overlapping=True)
            for masks in predict_in_true_boxes(cfg, model, truth, dataset, images)
        ]
        self.write({"records": records})

    def read(self) -> list[TrueBoxRecord]:
        """Return the records."""
        content = json.loads(self.record.read_text())
        return from_json(list[TrueBoxRecord], content["records"])


def collect_photographs(runs: Sequence[PhotographRun], coco: str | Path) -> dict[str, Any]:
    """Return the results on photographs, ready for json.

    Args:
        runs: finished and measured runs.
        coco: the folder of COCO's photographs, with `annotations_train.json` and
            `annotations_val.json`.

    Returns:
        "data" -> "nuclei", of the held-out images, and "coco" -> see `PairCount`;
        "training_images"; "models" -> variant -> "name"; "same_part" -> "k = 7" -> see
        `draw_same_part`, of pairs of one class, "minus_rival", "pixels" and "images"; "axis";
        "axis_by_rival"; "right"; "runs".
    """
    train, val = load_truth(runs[0].files[0]), load_truth(runs[0].files[2])
    parts = [load_truth(Path(coco, f"annotations_{split}.json")) for split in ("train", "val")]
    return {
        "data": {
            "nuclei": dataclasses.asdict(count_pairs([val])),
            "coco": dataclasses.asdict(count_pairs(parts)),
        },
        "training_images": len(train.imgs),
        "models": _collect_models(runs),
    }


def _collect_models(runs: Sequence[PhotographRun]) -> dict[str, Any]:
    own = {v: [run for run in runs if run.variant == v] for v in PHOTOGRAPH_MODELS}
    records = {v: [PhotographMeasurement(run).read() for run in found] for v, found in own.items()}
    drawn = {v: _draw(records[v], number) for number, v in enumerate(records)}
    models = {}
    for variant, name in PHOTOGRAPH_MODELS.items():
        errors, axis = drawn[variant]
        models[variant] = {
            "name": name,
            "same_part": {
                k: {
                    **{where: describe_interval(values) for where, values in found.items()},
                    "minus_rival": describe_interval(
                        found["one_class/difference"] - drawn[RIVAL][0][k]["one_class/difference"]
                    ),
                    "pixels": sum(pixels := _count_pixels(records[variant][0], k)),
                    "images": int(np.count_nonzero(pixels)),
                }
                for k, found in errors.items()
            },
            "axis": {what: describe_interval(values) for what, values in axis.items()},
            "axis_by_rival": describe_ratio(axis["excess"], drawn[RIVAL][1]["excess"]),
            "right": describe_interval(draw_right(records[variant])),
            "runs": [
                dataclasses.asdict(describe_run(run, ("bbox", "segm"), ("AP", "AP50", "AP75")))
                for run in own[variant]
            ],
        }
    return models


def _count_pixels(records: Sequence[TrueBoxRecord], k: str) -> list[int]:
    """Return how many pixels of each image are read from one part, in pairs of one class."""
    return [record.same_part[k].sums["one_class/same/pixels"] for record in records]


def _draw(
    trainings: Sequence[Sequence[TrueBoxRecord]], model: int
) -> tuple[dict[str, Mapping[str, Any]], Mapping[str, Any]]:
    """Return the draws of same-part errors of pairs of one class, and of axis runs."""
    errors = {
        name: {
            where: values
            for where, values in draw_same_part(
                [[r.same_part[name] for r in records] for records in trainings], model=model
            ).items()
            if where.startswith("one_class")
        }
        for name in (f"k = {k}" for k in MEASURED_PARTS)
    }
    return errors, draw_axis_runs([[r.axis for r in records] for records in trainings], model=model)
