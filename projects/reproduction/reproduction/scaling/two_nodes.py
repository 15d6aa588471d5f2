"""Trains the same model on one node with two processes, and on two simulated nodes."""

import contextlib
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from mask_rcnn_ext.config import config_hash, load_config
from mask_rcnn_ext.files import file_sha256, read_json, write_json
from mask_rcnn_ext.fingerprint import code_sha256, imported_files
from mask_rcnn_ext.report.json_records import from_json, to_json
from mask_rcnn_ext.steps import Step, run_step

from ..training_runs import REPO
from .commands import TRAIN, Command
from .results_file import TrainingFacts

__all__ = ["BATCH", "ITERATIONS", "compare_weights", "train_on_nodes"]

ITERATIONS, BATCH = 60, 4
_RUNS = ("one_node", "two_nodes", "torchrun")
_CONFIG = str(Path(TRAIN).parent / "configs/shapes/mask_rcnn_tiny_FPN.yaml")
_KEYS = [
    *("MASK_RCNN_EXT.TINY_RESNET.STEM_CHANNELS", "8"),
    *("MASK_RCNN_EXT.TINY_RESNET.CHANNELS", "[8, 16, 24, 32]"),
    *("MASK_RCNN_EXT.TINY_RESNET.BLOCKS", "[1, 1, 1, 1]"),
    *("MODEL.FPN.OUT_CHANNELS", "16"),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", "32"),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", "16"),
    *("MODEL.ROI_MASK_HEAD.NUM_CONV", "1"),
    *("INPUT.MIN_SIZE_TRAIN", "(64,)"),
    *("INPUT.MIN_SIZE_TEST", "64"),
    *("MODEL.DEVICE", "cpu"),
    *("SOLVER.IMS_PER_BATCH", str(BATCH)),
    *("SOLVER.MAX_ITER", str(ITERATIONS)),
    *("SOLVER.BASE_LR", "0.002"),
    *("SOLVER.WARMUP_ITERS", "10"),
    *("DATALOADER.NUM_WORKERS", "0"),
    *("TEST.EVAL_PERIOD", "0"),
    *("SEED", "1"),
]


class NodesTraining(Step):
    """Trains in the folders `one_node`, `two_nodes` and `torchrun`, and compares the weights.

    Args:
        folder: the folder of the runs.
        annotations: the json of the training images, which lie next to it in `images`.
    """

    def __init__(self, folder: Path, annotations: Path) -> None:
        self._folder, self._annotations = folder, annotations
        self._found: TrainingFacts | None = None
        outputs = [folder / name / "model_final.pth" for name in _RUNS]
        super().__init__("the trainings on nodes", folder / "training.json", outputs)

    def find_inputs(self) -> dict[str, Any]:
        """See `Step`."""
        code = imported_files([Path(TRAIN)], [REPO / "mask_rcnn_ext"])
        return {
            "config_sha256": config_hash(load_config(_CONFIG, _KEYS), seed=1),
            "annotations_sha256": file_sha256(str(self._annotations)),
            "code_sha256": code_sha256(code, REPO),
        }

    def make(self, resume: bool) -> None:
        """See `Step`.

        Raises:
            UserError: a training failed.
        """
        options = ["--config-file", _CONFIG, "--train-json", str(self._annotations)]
        options += ["--train-images", str(self._annotations.parent / "images")]
        seconds = {}
        for name, commands in _list_commands(options).items():
            run = self._folder / name
            shutil.rmtree(run, ignore_errors=True)
            start = time.perf_counter()
            ended = [[*command, "OUTPUT_DIR", str(run)] for command in commands]
            with _start(ended, self._folder, name) as started:
                for command in started:
                    command.finish()
            seconds[name] = time.perf_counter() - start
        first, *others = self.outputs
        self._found = TrainingFacts(
            iterations=ITERATIONS,
            batch=BATCH,
            seconds=seconds,
            equal={
                name: compare_weights(path, first)
                for name, path in zip(_RUNS[1:], others, strict=True)
            },
        )

    def finish(self) -> None:
        """See `Step`; the record also holds what was found."""
        write_json(self.record, {**self.find_inputs(), "found": to_json(self._found)})


def train_on_nodes(folder: Path, annotations: Path) -> TrainingFacts:
    """Train as `NodesTraining` says, unless that is done; return which weights are equal.

    Raises:
        UserError: a training failed.
    """
    step = NodesTraining(folder, annotations)
    run_step(step)
    return from_json(TrainingFacts, read_json(step.record)["found"])


def compare_weights(path: Path, other: Path) -> bool:
    """Return whether two checkpoints have the same weights, to the bit."""
    a, b = (torch.load(p, weights_only=True, map_location="cpu")["model"] for p in (path, other))
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def _list_commands(options: Sequence[str]) -> dict[str, list[list[str]]]:
    """Return run name -> the arguments of its processes, one process for each node."""
    url = f"tcp://127.0.0.1:{_find_port()}"
    machines = ["--num-gpus", "1", "--num-machines", "2", "--dist-url", url]
    nodes = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    nodes += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{_find_port()}"]
    return {
        "one_node": [[TRAIN, "--num-gpus", "2", *options, *_KEYS]],
        "two_nodes": [
            [TRAIN, *machines, "--machine-rank", rank, *options, *_KEYS] for rank in ("0", "1")
        ],
        "torchrun": [[*nodes, TRAIN, *options, *_KEYS]] * 2,
    }


@contextlib.contextmanager
def _start(commands: Sequence[Sequence[str]], folder: Path, name: str) -> Iterator[list[Command]]:
    """Start commands; all of them end with the block."""
    started: list[Command] = []
    try:
        for number, arguments in enumerate(commands):
            started.append(Command(arguments, folder / f"{name}_{number}.log"))
        yield started
    finally:
        for command in started:
            command.kill()


def _find_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
