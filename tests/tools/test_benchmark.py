"""The benchmark of the position-sensitive layers: its table, not its times."""

import benchmark
import pytest
import torch


@pytest.fixture
def small(monkeypatch):
    """Shrink the inputs to what is done in a moment."""
    for name, value in {"NUM_ROIS": 6, "NUM_MAPS": 2, "HEIGHT": 9, "WIDTH": 12}.items():
        monkeypatch.setattr(benchmark, name, value)


def test_it_prints_each_layer_and_the_baseline(small, capsys):
    assert benchmark.main(["--repeats", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("  ") for line in lines[2:5]]
    assert [row[0] for row in rows] == [
        benchmark.BASELINE,
        "PSROIPool, 21 x 21",
        "PSROIAlign, 21 x 21",
    ]
    assert [float(cell) for cell in lines[2].split()[-2:]] == [1.0, 1.0]  # of itself
    assert "6 RoIs, 2 maps, 9 x 12 cells" in lines[-1]


def test_its_rois_are_on_the_image(small):
    maps, rois = benchmark.make_inputs("cpu", seed=3)
    assert maps.shape == (1, 98, 9, 12)
    assert rois.shape == (6, 5)
    assert (rois[:, 3:] > rois[:, 1:3]).all()
    assert (rois[:, 1:] >= 0).all()
    assert (rois[:, 3:] <= torch.tensor([12 * 16.0, 9 * 16.0])).all()
    assert torch.equal(rois, benchmark.make_inputs("cpu", seed=3)[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--repeats", "0"], "--repeats: expected 1 or more"), (["--device", "cuda"], "use cpu")],
)
def test_wrong_options_are_errors(options, message, capsys):
    assert benchmark.main(options) == 2
    assert message in capsys.readouterr().err
