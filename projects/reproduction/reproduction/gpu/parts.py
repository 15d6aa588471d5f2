"""The parts of `run_gpu.py`: tests, benchmark, training. Each returns what goes into the file."""

import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.files import read_json, read_json_or_none
from mask_rcnn_ext.fingerprint import code_sha256

from ..training_runs import REPO

__all__ = ["BENCHMARKS", "measure", "run_tests", "train"]

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
_GRACE = 60  # seconds for the last checkpoint


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


def measure(
    folder: Path, known: Mapping[str, Any], device: str, seconds: float
) -> Iterator[dict[str, Any]]:
    """Yield the benchmark's parts that are there, after each one that was run.

    Args:
        folder: for the file of the benchmark.
        known: the parts that are there. One is run again if the code has changed since.
        device: "cuda" or "cpu".
        seconds: no further part begins after so many.
    """
    sources = [*(REPO / "mask_rcnn_ext").rglob("*.py"), *(REPO / "tools/benchmarking").glob("*.py")]
    code, found, began = code_sha256(sorted(sources), REPO), dict(known), time.monotonic()
    for name in BENCHMARKS:
        old = found.get(name, {})
        if old.get("code_sha256") == code and old["options"].get("device") == device:
            continue
        if time.monotonic() - began > seconds:
            break
        path = folder / "benchmark.json"
        script = [sys.executable, str(REPO / "tools/benchmark.py"), name]
        if subprocess.call([*script, "--device", device, "--output", str(path)]):
            raise UserError(f"{' '.join(script[1:])} --device {device} failed, see above")
        found[name] = {**read_json(path)[name], "code_sha256": code}
        yield found


def train(folder: Path, data: Path | None, device: str, seconds: float) -> dict[str, Any] | None:
    """Train for a while, and go on in the next call; return the results at the end, else None.

    Args:
        folder: of the runs; each data set and device has a folder of its own.
        data: has annotations_train.json, annotations_val.json and images/; None: drawn shapes.
        device: "cuda" or "cpu".
        seconds: after so many the training writes a checkpoint and ends.

    Raises:
        UserError: the training failed.
    """
    folder = folder / f"{data.name if data else 'shapes'}_{device}"
    results = read_json_or_none(str(folder / "results.json"))
    if isinstance(results, dict) and results.get("run"):
        return results
    words = {**_KEYS, "MODEL.DEVICE": device, "OUTPUT_DIR": str(folder)}
    options = ["--config-file", str(_CONFIG)]
    if data is None:
        shapes = ("occluded_shapes_train",), ("occluded_shapes_val",)
        words |= {"DATASETS.TRAIN": shapes[0], "DATASETS.TEST": shapes[1]}
        words |= {"MODEL.ROI_HEADS.NUM_CLASSES": 5, "INPUT.MASK_FORMAT": "bitmask"}
    else:
        for split in ("train", "val"):
            options += [f"--{split}-json", str(data / f"annotations_{split}.json")]
            options += [f"--{split}-images", str(data / "images")]
    resume = ["--resume"] if (folder / "last_checkpoint").is_file() else []
    pairs = [word for key, value in words.items() for word in (key, str(value))]
    process = subprocess.Popen(
        [sys.executable, str(REPO / "train_net.py"), *options, *resume, *pairs]
    )
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None  # the next call goes on from the last checkpoint
    if code in (128 + signal.SIGTERM, -signal.SIGTERM):  # the latter before training began
        return None
    if code:
        raise UserError(f"the training in {folder} failed with exit code {code}, see above")
    found: dict[str, Any] = read_json(folder / "results.json")
    return found
