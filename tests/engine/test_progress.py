"""The line that shows how far a training is."""

import logging

import pytest
from detectron2.utils.events import EventStorage

from mask_rcnn_ext.engine.progress import ProgressWriter


@pytest.fixture
def lines(monkeypatch):
    found = []
    progress = logging.getLogger("detectron2.progress")
    monkeypatch.setattr(progress, "info", lambda text: found.append(text))
    return found


def test_no_line_comes_after_the_last_step_also_if_it_came_early(lines):
    with EventStorage(0) as storage:
        writer = ProgressWriter(10)
        for _ in range(8):
            storage.put_scalar("total_loss", 1.5)
            writer.write()
            storage.step()
        storage.put_scalar("segm/AP", 20.0)
        writer.write()
    assert len(lines) == 8
    assert lines[-1].startswith("[################....] 8/10 eta ")
    with EventStorage(8) as storage:  # a run that had ended, and does no step
        storage.put_scalar("segm/AP", 20.0)
        ProgressWriter(10).write()
    assert len(lines) == 8


def test_the_best_ap_is_of_the_whole_run(lines):
    with EventStorage(4) as storage:
        writer = ProgressWriter(10, {"segm/AP": 30.25, "bbox/AP": 90.0})
        for value in (20.0, 25.0, float("nan")):
            storage.put_scalar("total_loss", 1.5)
            storage.put_scalar("segm/AP", value)
            writer.write()
            storage.step()
    assert lines[0].endswith("mask AP 20.0 (best 30.2)")
    assert lines[2].endswith("mask AP nan (best 30.2)")
