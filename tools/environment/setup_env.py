"""Build `.venv` with this package, its tested dependencies and detectron2: `make setup`.

A stamp is written into `.venv` last. It holds a hash of what decides what is installed: while that
stays the same, a second run has nothing to do; when it changes, the environment is brought up to
date. A run that fails or is killed leaves no stamp: the next one removes what it left and starts
again.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INPUTS = (
    "pyproject.toml",
    "setup.py",
    "constraints.txt",
    "tools/environment/detectron2_wheel.py",
    "tools/environment/install_detectron2.py",
    "tools/environment/setup_env.py",
)
# The extra `dev` had this OpenCV before; now it has the one with selective search.
REPLACED = "opencv-python-headless"
# What commands and tests import: compiled once, and seen to start.
IMPORTED = (
    "mask_rcnn_ext.engine.run",
    *("torch._dynamo", "torch.utils.tensorboard", "matplotlib.pyplot", "timm"),
    *("sklearn.linear_model", "sklearn.svm", "pytest", "xdist"),
)


class SetupError(Exception):
    """A step failed; the message says which, why and how to mend it."""


class Environment:
    """A virtual environment in `folder` that is known to be whole, or is built anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.stamp = folder / "setup-complete"
        # It says that this script made the folder and may remove it; for its text see identity().
        self.owner = folder / "made-by-setup"
        self.log = folder / "setup.log"

    def is_current(self) -> bool:
        """Tell whether the environment is complete and its inputs have not changed since."""
        return self.is_whole() and self.stamp.read_text() == fingerprint()

    def is_whole(self) -> bool:
        """Tell whether the last run came to its end and an update can start from what it made."""
        files = (self.stamp, self.owner, self.python)
        if not all(file.is_file() for file in files) or self.owner.read_text() != self.identity():
            return False
        return subprocess.run([self.python, "-c", ""], check=False).returncode == 0

    def identity(self) -> str:
        """Return what an update cannot change: the absolute paths within, and which detectron2."""
        return f"{self.folder}\n{fingerprint('tools/environment/detectron2_wheel.py')}\n"

    def create(self) -> None:
        """Make the virtual environment, in place of one that a failed run left.

        Raises:
            SetupError: there is one that this script did not make, or venv cannot make it.
        """
        if self.owner.is_file():
            # Its mark stays: this takes seconds, and a run that is killed here must be repeatable.
            for entry in self.folder.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                elif entry != self.owner:
                    entry.unlink()
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise SetupError(
                f"{self.folder} was not made by `make setup`, so it is left alone.\n"
                "Move it away, or name the Python of your own environment: `make demo PY=python`."
            )
        self.folder.mkdir(exist_ok=True)
        self.owner.write_text(self.identity())
        hint = "On Debian and Ubuntu: `sudo apt install python3-venv`."
        self.run([sys.executable, "-m", "venv", str(self.folder)], hint)

    def pip(self, *arguments: str) -> None:
        """Run `pip install` in the environment.

        Raises:
            SetupError: pip failed.
        """
        # Compiling all of torch takes longer than compiling, at first import, what is used of it.
        command = [str(self.python), "-m", "pip", "install", "--no-compile", *arguments]
        self.run(command, "Check the connection to the package index, then run `make setup` again.")

    def run(self, command: Sequence[str], hint: str) -> None:
        """Run `command` in the root folder, its output into the log.

        Raises:
            SetupError: the exit code is not 0. The message has the end of the output.
        """
        with self.log.open("a+") as log:
            log.write(f"$ {' '.join(command)}\n")
            log.flush()
            start = log.tell()
            environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
            code = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                check=False,
                close_fds=False,  # the lock goes with it, see lock()
            ).returncode
            log.seek(start)
            tail = [line.rstrip() for line in log if line.strip()][-8:]
        if code != 0:
            output = "\n".join(f"    {line}" for line in tail)
            raise SetupError(
                f"this command ended with exit code {code}:\n    {' '.join(command)}\n"
                f"The end of its output ({self.log} has all of it):\n{output}\n{hint}"
            )


def fingerprint(*names: str) -> str:
    """Return a hash of the named files, by default of all that decide what is installed."""
    digest = hashlib.sha256()
    for name in names or INPUTS:
        text = (ROOT / name).read_text(encoding="utf-8")
        if name == "pyproject.toml":
            text = text.partition("\n[tool.")[0]  # the settings of ruff, mypy and pytest
        digest.update(f"{name}\n{text}".encode())
    return digest.hexdigest()


def build(environment: Environment) -> None:
    """Make or update `environment`, one line of progress per step.

    Raises:
        SetupError: a step failed. The environment then has no stamp.
    """
    whole = environment.is_whole()
    python = str(environment.python)
    constraint = ("-c", "constraints.txt")
    installer = ["tools/environment/install_detectron2.py", *constraint]
    steps = [
        (
            "installing torch, the largest download",
            lambda: environment.pip(*constraint, "torch", "torchvision"),
        ),
        (
            "installing this package and what it needs",
            lambda: install_package(environment, constraint, update=whole),
        ),
        (
            "installing detectron2",
            lambda: environment.run([python, *installer], "Then run `make setup` again."),
        ),
        (
            "compiling what is imported",
            # -E: also where PYTHONDONTWRITEBYTECODE would have every start compile it again.
            lambda: environment.run(
                [python, "-E", "-W", "ignore", "-c", f"import {', '.join(IMPORTED)}"],
                "`make doctor` says what is wrong.",
            ),
        ),
    ]
    if not whole:
        version = ".".join(map(str, sys.version_info[:3]))
        name = environment.folder.name
        steps.insert(0, (f"making {name} with Python {version}", environment.create))
    environment.stamp.unlink(missing_ok=True)
    expected = fingerprint()  # of the files as they were when the steps began
    for number, (title, step) in enumerate(steps, start=1):
        print(f"[{number}/{len(steps)}] {title} ...", end=" ", flush=True)
        start = time.monotonic()
        step()
        print(f"{time.monotonic() - start:.0f} s", flush=True)
    environment.stamp.write_text(expected)


def install_package(environment: Environment, constraint: Sequence[str], *, update: bool) -> None:
    """Install this package, what it needs and what its development needs.

    Args:
        environment: to install into.
        constraint: the arguments of pip that name the versions.
        update: an earlier run installed into it.

    Raises:
        SetupError: pip failed.
    """
    if update:
        # What took its place is the same module, cv2: removed later, it would take files of that.
        command = [str(environment.python), "-m", "pip", "uninstall", "--yes", REPLACED]
        environment.run(command, "Then run `make setup` again.")
    # setuptools here is what detectron2.model_zoo needs at run time.
    environment.pip(*constraint, "setuptools", "-e", ".[dev]")


def lock() -> int:
    """Wait until no other setup runs in this checkout, and return the open lock.

    Its file descriptor is inherited: a pip that outlives a killed setup still holds the lock.
    """
    descriptor = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("another `make setup` is running here; waiting for it", flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.set_inheritable(descriptor, True)
    return descriptor


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(description="Build the environment of this checkout.")
    parser.add_argument("folder", nargs="?", default=".venv", help="default: %(default)s")
    environment = Environment(ROOT / parser.parse_args(argv).folder)
    descriptor = lock()
    try:
        if not environment.is_current():
            start = time.monotonic()
            build(environment)
            print(f"{environment.folder.name} is ready after {time.monotonic() - start:.0f} s")
        else:
            print(f"{environment.folder.name} is up to date")
    except SetupError as error:
        print(f"failed\nerror: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nerror: interrupted; `make setup` starts again", file=sys.stderr)
        return 130
    finally:
        os.close(descriptor)
    return 0


if __name__ == "__main__":
    sys.exit(main())
