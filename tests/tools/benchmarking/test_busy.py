"""The benchmark of trainings on a busy machine: its programs and its table, not its figures."""

import json
import os
import subprocess
import sys

import benchmark
import pytest
from benchmarking import busy, busy_once
from benchmarking.busy_once import CONTENDERS, train_once
from detectron2.data.datasets import register_coco_instances
from support import SMALL, TINY_CONFIG, write_coco

from mask_rcnn_ext import load_config


@pytest.fixture
def small(monkeypatch, tmp_path, forget_data_sets):
    """Train a small model on small data; yield the programs that were started."""
    register_coco_instances("few", {}, *map(str, write_coco(tmp_path, images=4)))
    keys = [*SMALL, "DATASETS.TRAIN", "('few',)", "MASK_RCNN_EXT.AMP_DTYPE", "bfloat16"]
    for module in (busy, busy_once):
        monkeypatch.setattr(module, "get_config", lambda _: load_config(TINY_CONFIG, keys))
    monkeypatch.setattr(busy_once, "ALONE", 6)
    started, popen = [], subprocess.Popen

    def start(*args, **kwargs):
        started.append(popen(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(busy_once.subprocess, "Popen", start)
    return started


@pytest.mark.parametrize(
    ("contender", "setting"), [("float32", "float32 and 1 thread"), ("bfloat16", "1 thread")]
)
def test_the_programs_run_only_during_the_training(small, contender, setting):
    found = train_once(contender, 2, 2, seed=1)
    assert found["setting"] == setting
    assert min(found["alone"], found["busy"]) > 0
    assert [program.poll() is None for program in small] == [False, False]


def test_the_programs_end_when_a_step_fails(small, monkeypatch):
    def fail(self):
        if self.trainer.iter == busy_once.ALONE + 1:
            raise RuntimeError("a fault")

    monkeypatch.setattr(busy_once._Watch, "after_step", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        train_once("float32", 4, 1, seed=1)
    assert [program.poll() is None for program in small] == [False]


def test_a_program_ends_when_its_parent_is_killed():
    code = (
        "import os, sys\n"
        "from benchmarking.busy_once import _run_programs\n"
        "with _run_programs(1): os.kill(os.getpid(), 9)"
    )
    # `run` waits until all processes that have this standard output are gone.
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE, timeout=60, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == -9


def test_the_contenders_differ_in_their_keys():
    configs = {name: busy_once.make_config(name, 9, 1, "folder") for name in CONTENDERS}
    found = {
        name: (cfg.SOLVER.AMP.ENABLED, cfg.MASK_RCNN_EXT.ADAPT_TO_LOAD)
        for name, cfg in configs.items()
    }
    assert list(found.values()) == [(False, False), (False, True), (True, False), (True, True)]
    assert {cfg.SOLVER.MAX_ITER for cfg in configs.values()} == {9}


def test_each_contender_has_two_rows(small, monkeypatch, tmp_path):
    monkeypatch.setattr(busy, "computes_bfloat16", lambda: True)
    calls = []

    def run(module, name, *numbers):
        calls.append((module, name, numbers))
        return {"alone": 1.0, "busy": 2.0, "setting": f"{len(name)} threads"}

    monkeypatch.setattr(busy, "run_in_process", run)
    path = tmp_path / "benchmark.json"
    assert benchmark.main(["busy", "--rounds", "3", "--seed", "4", "--output", str(path)]) == 0
    programs = str(os.cpu_count())
    assert calls[:4] == [("busy_once", name, ("120", programs, "4")) for name in CONTENDERS]
    rows = json.loads(path.read_text())["busy"]["rows"]
    assert [row["contender"] for row in rows] == [*CONTENDERS, *CONTENDERS]
    assert [row["seconds"] for row in rows] == [1.0] * 4 + [2.0] * 4
    ends = [f"at the end {len(name)} threads" for name in CONTENDERS]
    assert [row["output"] for row in rows] == [""] * 4 + ends


def test_a_processor_without_bfloat16_has_nothing_to_compare(monkeypatch, capsys):
    monkeypatch.setattr(busy, "computes_bfloat16", lambda: False)
    assert benchmark.main(["busy"]) == 2
    assert "this processor does not compute in bfloat16" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--steps", "--programs"])
def test_a_number_below_1_is_an_error(option, capsys):
    assert benchmark.main(["busy", option, "0"]) == 2
    assert f"{option}: expected 1 or more, got 0" in capsys.readouterr().err
