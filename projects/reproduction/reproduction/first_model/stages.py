"""The user's commands in order, and the code that runs them. The page shows the same commands."""

import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mask_rcnn_ext.child_processes import run_command
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.files import file_sha256, read_json_or_none, require_writable, write_json
from mask_rcnn_ext.steps import Step

from ..training_runs import REPO
from .photos import CLIP, JSON, NEW_PHOTOS, PHOTOS, make_folder

__all__ = ["CONFIG", "SEED", "FolderStep", "Stage", "StageStep", "plan_stages", "run_words"]

CONFIG, SEED = "mask_rcnn_lite0_FPN", 1
_MODEL, _ANALYSIS = "person/model_final.pth", "person/analysis.json"
_EXPORT = "person/export/model.onnx"


@dataclass(frozen=True)
class Stage:
    """A command of the user.

    Attributes:
        name: in the records and on the page.
        words: after `mask-rcnn-ext`.
        inputs: files in the user's folder; if one changes, the command runs again.
        outputs: the files that it writes.
        replaces: the file or folder to remove before the command runs again.
    """

    name: str
    words: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    replaces: str

    @property
    def command(self) -> str:
        """The command as a line of the shell."""
        return shlex.join(["mask-rcnn-ext", *self.words])


def plan_stages(config: str = CONFIG, options: Sequence[str] = ()) -> list[Stage]:
    """Return the commands in order.

    Args:
        config: the config to train with; another config is for a trial.
        options: keys and values for the training, for a trial.
    """
    data = ("--train-json", JSON, "--train-images", PHOTOS)
    train = ("train", "--config-file", config, "--auto", *data, "--split", "0.8")
    keys = ("OUTPUT_DIR", "person", "SEED", str(SEED), *options)
    threshold = ("--score-threshold", _ANALYSIS)
    evaluate = ("evaluate", "--config-file", "person/config.yaml", "MODEL.WEIGHTS", _EXPORT)
    evaluated = "person/evaluations/split_val-model/results.json"
    clip = ("predict", _EXPORT, CLIP, "--output", "found_video", *threshold)
    tracks = f"found_video/videos/{CLIP}.tracks.json"
    return [
        Stage(
            "check",
            ("check", *data, "--output", "check"),
            (JSON,),
            ("check/data_check.html",),
            "check",
        ),
        Stage("train", (*train, *keys), (JSON,), (_MODEL, "person/results.json"), "person"),
        Stage(
            "report",
            ("report", "person"),
            ("person/results.json",),
            ("person/report.html", _ANALYSIS),
            "person/report.html",
        ),
        Stage(
            "predict",
            ("predict", _MODEL, NEW_PHOTOS, "--output", "found", *threshold),
            (_MODEL, _ANALYSIS),
            ("found/images.json", "found/coco_instances_results.json"),
            "found",
        ),
        Stage(
            "export",
            ("export", _MODEL, "--images", PHOTOS, "--output", "person/export"),
            (_MODEL,),
            (_EXPORT, "person/export/export.json"),
            "person/export",
        ),
        Stage("evaluate", evaluate, (_EXPORT,), (evaluated,), "person/evaluations"),
        Stage(
            "video",
            clip,
            (_EXPORT, _ANALYSIS, CLIP),
            (f"found_video/videos/{CLIP}", tracks),
            "found_video",
        ),
    ]


def run_words(words: Sequence[str], home: Path, console: Path) -> int:
    """Run `mask-rcnn-ext` of this checkout in the folder `home`; return its exit code."""
    command = [sys.executable, str(REPO / "tools/command.py"), *words]
    return run_command(command, console, folder=home)


class FolderStep(Step):
    """Makes the user's folder, and writes the facts about it into the record.

    Args:
        source: see `make_folder`.
        root: the folder of the experiment.
    """

    def __init__(self, source: str, root: Path) -> None:
        self._source, self._home = Path(source), root / "home"
        outputs = [self._home / name for name in (JSON, CLIP)]
        super().__init__("the user's folder", root / "steps/folder.json", outputs)

    def find_inputs(self) -> dict[str, Any]:
        """See `Step`."""
        files = (self._source / f"annotations_{split}.json" for split in ("train", "val"))
        return {"annotations": [file_sha256(str(path)) for path in files]}

    def make(self, resume: bool) -> None:
        """See `Step`."""
        shutil.rmtree(self._home, ignore_errors=True)
        require_writable(self._home)
        self._facts = make_folder(self._source, self._home)

    def finish(self) -> None:
        """See `Step`."""
        write_json(self.record, {**self.find_inputs(), "facts": self._facts})


class StageStep(Step):
    """Runs a command of the user. The record has its time; `<name>.txt` has its output.

    Args:
        stage: the command.
        root: the folder of the experiment.
    """

    def __init__(self, stage: Stage, root: Path) -> None:
        self.stage, self._home = stage, root / "home"
        self.console = root / "steps" / f"{stage.name}.txt"
        outputs = [self._home / name for name in stage.outputs]
        super().__init__(stage.command, root / "steps" / f"{stage.name}.json", outputs)

    def find_inputs(self) -> dict[str, Any]:
        """See `Step`."""
        paths = {name: self._home / name for name in self.stage.inputs}
        sums = {name: file_sha256(str(p)) if p.is_file() else "" for name, p in paths.items()}
        return {"command": self.stage.command, "inputs": sums}

    def start(self, resume: bool) -> None:
        """See `Step`."""
        super().start(resume)
        self.console.unlink(missing_ok=True)
        old = self._home / self.stage.replaces
        if old.is_dir():
            shutil.rmtree(old)
        old.unlink(missing_ok=True)

    def make(self, resume: bool) -> None:
        """See `Step`."""
        began = time.perf_counter()
        code = run_words(self.stage.words, self._home.absolute(), self.console.absolute())
        self._seconds = time.perf_counter() - began
        if code or not self.is_complete():
            end = "\n".join(self.printed().splitlines()[-5:])
            raise UserError(
                f"{self.stage.command} failed with exit code {code}; the end of "
                f"{self.console}:\n{end}"
            )

    def finish(self) -> None:
        """See `Step`."""
        write_json(self.record, {**self.find_inputs(), "seconds": round(self._seconds, 1)})

    def printed(self) -> str:
        """Return what the command printed."""
        return self.console.read_text("utf-8", errors="replace")

    def seconds(self) -> float:
        """Return how long the command took."""
        return float((read_json_or_none(self.record) or {}).get("seconds", 0.0))
