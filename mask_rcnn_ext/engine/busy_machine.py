"""Keeps training on a CPU fast while other programs use the cores.

The threads of a step wait for the slowest of them many times. With another program on the cores a
step can take several times as long. Fewer threads, or float32 in place of bfloat16, then lose
little.
"""

import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm

from ..errors import count_noun
from .loop import AutocastTrainer

__all__ = ["BusyMachine", "Setting", "SettingChooser", "list_settings"]

logger = logging.getLogger(__name__)

_WINDOW = 5  # steps whose median is compared
_SLOW = 2.0  # times the best window, twice in a row: the machine is busy
_TRIAL = 3  # steps of a setting that is tried; the first step is not counted
_FIRST_RETURN, _LAST_RETURN = 50, 800  # steps before the first setting is tried again


@dataclass(frozen=True)
class Setting:
    """How a step is computed: threads of PyTorch, and autocast or float32."""

    threads: int
    autocast: bool

    def __str__(self) -> str:
        """Name the setting in a message."""
        words = count_noun(self.threads, "thread")
        return words if self.autocast else f"float32 and {words}"


def list_settings(threads: int, *, autocast: bool) -> list[Setting]:
    """Return the settings to choose from, the setting of an idle machine first.

    Args:
        threads: the threads of PyTorch.
        autocast: the training is in mixed precision.
    """
    fewer = sorted({threads, (threads + 1) // 2, 1}, reverse=True)
    settings = [Setting(count, autocast) for count in fewer]
    return [*settings, Setting(threads, False)] if autocast else settings


class SettingChooser:
    """Decides from the seconds of the steps which setting is used.

    It starts with the first setting. When two windows in a row take more than twice the best one,
    all other settings are tried, and the fastest stays. After 50 steps the first setting is tried
    for a step or two, and kept if it is faster again. With each attempt that fails, the number of
    steps before the next one doubles.

    Args:
        settings: the settings to choose from.

    Attributes:
        setting: the setting of the next step.
    """

    def __init__(self, settings: Sequence[Setting]) -> None:
        self._settings = list(settings)
        self.setting = self._settings[0]
        self._window: list[float] = []
        self._best = float("inf")
        self._slow_windows = 0
        self._left: list[Setting] = []  # of a trial
        self._seconds: dict[Setting, float] = {}  # of a trial
        self._chosen = 0.0  # seconds of the chosen setting, when it is not the first
        self._return_after = _FIRST_RETURN
        self._steps = 0  # in the chosen setting

    def take(self, seconds: float) -> str | None:
        """Take the seconds of a step; return a message if the setting changes and stays.

        `setting` is then the setting of the next step.
        """
        if self._left:
            return self._try(seconds)
        if self.setting == self._settings[0]:
            self._watch(seconds)
        else:
            self._wait(seconds)
        return None

    def _watch(self, seconds: float) -> None:
        self._window.append(seconds)
        if len(self._window) < _WINDOW:
            return
        median = statistics.median(self._window)
        self._window = []
        self._slow_windows = self._slow_windows + 1 if median > _SLOW * self._best else 0
        self._best = min(self._best, median)
        if self._slow_windows == 2:
            self._slow_windows = 0
            self._start_trial(self._settings[1:], {self._settings[0]: median})

    def _start_trial(self, left: Sequence[Setting], known: dict[Setting, float]) -> None:
        self._left, self._seconds, self._window = list(left), dict(known), []
        self.setting = self._left[0]

    def _try(self, seconds: float) -> str | None:
        self._window.append(seconds)
        first = self._settings[0]
        hopeless = self.setting == first and seconds > _SLOW * self._chosen
        if len(self._window) < _TRIAL and not hopeless:
            return None
        steps = self._window[1:] or self._window
        self._seconds[self._left.pop(0)] = statistics.median(steps)
        self._window = []
        if self._left:
            self.setting = self._left[0]
            return None
        return self._choose()

    def _choose(self) -> str | None:
        first = self._settings[0]
        chosen = min(self._seconds, key=lambda setting: self._seconds[setting])
        returns, stays = first in self._seconds and self._chosen > 0, chosen == first
        self.setting, self._steps = chosen, 0
        if returns and not stays:
            self._return_after = min(2 * self._return_after, _LAST_RETURN)
            return None
        if stays:
            self._chosen, self._return_after = 0.0, _FIRST_RETURN
            if returns:
                return f"The machine is free again: training continues with {first}."
            self._best = self._seconds[first]  # busy, but nothing is faster: do not ask again
            return None
        self._chosen = self._seconds[chosen]
        return (
            f"The machine is busy: a step takes {self._seconds[first]:.2g} s, at best it took "
            f"{self._best:.2g} s. With {chosen} it takes {self._chosen:.2g} s, so training "
            "continues like that."
        )

    def _wait(self, seconds: float) -> None:
        self._steps += 1
        self._chosen += (seconds - self._chosen) / _WINDOW  # follows the load
        if self._steps >= self._return_after:
            self._start_trial([self._settings[0]], {self.setting: self._chosen})


class BusyMachine(HookBase):
    """Watches the time of the steps, and changes threads and precision when it collapses.

    It watches trainings on a CPU, in one process. Without `MASK_RCNN_EXT.ADAPT_TO_LOAD` it changes
    nothing, and logs once that it could.

    Args:
        cfg: the config of the run.
        settings: the settings to choose from.
    """

    def __init__(self, cfg: CfgNode, settings: Sequence[Setting]) -> None:
        self._adapts = bool(cfg.MASK_RCNN_EXT.ADAPT_TO_LOAD)
        self._first = settings[0]
        self._chooser = SettingChooser(settings)
        self._start = 0.0
        self._told = False

    @classmethod
    def build(cls, cfg: CfgNode, loop: object) -> "BusyMachine | None":
        """Return the hook for a training loop, or None where there is nothing to choose."""
        autocast = isinstance(loop, AutocastTrainer)
        settings = list_settings(torch.get_num_threads(), autocast=autocast)
        on_cpu = torch.device(cfg.MODEL.DEVICE).type == "cpu"
        watched = on_cpu and comm.get_world_size() == 1 and len(settings) > 1
        return cls(cfg, settings) if watched else None

    def before_step(self) -> None:
        """Apply the setting."""
        if self._adapts:
            self._apply(self._chooser.setting)
        self._start = time.perf_counter()

    def after_step(self) -> None:
        """Decide about the next step."""
        seconds = time.perf_counter() - self._start
        if not self._adapts and self._told:
            return
        before = self._chooser.setting
        message = self._chooser.take(seconds)
        if self._adapts:
            if message:
                logger.warning(message)
        elif self._chooser.setting != before:
            self._told = True
            logger.warning(
                "A step takes more than twice the time that it took before: other programs use "
                "the machine. Stop them, or set MASK_RCNN_EXT.ADAPT_TO_LOAD True."
            )

    def after_train(self) -> None:
        """Set back the threads."""
        if self._adapts:
            self._apply(self._first)

    def _apply(self, setting: Setting) -> None:
        if torch.get_num_threads() != setting.threads:
            torch.set_num_threads(setting.threads)
        if self._first.autocast:
            self.trainer._trainer.autocast = setting.autocast
