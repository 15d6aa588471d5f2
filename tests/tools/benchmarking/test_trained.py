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
    (tmp_path / "export").mkdir()
    for name in ("export.json", "model.bin", "model.xml", "model_int8.onnx"):
        (tmp_path / "export" / name).touch()
    found = {
        ("model_final.pth", "exact"): results(46.05, 53.1, 8.0),
        ("model_final.pth", "fast"): results(46.05, 53.06, 4.0),
        ("model_final.pth", "fastest"): results(45.9, 53.2, 2.0),
        ("export/model.xml", "exact"): results(46.05, 53.1, 3.2),
        ("export/model.xml", "fastest"): results(46.0, 53.0, 1.6),
        ("export/model_int8.onnx", "exact"): results(45.6, 53.1, 1.0),
    }
    monkeypatch.setattr(trained, "_evaluate", lambda folder, *model: found[model])
    assert benchmark.main(["trained", str(tmp_path), "--rounds", "3"]) == 0
    rows = [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()[3:9]]
    assert [(row[1], row[3], row[4]) for row in rows] == [
        ("exact", "mask AP 46.05, box AP 53.10", "baseline"),
        ("fast", "mask AP 46.05 (+0.00), box AP 53.06 (-0.04)", "2.00 times as fast"),
        ("fastest", "mask AP 45.90 (-0.15), box AP 53.20 (+0.10)", "4.00 times as fast"),
        ("model.xml", "mask AP 46.05 (+0.00), box AP 53.10 (+0.00)", "2.50 times as fast"),
        ("model.xml, fastest", "mask AP 46.00 (-0.05), box AP 53.00 (-0.10)", "5.00 times as fast"),
        ("model_int8.onnx", "mask AP 45.60 (-0.45), box AP 53.10 (+0.00)", "8.00 times as fast"),
    ]


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
    assert f"{tmp_path / 'model_final.pth'}, exact: error: no such key" in capsys.readouterr().err
