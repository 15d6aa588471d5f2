"""Writers of metrics for wandb, mlflow and trackio, next to detectron2's for TensorBoard.

`MASK_RCNN_EXT.LOGGERS` names them. A library is imported only when it is named. A run has one id in
each library; the file `loggers.json` in the folder of the run keeps the ids, so that a resumed run
goes on under the same ones.
"""

import abc
import importlib
import importlib.util
import itertools
import os
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, TensorboardXWriter, get_event_storage

from ..config import flat_config
from ..errors import UserError, nearest
from ..files import read_json_or_none, write_json
from .metrics import find_earlier_evaluations

__all__ = [
    "LoggerWriter",
    "MlflowWriter",
    "TrackioWriter",
    "WandbWriter",
    "build_loggers",
    "require_loggers",
]

_PROJECT = "mask_rcnn_ext"
_IDS = "loggers.json"
_LONGEST_PARAMETER = 500  # characters; the least that a server of mlflow takes
_LARGEST_BATCH = 100  # parameters, also mlflow's


class LoggerWriter(EventWriter, abc.ABC):
    """Passes each scalar of the event storage to a library once.

    The values are the same as in `metrics.json`: medians over 20 iterations where detectron2
    smooths them. A subclass names the library's module, starts a run, logs and finishes.

    Args:
        cfg: the config of the run.
    """

    module: str

    def __init__(self, cfg: CfgNode) -> None:
        self.folder = Path(cfg.OUTPUT_DIR).absolute()
        self.config = dict(flat_config(cfg))
        self._started = False
        self._last = -1

    def start(self, *, resume: bool) -> None:
        """Begin a run, or go on with the one that the folder names.

        Args:
            resume: training starts from a checkpoint of the folder.

        Raises:
            UserError: the library cannot begin the run.
        """
        path = self.folder / _IDS
        ids = read_json_or_none(path) or {}  # of this run: a new run moves an earlier run's file
        library = importlib.import_module(self.module)
        try:
            ids[self.module] = self._start(library, ids.get(self.module) if resume else None)
        except Exception as error:  # a library has many kinds, of network, login and files
            raise UserError(
                f"{self.module} cannot start: {error}. To train without it, take it out of "
                "MASK_RCNN_EXT.LOGGERS"
            ) from error
        write_json(path, ids)
        self._started = True

    def write(self) -> None:
        """Log the values that are new since the last call."""
        storage = get_event_storage()
        latest = storage.latest_with_smoothing_hint(20).items()
        new = [(step, name, value) for name, (value, step) in latest if step > self._last]
        for step, metrics in find_earlier_evaluations(storage, self._last).items():
            new += [(step, name, value) for name, value in metrics.items()]
        new.sort()
        for step, group in itertools.groupby(new, key=lambda entry: entry[0]):
            self._log({name: float(value) for _, name, value in group}, step)
            self._last = step

    def close(self) -> None:
        """End the run, if it has begun."""
        if self._started:
            self._finish()

    @abc.abstractmethod
    def _start(self, library: Any, known: str | None) -> str:
        """Begin a run, or go on with the run `known`; return its id."""

    @abc.abstractmethod
    def _log(self, metrics: Mapping[str, float], step: int) -> None:
        """Give the library the values of one iteration."""

    @abc.abstractmethod
    def _finish(self) -> None:
        """End the run."""


class WandbWriter(LoggerWriter):
    """Logs to Weights & Biases, or with `WANDB_MODE=offline` into `OUTPUT_DIR/wandb`.

    wandb reads `WANDB_PROJECT` and its other environment variables.
    """

    module = "wandb"

    def _start(self, library: Any, known: str | None) -> str:
        self._run = library.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            id=known or secrets.token_hex(4),
            resume="allow",
            name=self.folder.name,
            dir=str(self.folder),
            config=self.config,
            allow_val_change=True,
        )
        return str(self._run.id)

    def _log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def _finish(self) -> None:
        self._run.finish()


class MlflowWriter(LoggerWriter):
    """Logs to mlflow: to `MLFLOW_TRACKING_URI`, else into files in `OUTPUT_DIR/mlruns`.

    `MLFLOW_EXPERIMENT_NAME` names the experiment.
    """

    module = "mlflow"

    def _start(self, library: Any, known: str | None) -> str:
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow 3 asks for it
            uri = (self.folder / "mlruns").as_uri()
        self._entities = importlib.import_module("mlflow.entities")
        self._client = library.MlflowClient(tracking_uri=uri)
        if known:
            self._client.update_run(known, status="RUNNING")
            self._id = known
            return known
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        self._id = str(self._client.create_run(number, run_name=self.folder.name).info.run_id)
        parameters = [
            self._entities.Param(key, str(value)[:_LONGEST_PARAMETER])
            for key, value in self.config.items()
        ]
        for first in range(0, len(parameters), _LARGEST_BATCH):
            self._client.log_batch(self._id, params=parameters[first : first + _LARGEST_BATCH])
        return self._id

    def _log(self, metrics: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(
            self._id,
            metrics=[
                # mlflow refuses other characters, which a class name may have.
                self._entities.Metric(re.sub(r"[^\w/.\- :]", "_", name), value, now, step)
                for name, value in metrics.items()
            ],
        )

    def _finish(self) -> None:
        self._client.set_terminated(self._id)


class TrackioWriter(LoggerWriter):
    """Logs to trackio: into files in `TRACKIO_DIR`, by default in the cache of Hugging Face."""

    module = "trackio"

    def _start(self, library: Any, known: str | None) -> str:
        name = known or f"{self.folder.name}-{secrets.token_hex(4)}"
        self._run = library.init(
            project=_PROJECT, name=name, resume="allow", config=self.config, embed=False
        )
        self._library = library
        return name

    def _log(self, metrics: Mapping[str, float], step: int) -> None:
        self._library.log(dict(metrics), step=step)

    def _finish(self) -> None:
        self._library.finish()


_WRITERS: dict[str, type[LoggerWriter]] = {
    writer.module: writer for writer in (WandbWriter, MlflowWriter, TrackioWriter)
}


def require_loggers(cfg: CfgNode) -> None:
    """Check that the loggers of a config are known and installed.

    Raises:
        UserError: one is not.
    """
    for name in cfg.MASK_RCNN_EXT.LOGGERS:
        if name == "tensorboard":
            continue
        if name not in _WRITERS:
            known = ["tensorboard", *_WRITERS]
            raise UserError(
                f"MASK_RCNN_EXT.LOGGERS: expected some of {', '.join(known)}, got {name!r}"
                f"{nearest(str(name), known)}"
            )
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"MASK_RCNN_EXT.LOGGERS names {name}, which is not installed: pip install {name}"
            )


def build_loggers(cfg: CfgNode) -> list[EventWriter]:
    """Return the writers of `MASK_RCNN_EXT.LOGGERS`, in its order; none has begun a run."""
    return [
        TensorboardXWriter(cfg.OUTPUT_DIR) if name == "tensorboard" else _WRITERS[name](cfg)
        for name in dict.fromkeys(cfg.MASK_RCNN_EXT.LOGGERS)
    ]
