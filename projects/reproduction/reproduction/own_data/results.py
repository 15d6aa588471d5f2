"""`results/own_data.json`: the numbers of the runs, the differences, and the predictions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mask_rcnn_ext.config import flat_config
from mask_rcnn_ext.engine.recipe.choose import RECIPE_KEYS
from mask_rcnn_ext.files import read_json, write_json
from mask_rcnn_ext.overlap.average_precision import AP_METRICS

from ..run_entries import describe_run
from ..training_runs import read_config
from .choice import choose_weights
from .predictions import collect_contrasts, judge_predictions
from .runs import DATA, EVALUATIONS, PATIENCE, OwnDataRun

__all__ = ["find_recorded", "write_own_data_results"]


def find_recorded(path: str | Path, runs: Iterable[OwnDataRun]) -> dict[OwnDataRun, dict[str, Any]]:
    """Return the entries of a file of results that belong to `runs`.

    The trainings take hours, so they may be done on several days, and their folders need not stay:
    a run with the same config and the same annotations is not trained again.

    Args:
        path: the file; it may be missing.
        runs: the planned runs.

    Raises:
        UserError: see `read_json`.
    """
    if not Path(path).is_file():
        return {}
    entries = {(e["variant"], e["seed"], e["config_sha256"]): e for e in read_json(path)["runs"]}
    keys = {run: (run.variant, run.seed, run.sha256()) for run in runs}
    return {run: entries[key] for run, key in keys.items() if key in entries}


def write_own_data_results(
    path: str | Path,
    runs: Sequence[OwnDataRun],
    timings: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Write what is known of `runs`, and return it.

    Args:
        path: the file to write. What it has of `runs`, and its timings, are kept.
        runs: the planned runs. A finished one is described from its folder.
        timings: new ones, see `Timing.describe`.

    Raises:
        UserError: see `read_json`.
    """
    recorded = find_recorded(path, runs)
    if timings is None and Path(path).is_file():
        timings = read_json(path)["timings"]
    found = [_describe(r) if r.state() == "done" else recorded.get(r) for r in runs]
    entries = [entry for entry in found if entry is not None]
    contrasts = collect_contrasts(entries)
    content = {
        "interval": "Student's t, 95 %: over the seeds, or over the runs of a data set",
        "planned_seeds": max(run.seed for run in runs),
        "evaluations": EVALUATIONS,
        "patience": PATIENCE,
        "data": {name: _describe_data(name, runs) for name in DATA},
        "timings": list(timings or ()),
        "contrasts": [asdict(contrast) for contrast in contrasts],
        "predictions": [asdict(prediction) for prediction in judge_predictions(contrasts)],
        "runs": entries,
    }
    write_json(path, content)
    return content


def _describe_data(name: str, runs: Iterable[OwnDataRun]) -> dict[str, Any]:
    run = next(run for run in runs if run.data == name)
    train, _, scoring, _ = run.files
    counts = {"train": train, "all": run.val_json, "scoring": scoring}
    found: dict[str, Any] = {"class": DATA[name].category, "minutes": DATA[name].minutes}
    for part, path in counts.items():
        content = read_json(path)
        objects = sum(not a.get("iscrowd", 0) for a in content["annotations"])
        found[part] = {"images": len(content["images"]), "objects": objects}
    return found


def _describe(run: OwnDataRun) -> dict[str, Any]:
    """Return the entry of a finished run."""
    scores, cfg = run.scores(), read_config(run.folder / "config.yaml")
    assert scores is not None, run.title
    assert cfg is not None, run.title
    choice = choose_weights([entry["selection"]["segm"]["AP"] for entry in scores], PATIENCE)
    entry = describe_run(run, ("segm", "bbox"), AP_METRICS, inputs=run.inputs())
    average = entry.metrics  # of the scoring half, at the end
    plain = asdict(entry)
    plain.pop("metrics")
    return {
        "data": run.data,
        "start": run.start_from,
        "settings": run.settings,
        **plain,
        "iterations": run.iterations,
        "chosen": {key: value for key, value in flat_config(cfg) if key in RECIPE_KEYS},
        "evaluations": scores,
        "choice": asdict(choice),
        "average": average,
    }
