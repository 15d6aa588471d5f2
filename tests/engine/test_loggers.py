"""Metrics go to wandb, mlflow and trackio, here to stand-ins that have the calls in use."""

import json
import sys
import types

import pytest
from detectron2.utils.events import EventStorage, TensorboardXWriter
from small_runs import read_error, train_small, write_data

from mask_rcnn_ext import UserError, get_cfg
from mask_rcnn_ext.engine.loggers import build_loggers, require_loggers

NAMES = ("wandb", "mlflow", "trackio")


class Library:
    """A stand-in: what the library was told, as (run id, step, metrics), and its runs."""

    def __init__(self):
        self.runs, self.logged, self.ended, self.parameters = [], [], [], {}

    def wandb(self):
        def init(*, id, resume, dir, config, **_):
            assert resume == "allow"
            self.runs.append(id)
            self.parameters.update(config)
            return types.SimpleNamespace(
                id=id,
                log=lambda metrics, step: self.logged.append((id, step, metrics)),
                finish=lambda: self.ended.append(id),
            )

        return {"wandb": {"init": init}}

    def trackio(self):
        def init(*, project, name, resume, config, embed):
            assert (resume, embed) == ("allow", False)
            self.runs.append(name)
            self.parameters.update(config)

        return {
            "trackio": {
                "init": init,
                "log": lambda metrics, step: self.logged.append((self.runs[-1], step, metrics)),
                "finish": lambda: self.ended.append(self.runs[-1]),
            }
        }

    def mlflow(self):
        library = self

        class MlflowClient:
            def __init__(self, tracking_uri):
                assert tracking_uri.startswith("file:///")
                assert tracking_uri.endswith("/mlruns")

            def get_experiment_by_name(self, name):
                return None

            def create_experiment(self, name):
                return "7"

            def create_run(self, experiment_id, run_name):
                assert experiment_id == "7"
                library.runs.append("abc")
                return types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))

            def update_run(self, run_id, status):
                assert status == "RUNNING"
                library.runs.append(run_id)

            def log_batch(self, run_id, metrics=(), params=()):
                assert len(params) <= 100
                library.parameters.update(params)
                by_step = {}
                for key, value, _, step in metrics:
                    by_step.setdefault(step, {})[key] = value
                library.logged += [(run_id, step, found) for step, found in by_step.items()]

            def set_terminated(self, run_id):
                library.ended.append(run_id)

        entities = {"Metric": lambda *values: values, "Param": lambda key, value: (key, value)}
        return {"mlflow": {"MlflowClient": MlflowClient}, "mlflow.entities": entities}


@pytest.fixture
def library(request, monkeypatch):
    made = Library()
    for name, content in getattr(made, request.param)().items():
        module = types.ModuleType(name)
        vars(module).update(content, __spec__=types.SimpleNamespace())
        monkeypatch.setitem(sys.modules, name, module)
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    made.name = request.param
    return made


def make_cfg(folder, *names):
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.MASK_RCNN_EXT.LOGGERS = str(folder), tuple(names)
    return cfg


@pytest.mark.parametrize("library", NAMES, indirect=True)
def test_each_value_is_logged_once_and_a_resumed_run_goes_on(library, tmp_path):
    cfg = make_cfg(tmp_path, library.name)
    for resume in (False, True):
        (writer,) = build_loggers(cfg)
        writer.start(resume=resume)
        with EventStorage(10 * resume) as storage:
            storage.put_scalar("total_loss", 2.0 + resume)
            storage.put_scalar("bbox/AP-größe#1", 30.0)
            writer.write()
            writer.write()
            storage.step()
            storage.put_scalar("total_loss", 4.0 + resume)
            writer.write()
        writer.close()
    first, second = library.runs
    assert first == second
    assert library.ended == [first, first]
    assert [(run, step) for run, step, _ in library.logged] == [
        (first, step) for step in (0, 1, 10, 11)
    ]
    name = "bbox/AP-größe_1" if library.name == "mlflow" else "bbox/AP-größe#1"
    assert library.logged[0][2] == {"total_loss": 2.0, name: 30.0}
    assert library.logged[1][2] == {"total_loss": 3.0}  # the median over the last iterations
    assert str(library.parameters["SOLVER.BASE_LR"]) == "0.001"
    assert json.loads((tmp_path / "loggers.json").read_text()) == {library.name: first}


def test_a_library_is_imported_when_it_is_named():
    kinds = [type(writer) for writer in build_loggers(make_cfg("out", "tensorboard"))]
    assert kinds == [TensorboardXWriter]
    assert build_loggers(make_cfg("out")) == []
    assert "wandb" not in sys.modules


def test_errors(monkeypatch):
    with pytest.raises(UserError, match=r"got 'wanbd'; did you mean 'wandb'\?"):
        require_loggers(make_cfg("out", "wanbd"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed: pip install mlflow"):
        require_loggers(make_cfg("out", "tensorboard", "mlflow"))


@pytest.mark.parametrize("library", ["wandb"], indirect=True)
def test_a_training_logs(library, tmp_path):
    flags = write_data(tmp_path, train=4)
    keys = ["SOLVER.MAX_ITER", "2", "MASK_RCNN_EXT.LOGGERS", "('wandb',)"]
    assert train_small(flags, tmp_path / "out", *keys) == 0
    assert "total_loss" in library.logged[-1][2]
    assert library.ended == library.runs
    assert not list((tmp_path / "out").glob("events.*"))


def test_a_logger_that_is_not_installed_ends_before_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mask_rcnn_ext.engine.loggers.importlib.util.find_spec", lambda name: None)
    flags = write_data(tmp_path, train=4)
    assert train_small(flags, tmp_path / "out", "MASK_RCNN_EXT.LOGGERS", "('trackio',)") == 2
    assert "pip install trackio" in read_error(capsys)
    assert not (tmp_path / "out").exists()
