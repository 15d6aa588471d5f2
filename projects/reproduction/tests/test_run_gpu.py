"""What `make gpu` runs, tried without a GPU: tests, benchmark and training, in parts."""

import json
from types import SimpleNamespace

import pytest
import run_gpu as tool
from reproduction.gpu import parts
from reproduction.gpu.markdown import gpu_doc
from reproduction.gpu.results_file import GpuResults
from support import SMALL, TINY_CONFIG, write_coco

from mask_rcnn_ext.checkpoint.description import get_versions
from mask_rcnn_ext.files import read_json
from mask_rcnn_ext.report.json_records import from_json
from mask_rcnn_ext.steps import run_step

ROW = {
    "case": "a", "contender": "old", "seconds": 2.0, "ratio": 1.0, "ratios": [1.0, 1.0],
    "verdict": "baseline", "peak_mb": None, "output": "",
}  # fmt: skip
PART = {
    "title": "Layers", "options": {"device": "cpu"}, "machine": {"gpu": "G"}, "load": [0.0, 0.0],
    "rows": [ROW],
}  # fmt: skip


def test_without_a_gpu_nothing_begins(tmp_path, capsys):
    assert tool.main(["--output", str(tmp_path / "out")]) == 2
    assert "finds no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_tests_are_counted(tmp_path):
    file = tmp_path / "test_some.py"
    file.write_text(
        "import os, pytest\n"
        "def test_good(): assert os.environ['MASK_RCNN_EXT_TEST_GPU'] == '1'\n"
        "def test_bad(): assert False\n"
        "@pytest.mark.skip(reason='r')\ndef test_other(): pass\n"
    )
    options = [str(file), "--rootdir", str(tmp_path), "-c", str(tmp_path / "none.ini")]
    (tmp_path / "none.ini").write_text("[pytest]\n")
    found = parts.run_tests(tmp_path, options)
    assert found.pop("seconds") >= 0
    assert found == {
        "tests": 3, "failures": 1, "errors": 0, "skipped": 1, "failed": ["test_some::test_bad"],
    }  # fmt: skip


def test_the_benchmark_runs_for_a_while_and_only_what_is_missing(tmp_path, monkeypatch, capsys):
    ran, clock = [], [0.0]

    def run(command):
        ran.append(command[2])
        clock[0] += 100
        path = command[command.index("--output") + 1]
        with open(path, "w") as file:
            json.dump({command[2]: {**PART, "title": command[2]}}, file)
        return 0

    monkeypatch.setattr(parts, "run_command", run)
    monkeypatch.setattr(tool, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    path = tmp_path / "gpu.json"
    command = ["--device", "cpu", "--output", str(tmp_path / "out"), "--results", str(path)]
    command += ["--parts", "benchmark", "--minutes"]
    assert tool.main([*command, "2.5"]) == 1
    assert ran == [*read_json(path)["benchmark"]] == ["layers", "inference"]
    assert "left: benchmark growth" in capsys.readouterr().out
    assert tool.main([*command, "60"]) == 0
    assert ran == [*read_json(path)["benchmark"]] == list(parts.BENCHMARKS)
    assert tool.main([*command, "60"]) == 0
    assert len(ran) == len(parts.BENCHMARKS)
    monkeypatch.setattr(parts, "code_sha256", lambda *_: "other code")
    assert tool.main([*command, "60"]) == 0
    assert len(ran) == 2 * len(parts.BENCHMARKS)
    monkeypatch.setattr(tool, "get_versions", lambda: {"torch": "other"})
    assert tool.main([*command, "0"]) == 1  # figures of other versions do not stay under new ones
    assert [*read_json(path)["benchmark"]] == ["layers"]
    assert tool.main([*command, "60"]) == 0
    monkeypatch.setattr(parts, "code_sha256", lambda *_: "broken code")
    monkeypatch.setattr(parts, "run_command", lambda *_: 3)
    before = path.read_bytes()
    assert tool.main([*command, "60"]) == 2
    assert "benchmark.py layers --device cpu failed" in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize("own", [True, False])
def test_a_training_is_resumed_by_the_next_call(own, tmp_path, monkeypatch):
    data = tmp_path / "data" if own else None
    for split in ("train", "val") if own else ():
        path, _ = write_coco(data, images=4)
        path.rename(data / f"annotations_{split}.json")
    keys = dict(zip(SMALL[::2], SMALL[1::2], strict=True))
    monkeypatch.setattr(parts, "_CONFIG", TINY_CONFIG)
    monkeypatch.setattr(parts, "_KEYS", {**keys, "SOLVER.MAX_ITER": 4, "SEED": 1})
    shapes = {"DATASETS.TRAIN": ("occluded_shapes_val",), "DATASETS.TEST": ("occluded_shapes_val",)}
    monkeypatch.setattr(parts, "_SHAPES", shapes)

    def plan(seconds, gpu="cpu"):
        return parts.plan_training(tmp_path / "runs", data, "cpu", seconds, gpu)

    run_step(plan(0))
    assert plan(0).results() is None
    if not own:  # the same code from here on
        return
    run_step(plan(600))
    assert {"segm", "bbox", "run"} <= {*plan(0).results()}
    assert plan(0).state() == "done"
    assert plan(0, "another GPU").state() == "stale"
    content = read_json(data / "annotations_train.json")
    (data / "annotations_train.json").write_text(json.dumps(content, indent=1))
    assert plan(0).state() == "stale"


def test_the_results_and_what_is_left(tmp_path, monkeypatch, capsys):
    results = {"segm": {"AP": 31.25}, "bbox": {"AP": 30.0},
               "run": {"train_seconds": 900.0, "peak_memory_mb": 5000.0}}  # fmt: skip
    answers = [None, results]

    class Training:
        results = staticmethod(lambda: answers.pop(0))

    counts = {"tests": 5, "failures": 1, "errors": 0, "skipped": 1, "failed": ["a::b"]}
    monkeypatch.setattr(tool, "run_tests", lambda *_: {**counts, "seconds": 3})
    monkeypatch.setattr(tool, "plan_training", lambda *_: Training())
    monkeypatch.setattr(tool, "run_step", lambda *_: "left")
    path = tmp_path / "gpu.json"
    machine = {"device": "cpu", "versions": get_versions()}
    path.write_text(json.dumps({**machine, "benchmark": {"layers": PART}}))
    command = ["--device", "cpu", "--output", str(tmp_path / "out"), "--results", str(path)]
    assert tool.main(command) == 1
    out = capsys.readouterr().out
    assert "left: tests that failed" in out
    assert "left: the rest of the training" in out
    assert "left: benchmark growth" in out
    assert "training" not in read_json(path)
    assert tool.main([*command, "--parts", "training"]) == 0
    content = read_json(path)
    assert content["tests"]["failed"] == ["a::b"]  # kept from the first call
    text = gpu_doc(from_json(GpuResults, content))
    assert "3 passed, 1 failed, 1 skipped" in text
    assert "drawn shapes: mask AP 31.2, box AP 30.0 after 900 seconds" in text
    assert "### Layers" in text
    assert "has not been run" in gpu_doc(None)
