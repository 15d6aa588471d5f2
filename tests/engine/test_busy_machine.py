"""Training on a machine that others use: what is chosen, on a clock that the test moves."""

import random
import re
from types import SimpleNamespace

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage
from support import SMALL, TINY_CONFIG
from torch import nn

from mask_rcnn_ext import get_cfg, load_config
from mask_rcnn_ext.engine import busy_machine
from mask_rcnn_ext.engine.busy_machine import BusyMachine, Setting, SettingChooser, list_settings
from mask_rcnn_ext.engine.loop import AutocastTrainer
from mask_rcnn_ext.engine.trainer import Trainer

TWO, ONE, FLOAT32 = list_settings(2, autocast=True)
IDLE = {TWO: 0.25, ONE: 0.4, FLOAT32: 0.9}


def drive(loads, noise=0.0, seed=0):
    """Take a step for each load (seconds by setting); return the settings, times and messages."""
    chooser, rng = SettingChooser([TWO, ONE, FLOAT32]), random.Random(seed)
    used, times, messages = [], [], []
    for load in loads:
        used.append(chooser.setting)
        times.append(load[chooser.setting] * rng.uniform(1 - noise, 1 + noise))
        messages.append(chooser.take(times[-1]))
    return used, times, [message for message in messages if message]


def test_the_settings():
    assert (Setting(2, True), Setting(1, True), Setting(2, False)) == (TWO, ONE, FLOAT32)
    assert list_settings(1, autocast=True) == [Setting(1, True), Setting(1, False)]
    assert [s.threads for s in list_settings(8, autocast=True)] == [8, 4, 1, 8]
    assert list_settings(8, autocast=False) == [Setting(count, False) for count in (8, 4, 1)]
    words = ["2 threads", "1 thread", "float32 and 2 threads"]
    assert [str(s) for s in (TWO, ONE, FLOAT32)] == words


@pytest.mark.parametrize(
    ("busy", "best", "words"),
    [
        ({TWO: 2.5, ONE: 0.45, FLOAT32: 1.2}, ONE, "With 1 thread it takes 0.45 s"),
        ({TWO: 6.0, ONE: 3.0, FLOAT32: 1.2}, FLOAT32, "With float32 and 2 threads it takes 1.2 s"),
    ],
    ids=["one thread", "float32"],
)
def test_under_load_it_is_hardly_slower_than_float32_and_it_returns(busy, best, words):
    used, times, messages = drive([IDLE] * 100 + [busy] * 1000 + [IDLE] * 1000)
    assert set(used[:100]) == {TWO}
    assert used[140:150] == [best] * 10
    under_load = sum(times[100:1100])
    assert under_load < 1.5 * 1000 * busy[FLOAT32]
    assert under_load < 1.25 * 1000 * busy[best]
    assert used[-1] == TWO
    assert len(messages) == 2, messages
    assert words in messages[0]
    assert f"a step takes {busy[TWO]:.2g} s, at best it took 0.25 s" in messages[0]
    assert messages[1] == "The machine is free again: training continues with 2 threads."


def test_steps_that_vary_change_nothing():
    used, _, messages = drive([IDLE] * 2000, noise=0.3)
    assert set(used) == {TWO}
    assert not messages


def test_one_slow_window_changes_nothing():
    busy = {setting: 5 * seconds for setting, seconds in IDLE.items()}
    used, _, _ = drive(([IDLE] * 50 + [busy] * 5) * 10)
    assert set(used) == {TWO}


def test_where_nothing_else_is_faster_it_tries_once():
    busy = {setting: 3 * seconds for setting, seconds in IDLE.items()}
    used, _, messages = drive([IDLE] * 50 + [busy] * 2000)
    assert sum(setting != TWO for setting in used) == 2 * 3
    assert used[-1] == TWO
    assert not messages


@pytest.fixture
def machine(monkeypatch):
    """Two threads, and a clock on which a step takes 10 s from the 30th on, with one thread 1 s."""
    clock = SimpleNamespace(now=0.0, steps=0)
    monkeypatch.setattr(busy_machine.time, "perf_counter", lambda: clock.now)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield clock
    torch.set_num_threads(before)


def drive_hook(clock, adapts, autocast=True):
    cfg = get_cfg()
    cfg.MASK_RCNN_EXT.ADAPT_TO_LOAD = adapts
    hook = BusyMachine(cfg, list_settings(2, autocast=autocast))
    loop = SimpleNamespace(autocast=autocast)
    hook.trainer = SimpleNamespace(_trainer=loop)
    used = []
    for _ in range(60):
        hook.before_step()
        used.append((torch.get_num_threads(), loop.autocast))
        clock.steps += 1
        clock.now += 10 if clock.steps > 30 and torch.get_num_threads() == 2 else 1
        hook.after_step()
    hook.after_train()
    return used, (torch.get_num_threads(), loop.autocast)


def test_the_hook_changes_threads_and_precision(machine, caplog):
    used, end = drive_hook(machine, adapts=True)
    assert used[:40] == [(2, True)] * 40
    assert used[40:46] == [(1, True)] * 3 + [(2, False)] * 3, "the trial"
    assert used[46:] == [(1, True)] * 14
    assert end == (2, True)
    assert "With 1 thread it takes 1 s, so training continues like that." in caplog.text
    assert "set MASK_RCNN_EXT.ADAPT_TO_LOAD" not in caplog.text


def test_in_float32_the_hook_changes_the_threads(machine, caplog):
    used, end = drive_hook(machine, adapts=True, autocast=False)
    assert used[:40] == [(2, False)] * 40
    assert used[40:] == [(1, False)] * 20
    assert end == (2, False)
    assert "With float32 and 1 thread it takes 1 s" in caplog.text


def test_without_the_key_the_hook_only_tells(machine, caplog):
    used, _ = drive_hook(machine, adapts=False)
    assert used == [(2, True)] * 60
    assert len(re.findall("set MASK_RCNN_EXT.ADAPT_TO_LOAD True", caplog.text)) == 1


class Recorder(nn.Module):
    """A model that notes the dtype of its convolution."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.dtypes = []

    def forward(self, batch):
        output = self.layer(batch)
        self.dtypes.append(output.dtype)
        return {"loss": output.float().sum()}


def test_a_step_can_be_in_float32(monkeypatch):
    model = Recorder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loop = AutocastTrainer(
        model, [torch.ones(1, 2)] * 2, optimizer, device_type="cpu", dtype=torch.bfloat16
    )
    cfg, float32 = get_cfg(), SimpleTrainer(model, [], optimizer)
    assert BusyMachine.build(cfg, loop) is None, "on a GPU"
    cfg.MODEL.DEVICE = "cpu"
    assert BusyMachine.build(cfg, loop) is not None
    assert BusyMachine.build(cfg, float32) is None, "there is one thread"
    with monkeypatch.context() as patch:
        patch.setattr(busy_machine.torch, "get_num_threads", lambda: 2)
        assert BusyMachine.build(cfg, float32) is not None
        patch.setattr(busy_machine.comm, "get_world_size", lambda: 2)
        assert BusyMachine.build(cfg, loop) is None
    with EventStorage():
        for autocast in (True, False):
            loop.autocast = autocast
            loop.run_step()
    assert model.dtypes == [torch.bfloat16, torch.float32]


def test_a_run_has_the_hook(tmp_path):
    cfg = load_config(TINY_CONFIG, [*SMALL, "OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu"])
    cfg.SOLVER.AMP.ENABLED, cfg.MASK_RCNN_EXT.AMP_DTYPE = True, "bfloat16"
    assert isinstance(Trainer(cfg)._hooks[0], BusyMachine)
