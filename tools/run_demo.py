"""Train the demo, a small Mask R-CNN on drawn shapes, evaluate it, and make its report.

python tools/run_demo.py --output output/demo

The demo is trained again if its config, its data, or the code that trains or evaluates has changed.
The report is made again if the training, a template or the report's code has changed. Changes of
comments and docstrings do not matter.
"""

import argparse
import functools
import json
import logging
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from command_line.early import stop_at_mistakes


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", default="output/demo", metavar="DIR", help="folder to write to")
    return parser


if __name__ == "__main__":
    # --help and simple mistakes end here, before the imports below, which take seconds.
    _arguments = build_parser().parse_args()
    stop_at_mistakes(_arguments, folder=_arguments.output)

from mask_rcnn_ext import UserError
from mask_rcnn_ext.child_processes import run_command
from mask_rcnn_ext.config import config_hash, load_config
from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.engine.run_lock import require_free
from mask_rcnn_ext.files import file_sha256, require_writable
from mask_rcnn_ext.fingerprint import code_sha256, files_sha256, imported_files
from mask_rcnn_ext.run_files import holds_run, set_aside
from mask_rcnn_ext.steps import Step, run_steps

# isort: split
from detectron2.data import DatasetCatalog, MetadataCatalog

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/shapes/mask_rcnn_demo_FPN.yaml"


def find_training_files(root: Path) -> list[Path]:
    """Return the source files that decide the result of a training.

    Args:
        root: the checkout.
    """
    package = root / "mask_rcnn_ext"
    entries = [root / "train_net.py", *(package / "engine").glob("*.py")]
    return imported_files(entries, [package])


class DemoTraining(Step):
    """The training and evaluation of the demo.

    Args:
        folder: the folder of the run.
        root: the checkout.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        outputs = [folder / "results.json", folder / "model_final.pth"]
        super().__init__(f"Demo in {folder}", folder / "made_from.json", outputs)
        self.folder, self.root = folder, root

    @functools.cached_property
    def _inputs(self) -> dict[str, Any]:
        cfg, data = load_config(str(self.root / CONFIG)), {}
        for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
            DatasetCatalog.get(name)  # draws the images if they are not there
            data[name] = files_sha256(Path(MetadataCatalog.get(name).image_root))
        return {
            "config_sha256": config_hash(cfg, cfg.SEED),
            "data_sha256": data,
            "code_sha256": code_sha256(find_training_files(self.root), self.root),
        }

    def find_inputs(self) -> dict[str, Any]:
        """See `Step`; it is computed once, so that the record fits the code that was started."""
        return self._inputs

    def read_record(self) -> dict[str, Any] | None:
        """See `Step`.

        Raises:
            UserError: the folder holds something else than a demo, such as another training.
        """
        if not holds_run(self.folder, {self.record.name, "log.txt"}):
            return None
        if not self.record.is_file():
            raise UserError(
                f"{self.folder} holds a training that this command did not start (there is no "
                f"{self.record.name} in it). Move it away, or give another --output"
            )
        return super().read_record()

    def is_resumable(self) -> bool:
        """See `Step`."""
        return (self.folder / "last_checkpoint").is_file()

    def start(self, resume: bool) -> None:
        """See `Step`; moves the files of an earlier demo aside."""
        if resume:
            return
        self.read_record()  # raises if the folder holds something else
        require_free(self.folder)
        set_aside(self.folder, [self.record.name])
        require_writable(self.folder)
        self.finish()

    def make(self, resume: bool) -> None:
        """See `Step`."""
        options = ["--config-file", os.path.relpath(self.root / CONFIG)]
        options += ["--resume"] if resume else []
        _run("training", self.root / "train_net.py", *options, "OUTPUT_DIR", str(self.folder))


class DemoReport(Step):
    """The report of the demo; see `DemoTraining` for the arguments."""

    def __init__(self, folder: Path, root: Path) -> None:
        names = ("report.html", "analysis.json", "predictions.png")
        outputs = [folder / name for name in names]
        super().__init__(f"Report in {folder}", folder / "report_made_from.json", outputs)
        self.folder, self.root = folder, root

    def find_inputs(self) -> dict[str, Any]:
        """See `Step`."""
        package = self.root / "mask_rcnn_ext"
        code = imported_files([self.root / "tools/make_report.py"], [package])
        files = [self.folder / name for name in ("config.yaml", "metrics.json", "results.json")]
        return {
            "run_sha256": {path.name: file_sha256(str(path)) for path in files if path.is_file()},
            "predictions_sha256": files_sha256(self.folder / "inference"),
            "code_sha256": code_sha256(code, self.root),
            "templates_sha256": files_sha256(package / "report/templates"),
        }

    def make(self, resume: bool) -> None:
        """See `Step`."""
        _run("report", self.root / "tools/make_report.py", str(self.folder))


def _run(what: str, script: Path, *options: str) -> None:
    command = [sys.executable, os.path.relpath(script), *options]
    print(shlex.join(command), flush=True)
    if code := run_command(command):
        raise UserError(f"the {what} of the demo failed (exit code {code}); see the output above")


def run_demo(folder: Path, root: Path = ROOT) -> None:
    """Bring the demo up to date; print its mask AP and where the report is."""
    if not run_steps([DemoTraining(folder, root), DemoReport(folder, root)]):
        print(f"{folder} is up to date; `make clean-demo demo` runs it again")
    results = json.loads((folder / "results.json").read_text("utf-8"))
    print("mask AP", round(results["segm"]["AP"], 1))
    print(f"report  {folder / 'report.html'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    args = build_parser().parse_args(argv)
    return run_as_command(lambda: run_demo(Path(args.output)))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("mask_rcnn_ext").setLevel(logging.INFO)  # what is drawn, skipped, run again
    # Without this, the training would continue alone when SIGTERM ends this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
