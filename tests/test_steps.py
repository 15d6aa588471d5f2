"""Steps of work: their states, what is made again, and the fingerprint of code."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mask_rcnn_ext import UserError, steps
from mask_rcnn_ext.child_processes import run_command
from mask_rcnn_ext.fingerprint import code_sha256, files_sha256, imported_files
from mask_rcnn_ext.steps import Step, find_change, run_step, run_steps


class Copy(Step):
    """Copies a text; half of it before an interruption, which can be resumed."""

    def __init__(self, folder, text, *, stop=False, replaceable=True):
        super().__init__("Copy", folder / "inputs.json", [folder / "output"])
        self.text, self.stop, self.replaceable = text, stop, replaceable
        self.output, self.log = folder / "output", []

    def find_inputs(self):
        return {"text": self.text, "pair": (1, 2)}

    def is_complete(self):
        return super().is_complete() and self.output.read_text() == self.text

    def is_resumable(self):
        return self.output.exists()

    def require_replaceable(self, change):
        if not self.replaceable:
            raise UserError(f"it was {change}")

    def start(self, resume):
        if not resume:
            self.output.unlink(missing_ok=True)
            self.finish()

    def make(self, resume):
        self.log.append("resumed" if resume else "made")
        if self.stop:
            self.output.write_text(self.text[:1])
            raise KeyboardInterrupt
        self.output.write_text(self.text)


def test_left_done_stale_interrupted(tmp_path):
    step = Copy(tmp_path, "one")
    assert [run_step(step), run_step(step)] == ["left", "done"]
    with pytest.raises(KeyboardInterrupt):
        run_step(Copy(tmp_path, "two", stop=True))
    step = Copy(tmp_path, "two")
    assert step.state() == "interrupted"
    assert run_steps([step, step])
    assert step.log == ["resumed"]
    assert not run_steps([step])
    (tmp_path / "output").unlink()  # an output that is gone
    assert (step.state(), run_step(step)) == ("left", "left")
    assert run_step(Copy(tmp_path, "one")) == "stale"


@pytest.mark.parametrize("written", ["{}", '{"text": "other"}'])
def test_a_stale_output_that_must_stay(tmp_path, written):
    (tmp_path / "inputs.json").write_text(written)
    (tmp_path / "output").write_text("dear")
    with pytest.raises(UserError, match="it was made"):
        run_step(Copy(tmp_path, "one", replaceable=False))
    assert (tmp_path / "output").read_text() == "dear"


@pytest.mark.parametrize(
    ("recorded", "change"),
    [
        ({"a": 1, "b": [1, 2], "more": 3}, ""),
        ({"a": 2, "b": [1, 2]}, "made with a 2, now it is 1"),
        ({"a": 1}, "made without b"),
        ({"a": 1, "b": [1, 2], "c": {"d": 64 * "e"}}, "made with d eeeeeeee, now it is ffffffff"),
        ({}, "made from unknown inputs"),
        (["a"], "made from unknown inputs"),
    ],
)
def test_changes_are_named(recorded, change):
    inputs = {"a": 1, "b": (1, 2)}
    if "c" in recorded:
        inputs["c"] = {"d": 64 * "f"}
    assert find_change(recorded, inputs) == change


def test_the_main_process_decides_for_all(monkeypatch, tmp_path):
    """The others get its answer, or its mistake, and make without starting or finishing."""
    step, answers = Copy(tmp_path, "one"), ["left", None, None]
    step.start = step.finish = step.state = None  # not callable
    monkeypatch.setattr(steps.comm, "is_main_process", lambda: False)
    monkeypatch.setattr(steps.comm, "all_gather", lambda mine: [answers.pop(0), mine])
    assert run_step(step) == "left"
    assert step.log == ["made"]
    answers = [UserError("no")]
    with pytest.raises(UserError, match="no"):
        run_step(step)


def test_a_command_runs_in_a_folder(tmp_path):
    write = [sys.executable, "-c", "open('here', 'w')"]
    assert run_command(write, folder=tmp_path) == 0
    assert (tmp_path / "here").is_file()


def test_a_command_ends_with_this_process(tmp_path, request):
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, former))
    started, console = tmp_path / "started", tmp_path / "console.txt"
    code = "import os, sys, time; print('hello', flush=True); "
    code += "open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(float(sys.argv[2]))"
    command = [sys.executable, "-c", code, str(started)]

    def press():
        while not (started.exists() and started.read_text()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    assert run_command([*command, "0"], console) == 0
    started.unlink()
    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_command([*command, "60"], console)
    thread.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
    assert console.read_text().count("hello") == 2


def test_a_command_whose_time_is_over_ends_even_in_the_background_of_a_shell(tmp_path):
    code = "import signal, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    code += "open(sys.argv[1], 'w').close(); time.sleep(300)"
    began = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        run_command([sys.executable, "-c", code, str(tmp_path / "started")], seconds=8)
    assert time.monotonic() - began < 60
    assert (tmp_path / "started").exists()


@pytest.fixture
def tree(tmp_path):
    """A package with a script; returns the root and a function that fingerprints the script."""
    files = {
        "script.py": "from package.room import top\n",
        "package/__init__.py": "from .other import x\n",
        "package/other.py": "x = 1\n",
        "package/base.py": 'class A:\n    """Doc."""\n\n    def f(self):\n        return 1\n',
        "package/room/__init__.py": "from . import registered\n",
        "package/room/registered.py": "y = 1\n",
        "package/room/top.py": "import os\ndef f():\n    from ..base import A\n    return A\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def fingerprint():
        found = imported_files([tmp_path / "script.py"], [tmp_path / "package"])
        return code_sha256(found, tmp_path)

    return tmp_path, fingerprint


@pytest.mark.parametrize(
    ("name", "text", "counts"),
    [
        (
            "package/base.py",
            'class A:\n    """Other."""\n\n    def f(self):\n        return 1\n',
            0,
        ),
        ("package/base.py", "class A:\n    def f(self):  # why\n        return (1)\n", 0),
        ("package/base.py", "class A:\n    def f(self):\n        return 2\n", 1),
        ("package/room/registered.py", "y = 2\n", 1),
        ("script.py", "from package.room import registered\n", 1),
        ("package/other.py", "x = 2\n", 0),
        ("package/__init__.py", "", 0),
    ],
    ids=["docstring", "comment", "code", "__init__", "import", "not imported", "root"],
)
def test_the_fingerprint_is_of_the_code_that_runs(tree, name, text, counts):
    root, fingerprint = tree
    before = fingerprint()
    (root / name).write_text(text)
    assert (fingerprint() != before) == bool(counts)


def test_the_fingerprint_of_files_is_of_names_and_content(tmp_path):
    found = []
    for name, text in (("a", "1"), ("a", "2"), ("b/c", "2")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        found.append(files_sha256(tmp_path))
    assert len(set(found)) == 3
    assert files_sha256(tmp_path, "*") == found[1]
