"""What a killed process leaves is removed; what a living one needs, and foreign files, stay."""

import errno
import fcntl
import os
import subprocess
import sys
import time

import pytest

from mask_rcnn_ext import temporary_files
from mask_rcnn_ext.files import atomic_open
from mask_rcnn_ext.run_files import FOLDERS
from mask_rcnn_ext.temporary_files import (
    make_temporary_file,
    make_temporary_folder,
    remove_left_behind,
)

DIGITS = "0123456789abcdef" * 2
# By its path: importing the package takes seconds.
WRITER = """
import os, pathlib, runpy, sys
module = runpy.run_path(sys.argv[1])
folder = pathlib.Path(sys.argv[2])
with (
    module["make_temporary_file"](folder) as (file, descriptor),
    module["make_temporary_folder"](folder) as images,
):
    os.write(descriptor, b"half")
    (images / "image.png").write_text("half")
    print(flush=True)
    sys.stdin.read()
    os.replace(file, folder / "new.json")
"""


def names(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture
def writer(tmp_path):
    """A process that has a file and a folder half written, in tmp_path."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, temporary_files.__file__, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == b"\n"
    yield process
    process.kill()
    process.communicate()


def test_the_next_writer_removes_what_a_killed_one_has_left(writer, tmp_path):
    assert len(names(tmp_path)) == 3
    with atomic_open(tmp_path / "a.json"):
        pass
    living = names(tmp_path) - {"a.json"}
    assert len(living) == 3
    writer.kill()
    writer.wait()
    assert names(tmp_path) - {"a.json"} == living
    temporary_files._cleaned.clear()  # as in a new process
    with atomic_open(tmp_path / "b.json"):
        pass
    assert names(tmp_path) == {"a.json", "b.json"}


def test_a_living_process_can_finish_what_others_wanted_to_remove(writer, tmp_path):
    remove_left_behind(tmp_path)
    writer.communicate(timeout=60)
    assert writer.returncode == 0
    assert names(tmp_path) == {"new.json"}


@pytest.mark.parametrize(
    ("name", "age", "stays"),
    [
        (f".mask_rcnn_ext-MACHINE-{DIGITS}.tmp", 0, False),
        (f".mask_rcnn_ext-MACHINE-{DIGITS}.mp4", 0, False),
        (f".mask_rcnn_ext-00000000-{DIGITS}.tmp", 0, True),  # of another machine
        (f".mask_rcnn_ext-00000000-{DIGITS}.tmp", 90_000, False),
        (f".mask_rcnn_ext-{DIGITS}.tmp", 0, True),  # of an earlier version
        (f".mask_rcnn_ext-{DIGITS}.tmp", 90_000, False),
        (f".mask_rcnn_ext-MACHINE-{DIGITS}.json", 90_000, True),
        (f"x.mask_rcnn_ext-MACHINE-{DIGITS}.tmp", 90_000, True),
        (".mask_rcnn_ext-notes.tmp", 90_000, True),
    ],
)
def test_which_names_are_ours(tmp_path, name, age, stays):
    path = tmp_path / name.replace("MACHINE", temporary_files.mark_machine())
    path.touch()
    os.utime(path, (time.time() - age,) * 2)
    remove_left_behind(tmp_path)
    assert path.exists() == stays


@pytest.mark.parametrize("age", [0, 90_000])
def test_a_folder_of_another_machine_stays_while_something_in_it_is_written(tmp_path, age):
    folder = tmp_path / f".mask_rcnn_ext-00000000-{DIGITS}.tmp"
    (folder / "images").mkdir(parents=True)
    (folder / "images/1.png").touch()
    for path, seconds in (
        (folder / "images/1.png", age),
        (folder / "images", 90_000),
        (folder, 90_000),
    ):
        os.utime(path, (time.time() - seconds,) * 2)
    remove_left_behind(tmp_path)
    assert folder.exists() == (age == 0)


def test_links_pipes_and_files_of_other_users_stay(tmp_path, monkeypatch):
    mark = temporary_files.mark_machine()
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / f".mask_rcnn_ext-{mark}-{DIGITS}.tmp").symlink_to(tmp_path / "mine.txt")
    os.mkfifo(tmp_path / f".mask_rcnn_ext-{mark}-{DIGITS[::-1]}.tmp")
    before = names(tmp_path)
    remove_left_behind(tmp_path)
    assert names(tmp_path) == before
    other = tmp_path / f".mask_rcnn_ext-{mark}-{'a' * 32}.tmp"
    other.touch()
    user = os.geteuid()
    monkeypatch.setattr(temporary_files.os, "geteuid", lambda: user + 1)
    remove_left_behind(tmp_path)
    assert other.exists()


def test_where_nothing_can_be_locked_files_are_written_and_none_is_removed(tmp_path, monkeypatch):
    left = tmp_path / f".mask_rcnn_ext-{temporary_files.mark_machine()}-{DIGITS}.tmp"
    left.touch()

    def flock(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(temporary_files.fcntl, "flock", flock)
    with atomic_open(tmp_path / "file", "w") as file:
        file.write("whole")
    assert names(tmp_path) == {"file", left.name}


def test_a_file_is_written_through_the_descriptor_that_is_locked(tmp_path):
    """On SMB every other one is refused."""
    with atomic_open(tmp_path / "a", "w") as file:
        (path,) = tmp_path.iterdir()
        fcntl.flock(file.fileno(), fcntl.LOCK_UN)
        with open(path) as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.write("whole")
    assert (tmp_path / "a").read_text() == "whole"
    assert names(tmp_path) == {"a"}


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_file_that_is_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch, is_folder):
    flock, calls = temporary_files.fcntl.flock, []

    def remove_first(descriptor, operation):
        calls.append(operation)
        if len(calls) == 1:
            remove_left_behind(tmp_path)  # comes between the making and the lock: calls this again
            assert names(tmp_path) == set()
        flock(descriptor, operation)

    monkeypatch.setattr(temporary_files.fcntl, "flock", remove_first)
    make = make_temporary_folder if is_folder else make_temporary_file
    with make(tmp_path):
        assert len(names(tmp_path)) == 1
    assert len(calls) == 3
    assert names(tmp_path) == set()


def test_a_folder_that_is_removed_before_it_is_opened_is_made_again(tmp_path, monkeypatch):
    made = []

    def remove_first(path, *arguments, **options):
        made.append(path)
        if len(made) == 1:
            os.rmdir(path)  # by another process
        return open_(path, *arguments, **options)

    open_ = os.open
    monkeypatch.setattr(temporary_files.os, "open", remove_first)
    with make_temporary_folder(tmp_path) as path:
        assert path == made[1]
        assert path.is_dir()


def test_a_folder_of_a_run_is_cleaned_in_all_its_places(tmp_path):
    places = [tmp_path / name for name in (".", "data", "inference/a", "evaluations/b/inference/c")]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        (place / f".mask_rcnn_ext-{temporary_files.mark_machine()}-{DIGITS}.tmp").touch()
        (place / "mine.tmp").touch()
    remove_left_behind(tmp_path, ["data", *FOLDERS])
    assert {path.name for path in tmp_path.rglob("*.tmp")} == {"mine.tmp"}
    assert len(list(tmp_path.rglob("mine.tmp"))) == len(places)
