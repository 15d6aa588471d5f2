"""The benchmark of FCIS: what it compares, not its times."""

import re

import benchmark
import pytest
from benchmarking import fcis
from tiny_fcis import fcis_cfg


def test_it_compares_each_level_with_the_exact_one(monkeypatch, capsys):
    monkeypatch.setattr(fcis, "make_config", lambda _: fcis_cfg())
    assert benchmark.main(["fcis", "--size", "64", "96", "--rounds", "1"]) == 0
    rows = [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    found = {row[1]: row for row in rows if row[0] == "image to instances"}
    assert [*found] == ["exact", "fast", "fastest"]
    assert found["exact"][-1] == "baseline"
    assert re.match(r"(\d+) of \1 found|\d+ equal", found["fast"][3])


@pytest.mark.parametrize("backbone", ["R50", "R101"])
def test_its_configs_are_there(backbone):
    args = fcis.argparse.Namespace(backbone=backbone, device="cpu", size=[60, 100])
    assert fcis.make_config(args).INPUT.MAX_SIZE_TEST == 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cuda"], "use cpu"),
        (["--size", "0", "9"], "--size: expected 1 or more, got 0"),
    ],
)
def test_wrong_options_are_errors(options, message, capsys):
    assert benchmark.main(["fcis", *options]) == 2
    assert message in capsys.readouterr().err
