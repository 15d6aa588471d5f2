"""The parts of `run_gpu.py`: tests, benchmark, training."""

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mask_rcnn_ext.checkpoint.description import get_versions
from mask_rcnn_ext.child_processes import run_command
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.files import read_json, require_writable, write_json
from mask_rcnn_ext.fingerprint import code_sha256
from mask_rcnn_ext.steps import Step

from ..json_runs import JsonRun
from ..training_runs import REPO

__all__ = [
    "BENCHMARKS",
    "BenchmarkStep",
    "GpuTraining",
    "add_results",
    "begin_results",
    "plan_training",
    "read_gpu_results",
    "run_tests",
]

BENCHMARKS = ("layers", "inference", "training", "fcis", "growth")
_CONFIG = REPO / "configs/mask_rcnn_R50_FPN.yaml"
_KEYS = {  # from scratch, since a machine without a network has no ImageNet weights
    "MODEL.WEIGHTS": "",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.FPN.NORM": "BN",
    "MODEL.ANCHOR_GENERATOR.SIZES": [[8], [16], [32], [64], [128]],
    "INPUT.MIN_SIZE_TRAIN": (256, 320, 384),
    "INPUT.MIN_SIZE_TEST": 320,
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 0.0005,
    "SOLVER.WEIGHT_DECAY": 0.05,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR",
    "SOLVER.WARMUP_ITERS": 100,
    "SOLVER.STEPS": (),
    "SOLVER.MAX_ITER": 3000,
    "SOLVER.CHECKPOINT_PERIOD": 500,
    "SOLVER.AMP.ENABLED": True,
    "DATALOADER.NUM_WORKERS": 8,
    "TEST.EVAL_PERIOD": 0,
    "TEST.DETECTIONS_PER_IMAGE": 300,
    "MASK_RCNN_EXT.OPTIMIZER": "AdamW",
    "MASK_RCNN_EXT.CHANNELS_LAST": True,
    "SEED": 1,
}
_SHAPES = {  # without files of one's own
    "DATASETS.TRAIN": ("occluded_shapes_train",),
    "DATASETS.TEST": ("occluded_shapes_val",),
    "MODEL.ROI_HEADS.NUM_CLASSES": 5,
    "INPUT.MASK_FORMAT": "bitmask",
}


def run_tests(folder: Path, options: Sequence[str] = ("-m", "gpu")) -> dict[str, Any]:
    """Run the tests that need a GPU; return how many passed, failed and were skipped.

    Args:
        folder: for the report.
        options: which tests run.
    """
    report = folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    began = time.monotonic()
    code = subprocess.call(
        [*command, *options, f"--junit-xml={report}"],
        cwd=REPO,
        env={**os.environ, "MASK_RCNN_EXT_TEST_GPU": "1"},
    )
    if code not in (0, 1):
        raise UserError(f"pytest ended with {code}: no test ran")
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    return {**counts, "failed": failed, "seconds": round(time.monotonic() - began)}


class BenchmarkStep(Step):
    """Runs a part of the benchmark. Its figures and its inputs stand in the file of results.

    Args:
        name: one of `BENCHMARKS`.
        device: "cuda" or "cpu".
        results: the file of results; its other entries stay.
        folder: for the file that the benchmark writes.
    """

    def __init__(self, name: str, device: str, results: Path, folder: Path) -> None:
        super().__init__(f"benchmark {name}", results)
        self._name, self._device, self._written = name, device, folder / "benchmark.json"
        package, benchmarks = REPO / "mask_rcnn_ext", REPO / "tools/benchmarking"
        sources = sorted([*package.rglob("*.py"), *benchmarks.glob("*.py")])
        self._code = code_sha256(sources, REPO)  # once, so that it is the code that was started

    def find_inputs(self) -> dict[str, Any]:
        """See `Step`."""
        return {"code_sha256": self._code, "options": {"device": self._device}}

    def read_record(self) -> dict[str, Any] | None:
        """See `Step`."""
        benchmark: dict[str, Any] = read_gpu_results(self.record).get("benchmark", {})
        return benchmark.get(self._name)

    def start(self, resume: bool) -> None:
        """See `Step`; earlier figures stay until there are new ones."""
        require_writable(self._written.parent)

    def make(self, resume: bool) -> None:
        """See `Step`.

        Raises:
            UserError: the benchmark failed.
        """
        script = [str(REPO / "tools/benchmark.py"), self._name, "--device", self._device]
        if run_command([sys.executable, *script, "--output", str(self._written)]):
            raise UserError(f"{' '.join(script)} failed, see above")

    def finish(self) -> None:
        """See `Step`."""
        found = {**read_json(self._written)[self._name], "code_sha256": self._code}
        add_results(self.record, {"benchmark": {self._name: found}})


@dataclass(frozen=True)
class GpuTraining(JsonRun):
    """A training that a call interrupts after a while, and the next call resumes.

    Attributes:
        device: "cuda" or "cpu".
        gpu: the name of the device. On another one the training starts again.
        seconds: the time that a call may take.
    """

    device: str = "cuda"
    gpu: str = ""
    seconds: float = field(default=480.0, compare=False)

    @property
    def config_file(self) -> str:
        """See `TrainingRun`."""
        return str(_CONFIG)

    def options(self) -> Mapping[str, Any]:
        """See `JsonRun`."""
        return {**_KEYS, "MODEL.DEVICE": self.device, **({} if self.files else _SHAPES)}

    def find_other_inputs(self) -> dict[str, Any]:
        """Return the checksums of the annotations, the device and the versions."""
        return {**super().find_other_inputs(), "gpu": self.gpu, "versions": get_versions()}

    def train(self, resume: bool) -> int:
        """See `TrainingRun`; the output goes to the terminal."""
        script, *words = self.command(resume)
        command = [sys.executable, str(REPO / script), *words]
        try:
            return run_command(command, seconds=self.seconds)
        except subprocess.TimeoutExpired:
            return 0

    def make(self, resume: bool) -> None:
        """See `Step`; returns before the end if the time is over.

        Raises:
            UserError: the training failed.
        """
        if code := self.train(resume):
            raise UserError(f"the training in {self.folder} failed (exit code {code}), see above")

    def finish(self) -> None:
        """See `Step`; an interrupted training keeps its checkpoints."""
        if self.is_complete():
            super().finish()


def plan_training(
    root: Path, data: Path | None, device: str, seconds: float, gpu: str
) -> GpuTraining:
    """Return the training.

    Args:
        root: the folder of the runs; each data set and device has a folder of its own in it.
        data: has annotations_train.json, annotations_val.json and images/; None: drawn shapes.
        device: "cuda" or "cpu".
        seconds: the time that a call may take.
        gpu: the name of the device.
    """
    variant = f"{data.name if data else 'shapes'}_{device}"
    files: tuple[str, ...] = ()
    if data is not None:
        images, pair = data / "images", [data / f"annotations_{s}.json" for s in ("train", "val")]
        files = tuple(str(path) for annotations in pair for path in (annotations, images))
    return GpuTraining(
        variant,
        _KEYS["SEED"],
        root / variant,
        files=files,
        device=device,
        gpu=gpu,
        seconds=seconds,
    )


def read_gpu_results(path: Path) -> dict[str, Any]:
    """Return the content of the file of results; {} if it is missing.

    Raises:
        UserError: see `read_json`.
    """
    content: dict[str, Any] = read_json(path) if path.is_file() else {}
    return content


def begin_results(path: Path, machine: Mapping[str, Any]) -> None:
    """Write the machine into the file of results, and leave out the results of another machine.

    Args:
        path: the file.
        machine: `device` and `versions`.
    """
    content = read_gpu_results(path)
    same = all(content.get(key) == value for key, value in machine.items())
    write_json(path, content if same else machine)


def add_results(path: Path, entries: Mapping[str, Any]) -> None:
    """Write entries into the file of results. Those of the benchmark are added to its others."""
    content = read_gpu_results(path)
    benchmark = {**content.get("benchmark", {}), **entries.get("benchmark", {})}
    write_json(path, {**content, **entries, **({"benchmark": benchmark} if benchmark else {})})
