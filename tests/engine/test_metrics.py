"""What metrics.json holds: the numbers of each evaluation, however often there is one."""

import json

import pytest
from detectron2.utils.events import EventStorage, JSONWriter
from test_loggers import library, make_cfg  # noqa: F401

from mask_rcnn_ext.engine.loggers import build_loggers
from mask_rcnn_ext.engine.metrics import MetricsWriter


def train(writers, period: int, iterations: int = 45) -> None:
    """Put what a training puts, with an AP that is its iteration; write every 20 iterations."""
    with EventStorage() as storage:
        for iteration in range(iterations):
            storage.iter = iteration
            storage.put_scalar("total_loss", 1.0)
            storage.put_scalar("lr", iteration / 100, smoothing_hint=False)
            if (iteration + 1) % period == 0:
                numbers = {"segm/AP": float(iteration), "bbox/AP": float("nan")}
                storage.put_scalars(**numbers, smoothing_hint=False)
            if (iteration + 1) % 20 == 0:
                [writer.write() for writer in writers]
        storage.put_scalar("segm/AP", float(storage.iter), smoothing_hint=False)  # at the end
        [writer.write() for writer in writers]
        [writer.close() for writer in writers]


@pytest.mark.parametrize("period", [1, 3, 7, 20])
def test_each_evaluation_has_its_numbers(tmp_path, period):
    train([MetricsWriter(str(tmp_path / "metrics.json"))], period)
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    found = [line["iteration"] for line in lines if "segm/AP" in line]
    assert found == sorted({*range(period - 1, 45, period), 44})
    assert all(line["segm/AP"] == line["iteration"] for line in lines if "segm/AP" in line)
    assert [line["iteration"] for line in lines if "lr" in line] == [19, 39, 44]


@pytest.mark.parametrize("period", [20, 30, 100])
def test_where_nothing_was_lost_the_file_is_detectron2s(tmp_path, period):
    train([MetricsWriter(str(tmp_path / "ours")), JSONWriter(str(tmp_path / "theirs"))], period)
    theirs = (tmp_path / "theirs").read_text().replace("NaN", "null")
    assert (tmp_path / "ours").read_text() == theirs


@pytest.mark.parametrize("library", ["wandb"], indirect=True)
def test_loggers_get_each_evaluation_in_order(library, tmp_path):  # noqa: F811
    (writer,) = build_loggers(make_cfg(tmp_path, library.name))
    writer.start(resume=False)
    train([writer], 7)
    found = [step for _, step, numbers in library.logged if "segm/AP" in numbers]
    assert found == [6, 13, 20, 27, 34, 41, 44]
    assert [step for _, step, _ in library.logged] == sorted(step for _, step, _ in library.logged)
