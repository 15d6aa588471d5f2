"""A disk that takes nothing more ends a command with a sentence, wherever the write was."""

import contextlib
import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
from multiprocessing.pool import ThreadPool

import pytest
import torch
from small_runs import read_error, train_small, write_data, write_small_weights
from support import REPO, SMALL, TINY_CONFIG

from mask_rcnn_ext import run_as_command
from mask_rcnn_ext.engine.log import end_log, open_log_file, start_log


def fail(code, path=None):
    def write(*args, **kwargs):
        raise OSError(code, "No space left on device", path)

    return write


def test_a_failed_write_is_a_sentence(capsys):
    assert run_as_command(fail(errno.ENOSPC)) == 2
    assert read_error(capsys) == (
        "error: cannot write: No space left on device. Make room, or give another folder"
    )
    assert run_as_command(fail(errno.EROFS, "/a/b")) == 2
    assert "cannot write /a/b: " in read_error(capsys)


def test_another_error_of_the_system_is_raised():
    with pytest.raises(FileNotFoundError):
        run_as_command(fail(errno.ENOENT))


def test_a_log_that_meets_a_full_disk_ends_with_one_line(tmp_path, capfd):
    start_log()
    try:
        open_log_file(str(tmp_path))
        logger = logging.getLogger("mask_rcnn_ext")
        logger.info("first")
        file = next(h for h in logger.handlers if isinstance(h, logging.FileHandler))
        with contextlib.suppress(OSError), open("/dev/full", "w") as full:
            whole, file.stream = file.stream, full
            for _ in range(3):
                logger.info("lost")
            file.stream = whole
        logger.info("lost, too")
    finally:
        end_log()
    err = capfd.readouterr().err
    assert err.count(f"warning: {tmp_path}/log.txt ends here: No space left on device") == 1
    assert "Traceback" not in err
    assert "lost" not in (tmp_path / "log.txt").read_text()


def test_a_log_whose_reader_is_slow_loses_lines_and_goes_on(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with os.fdopen(reader) as read, os.fdopen(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        start_log()
        try:
            logger = logging.getLogger("mask_rcnn_ext")
            logger.info("x" * 1_000_000)
            os.read(read.fileno(), 1_000_000)
            logger.info("still there")
            output.flush()
        finally:
            end_log()
        output.close()
        assert "still there" in read.read()
    assert capsys.readouterr().err == ""


def test_a_full_output_is_told_apart_from_a_full_folder(monkeypatch, capfd):
    with open("/dev/full", "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert run_as_command(lambda: print("x")) == 2
    said = "error: the command is done, but its output (stdout) cannot be written: No space left"
    assert capfd.readouterr().err.startswith(said)


def test_a_command_waits_for_a_slow_reader(monkeypatch, capfd):
    """Also if the caller has made the output non-blocking; then `print` would fail."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with os.fdopen(reader) as read, os.fdopen(writer, "w") as output, ThreadPool(1) as pool:
        found = pool.apply_async(lambda: (time.sleep(0.2), read.read())[1])
        monkeypatch.setattr(sys, "stdout", output)
        assert run_as_command(lambda: print("x" * 1_000_000)) == 0
        output.close()
        assert found.get(30) == "x" * 1_000_000 + "\n"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("closed", [False, True])
def test_a_training_whose_output_nobody_reads_ends_with_its_results(closed, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    out, data = tmp_path / "out", write_data(tmp_path, train=2, val=2)
    keys = [*SMALL, "MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "2", "OUTPUT_DIR", str(out)]
    train = [sys.executable, str(REPO / "train_net.py"), "--config-file", TINY_CONFIG, *data]
    close = ["bash", "-c", 'exec "$@" >&-', "bash"] if closed else []
    with os.fdopen(writer, "w") as output, (tmp_path / "err").open("w") as errors:
        assert subprocess.run([*close, *train, *keys], stdout=output, stderr=errors).returncode == 0
    said = (tmp_path / "err").read_text()
    assert "Traceback" not in said
    assert said.count("warning: the printed log ends here: Broken pipe") == (not closed)
    assert "AP50" in (out / "results.json").read_text()
    assert "Per-category" in (out / "log.txt").read_text()


@pytest.mark.parametrize("broken", ["json.dumps", "torch.save"])
def test_an_evaluation_on_a_full_disk(broken, tmp_path, capsys, monkeypatch):
    data = write_data(tmp_path, train=2, val=2)
    weights = write_small_weights(tmp_path / "weights.pth", "MODEL.ROI_HEADS.NUM_CLASSES", "2")
    module, name = (json, "dumps") if broken == "json.dumps" else (torch, "save")
    monkeypatch.setattr(module, name, fail(errno.ENOSPC))
    out = tmp_path / "out"
    assert train_small([*data, "--eval-only"], out, "MODEL.WEIGHTS", weights) == 2
    assert "No space left on device. Make room" in read_error(capsys)
    assert not list(out.rglob("*.tmp"))


def test_a_last_checkpoint_that_is_no_text(tmp_path, capsys):
    (tmp_path / "last_checkpoint").write_bytes(b"\xff\xfe\x00")
    data = write_data(tmp_path, train=2, val=2)
    for mode in ("--resume", "--eval-only"):
        assert train_small([*data, mode, "--resume"], tmp_path) == 2
        assert "last_checkpoint: expected the name of a checkpoint" in read_error(capsys)


@pytest.mark.parametrize("count", [10, 1_000_000])  # the first is in a buffer until the end
def test_an_output_that_nobody_reads_ends_the_command(count, monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert run_as_command(lambda: print("x" * count)) == 1
    assert capsys.readouterr().err == ""


def test_another_broken_pipe_is_a_defect(monkeypatch, tmp_path):
    with (tmp_path / "output").open("w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        with pytest.raises(BrokenPipeError):
            run_as_command(fail(errno.EPIPE))


def test_a_list_of_configs_that_nobody_reads():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, str(REPO / "tools/list_configs.py")]
    with os.fdopen(writer, "w") as output:
        ended = subprocess.run(command, stdout=output, stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (-signal.SIGPIPE, b"")
