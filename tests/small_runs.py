"""Helpers of tests that run a training command on small data of their own."""

import functools
import json
import multiprocessing
import sys
from collections.abc import Callable, Sequence

import torch
from detectron2.modeling import build_model
from support import SMALL, TINY_CONFIG, name_files, run_train_net, write_coco

from mask_rcnn_ext import load_config
from mask_rcnn_ext.evaluation import coco
from mask_rcnn_ext.layers import threaded_roi_layer


def write_data(root, **counts) -> list[str]:
    """Write a COCO set for each split, `train=8, val=2`; return the flags that name them."""
    flags = []
    for split, count in counts.items():
        flags += name_files(split, *write_coco(root / split, images=count, seed=count))
    return flags


class Opens:
    """A malicious pickle: unpickling it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def train_small(flags: Sequence[str], folder, *keys: str) -> int:
    """Run `train_net.py` with the smallest model, options and KEY VALUE pairs; return its code."""
    words = [*flags, *SMALL, "OUTPUT_DIR", str(folder), *keys]
    return run_train_net("--config-file", TINY_CONFIG, *words)


def evaluate(run, output, *words: str) -> int:
    """Evaluate the final weights of a run into a folder; return the exit code.

    `words` are flags, then KEY VALUE pairs.
    """
    keys = ["MODEL.WEIGHTS", str(run / "model_final.pth"), "OUTPUT_DIR", str(output)]
    return run_train_net("--config-file", str(run / "config.yaml"), "--eval-only", *words, *keys)


def write_small_weights(path, *keys: str) -> str:
    """Write random weights of the smallest model, with KEY VALUE pairs; return the path as text."""
    cfg = load_config(TINY_CONFIG, [*SMALL, "MODEL.DEVICE", "cpu", *keys])
    torch.save({"model": build_model(cfg).state_dict()}, path)
    return str(path)


def read_results(folder) -> dict:
    """Return the content of a run's `results.json`."""
    return json.loads((folder / "results.json").read_text())


def read_predictions(folder, part: str = "inference") -> list[dict]:
    """Return the predictions of a run on its own validation data."""
    return json.loads((folder / part / "own_val/coco_instances_results.json").read_text())


def read_weights(path, part: str = "") -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint that belong to one part of the model."""
    content = torch.load(path, weights_only=True)["model"]
    return {key: value for key, value in content.items() if key.startswith(part)}


def same(a, b) -> bool:
    """Tell whether two state dicts have the same keys and the same bits."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def read_stamps(folder) -> dict[str, int]:
    """Return the times of weights and proposals, by their paths in the folder."""
    paths = [*folder.rglob("model_*.pth"), *folder.rglob("proposals/*.pkl")]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in paths}


def list_files(folder) -> set[str]:
    """Return the paths in a folder of the files in it."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def tree(folder) -> dict[str, bytes]:
    """Return the bytes of the files in a folder, by their paths in it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def read_error(capsys) -> str:
    """Return the one message of a command that failed."""
    lines = capsys.readouterr().err.splitlines()
    (error,) = [line for line in lines if line.startswith("error: ")]
    assert not any(line.startswith("Traceback") for line in lines)
    return error


def fork_processes(monkeypatch) -> None:
    """Let `launch` fork its processes: a spawned one takes seconds to import the package."""
    start = functools.partial(torch.multiprocessing.start_processes, start_method="fork")
    monkeypatch.setattr(torch.multiprocessing, "start_processes", start)
    # Their threads do not survive a fork.
    monkeypatch.setattr(coco, "find_compiled_version", lambda: None)
    threaded_roi_layer._get_threads.cache_clear()


def start_fork(command: Callable[[], int]) -> multiprocessing.Process:
    """Start a process that runs a command and ends with its exit code."""
    process = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(command()))
    process.start()
    return process
