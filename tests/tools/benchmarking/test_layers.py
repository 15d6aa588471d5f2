"""The benchmark of the position-sensitive layers: its table, not its times."""

import json

import benchmark
import pytest
import torch
from benchmarking import layers


@pytest.fixture
def small(monkeypatch):
    """Shrink the inputs to what is done in a moment."""
    for name, value in {"NUM_ROIS": 6, "NUM_MAPS": 2, "HEIGHT": 9, "WIDTH": 12}.items():
        monkeypatch.setattr(layers, name, value)


def test_it_prints_each_layer_and_the_baseline(small, capsys):
    assert benchmark.main(["layers", "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("  ") if cell] for line in lines[3:9]]
    names = [layers.BASELINE, "PSROIPool, 21 x 21", "PSROIAlign, 21 x 21"]
    cases = ["forward"] * 3 + ["backward"] * 3
    assert [row[:2] for row in rows] == [list(pair) for pair in zip(cases, names * 2, strict=True)]
    assert rows[0][-1] == "baseline"
    assert "6 RoIs, 2 maps, 9 x 12 cells" in lines[-1]


def test_its_rois_are_on_the_image(small):
    maps, rois = layers.make_inputs("cpu", seed=3)
    assert maps.shape == (1, 98, 9, 12)
    assert rois.shape == (6, 5)
    assert (rois[:, 3:] > rois[:, 1:3]).all()
    assert (rois[:, 1:] >= 0).all()
    assert (rois[:, 3:] <= torch.tensor([12 * 16.0, 9 * 16.0])).all()
    assert torch.equal(rois, layers.make_inputs("cpu", seed=3)[1])


def test_the_output_keeps_the_parts_of_other_benchmarks(small, tmp_path, capsys):
    path = tmp_path / "benchmark.json"
    path.write_text('{"paste": {"rows": []}, "layers": "old"}')
    assert benchmark.main(["layers", "--rounds", "1", "--seed", "4", "--output", str(path)]) == 0
    content = json.loads(path.read_text())
    assert content["paste"] == {"rows": []}
    assert content["layers"]["options"]["seed"] == 4
    assert (
        content["layers"]["machine"]["torch"] == torch.__version__.split("+")[0]
        or "+" in (content["layers"]["machine"]["torch"])
    )
    assert len(content["layers"]["rows"]) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rounds", "0"], "--rounds: expected 1 or more"),
        (["--device", "cuda"], "use cpu"),
        (["--output", "list.json"], "list.json: expected an object, got a list"),
        (["--output", "absent/a.json"], "absent/a.json: its folder does not exist"),
    ],
)
def test_wrong_options_are_errors(small, options, message, capsys, tmp_path, monkeypatch):
    """They are told before the benchmark runs, which takes minutes."""
    monkeypatch.chdir(tmp_path)
    if options[0] != "--device":
        monkeypatch.setattr(layers, "run", None)
    (tmp_path / "list.json").write_text("[1]")
    assert benchmark.main(["layers", *options]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "list.json").read_text() == "[1]"
