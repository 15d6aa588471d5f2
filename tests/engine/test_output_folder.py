"""The folder of a run: after a mistake as it was, and one run's files at a time."""

import errno
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from small_runs import read_error, read_results, start_fork, train_small, tree, write_data
from support import change_json, run_train_net

from mask_rcnn_ext.config import get_cfg
from mask_rcnn_ext.engine import output_folder, run_lock
from mask_rcnn_ext.engine import run as run_module
from mask_rcnn_ext.errors import UserError


def run(flags, folder, *keys: str) -> int:
    return train_small(flags, folder, "SOLVER.IMS_PER_BATCH", "1", *keys)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[str]:
    """Flags of own data whose files need cleaning, so that the run writes copies."""
    root = tmp_path_factory.mktemp("data")
    flags = write_data(root, train=2, val=1)
    for path in (flags[1], flags[5]):
        with change_json(path) as coco:
            coco["annotations"].append({**coco["annotations"][0], "id": 99, "bbox": [0, 0, 0, 0]})
    return flags


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The folder of a run of two iterations."""
    out = tmp_path_factory.mktemp("trained") / "out"
    assert run(data, out, "SOLVER.MAX_ITER", "2") == 0
    return out


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of the folder, with a file of somebody else."""
    shutil.copytree(trained, tmp_path / "out")
    (tmp_path / "out/notes.txt").write_text("mine")
    return tmp_path / "out"


def test_a_mistake_removes_no_run_beside_it(data, tmp_path, monkeypatch):
    """The folder `sweep` is new to both runs; the second one fails after the first has begun."""

    def prepare_data(*args, **kwargs):
        neighbour = tmp_path / "sweep/b/model_0000099.pth"  # another process is faster
        neighbour.parent.mkdir(parents=True)
        neighbour.write_text("hours of work")
        prepare(*args, **kwargs)

    prepare = run_module.prepare_data
    monkeypatch.setattr(run_module, "prepare_data", prepare_data)
    assert run(data, tmp_path / "sweep/a/deep", "MODEL.WEIGHTS", "typo.pth") == 2
    assert set(tree(tmp_path / "sweep")) == {"b/model_0000099.pth"}
    assert not (tmp_path / "sweep/a").exists()


def test_a_mistake_leaves_a_used_folder_as_it_was(data, folder):
    before = tree(folder)
    assert "data/own_train.json" in before
    assert run(data, folder, "MODEL.WEIGHTS", "typo.pth") == 2
    assert run([*data, "--resume"], folder, "MASK_RCNN_EXT.OPTIMIZER", "SGD") == 2
    assert run([*data, "--eval-only"], folder, "MODEL.WEIGHTS", "typo.pth") == 2
    assert tree(folder) == before


def test_a_mistake_leaves_a_foreign_file_in_a_new_folder(data, tmp_path):
    (tmp_path / "out/data").mkdir(parents=True)
    (tmp_path / "out/data/notes.txt").write_text("mine")
    before = tree(tmp_path)
    assert run(data, tmp_path / "out", "MODEL.WEIGHTS", "typo.pth") == 2
    assert tree(tmp_path) == before


def test_a_new_run_moves_the_earlier_one_aside(data, folder, capsys):
    before = tree(folder)
    weights = str(folder / "model_final.pth")  # can be given, although it is moved
    assert run(data, folder, "SOLVER.MAX_ITER", "1", "MODEL.WEIGHTS", weights) == 0
    assert f"{folder} held an earlier run. Its files are now in earlier_runs/1" in (
        capsys.readouterr().out
    )
    after = tree(folder)
    moved = {f"earlier_runs/1/{name}": content for name, content in before.items()}
    assert moved.pop("earlier_runs/1/notes.txt") == after.pop("notes.txt") == b"mine"
    assert {k: v for k, v in after.items() if k.startswith("earlier_runs")} == moved
    lines = (folder / "metrics.json").read_text().splitlines()
    assert {json.loads(line)["iteration"] for line in lines} <= {0, 1}
    assert "data/own_train.json" in after
    assert "/2 eta" not in after["log.txt"].decode()


def test_a_folder_in_use_is_refused_until_its_run_is_killed(data, folder, tmp_path, capsys):
    """Before anything is moved; a new run, a resumed one and an evaluation of other weights."""
    end, start = os.pipe()

    def hold() -> int:
        run_lock.lock_folder(folder)
        os.write(start, b"\n")
        time.sleep(240)
        return 0

    holder = start_fork(hold)
    try:
        assert os.read(end, 1) == b"\n"
        before = tree(folder)
        for flags in ([], ["--resume"]):
            assert run([*data, *flags], folder, "SOLVER.MAX_ITER", "3") == 2
            assert f"in use by another run (process {holder.pid} on " in read_error(capsys)
            assert tree(folder) == before
    finally:
        holder.kill()
        holder.join()
        os.close(end)
        os.close(start)
    assert (folder / "run.lock").is_file()
    assert run(data, folder, "SOLVER.MAX_ITER", "1") == 0
    assert not list(folder.rglob("run.lock"))


def test_a_holder_that_cannot_be_read_is_no_reason_for_a_traceback(tmp_path):
    with open(tmp_path / "run.lock", "wb") as file:
        file.write(b"\xff\n")
        file.flush()
        run_lock.fcntl.flock(file, run_lock.fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"in use by another run \(another process\)"):
            run_lock.lock_folder(tmp_path)


@pytest.mark.parametrize(
    ("begun", "environment", "goes_on"),
    [
        (True, {}, True),
        (False, {}, False),  # killed before its files were there
        (True, {"TORCHELASTIC_RESTART_COUNT": "0"}, False),
        (True, {"TORCHELASTIC_RUN_ID": "b"}, False),
        # Several machines count their restarts apart; a job with a name can move to another one.
        (True, {"TORCHELASTIC_RESTART_COUNT": "0", "LOCAL_WORLD_SIZE": "1"}, True),
        (True, {"TORCHELASTIC_RESTART_COUNT": "0", "LOCAL_WORLD_SIZE": "1",
                "TORCHELASTIC_RUN_ID": "none"}, False),
    ],
)  # fmt: skip
def test_a_restart_of_torchrun_knows_its_run(tmp_path, monkeypatch, begun, environment, goes_on):
    usual = {"TORCHELASTIC_RESTART_COUNT": "1", "TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "2",
             "LOCAL_WORLD_SIZE": "2"}  # fmt: skip
    first = {**usual, **environment} if "LOCAL_WORLD_SIZE" in environment else usual
    for key, value in first.items():
        monkeypatch.setenv(key, value)
    run_lock.lock_folder(tmp_path)
    if begun:
        run_lock.mark_begun(tmp_path)
    run_lock.release_folders(failed=True)
    assert (tmp_path / "run.lock").exists() == begun
    assert not run_lock.is_restart(tmp_path)  # there is no checkpoint yet
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert run_lock.is_restart(tmp_path) == goes_on
    if goes_on:  # also if the next attempt is killed before its files are there
        run_lock.lock_folder(tmp_path, begun=True)
        run_lock.release_folders(failed=True)
        assert run_lock.is_restart(tmp_path)
    for most in ("0", "3"):  # restarts that torchrun allows
        monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", most)
        run_lock.lock_folder(tmp_path, begun=True)
        run_lock.release_folders()
        assert (tmp_path / "run.lock").exists() == (most == "3")


@pytest.mark.parametrize("name", ["a", "none"])
def test_a_run_that_has_ended_goes_on_only_in_the_job_that_ended_it(tmp_path, monkeypatch, name):
    """A process of another machine is killed at its end; or a later job has the same id."""
    agents = ["process 5 on one", "process 6 on two"]
    usual = {"TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_RUN_ID": name, "WORLD_SIZE": "2",
             "LOCAL_WORLD_SIZE": "1", "TORCHELASTIC_MAX_RESTARTS": "3"}  # fmt: skip
    for key, value in usual.items():
        monkeypatch.setenv(key, value)

    def ask(count, agents):
        """Ask as if machines had counted so many restarts."""
        gathered = list(zip((0, count), agents, strict=True))
        monkeypatch.setattr(run_lock.comm, "all_gather", lambda _: gathered)
        return run_lock.is_restart(tmp_path)

    monkeypatch.setattr(run_lock, "decide", lambda function: function())
    assert not ask(0, agents)
    run_lock.lock_folder(tmp_path)
    run_lock.mark_begun(tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    run_lock.release_folders()
    assert not ask(0, ["process 7 on one", "process 8 on two"])  # a later job,
    assert not ask(1, ["process 7 on one", "process 8 on two"])  # which fails before it begins
    assert ask(1, agents[::-1])  # process 0 may be on the other machine
    assert ask(1, ["process 9 on three", agents[0]])
    run_lock.lock_folder(tmp_path, begun=True)
    run_lock.release_folders(failed=True)
    assert ask(0, ["process 7 on one", "process 8 on two"]) == (name == "a")  # it has not ended


def test_another_torchrun_with_the_same_number_is_not_the_same(tmp_path, monkeypatch):
    """The first process of a container has the number 1 each time."""
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    run_lock.lock_folder(tmp_path)
    run_lock.mark_begun(tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    run_lock.release_folders()
    assert run_lock.is_restart(tmp_path)
    lock = tmp_path / "run.lock"
    lock.write_text(re.sub(r"started at \d+", "started at 7", lock.read_text()))
    assert not run_lock.is_restart(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="Linux only")
def test_a_name_that_the_system_has_cut_inside_a_character_is_no_problem():
    name = Path("/proc/self/comm")
    before = name.read_bytes()
    try:
        name.write_bytes("ä".encode()[:1])
        assert "started at" in run_lock._find_start(os.getpid())
    finally:
        name.write_bytes(before.strip())


def test_a_forked_worker_that_outlives_the_run_does_not_hold_its_folder(tmp_path):
    run_lock.lock_folder(tmp_path)
    end, start = os.pipe()
    process = os.fork()
    if not process:
        os.write(start, b"\n")
        time.sleep(30)
        os._exit(0)
    try:
        os.read(end, 1)
        (file,) = run_lock._held.values()
        file.close()  # as the end of this process does, which a kill gives no time to unlock
        run_lock._held.clear()
        run_lock.lock_folder(tmp_path)
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(end)
        os.close(start)
    run_lock.release_folders()


@pytest.mark.parametrize("how", ["config", "SIGTERM"])
def test_a_start_that_fails_late_leaves_a_used_folder_as_it_was(data, folder, monkeypatch, how):
    def fail(*args, **kwargs):
        if how == "config":
            raise UserError("cannot write config.yaml")
        signal.raise_signal(signal.SIGTERM)

    place = (output_folder, "atomic_open") if how == "config" else (run_module, "seed_all_rng")
    monkeypatch.setattr(*place, fail)
    before = tree(folder)
    assert run(data, folder) == (2 if how == "config" else 143)
    assert tree(folder) == before
    assert not (folder / "earlier_runs").exists()


@pytest.mark.parametrize("how", ["SIGTERM", "lost"])
def test_the_end_of_another_process_leaves_a_used_folder_as_it_was(tmp_path, monkeypatch, how):
    """Also for a restart of torchrun, which must not go on with the earlier run."""

    def fail(folder):
        if how == "SIGTERM":
            signal.raise_signal(signal.SIGTERM)
        monkeypatch.setattr(output_folder.comm, "get_world_size", lambda: 2)
        raise RuntimeError("[pair.cc:561] Connection closed by peer [127.0.0.1]:2451.")

    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    monkeypatch.setattr(output_folder, "open_log_file", fail)
    (tmp_path / "data").mkdir()
    for name in ("last_checkpoint", "log.txt", "data/own_train.json"):
        (tmp_path / name).write_text("of the earlier run")
    before, cfg = tree(tmp_path), get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    with (
        pytest.raises((RuntimeError, KeyboardInterrupt)),
        output_folder.output_folder(cfg, resume=False),
    ):
        pass
    assert tree(tmp_path) == before
    monkeypatch.setattr(output_folder.comm, "get_world_size", lambda: 1)
    assert not run_lock.is_restart(tmp_path)


def test_where_files_cannot_be_locked_a_run_goes_on_with_a_warning(tmp_path, monkeypatch, caplog):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_lock.fcntl, "flock", flock)
    run_lock.lock_folder(tmp_path)
    assert "would not be noticed: No locks available" in caplog.text
    run_lock.release_folders()
    assert tree(tmp_path) == {}


def test_a_file_that_the_start_of_a_run_writes_stays_with_this_run(tmp_path):
    """A trainer of detectron2's opens metrics.json while it is built."""
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    (tmp_path / "log.txt").write_text("of the earlier run")
    with output_folder.output_folder(cfg, resume=False):
        (tmp_path / "metrics.json").write_text("of this run")
    run_lock.release_folders()
    assert (tmp_path / "metrics.json").read_text() == "of this run"
    assert (tmp_path / "earlier_runs/1/log.txt").read_text() == "of the earlier run"


def test_a_run_is_found_by_its_config_from_another_folder(data, tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "a")
    assert run(data, "out", "SOLVER.MAX_ITER", "1") == 0
    monkeypatch.chdir(tmp_path / "b")
    command = ["--config-file", "../a/out/config.yaml", "--eval-only", "MODEL.WEIGHTS"]
    assert run_train_net(*command, "../a/out/model_final.pth") == 0
    assert (tmp_path / "a/out/evaluations/annotations-model_final/results.json").is_file()
    assert not list((tmp_path / "b").iterdir())
    assert run_train_net(*command, "../a/out/model_final.pth", "OUTPUT_DIR", "mine") == 0
    assert (tmp_path / "b/mine/results.json").is_file()


def test_an_empty_name_of_the_folder_is_refused(data, tmp_path, monkeypatch, capsys):
    """detectron2 would save no weights, and the log would stand in the current folder."""
    monkeypatch.chdir(tmp_path)
    assert run(data, "", "SOLVER.MAX_ITER", "1") == 2
    assert read_error(capsys).startswith("error: OUTPUT_DIR: expected a folder, got ''")
    assert not list(tmp_path.iterdir())


def test_an_empty_test_set_on_the_command_line_means_no_evaluation(data, tmp_path, capsys):
    assert run(data, tmp_path / "out", "SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()") == 0
    assert not (tmp_path / "out/inference").exists()
    assert set(read_results(tmp_path / "out")) == {"run"}
    capsys.readouterr()
    assert run(data, tmp_path / "b", "DATASETS.TEST", "('coco_2017_val',)") == 2
    assert "DATASETS.TEST and own data" in read_error(capsys)


def test_two_runs_in_one_process_log_each_line_once(data, tmp_path, capsys):
    folders = [tmp_path / name for name in ("a", "b")]
    for out in folders:
        capsys.readouterr()
        assert run(data, out, "SOLVER.MAX_ITER", "1") == 0
        assert capsys.readouterr().out.count("Starting training from iteration") == 1
    for out in folders:
        assert (out / "log.txt").read_text().count("Starting training from iteration") == 1
        assert str(folders[out == folders[0]]) not in (out / "log.txt").read_text()


def test_the_screen_has_no_config_and_no_model_the_file_has_both(trained, data, tmp_path, capsys):
    assert run(data, tmp_path / "out", "SOLVER.MAX_ITER", "1") == 0
    captured = capsys.readouterr()
    before = captured.out.partition("Starting training")[0]
    assert len(before.splitlines()) < 60, before
    assert "FutureWarning" not in captured.err
    log = (tmp_path / "out/log.txt").read_text()
    assert "GeneralizedRCNN(" in log
    assert "CUDNN_BENCHMARK" in log
    assert "GeneralizedRCNN(" not in captured.out
