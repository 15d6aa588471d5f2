"""The file `metrics.json` of a run: a line for every 20 iterations, and for every evaluation."""

import functools
import json
import os
import re
from collections import defaultdict
from typing import IO, Any

from detectron2.utils.events import EventStorage, JSONWriter, get_event_storage

from ..files import atomic_open

__all__ = ["MetricsWriter", "drop_metrics", "find_earlier_evaluations"]


class MetricsWriter(JSONWriter):
    """detectron2's `JSONWriter`, which opens its file at the first write.

    If there was more than one evaluation since the last write, each has its line. A metric without
    a finite value is null: JSON has neither NaN nor Infinity.
    """

    def __init__(self, json_file: str) -> None:
        """Take the path; a value is the median over 20 iterations."""
        self._path, self._window_size, self._last_write = json_file, 20, -1

    def write(self) -> None:
        """See `JSONWriter`."""
        earlier = find_earlier_evaluations(get_event_storage(), self._last_write)
        for iteration, metrics in sorted(earlier.items()):
            line = json.dumps({**metrics, "iteration": iteration}, sort_keys=True)
            self._file_handle.write(line + "\n")
        super().write()

    @functools.cached_property
    def _file_handle(self) -> Any:
        os.makedirs(os.path.dirname(self._path) or ".", exist_ok=True)  # a run may fail at once
        return _Nulls(open(self._path, "a", encoding="utf-8"))  # `close` closes it


class _Nulls:
    """A text file that gets null for NaN and infinities."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        # Between a key and its value json.dumps writes '": '; inside of a key the quote has a
        # backslash.
        return self._file.write(re.sub(r'(?<!\\)": (NaN|-?Infinity)(?=[,}])', '": null', text))


def find_earlier_evaluations(storage: EventStorage, last: int) -> dict[int, dict[str, float]]:
    """Return the numbers of evaluations that a writer would miss, since a later one hides them.

    detectron2's writers get only the latest value of a name, once in 20 iterations.

    Args:
        storage: the event storage of the run.
        last: the last iteration that was written.

    Returns:
        Iteration -> metric -> value.
    """
    found: dict[int, dict[str, float]] = defaultdict(dict)
    for name, smoothed in storage.smoothing_hints().items():
        if smoothed or "/" not in name:  # a loss; the learning rate
            continue
        values = storage.history(name).values()
        for value, iteration in values:
            if last < iteration < values[-1][1]:
                found[int(iteration)][name] = value
    return found


def drop_metrics(path: str, start: int) -> dict[str, float]:
    """Drop the lines of the iterations that a run repeats, and lines that were cut short.

    Args:
        path: the file; it is created if it is missing.
        start: the first iteration of the run.

    Returns:
        The best AP in the lines that stay, by its name.
    """
    kept: list[str] = []
    best: dict[str, float] = {}
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.readlines()
    except FileNotFoundError:
        lines = []
    for line in lines:
        try:
            entry = json.loads(line)
            if entry["iteration"] >= start:
                continue
        except (ValueError, KeyError, TypeError):  # the run was killed while it wrote
            continue
        kept.append(line)
        for name, value in entry.items():
            if name.endswith("/AP") and value is not None:
                best[name] = max(value, best.get(name, value))
    with atomic_open(path, "w") as file:
        file.writelines(kept)
    return best
