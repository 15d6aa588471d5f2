"""`results/lineage.json`: accuracy and time of the lineage's methods, and their runs."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.data import DatasetCatalog

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.files import read_json_or_none
from mask_rcnn_ext.overlap.average_precision import AP_METRICS

from ..run_entries import RunEntry, describe_run
from .runs import LineageRun, Method, compare_configs, methods, proposal_sets

__all__ = [
    "InferenceTiming",
    "LineageResults",
    "MethodResults",
    "Quartiles",
    "SharedSettings",
    "collect",
    "require_proposals",
]

_TASKS = ("bbox", "segm")
_DECIMALS = 4
# APs: objects under 32 pixels; APm: larger ones.
_METRICS = (*AP_METRICS, "APs", "APm")
# The keys that are read from the json next to the proposals.
_PROPOSAL_KEYS = ("proposals_per_image", "recall", "seconds_per_image")


@dataclass(frozen=True)
class Quartiles:
    """The median and the lower and upper quartile of seconds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class InferenceTiming:
    """How seconds per image were measured."""

    images: int  # number of images that were timed
    warm_up: int  # number of images before them
    threads: int  # threads of torch
    device: str  # "cpu", or the name of the GPU
    what: str  # what the seconds include, in words


@dataclass(frozen=True)
class MethodResults:
    """The results of a method: means over the seeds, AP in 0-100; None: there is no number."""

    variant: str  # this and the next four: see `Method`
    name: str
    added: str
    base: str | None
    variation: bool
    config: str  # path of the yaml
    metrics: dict[str, dict[str, float | None] | None]  # by task, which may be None
    proposals: str  # "stored" for selective search, or "RPN"
    proposals_per_image: int  # the most that an image is tested with
    seconds_per_image: Quartiles  # time of the network
    proposal_seconds_per_image: float | None  # time of stored proposals
    train_seconds: float | None
    iterations: int | None  # None: it is fitted to another's network
    images_per_batch: int | None  # None as for `iterations`
    train_images: int

    @property
    def total_seconds(self) -> float:
        """Seconds per image of the network and of stored proposals."""
        return self.seconds_per_image.median + (self.proposal_seconds_per_image or 0.0)

    def ap(self, task: str, metric: str = "AP") -> float | None:
        """Return an AP; None when the method does not have the task, or the AP has no number."""
        return (self.metrics[task] or {}).get(metric)


@dataclass(frozen=True)
class SharedSettings:
    """What all methods have in common; the data sets are names, joined by commas."""

    backbone: str
    channels: list[int]
    blocks: list[int]
    train: str
    val: str
    image_size: int  # shorter side, in pixels


@dataclass(frozen=True)
class LineageResults:
    """The content of `lineage.json`."""

    dataset: str  # the data set of the measurement
    seeds: list[int]
    shared: SharedSettings
    differing: dict[str, dict[str, Any]]  # see `runs.compare_configs`
    proposals: dict[str, dict[str, Any]]  # by data set, see `require_proposals`
    timing: InferenceTiming
    methods: list[MethodResults]  # in the order of their papers
    runs: list[RunEntry]


def require_proposals(runs: Sequence[LineageRun]) -> dict[str, dict[str, Any]]:
    """Return the json next to each proposal file: data set -> content.

    Args:
        runs: runs of one root.

    Raises:
        UserError: a file is missing, or is not what `tools/compute_proposals.py` writes.
    """
    folder = runs[0].root / "proposals"
    found = {}
    for name in proposal_sets(runs):
        path = folder / f"{name}.json"
        content = read_json_or_none(str(path))
        if not isinstance(content, dict) or any(key not in content for key in _PROPOSAL_KEYS):
            raise UserError(
                f"{path}: expected the facts that tools/compute_proposals.py writes about the "
                f"proposals for {name} ({', '.join(_PROPOSAL_KEYS)}). Leave out --only-report to "
                "compute them"
            )
        found[name] = content
    return found


def collect(
    runs: Sequence[LineageRun],
    timed: tuple[InferenceTiming, Mapping[str, Quartiles]],
    proposals: dict[str, dict[str, Any]],
) -> LineageResults:
    """Return the results of the runs.

    Args:
        runs: finished runs, as `runs.plan` returns them.
        timed: what `inference.measure_seconds` returned for the first seed.
        proposals: what `require_proposals` returned.
    """
    configs = compare_configs()
    timing, seconds = timed
    return LineageResults(
        dataset=runs[0].config().DATASETS.TEST[0],
        seeds=sorted({run.seed for run in runs}),
        shared=SharedSettings(**configs["shared"]),
        differing=configs["differing"],
        proposals=proposals,
        timing=timing,
        methods=[
            _average(
                method,
                [run for run in runs if run.variant == method.variant],
                seconds[method.variant],
                proposals,
            )
            for method in methods()
        ],
        runs=[describe_run(run, _TASKS, _METRICS, inputs=run.find_other_inputs()) for run in runs],
    )


def _average(
    method: Method,
    runs: Sequence[LineageRun],
    seconds: Quartiles,
    proposals: Mapping[str, Any],
) -> MethodResults:
    """Return the results of a method over its runs."""
    cfg = runs[0].config()
    entries = [describe_run(run, _TASKS, _METRICS) for run in runs]
    stored = cfg.MODEL.LOAD_PROPOSALS
    topk = cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST if stored else 0
    test = cfg.DATASETS.TEST[0]
    return MethodResults(
        **vars(method),
        config=f"configs/shapes/lineage/{method.variant}.yaml",
        metrics={
            task: {metric: _mean([e.metrics[task][metric] for e in entries]) for metric in _METRICS}
            if all(task in entry.metrics for entry in entries)
            else None
            for task in _TASKS
        },
        proposals="stored" if stored else "RPN",
        proposals_per_image=int(topk or cfg.MODEL.RPN.POST_NMS_TOPK_TEST),
        seconds_per_image=seconds,
        proposal_seconds_per_image=proposals[test]["seconds_per_image"] if stored else None,
        train_seconds=_mean([entry.train_seconds for entry in entries], 1),
        iterations=None if method.base else int(cfg.SOLVER.MAX_ITER),
        images_per_batch=None if method.base else int(cfg.SOLVER.IMS_PER_BATCH),
        train_images=sum(len(DatasetCatalog.get(name)) for name in cfg.DATASETS.TRAIN),
    )


def _mean(values: Sequence[float | None], decimals: int = _DECIMALS) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.fmean(known), decimals) if len(known) == len(values) else None
