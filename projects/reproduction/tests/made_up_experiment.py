"""Made-up content of `fcis_experiment.json`, in which each prediction is true or false as asked."""

import numpy as np
from reproduction.fcis.experiment import EXPERIMENT_MODELS
from reproduction.fcis.experiment_results import ExperimentResults

from mask_rcnn_ext.report.json_records import from_json

K7, K3, K1 = (f"fcis_tiny_nested_k{k}" for k in (7, 3, 1))
RIVAL = "mask_rcnn_tiny_nested"


def read(content):
    return from_json(ExperimentResults, content)


def around(value, half=1.0):
    return {"value": value, "low": value - half, "high": value + half}


def same_part(one, two):
    return {
        **{f"{pair}/{where}": around(20.0) for pair in ("one_class", "two_classes")
           for where in ("same", "other")},
        "one_class/difference": around(one),
        "two_classes/difference": around(two),
    }  # fmt: skip


def make_content(false=()):
    """Return content with all predictions true but those whose numbers are in `false`.

    The FCIS with k = 7 has a same-part error of 5 points, the one with k = 3 of 12. In pairs of two
    classes it is 0.5. Mask R-CNN has 0.2.
    """
    one = {K7: 5.0, K3: 12.0, K1: 1.0, RIVAL: 0.2 if 3 not in false else 3.0}
    if 2 in false:
        one[K3] = one[K7]
    two = 0.5 if 1 not in false else 4.0
    lines = {K7: (3.0, 0.9), K3: (1.0, 4.0), K1: (1.0, 1.1), RIVAL: (1.0, 0.9)}
    if 4 in false:
        lines[K7] = lines[K3] = (1.2, 1.2)
    places = np.ones(84, dtype=int)
    models = {
        variant: {
            "name": name,
            "same_part": {f"k = {k}": same_part(one[variant], two) for k in (7, 3)},
            "axis": {
                "excess": around(1.5, 0.1),
                **{f"lines_{k}": around(lines[variant][i], 0.3) for i, k in enumerate((7, 3))},
            },
            "places": [int(count) for count in places],
            "runs": [make_run(variant, seed) for seed in range(1, trainings + 1)],
        }
        for variant, (name, trainings) in EXPERIMENT_MODELS.items()
    }
    growth, moved = one[K3] - one[K7], [lines[K7][0] / lines[K3][0], lines[K3][1] / lines[K7][1]]
    contrasts = {
        "same_part": {
            "classes": {
                v: {f"k = {k}": around(one[v] - two) for k in (7, 3)} for v in EXPERIMENT_MODELS
            },
            "control": {
                v: {f"k = {k}": around(one[v] - one[RIVAL]) for k in (7, 3)} for v in (K7, K3, K1)
            },
            "growth": {"fcis": around(growth), "mask_rcnn": around(0.0), "minus": around(growth)},
        },
        "axis": {
            "control": {v: {"excess": around(1.4, 0.1)} for v in (K7, K3, K1)},
            "moved": {f"lines_{k}": around(r, 0.3) for k, r in zip((7, 3), moved, strict=True)},
        },
    }
    shares = {"one_class": {"k = 7": 11.1, "k = 3": 50.2}}
    return {
        "part_shares": {"train": shares, "val": shares},
        "models": models,
        "contrasts": contrasts,
    }


def make_changes(error=(5.0, 12.0), right=0.5):
    """Return the rows of the changes in testing.

    Args:
        error: the same-part errors of FCIS with soft parts, k = 7 and k = 3. It stays with
            PSROIAlign, and falls by 3 with the copies.
        right: how much the share of right masks changes by any change.
    """
    rows = []
    for variant, k, plain in ((RIVAL, 7, 0.2), (RIVAL, 3, 0.2), (K7, 7, 8.0), (K3, 3, 15.0)):
        errors = {"none": plain, f"nine copies, k = {k}": plain - (3 if variant != RIVAL else 0)}
        if variant != RIVAL:
            errors |= {"PSROIAlign": plain, "soft parts": error[k == 3]}
        for change, value in errors.items():
            lines = {"none": 3.0, "PSROIAlign": 3.0, "soft parts": 1.0}.get(change, 1.5)
            by_change = {
                "error": around(value - plain, 0.5),
                "lines": around(lines - 3.0, 0.1),
                "excess": around(0.0, 0.1),
                "right": around(right, 0.2),
            }
            rows.append(
                {
                    "variant": variant,
                    "model": EXPERIMENT_MODELS[variant][0],
                    "k": k,
                    "change": change,
                    "error": around(value),
                    "lines": around(lines, 0.2),
                    "lines_minus_rival": around(lines - 1.0, 0.2),
                    "excess": around(1.5, 0.1),
                    "right": around(60.0),
                    "by_change": None if change == "none" else by_change,
                }
            )
    return rows


def make_run(variant, seed):
    aps = {"AP": 50.0 + seed, "AP50": 70.0, "AP75": None}
    return {
        "variant": variant,
        "seed": seed,
        "config_sha256": "",
        "metrics": {"segm": aps, "bbox": aps},
        "train_seconds": 1800.0,
        "eval_seconds": None,
        "peak_memory_mb": None,
        "device": "cpu, 1 thread",
        "versions": None,
        "evaluations": [
            {"iteration": i, "segm": 10.0 * i / 750 + seed, "bbox": 1.0}
            for i in (750, 1500, 2250, 3000)
        ],
    }
