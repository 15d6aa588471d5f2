"""Reads the files in the folder of a run."""

import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.config import get_cfg as detectron2_get_cfg

from ..config import allow_new_keys, find_changed_keys, flat_config, load_config
from ..data.catalog import find_annotation_files
from ..errors import UserError
from ..files import file_sha256, make_jsonable, read_json
from ..model_files import is_exported
from ..overlap.analysis.image_pairs import group_by_image
from ..run_files import require_run_config

__all__ = [
    "TASK_TITLES",
    "RunFolder",
    "list_changed_keys",
    "read_exported_evaluations",
    "read_history",
    "read_predictions",
    "read_run",
    "spread_evenly",
]

_DICTS = ("best", "data_sha256", "skipped_images", "versions")  # entries of the run info
TASK_TITLES = {"segm": "Mask", "bbox": "Box"}  # detectron2's tasks of instance segmentation


@dataclass(frozen=True)
class RunFolder:
    """The contents of a run's folder.

    Attributes:
        folder: the folder.
        config: the config the run ended with, `config.yaml`.
        config_text: the same file as text.
        history: metric -> (iterations, values), sorted by iteration, from `metrics.json`.
        results: data-set name -> task -> metric -> number, from `results.json`. A metric that could
            not be computed is None. A task may nest once more: "overlap" -> level -> metric.
        info: the "run" entry of `results.json`: times, memory, device, seed, versions.
        missing: the parts that the folder lacks, one plain sentence each.
    """

    folder: Path
    config: CfgNode
    config_text: str
    history: dict[str, tuple[list[int], list[float]]]
    results: dict[str, dict[str, Any]]
    info: dict[str, Any]
    missing: list[str]


def read_run(folder: str | Path) -> RunFolder:
    """Read a run's folder; `RunFolder.missing` names the parts that are not there.

    Raises:
        UserError: there is no such folder, no `config.yaml` in it, or a file that cannot be read;
            or the annotations have changed since the run was evaluated.
    """
    folder = Path(folder)
    config_file = require_run_config(folder)
    config = load_config(str(config_file), add_keys=allow_new_keys)
    missing: list[str] = []
    try:
        history = read_history(folder / "metrics.json", missing)
        results, info = _read_results(folder / "results.json", list(config.DATASETS.TEST), missing)
        _require_same_data(folder, config, info)
        return RunFolder(
            folder, config, config_file.read_text("utf-8"), history, results, info, missing
        )
    except OSError as error:
        raise UserError(f"the run cannot be read: {error}") from error


def _require_same_data(folder: Path, config: CfgNode, info: dict[str, Any]) -> None:
    """Raise if the run was evaluated on other annotations than its config names now."""
    recorded = info.get("data_sha256") or {}
    for name, path in find_annotation_files(config).items():
        if name in recorded and file_sha256(path) != recorded[name]:
            config_file = shlex.quote(str(folder / "config.yaml"))
            raise UserError(
                f"{folder} was evaluated on another version of {path}, so its results and "
                "predictions do not belong to that file. Put the file back as it was. Or evaluate "
                f"again (mask-rcnn-ext evaluate --resume --config-file {config_file}) and "
                "make the report of the folder that this names"
            )


def read_history(path: Path, missing: list[str]) -> dict[str, tuple[list[int], list[float]]]:
    """Return metric -> (iterations, values) of a run's `metrics.json`; {} if there is none.

    Args:
        path: the file.
        missing: gets a sentence on each part that could not be read.
    """
    if not path.is_file():
        missing.append("No metrics.json, so there are no training curves: this run did not train.")
        return {}
    by_metric: dict[str, dict[int, float]] = {}
    damaged = 0
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            iteration = int(entry.pop("iteration"))
        except (ValueError, KeyError, AttributeError, TypeError):
            damaged += bool(line.strip())  # a run that was killed leaves half a line
            continue
        for key, value in entry.items():
            if isinstance(value, int | float) and math.isfinite(value):
                # A resumed run writes an iteration again; what came later holds.
                by_metric.setdefault(key, {})[iteration] = float(value)
    if damaged:
        missing.append(f"metrics.json: {damaged} damaged line(s) left out.")
    if not by_metric:
        missing.append("metrics.json holds no metrics, so there are no training curves.")
    return {
        key: (sorted(values), [values[i] for i in sorted(values)])
        for key, values in by_metric.items()
    }


def _read_results(
    path: Path, test_names: list[str], missing: list[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return (results by data-set name, run info)."""
    if not path.is_file():
        missing.append("No results.json: this run was not evaluated.")
        return {}, {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected {{task: {{metric: number}}}}, got a list or a value")
    info = _read_info(content.pop("run", None))
    tasks = _keep_dicts(content)
    if not tasks:
        missing.append("results.json holds no evaluation results.")
        return {}, info
    if set(tasks) & set(test_names):  # several test sets: one more level, by name
        return {name: _keep_dicts(found) for name, found in tasks.items()}, info
    return {test_names[0] if test_names else "test": tasks}, info


def _keep_dicts(content: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if isinstance(value, dict)}


def _read_info(info: Any) -> dict[str, Any]:
    """Return the run info without the entries that a run would not write so."""
    if not isinstance(info, dict):
        return {}
    return {k: v for k, v in info.items() if k not in _DICTS or isinstance(v, dict)}


def read_exported_evaluations(run: RunFolder) -> list[tuple[str, str, dict[str, Any]]]:
    """Return (exported file, data, task -> metric -> number) of evaluations in the run's folder.

    `--eval-only --config-file RUN/config.yaml MODEL.WEIGHTS model.onnx` writes one.

    Raises:
        UserError: a file of an evaluation cannot be read.
    """
    found = []
    for folder in sorted((run.folder / "evaluations").glob("*")):
        config_file, results_file = folder / "config.yaml", folder / "results.json"
        if not (config_file.is_file() and results_file.is_file()):
            continue
        config = load_config(str(config_file), add_keys=allow_new_keys)
        if not is_exported(config.MODEL.WEIGHTS):
            continue
        own = config.MASK_RCNN_EXT.DATA.VAL_JSON
        results, _ = _read_results(results_file, list(config.DATASETS.TEST), [])
        for name, tasks in results.items():
            data = Path(own).name if own else name
            found.append((Path(config.MODEL.WEIGHTS).name, data, tasks))
    return found


def read_predictions(run: RunFolder, name: str) -> dict[Any, list[dict[str, Any]]] | None:
    """Return image id -> COCO results of the run on data set `name`; None without a result file.

    Raises:
        UserError: the file is not a json list of COCO results.
    """
    path = run.folder / "inference" / name / "coco_instances_results.json"
    if not path.is_file():
        return None
    try:
        return group_by_image(read_json(path))
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is not a list of COCO results: {error!r}") from error


def list_changed_keys(config: CfgNode) -> list[tuple[str, str, str]]:
    """Return (key, value, detectron2's default or "") of every key that is not at its default."""
    defaults = dict(flat_config(detectron2_get_cfg()))  # with tuples; a yaml file has lists
    return [
        (key, str(value), str(make_jsonable(defaults[key])) if key in defaults else "")
        for key, value in sorted(find_changed_keys(config).items())
    ]


def spread_evenly(count: int, wanted: int) -> list[int]:
    """Return min(count, wanted) indices: the middles of equal parts of range(count)."""
    wanted = min(count, wanted)
    return [(2 * k + 1) * count // (2 * wanted) for k in range(wanted)]
