"""The levels of speed on trained models: time and AP of `train_net.py --eval-only`.

Each evaluation is the user's command, in a process of its own, with the config, the weights and the
validation data of a run. The time is `eval_seconds` of its results.json: the images through the
model and the computing of AP, without the start of the program. Mixed precision and the other keys
that the levels set are switched off first: otherwise "exact" would have those of the run.

If the folder of a run has a folder `export`, the models in it are evaluated too, and an OpenVINO
file also at the level "fastest".
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mask_rcnn_ext import UserError
from mask_rcnn_ext.files import read_json
from mask_rcnn_ext.modeling.exported import get_exported_speeds
from mask_rcnn_ext.modeling.speed import SPEED_KEYS, SPEEDS

from .parts import Part, TimedCase, compare_rows
from .rounds import Times, take_turns

__all__ = ["run"]

BASELINE = SPEEDS[0]
_OFF = ["SOLVER.AMP.ENABLED", "False"]
_OFF += [word for key in SPEED_KEYS for word in (f"MASK_RCNN_EXT.{key}", "False")]
_TASKS = {"segm": "mask AP", "bbox": "box AP"}


def run(args: argparse.Namespace) -> Part:
    """Evaluate each run at each level and compare AP.

    Raises:
        UserError: a folder has no config or no model.
    """
    runs = [Path(folder) for folder in args.runs]
    for folder in runs:
        for name in ("config.yaml", "model_final.pth"):
            if not (folder / name).is_file():
                raise UserError(f"{folder}: expected the folder of a trained model, with {name}")
    options = {"rounds": args.rounds, "seed": args.seed}
    part = Part("Evaluation of trained models", options)
    for folder in runs:
        part.rows += _run_levels(folder, args.rounds)
    return part


def _run_levels(folder: Path, rounds: int) -> list[TimedCase]:
    found: dict[str, dict[str, Any]] = {}
    models = {level: ("model_final.pth", level) for level in SPEEDS} | _find_exports(folder)

    def contender(name: str) -> Callable[[], Times]:
        def evaluate() -> Times:
            found[name] = _evaluate(folder, *models[name])
            return {"": found[name]["run"]["eval_seconds"]}

        return evaluate

    times = take_turns({name: contender(name) for name in models}, rounds, warm_up=False)
    rows = compare_rows(folder.name, times, BASELINE)
    for row in rows:
        row.output = _compare_ap(found[row.contender], found[BASELINE])
    return rows


def _find_exports(folder: Path) -> dict[str, tuple[str, str]]:
    """Return the name of each contender, with its file in the folder of the run, and its level."""
    return {
        path.name if level == BASELINE else f"{path.name}, {level}": (f"export/{path.name}", level)
        for path in sorted(folder.glob("export/*"))
        if path.suffix in (".onnx", ".xml")
        for level in get_exported_speeds(path)
    }


def _evaluate(folder: Path, weights: str, level: str) -> dict[str, Any]:
    script = Path(__file__).resolve().parents[2] / "train_net.py"
    with tempfile.TemporaryDirectory() as output:
        command = [
            sys.executable, str(script), "--eval-only",
            "--config-file", str(folder / "config.yaml"),
            "MODEL.WEIGHTS", str(folder / weights),
            "OUTPUT_DIR", output, *_OFF, "MASK_RCNN_EXT.SPEED", level,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            reason = said[-1] if said else "the evaluation failed"
            raise UserError(f"{folder / weights}, {level}: {reason}")
        (path,) = Path(output).rglob("results.json")
        results: dict[str, Any] = read_json(path)
        return results


def _compare_ap(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """Return the AP of each task, and its difference from the baseline's AP."""
    said = []
    for task, name in _TASKS.items():
        if task in found:
            ap, baseline = found[task]["AP"], expected[task]["AP"]
            difference = "" if found is expected else f" ({ap - baseline:+.2f})"
            said.append(f"{name} {ap:.2f}{difference}")
    return ", ".join(said)
