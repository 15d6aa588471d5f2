"""The fixtures of all tests; a `conftest.py` makes them known to the tests below its folder."""

import copy
import functools
import gc
import io
import logging
import multiprocessing
import os
import shutil
import signal

import pytest
import yaml
from support import CREATED_HERE, name_files, write_coco


def pytest_configure() -> None:
    """Let help texts have the same lines in every terminal."""
    os.environ["COLUMNS"] = "80"


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over the modules and the tests; they stay to the end."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item) -> None:
    import torch

    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and MASK_RCNN_EXT_TEST_GPU=1")


def pytest_sessionfinish() -> None:
    gc.unfreeze()
    if CREATED_HERE:
        shutil.rmtree(CREATED_HERE, ignore_errors=True)


@pytest.fixture(autouse=True)
def _one_thread():
    """Two test processes share two cores; more threads each would only wait for one another."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_closed_log_streams():
    """Drop log handlers that an earlier test opened on its captured output, closed by now.

    A run also keeps the package's lines from the root logger, where `caplog` looks for them.
    """
    logging.getLogger("mask_rcnn_ext").propagate = True
    for logger in list(logging.root.manager.loggerDict.values()):
        for handler in list(getattr(logger, "handlers", ())):
            if getattr(getattr(handler, "stream", None), "closed", False):
                logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def _keep_signal_handlers():
    """Undo what scripts set for their process, where a test ran one or its beginning in this one.

    `let_ctrl_c_end` and list_configs.py would let signals end the tests.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGPIPE)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def _parse_each_yaml_once():
    """Remember the parsed yaml texts: most tests read the same base configs again."""
    load = yaml.safe_load
    parse = functools.cache(load)

    def safe_load(stream):
        if not isinstance(stream, io.StringIO | str):  # an error would name another source
            return load(stream)
        text = stream if isinstance(stream, str) else stream.read()
        return copy.deepcopy(parse(text))

    yaml.safe_load = safe_load
    yield
    yaml.safe_load = load


def _forget_data_sets():
    """Remove the data sets that a test, or a fixture of its file, registers."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    known = [(catalog, set(catalog)) for catalog in (DatasetCatalog, MetadataCatalog)]
    yield
    for catalog, names in known:
        for name in set(catalog) - names:
            catalog.pop(name)


forget_data_sets = pytest.fixture(_forget_data_sets)
forget_data_sets_of_file = pytest.fixture(_forget_data_sets, scope="module")


@pytest.fixture
def coco_pair(tmp_path):
    """Return the four command-line flags of a small train and val set."""
    train = write_coco(tmp_path / "train", images=12)
    val = write_coco(tmp_path / "val", images=4, seed=1)
    return [*name_files("train", *train), *name_files("val", *val)]


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory) -> str:
    """Return the path of `model_final.pth`, the weights of `tiny_model` with three classes."""
    import torch
    from tiny_model import tiny_model

    path = tmp_path_factory.mktemp("tiny") / "model_final.pth"
    torch.save({"model": tiny_model(3, seed=1).state_dict()}, path)
    return str(path)


@pytest.fixture(scope="session")
def forkserver():
    """Return a context that starts processes fast, with PyTorch imported.

    Not by a fork of this process: its threads, and a lock of tqdm's that a killed process holds,
    would make the next process wait for ever.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mask_rcnn_ext.prediction.processes"])
    return context


@pytest.fixture
def fast_start(forkserver, monkeypatch):
    """Let a prediction by several processes start them fast."""
    from mask_rcnn_ext.prediction import processes

    monkeypatch.setattr(processes, "_START", "forkserver")
