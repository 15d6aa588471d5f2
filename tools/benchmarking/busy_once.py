"""Trains the demo's model, first alone, then next to other programs; prints its times as json.

`benchmarking.busy` starts it as a process: CONTENDER STEPS PROGRAMS SEED.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase

from mask_rcnn_ext import Trainer
from mask_rcnn_ext.engine.busy_machine import Setting
from mask_rcnn_ext.model_zoo import get_config

__all__ = ["ALONE", "CONTENDERS", "train_once"]

CONTENDERS: dict[str, dict[str, bool]] = {
    f"{name}{suffix}": {"SOLVER.AMP.ENABLED": mixed, "MASK_RCNN_EXT.ADAPT_TO_LOAD": adapts}
    for name, mixed in (("float32", False), ("bfloat16", True))
    for suffix, adapts in (("", False), (", ADAPT_TO_LOAD", True))
}
ALONE, _WARM_UP = 30, 5  # steps before the other programs start, and those that are not counted
# It gets the number of the process that starts it, and ends with it, however that ends.
_PROGRAM = "import os, sys\nparent = int(sys.argv[1])\nwhile os.getppid() == parent: pass"


def train_once(contender: str, steps: int, programs: int, seed: int) -> dict[str, Any]:
    """Train `ALONE` steps, then start programs that keep a core busy each, and train on.

    Args:
        contender: a key of `CONTENDERS`.
        steps: steps next to the other programs.
        programs: how many programs.
        seed: of the training.

    Returns:
        `alone`, the median of the seconds of a step; `busy`, the mean of the seconds of a step next
        to the other programs, with everything that `ADAPT_TO_LOAD` tries; `setting`, in words: how
        the last step was computed.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        cfg = make_config(contender, ALONE + steps, seed, folder)
        watch = _Watch(lambda: stack.enter_context(_run_programs(programs)))
        trainer = Trainer(cfg)
        trainer.register_hooks([watch])
        trainer.train()
    return {
        "alone": statistics.median(watch.seconds[_WARM_UP:ALONE]),
        "busy": statistics.fmean(watch.seconds[ALONE:]),
        "setting": watch.setting,
    }


def make_config(contender: str, steps: int, seed: int, folder: str) -> CfgNode:
    """Return the config of the demo, for a training without evaluations."""
    cfg = get_config("shapes/mask_rcnn_demo_FPN.yaml")
    cfg.MODEL.DEVICE, cfg.SEED, cfg.OUTPUT_DIR = "cpu", seed, folder
    cfg.SOLVER.MAX_ITER = cfg.SOLVER.CHECKPOINT_PERIOD = steps
    cfg.TEST.EVAL_PERIOD, cfg.DATASETS.TEST = 0, ()
    for key, value in CONTENDERS[contender].items():
        cfg.merge_from_list([key, str(value)])
    return cfg


class _Watch(HookBase):
    """Takes the time of each step, and starts the other programs.

    Args:
        start_programs: is called before step `ALONE`.
    """

    def __init__(self, start_programs: Any) -> None:
        self._start_programs, self._start = start_programs, 0.0
        self.seconds: list[float] = []
        self.setting = ""

    def before_step(self) -> None:
        """Start the programs in time, and the clock."""
        if self.trainer.iter == ALONE:
            self._start_programs()
        self._start = time.perf_counter()

    def after_step(self) -> None:
        """Stop the clock."""
        self.seconds.append(time.perf_counter() - self._start)
        autocast = getattr(self.trainer._trainer, "autocast", False)
        self.setting = str(Setting(torch.get_num_threads(), autocast))


@contextlib.contextmanager
def _run_programs(number: int) -> Iterator[None]:
    """Run programs that keep one core busy each."""
    command = [sys.executable, "-c", _PROGRAM, str(os.getpid())]
    programs = [subprocess.Popen(command) for _ in range(number)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


if __name__ == "__main__":
    name, *numbers = sys.argv[1:]
    print(json.dumps(train_once(name, *map(int, numbers))))
