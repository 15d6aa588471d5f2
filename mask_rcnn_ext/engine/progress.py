"""Shows the progress of training: a bar with ETA, losses and the AP so far."""

import datetime
import logging
import math
import sys
import time
from collections.abc import Mapping

from detectron2.utils.events import EventStorage, EventWriter, get_event_storage
from tqdm import tqdm

__all__ = ["ProgressWriter"]

_BAR_WIDTH = 20


class ProgressWriter(EventWriter):
    """Writes one line per period to the log, or, on a terminal, keeps a bar at the bottom.

    The line has the bar, the iteration, the ETA, the losses (medians over the last 20 iterations),
    the learning rate and, after the first evaluation, the latest and the best mask (or box) AP.
    """

    def __init__(self, max_iter: int, earlier: Mapping[str, float] | None = None) -> None:
        """Take the number of iterations, and the best AP of a run that is resumed, by its name."""
        self.max_iter, self._earlier = max_iter, earlier if earlier is not None else {}
        self.logger = logging.getLogger("detectron2.progress")
        self._start: tuple[int, float] | None = None
        self._bar: tqdm | None = None

    def write(self) -> None:
        """Write the state of the current event storage."""
        storage = get_event_storage()
        _, last_step = storage.latest().get("total_loss", (0.0, -1))
        if storage.iter != last_step:
            return  # after the last step, which may come early, the writers are called once more
        text = describe_progress(storage, self._earlier)
        done = storage.iter + 1
        filled = _BAR_WIDTH * done // self.max_iter
        bar = "#" * filled + "." * (_BAR_WIDTH - filled)
        line = f"[{bar}] {done}/{self.max_iter} eta {self._eta(done)}  {text}"
        if not sys.stderr.isatty():
            self.logger.info(line)
            return
        if self._bar is None:
            self._bar = tqdm(total=self.max_iter, initial=storage.iter, unit="it")
        self._bar.n = done
        self._bar.set_postfix_str(text, refresh=True)
        self._log_to_files(line)

    def _log_to_files(self, line: str) -> None:
        """Log a line everywhere but on the terminal, which shows the bar."""
        record = self.logger.makeRecord(self.logger.name, logging.INFO, __file__, 0, line, (), None)
        for handler in logging.getLogger("detectron2").handlers:
            if getattr(handler, "stream", None) not in (sys.stdout, sys.stderr):
                handler.handle(record)

    def _eta(self, done: int) -> str:
        now = time.perf_counter()
        if self._start is None:
            self._start = (done, now)
        first, since = self._start
        if done == first:
            return "?"
        seconds = (now - since) / (done - first) * (self.max_iter - done)
        return str(datetime.timedelta(seconds=int(seconds)))

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


def describe_progress(storage: EventStorage, earlier: Mapping[str, float]) -> str:
    """Return the losses, the learning rate and the AP so far as one line.

    Args:
        storage: the event storage of the run.
        earlier: name -> the best AP before the storage began.
    """
    histories = storage.histories()
    window = 20
    losses = {name: h.median(window) for name, h in histories.items() if name.startswith("loss_")}
    parts = []
    if "total_loss" in histories:
        parts.append(f"loss {histories['total_loss'].median(window):.3f}")
    if losses:
        short = ", ".join(f"{name[len('loss_') :]} {value:.3f}" for name, value in losses.items())
        parts.append(f"({short})")
    for name in histories:
        if name.endswith("validation_loss/total_loss"):
            where = name.removesuffix("validation_loss/total_loss").rstrip("/")
            parts.append(
                f"validation loss {where} {histories[name].latest():.3f}".replace("  ", " ")
            )
    if "lr" in histories:
        parts.append(f"lr {histories['lr'].latest():.2g}")
    for task, label in (("segm", "mask AP"), ("bbox", "box AP")):
        # With several test sets the name begins with the name of the data set.
        names = [n for n in histories if n == f"{task}/AP" or n.endswith(f"/{task}/AP")]
        if names:
            for name in names:
                values = [value for value, _ in histories[name].values()]
                known = [v for v in [*values, earlier.get(name, math.nan)] if not math.isnan(v)]
                best = max(known, default=math.nan)
                where = f" {name.rsplit('/', 2)[0]}" if name.count("/") == 2 else ""
                parts.append(f"{label}{where} {values[-1]:.1f} (best {best:.1f})")
            break
    return "  ".join(parts)
