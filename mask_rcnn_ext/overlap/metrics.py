"""The names of the comparison's metrics, their meanings, and whether higher is better."""

from dataclasses import dataclass

from .average_precision import AP_METRICS
from .matching import LEVELS

__all__ = ["AP_TASKS", "COUNTS", "METRICS", "RATIOS", "Metric"]

_LEVEL_TASKS = ("overlap", "overlap_same")


@dataclass(frozen=True)
class Metric:
    """One number of a model.

    Attributes:
        label: the name in tables.
        unit: "" for AP (0 to 100), or "%".
        higher_is_better: False for errors.
        meaning: the explanation, one or two sentences.
    """

    label: str
    unit: str
    higher_is_better: bool
    meaning: str


# Kind of match table -> the metrics AP, AP50 and AP75 that are computed from it.
AP_TASKS = {
    "AP": tuple(f"AP/{name}" for name in AP_METRICS),
    "boundary": tuple(f"boundary/{name}" for name in AP_METRICS),
    **{
        f"{task}_{level}": tuple(f"{task}/{name}_{level}" for name in AP_METRICS)
        for task in _LEVEL_TASKS
        for level in LEVELS
    },
}

# Sums over images: numbers of objects and detections, and how many were matched.
COUNTS = (
    "images",
    "objects",
    *(f"objects_{level}" for level in LEVELS),
    *(f"objects_same_{level}" for level in LEVELS),
    "crowds",
    "detections",
    "matched",
    "matched_met",
    "pairs",
)

_BOUND = {"none": "below 0.05", "partial": "from 0.05 to below 0.3", "heavy": "0.3 or more"}


def _describe_ap() -> dict[str, Metric]:
    found = {}
    for name in AP_METRICS:
        found[f"AP/{name}"] = Metric(f"mask {name}", "", True, f"COCO's mask {name}.")
    for name in AP_METRICS:
        found[f"boundary/{name}"] = Metric(
            f"boundary {name}",
            "",
            True,
            f"COCO's {name} with the smaller of mask IoU and Boundary IoU as the IoU of two masks "
            "(Cheng et al. 2021; dilation 2 % of the image's diagonal).",
        )
    for task in _LEVEL_TASKS:
        who = "another object of its class" if task == "overlap_same" else "another object"
        short = "same-class overlap" if task == "overlap_same" else "overlap"
        for level in LEVELS:
            for name in AP_METRICS:
                found[f"{task}/{name}_{level}"] = Metric(
                    f"{name}, {short} {level}",
                    "",
                    True,
                    f"Mask {name} of the objects whose largest box IoU with {who} is "
                    f"{_BOUND[level]}. The other objects are ignored.",
                )
        found[f"{task}/AP_drop"] = Metric(
            f"AP lost from no {short} to heavy",
            "",
            False,
            f"AP of the objects without {short} minus AP of the objects with heavy {short}.",
        )
    return found


_ERRORS = {
    "leak": "Share of a matched mask that lies on other objects. Mean over objects with overlap.",
    "miss": "Share of the object in the contested region (where its box overlaps other boxes) that "
    "the matched mask leaves out. Mean over objects with overlap.",
    "double_claim": "IoU of the two masks that are matched with a pair of objects whose boxes "
    "overlap. Mean over these pairs.",
    "spurious_edge": "Share of a mask's contour that lies in the contested region and far from the "
    "contour of every object. Mean over objects with overlap.",
}

# "task/metric" -> its description: everything that `compare` compares, in the order of a table.
METRICS: dict[str, Metric] = {
    **_describe_ap(),
    **{
        f"errors/{name}": Metric(name.replace("_", " "), "%", False, meaning)
        for name, meaning in _ERRORS.items()
    },
}

# Metrics that are means of shares over objects or pairs.
RATIOS = tuple(name for name in METRICS if name.startswith("errors/"))
