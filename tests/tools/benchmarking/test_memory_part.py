"""The benchmark of reused memory: its images and its comparison of results, not its figures."""

import json
from pathlib import Path

import benchmark
import pytest
from benchmarking import memory, memory_once
from benchmarking.memory_once import CASES, CONTENDERS, list_options, run_once
from tiny_model import tiny_cfg


@pytest.fixture
def tiny(monkeypatch):
    """Run a tiny model in this process: to start other ones takes minutes."""
    monkeypatch.setattr(memory_once, "make_config", lambda _: tiny_cfg(80))
    monkeypatch.setattr("benchmarking.training.model_zoo.get_config", lambda _: tiny_cfg(80))
    monkeypatch.setattr("benchmarking.training.get_config", lambda _: tiny_cfg(80))
    monkeypatch.setattr(memory_once, "CASES", dict.fromkeys(CASES, (60, 100)))
    calls = []

    def run(module, name, case, images, seed, folder):
        calls.append((name, case))
        return run_once(name, case, int(images), int(seed), Path(folder))

    monkeypatch.setattr(memory, "run_in_process", run)
    return calls


def test_the_sizes_of_the_images_differ():
    options = list(list_options("training", 6, seed=1))
    sizes = [each.size for each in options]
    assert len({tuple(size) for size in sizes}) == 6
    assert all(640 <= side < 1000 for size in sizes for side in size)
    assert sizes == [each.size for each in list_options("training", 6, seed=1)]


def test_all_contenders_give_the_same_results(tiny, tmp_path):
    path = tmp_path / "benchmark.json"
    options = ["--images", "2", "--rounds", "1", "--output", str(path)]
    assert benchmark.main(["memory", *options]) == 0
    assert tiny == [(name, case) for case in CASES for name in CONTENDERS]
    rows = json.loads(path.read_text())["memory"]["rows"]
    assert [row["output"] for row in rows] == ["", "equal", "equal"] * 2
    assert all(row["peak_mb"] > 50 for row in rows)


def test_another_result_is_seen(tiny, monkeypatch, capsys):
    monkeypatch.setattr(
        memory,
        "run_in_process",
        lambda _, name, *__: {"seconds": 1.0, "peak_mb": 2e3, "results": name[:12]},
    )
    assert benchmark.main(["memory", "--images", "1", "--rounds", "1"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "REUSE_MEMORY" in line]
    assert len(rows) == 4
    assert all("differs" in row for row in rows)


def test_a_number_below_1_is_an_error(capsys):
    assert benchmark.main(["memory", "--images", "0"]) == 2
    assert "--images: expected 1 or more, got 0" in capsys.readouterr().err
