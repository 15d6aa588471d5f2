"""The benchmark of trained models: what it runs and compares, not its times."""

import re
import subprocess

import benchmark
from benchmarking import trained
from small_runs import train_small, write_data

from mask_rcnn_ext.files import read_json


def results(mask, box, seconds):
    return {"segm": {"AP": mask}, "bbox": {"AP": box}, "run": {"eval_seconds": seconds}}


def test_it_compares_each_level_with_exact(tmp_path, monkeypatch, capsys):
    for name in ("config.yaml", "model_final.pth"):
        (tmp_path / name).touch()
    found = {
        "exact": results(46.05, 53.1, 8.0),
        "fast": results(46.05, 53.06, 4.0),
        "fastest": results(45.9, 53.2, 2.0),
    }
    monkeypatch.setattr(trained, "_evaluate", lambda folder, level: found[level])
    assert benchmark.main(["trained", str(tmp_path), "--rounds", "3"]) == 0
    rows = [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()[3:6]]
    assert [row[1] for row in rows] == ["exact", "fast", "fastest"]
    assert [row[3] for row in rows] == [
        "mask AP 46.05, box AP 53.10",
        "mask AP 46.05 (+0.00), box AP 53.06 (-0.04)",
        "mask AP 45.90 (-0.15), box AP 53.20 (+0.10)",
    ]
    assert [row[4] for row in rows] == ["baseline", "2.00 times as fast", "4.00 times as fast"]


def test_it_evaluates_a_run_as_a_user_does(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    data = write_data(tmp_path, train=2, val=2)
    mixed = ["SOLVER.AMP.ENABLED", "True", "MASK_RCNN_EXT.AMP_INFERENCE", "True"]
    assert train_small(data, run, "SOLVER.MAX_ITER", "1", *mixed) == 0
    configs = []

    def read(path):
        configs.append((path.parent / "config.yaml").read_text())
        return read_json(path)

    monkeypatch.setattr(trained, "read_json", read)
    kept = sorted(path.relative_to(run) for path in run.rglob("*"))
    monkeypatch.setattr(trained, "SPEEDS", ("exact",))
    capsys.readouterr()
    assert benchmark.main(["trained", str(run), "--rounds", "1"]) == 0
    expected = trained._compare_ap(*[read_json(run / "results.json")] * 2)
    assert f"  {expected}  " in capsys.readouterr().out
    assert "AMP_INFERENCE: true" in (run / "config.yaml").read_text()
    assert "AMP_INFERENCE: false" in configs[0], "exact is float32, whatever the run was"
    assert sorted(path.relative_to(run) for path in run.rglob("*")) == kept


def test_wrong_folders_are_errors(tmp_path, monkeypatch, capsys):
    assert benchmark.main(["trained", str(tmp_path)]) == 2
    assert "expected the folder of a trained model, with config.yaml" in capsys.readouterr().err
    for name in ("config.yaml", "model_final.pth"):
        (tmp_path / name).touch()
    failed = subprocess.CompletedProcess([], 2, stdout="", stderr="a warning\nerror: no such key\n")
    monkeypatch.setattr(trained.subprocess, "run", lambda *_, **__: failed)
    assert benchmark.main(["trained", str(tmp_path)]) == 2
    assert f"{tmp_path}, exact: error: no such key" in capsys.readouterr().err
