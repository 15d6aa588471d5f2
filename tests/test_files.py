"""Atomic writes, json, and folders that can be written to."""

import errno
import json
import math
import os
import resource
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from small_runs import start_fork

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.files import (
    atomic_open,
    make_jsonable,
    read_json,
    read_json_or_none,
    require_writable,
    writable_folder,
    write_json,
)


@pytest.mark.parametrize(("mode", "content"), [("wb", b"\r\n\xff"), ("w", "Größe")])
@pytest.mark.parametrize("durable", [True, False])
def test_the_file_appears_at_the_end_of_the_block(tmp_path, mode, content, durable):
    path = tmp_path / "new" / "folder" / "file"
    with atomic_open(path, mode, durable=durable) as file:
        file.write(content)
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == (content if mode == "wb" else content.encode("utf-8"))
    assert os.listdir(path.parent) == ["file"]


def test_its_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    with atomic_open(tmp_path / "file"):
        pass
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [KeyboardInterrupt, KeyError, UserError])
def test_a_block_that_raises_leaves_the_former_file(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("former")

    def write():
        with atomic_open(path, "w") as file:
            file.write("half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "former"
    assert os.listdir(tmp_path) == ["file"]


def test_a_name_as_long_as_names_may_be(tmp_path):
    path = tmp_path / ("n" * 255)
    with atomic_open(path, "w") as file:
        file.write("whole")
    assert path.read_text() == "whole"


def run_with_room_for_4096_bytes(check) -> None:
    """Run `check` in a process whose files end there: an error of the system, as a full disk.

    In this process, the limit would also hold for the files to which the tests print.
    """

    def run() -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        check()
        return 0

    process = start_fork(run)
    process.join()
    assert process.exitcode == 0


@pytest.mark.parametrize("size", [5000, 10**6], ids=["when-flushed", "while-written"])
def test_a_full_disk_names_the_file_and_leaves_the_former(tmp_path, size):
    path = tmp_path / "file"
    path.write_text("former")

    def write() -> None:
        says = pytest.raises(UserError, match=r"cannot write .*/file: File too large\. Make room")
        with says, atomic_open(path) as file:
            file.write(bytes(size))

    run_with_room_for_4096_bytes(write)
    assert path.read_text() == "former"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_while_torch_saves(tmp_path):
    def save() -> None:
        says = pytest.raises(UserError, match=r"cannot write .*/file: File too large\. Make room")
        with says, atomic_open(tmp_path / "file") as file:
            torch.save({"weights": torch.zeros(50_000)}, file)

    run_with_room_for_4096_bytes(save)
    assert os.listdir(tmp_path) == []


def test_an_error_of_another_file_is_not_taken_for_its_own(tmp_path):
    with pytest.raises(FileNotFoundError, match="another"), atomic_open(tmp_path / "file"):
        (tmp_path / "another").read_bytes()
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_a_file_or_a_file_that_is_a_folder(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    says = pytest.raises(UserError, match=r"cannot write .*/file/x: .*Give another folder")
    with says, atomic_open(tmp_path / "file" / "x"):
        pass
    says = pytest.raises(UserError, match=r"cannot write .*/folder: Is a directory")
    with says, atomic_open(tmp_path / "folder"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def _write_together(path, digit, together):
    with atomic_open(path, "w") as file:
        file.write(str(digit) * 50_000)
        together.wait()  # all have it open at the same time


def _is_one_whole_file(path):
    content = path.read_text()
    return content == content[0] * 50_000 and os.listdir(path.parent) == [path.name]


def test_threads_that_write_one_path_leave_one_whole_file(tmp_path):
    path, together = tmp_path / "new" / "file", threading.Barrier(8, timeout=60)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda digit: _write_together(path, digit, together), range(8)))
    assert _is_one_whole_file(path)


def test_processes_that_write_one_path_leave_one_whole_file(tmp_path):
    path, context = tmp_path / "new" / "file", get_context("fork")
    together = context.Barrier(3, timeout=60)
    processes = [
        context.Process(target=_write_together, args=(path, digit, together)) for digit in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert _is_one_whole_file(path)


def test_require_writable_makes_the_folder_and_leaves_it_empty(tmp_path):
    for _ in range(2):
        require_writable(tmp_path / "a" / "b")
        assert os.listdir(tmp_path / "a" / "b") == []


def test_require_writable_names_the_folder_and_the_reason(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"folder .*/file/x cannot be written to: Not a directory"):
        require_writable(tmp_path / "file" / "x")

    def denied(**_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    with pytest.raises(UserError, match=r"Permission denied\. Give another folder, or fix its"):
        require_writable(tmp_path)


@pytest.mark.parametrize("kind", [UserError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_no_new_empty_folder(tmp_path, kind):
    def fail(folder, *names):
        with writable_folder(folder):
            assert folder.is_dir()
            for name in names:
                (folder / name).touch()
            raise kind

    with pytest.raises(kind):
        fail(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(kind):
        fail(tmp_path / "a", "mine")
    with pytest.raises(kind):
        fail(tmp_path / "a" / "b")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["mine"]
    (tmp_path / "a" / "mine").unlink()
    with pytest.raises(kind):
        fail(tmp_path / "a")
    assert (tmp_path / "a").is_dir()  # it was there before


def test_json_that_was_written_is_read(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1, "ö"]})
    assert read_json(tmp_path / "a.json") == {"a": [1, "ö"]}
    assert read_json_or_none(tmp_path / "a.json") == {"a": [1, "ö"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, r"cannot read .*a\.json: No such file or directory", id="missing"),
        pytest.param(b"[1,", r"a\.json: not json: .* line 1", id="cut-short"),
        pytest.param(b"\xff", r"a\.json: neither UTF-8 nor UTF-16: .*utf-8", id="not-text"),
        pytest.param(b"[" * 100_000, r"a\.json: not json: nested too deeply", id="too-deep"),
        pytest.param(b"9" * 5_000, r"a\.json: has a number of 5000 digits, which", id="long"),
    ],
)
def test_json_that_cannot_be_read(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=f"{message}.*[.] Run it again$"):
        read_json(tmp_path / "a.json", fix="Run it again")
    assert read_json_or_none(tmp_path / "a.json") is None


def test_json_has_no_number_that_is_not_finite(tmp_path):
    content = {"a": [math.inf, 1.23456, (math.nan,)], "b": np.float32(0.5), "c": np.int64(3)}
    content |= {"d": np.array([1.0, np.nan]), "e": torch.tensor(2.0), "f": None, "g": "x"}
    expected = {"a": [None, 1.23456, [None]], "b": 0.5, "c": 3, "d": [1, None], "e": 2}
    expected |= {"f": None, "g": "x"}
    assert make_jsonable(content) == expected
    write_json(tmp_path / "new" / "file.json", content)
    assert json.loads((tmp_path / "new" / "file.json").read_text()) == expected
