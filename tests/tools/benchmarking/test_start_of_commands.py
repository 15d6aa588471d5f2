"""The benchmark of the start: which commands it runs, not their times."""

import benchmark
import pytest
from benchmarking import startup
from tiny_model import tiny_cfg

from mask_rcnn_ext import UserError


def test_each_case_has_its_baseline(monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(startup.model_zoo, "get_config", lambda _: tiny_cfg())
    monkeypatch.setattr(startup, "_time_process", lambda words: ran.append(words) or {"": 1.0})
    assert benchmark.main(["startup", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert out.count("baseline") == 3
    assert ["train_net.py", "--help"] in ran
    assert any(words[0] == "tools/predict.py" and "--weights" in words for words in ran)
    scripts = {words[0] for words in ran if words[0] != "-c"}
    assert all((startup._ROOT / name).is_file() for name in scripts)


def test_the_time_is_that_of_the_process():
    assert 0.001 < startup._time_process(["-c", "sum(range(10**6))"])[""] < 60
    with pytest.raises(UserError, match=r"-c .* failed: no"):
        startup._time_process(["-c", "raise SystemExit('no')"])
