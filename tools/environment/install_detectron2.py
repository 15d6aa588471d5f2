"""Install detectron2 into the environment of the Python that runs this script.

detectron2 has no release on the package index, and its git version compiles code, none of which
this package needs. So the default source is the index all the same: the wheel of another
distribution, LabGym, carries detectron2's whole Python tree (see detectron2_wheel.py). pip
downloads that wheel, its hash is compared, only the tree is taken, and pip installs it as
`detectron2`.

    python tools/environment/install_detectron2.py               # nothing if it is there already
    python tools/environment/install_detectron2.py --source git  # upstream main; needs a compiler
    python tools/environment/install_detectron2.py --check       # exit code 0 if it is there
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from detectron2_wheel import (
    CARRIER,
    CARRIER_SHA256,
    VERSION,
    InstallError,
    build_wheel,
    read_tree,
    verify_hash,
)

GIT_SOURCE = "detectron2 @ git+https://github.com/facebookresearch/detectron2"

PROBE = """
import importlib.util, json
spec = importlib.util.find_spec("detectron2")
# A spec without an origin is a bare folder of that name, not the package.
found = None
if spec is not None and spec.origin is not None:
    import detectron2
    found = [detectron2.__version__, spec.origin]
print(json.dumps(found))
"""


class Installed(NamedTuple):
    """A detectron2 that imports."""

    version: str
    location: str

    def __str__(self) -> str:
        return f"detectron2 {self.version} in {self.location}"


def find_detectron2() -> Installed | None:
    """Return the detectron2 that this Python imports, or None where there is none.

    Raises:
        InstallError: there is one, but importing it fails. It is the user's, so it is left alone.
    """
    # In a new process and an empty folder, or a clone in the working folder would be found too.
    with tempfile.TemporaryDirectory() as empty:
        probe = subprocess.run(
            [sys.executable, "-c", PROBE], cwd=empty, capture_output=True, text=True, check=False
        )
    if probe.returncode != 0:
        raise InstallError(
            "detectron2 is installed, but importing it fails:\n"
            f"    {_last_lines(probe.stderr, 1)}\n"
            "`python tools/environment/doctor.py` names the cause and the command that mends it."
        )
    found = json.loads(probe.stdout.splitlines()[-1])
    return Installed(found[0], str(Path(found[1]).parent)) if found else None


def download_carrier(folder: Path) -> Path:
    """Download the wheel that carries the tree into `folder` and return its path.

    Raises:
        InstallError: pip did not deliver exactly one wheel.
    """
    # LabGym itself wants Python < 3.11, the tree does not: pip is told to choose for 3.10.
    arguments = ["--no-deps", "--only-binary=:all:", "--python-version=3.10", f"--dest={folder}"]
    hint = "Check the connection to the package index, or give the file by --wheel FILE."
    _pip(["download", *arguments, CARRIER], f"{CARRIER} could not be downloaded", hint)
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise InstallError(f"expected one wheel of {CARRIER}, pip delivered {len(wheels)}. {hint}")
    return wheels[0]


def install(requirement: str, folder: Path, arguments: Sequence[str] = ()) -> None:
    """Install `requirement` and what it needs; leave the installed torch and NumPy as they are.

    Args:
        requirement: a wheel, or a requirement that pip understands.
        folder: a temporary folder.
        arguments: more arguments for `pip install`.

    Raises:
        InstallError: pip failed.
    """
    keep = folder / "keep.txt"
    keep.write_text("".join(f"{pin}\n" for pin in _installed_pins("torch", "torchvision", "numpy")))
    requirements = [requirement]
    if importlib.util.find_spec("cv2") is None:
        requirements.append("opencv-python-headless")  # detectron2's Visualizer imports it
    hint = "detectron2 was not installed. Mend what pip names and run this again."
    _pip(["install", f"--constraint={keep}", *arguments, *requirements], "pip install failed", hint)


def install_from_index(
    wheel: Path | None, arguments: Sequence[str], say: Callable[[str], None]
) -> None:
    """Install the tree of the carrier wheel: `wheel`, or the one on the package index.

    Raises:
        InstallError: a step failed; the message says which.
    """
    with tempfile.TemporaryDirectory(prefix="install_detectron2_") as temporary:
        folder = Path(temporary)
        if wheel is None:
            say(f"downloading {CARRIER}")
            wheel = download_carrier(folder)
        say(f"comparing the hash of {wheel.name}")
        verify_hash(wheel, CARRIER_SHA256)
        tree = read_tree(wheel)
        say(f"building detectron2 {VERSION} from {len(tree)} files")
        built = build_wheel(tree, folder)
        say("installing it")
        install(str(built), folder, arguments)


def install_from_git(arguments: Sequence[str], say: Callable[[str], None]) -> None:
    """Install detectron2's main branch, which compiles its operators.

    Raises:
        InstallError: pip failed.
    """
    with tempfile.TemporaryDirectory(prefix="install_detectron2_") as temporary:
        say("compiling detectron2's main branch; this takes some minutes")
        # Its setup.py imports torch, which an isolated build would not have.
        needed = ["install", "setuptools<81", "wheel"]
        _pip(needed, "pip install failed", "Mend what pip names and run this again.")
        install(GIT_SOURCE, Path(temporary), ["--no-build-isolation", *arguments])


def _pip(arguments: Sequence[str], failure: str, hint: str) -> None:
    """Run pip; on failure raise an InstallError with the end of its output."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if result.returncode != 0:
        raise InstallError(f"{failure}:\n{_last_lines(result.stdout, 4)}\n{hint}")


def _last_lines(text: str, count: int) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "\n    ".join(lines[-count:])


def _installed_pins(*names: str) -> list[str]:
    versions = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    return [f"{name}=={versions[name]}" for name in names if name in versions]


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Install detectron2 into this environment.")
    parser.add_argument("--check", action="store_true", help="only say whether detectron2 is there")
    parser.add_argument(
        "--source",
        choices=("index", "git"),
        default="index",
        help="index: a fixed version, no compiler (default); git: upstream main, compiled",
    )
    parser.add_argument("--wheel", type=Path, help=f"the wheel of {CARRIER}, downloaded before")
    parser.add_argument("--constraint", "-c", metavar="FILE", help="handed to pip install")
    arguments = parser.parse_args(argv)
    if arguments.wheel is not None and arguments.source == "git":
        parser.error("--wheel belongs to --source index")
    return arguments


def run(arguments: argparse.Namespace) -> int:
    """Do what the parsed command line asks for and return the exit code.

    Raises:
        InstallError: detectron2 could not be installed.
    """
    start = time.monotonic()
    found = find_detectron2()
    if found:
        print(f"{found} is installed already; nothing to do")
        return 0
    if arguments.check:
        print(
            "detectron2 is not installed. To install it: "
            "python tools/environment/install_detectron2.py"
        )
        return 1

    absent = [name for name in ("torch", "torchvision") if importlib.util.find_spec(name) is None]
    if absent:
        raise InstallError(
            f"{' and '.join(absent)} must be installed before detectron2, which imports them:\n"
            "    python -m pip install torch torchvision"
        )

    def say(step: str) -> None:
        print(f"  {step}", flush=True)

    pip_arguments = [f"--constraint={arguments.constraint}"] if arguments.constraint else []
    if arguments.source == "git":
        install_from_git(pip_arguments, say)
    else:
        install_from_index(arguments.wheel, pip_arguments, say)
    try:
        found = find_detectron2()
    except InstallError as error:
        _pip(["uninstall", "--yes", "detectron2"], "pip uninstall failed", "Uninstall it by hand.")
        raise InstallError(f"{error}\nIt was uninstalled again.") from error
    print(f"{found} installed in {time.monotonic() - start:.0f} s")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 1 after one message on standard error."""
    try:
        return run(parse_args(argv))
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; run this again", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
