"""Builds `.venv` with this package, its tested dependencies and detectron2: `make setup`.

The last step writes a stamp into `.venv`, a hash of the files that decide what is installed. While
the hash stays the same, another run does nothing; when it changes, the environment is updated. A
run that fails or is killed leaves no stamp, and the next run starts again in an empty folder.
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
# The files that decide what is installed, besides the versions of an environment.
INPUTS = (
    "pyproject.toml",
    "setup.py",
    "tools/environment/detectron2_wheel.py",
    "tools/environment/install_detectron2.py",
    "tools/environment/setup_env.py",
)
# The extra `dev` used to install this OpenCV; it now installs the one with selective search.
REPLACED = "opencv-python-headless"
# The modules that commands and tests import.
IMPORTED = (
    "mask_rcnn_ext.engine.run",
    *("torch._dynamo", "torch.utils.tensorboard", "matplotlib.pyplot", "timm"),
    *("sklearn.linear_model", "sklearn.svm", "pytest", "xdist"),
)


class SetupError(Exception):
    """A step failed; the message says which step, why, and how to fix it."""


class Environment:
    """The virtual environment in `folder`."""

    def __init__(self, folder: Path, constraints: str = "constraints.txt") -> None:
        self.folder = folder
        self.constraints = constraints  # a file of the checkout with the versions to install
        self.inputs = (*INPUTS, constraints)
        self.python = folder / "bin" / "python"
        self.stamp = folder / "setup-complete"
        # A mark that this script made the folder and may empty it; its text is identity().
        self.owner = folder / "made-by-setup"
        self.log = folder / "setup.log"

    def is_current(self) -> bool:
        """Return whether the environment is complete and its inputs have not changed."""
        return self.is_complete() and self.stamp.read_text() == fingerprint(*self.inputs)

    def is_complete(self) -> bool:
        """Return whether the last run finished, so that its environment can be updated."""
        files = (self.stamp, self.owner, self.python)
        if not all(file.is_file() for file in files) or self.owner.read_text() != self.identity():
            return False
        return subprocess.run([self.python, "-c", ""], check=False).returncode == 0

    def identity(self) -> str:
        """Return the facts that an update cannot change: the folder and detectron2's version."""
        return f"{self.folder}\n{fingerprint('tools/environment/detectron2_wheel.py')}\n"

    def clear(self) -> None:
        """Create the folder, or empty the folder that a failed run left.

        Raises:
            SetupError: this script did not create the folder.
        """
        if self.owner.is_file():
            # The mark stays: removing takes seconds, and after a kill it must be possible again.
            for entry in self.folder.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                elif entry != self.owner:
                    entry.unlink()
        elif os.path.lexists(self.folder) and (
            not self.folder.is_dir() or any(self.folder.iterdir())
        ):
            raise SetupError(
                f"{self.folder} was not made by `make setup`, so it is left alone.\n"
                "Move it away, or name the Python of your own environment: `make demo PY=python`."
            )
        self.folder.mkdir(exist_ok=True)
        self.owner.write_text(self.identity())

    def run(self, command: Sequence[str], hint: str) -> None:
        """Run `command` in the root folder and write its output to the log.

        Raises:
            SetupError: the exit code is not 0. The message contains the end of the output.
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
                close_fds=False,  # the child inherits the lock, see lock()
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
    """Return a hash of the named files of the checkout."""
    digest = hashlib.sha256()
    for name in names:
        text = (ROOT / name).read_text(encoding="utf-8")
        if name == "pyproject.toml":
            text = text.partition("\n[tool.")[0]  # the settings of ruff, mypy and pytest
        digest.update(f"{name}\n{text}".encode())
    return digest.hexdigest()


def list_steps(environment: Environment, *, update: bool) -> list[tuple[str, list[str], str]]:
    """Return the steps that build or update `environment`: (title, command, hint on failure)."""
    python = str(environment.python)
    # Compiling all of torch takes longer than compiling, at first import, the used part of it.
    pip = [python, "-m", "pip", "install", "--no-compile", "-c", environment.constraints]
    connection = "Check the connection to the package index, then run `make setup` again."
    # detectron2.model_zoo needs the setuptools of the constraints at run time.
    package = [*pip, "setuptools", "-e", ".[dev]"]
    again = "Then run `make setup` again."
    installer = [python, "tools/environment/install_detectron2.py"]
    installer += ["-c", environment.constraints]
    # -E: also write bytecode where PYTHONDONTWRITEBYTECODE is set.
    start = [python, "-E", "-W", "ignore", "-c", f"import {', '.join(IMPORTED)}"]
    steps = [
        ("installing torch, the largest download", [*pip, "torch", "torchvision"], connection),
        ("installing this package and its requirements", package, connection),
        ("installing detectron2", installer, again),
        ("compiling the imported modules", start, "`make doctor` says what is wrong."),
    ]
    if update:
        # Before pip installs the other OpenCV: both contain cv2, and removing one breaks the other.
        uninstall = [python, "-m", "pip", "uninstall", "--yes", REPLACED]
        return [("removing an older OpenCV", uninstall, again), *steps]
    version = ".".join(map(str, sys.version_info[:3]))
    title = f"making {environment.folder.name} with Python {version}"
    venv = [sys.executable, "-m", "venv", str(environment.folder)]
    return [(title, venv, "On Debian and Ubuntu: `sudo apt install python3-venv`."), *steps]


def build(environment: Environment) -> None:
    """Build or update `environment`, and print a line of progress for each step.

    Raises:
        SetupError: a step failed. The environment then has no stamp.
    """
    update = environment.is_complete()
    expected = fingerprint(*environment.inputs)  # of the files before the first step
    if environment.stamp.is_file():
        environment.stamp.unlink()
    if not update:
        environment.clear()
    steps = list_steps(environment, update=update)
    for number, (title, command, hint) in enumerate(steps, start=1):
        print(f"[{number}/{len(steps)}] {title} ...", end=" ", flush=True)
        start = time.monotonic()
        environment.run(command, hint)
        print(f"{time.monotonic() - start:.0f} s", flush=True)
    environment.stamp.write_text(expected)


def lock() -> int:
    """Wait until no other setup runs in this checkout, and return the file descriptor of the lock.

    Child processes inherit the descriptor: a pip that outlives a killed setup still holds the lock.
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
    parser.add_argument(
        "folder", nargs="?", default=".venv", help="the environment (default: %(default)s)"
    )
    parser.add_argument(
        "--constraints",
        default="constraints.txt",
        metavar="FILE",
        help="versions to install (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    environment = Environment(ROOT / args.folder, args.constraints)
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
