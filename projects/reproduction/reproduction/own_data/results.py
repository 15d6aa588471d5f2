"""`results/own_data.json`: the numbers of the runs, the differences, and the predictions."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from mask_rcnn_ext.config import flat_config
from mask_rcnn_ext.engine.recipe.choose import RECIPE_KEYS
from mask_rcnn_ext.files import read_json, write_json
from mask_rcnn_ext.overlap.average_precision import AP_METRICS
from mask_rcnn_ext.report.json_records import from_json, to_json

from ..markdown import read_record
from ..run_entries import describe_run
from ..training_runs import read_run_config
from .choice import choose_weights
from .predictions import collect_contrasts, judge_own_data_predictions
from .results_file import (
    CheckpointEvaluation,
    OwnDataEntry,
    OwnDataResults,
    PhotoCounts,
    PhotosFacts,
    TimingEntry,
)
from .runs import DATA, EVALUATIONS, PATIENCE, OwnDataRun

__all__ = ["find_recorded", "write_own_data_results"]


def find_recorded(path: str | Path, runs: Iterable[OwnDataRun]) -> dict[OwnDataRun, OwnDataEntry]:
    """Return the entries of a file of results that belong to `runs`.

    The trainings take hours, so they may be done on several days, and their folders need not stay:
    a run with the same config and the same annotations is not trained again.

    Args:
        path: the file; it may be missing.
        runs: the planned runs.

    Raises:
        UserError: see `read_record`.
    """
    results = _read(path)
    entries = {(e.variant, e.seed, e.config_sha256): e for e in results.runs} if results else {}
    keys = {run: (run.variant, run.seed, run.sha256()) for run in runs}
    return {run: entries[key] for run, key in keys.items() if key in entries}


def _read(path: str | Path) -> OwnDataResults | None:
    fix = "Give another --results"
    return read_record(OwnDataResults, Path(path), fix) if Path(path).is_file() else None


def write_own_data_results(
    path: str | Path,
    runs: Sequence[OwnDataRun],
    timings: list[TimingEntry] | None = None,
) -> OwnDataResults:
    """Write what is known of `runs`, and return it.

    Args:
        path: the file to write. What it has of `runs`, and its timings, are kept.
        runs: the planned runs. A finished one is described from its folder.
        timings: new ones, see `Timing.describe`.

    Raises:
        UserError: see `read_record`.
    """
    recorded = find_recorded(path, runs)
    if timings is None:
        earlier = _read(path)
        timings = earlier.timings if earlier else []
    found = [_describe(r) if r.state() == "done" else recorded.get(r) for r in runs]
    entries = [entry for entry in found if entry is not None]
    contrasts = collect_contrasts(entries)
    results = OwnDataResults(
        interval="Student's t, 95 %: over the seeds, or over the runs of a data set",
        planned_seeds=max(run.seed for run in runs),
        evaluations=EVALUATIONS,
        patience=PATIENCE,
        data={name: _describe_data(name, runs) for name in DATA},
        timings=timings,
        contrasts=contrasts,
        predictions=judge_own_data_predictions(contrasts),
        runs=entries,
    )
    write_json(path, to_json(results))
    return results


def _describe_data(name: str, runs: Iterable[OwnDataRun]) -> PhotosFacts:
    run = next(run for run in runs if run.data == name)
    train, _, scoring, _ = run.files
    counts = []
    for path in (train, run.val_json, scoring):
        content = read_json(path)
        objects = sum(not a.get("iscrowd", 0) for a in content["annotations"])
        counts.append(PhotoCounts(len(content["images"]), objects))
    return PhotosFacts(DATA[name].category, DATA[name].minutes, *counts)


def _describe(run: OwnDataRun) -> OwnDataEntry:
    """Return the entry of a finished run."""
    scores, cfg = run.scores(), read_run_config(run.folder / "config.yaml")
    assert scores is not None, run.title
    assert cfg is not None, run.title
    evaluations = from_json(list[CheckpointEvaluation], scores)
    plain = {
        **vars(describe_run(run, ("segm", "bbox"), AP_METRICS, inputs=run.find_other_inputs()))
    }
    average = plain.pop("metrics")  # of the scoring half, at the end
    return OwnDataEntry(
        data=run.data,
        start=run.start_from,
        settings=run.settings,
        **plain,
        iterations=run.iterations,
        chosen={key: value for key, value in flat_config(cfg) if key in RECIPE_KEYS},
        evaluations=evaluations,
        choice=choose_weights([e.selection["segm"]["AP"] for e in evaluations], PATIENCE),
        average=average,
    )
