"""Install detectron2 into the environment of the Python that runs this script.

detectron2 has no release on the package index, and its git version compiles code that this package
does not need. By default, this script takes detectron2 from the wheel of another distribution on
the index, LabGym, which contains detectron2's complete Python tree (see detectron2_wheel.py): pip
downloads the wheel, the script compares its hash and extracts only that tree, and pip installs it
as `detectron2`.

    python tools/environment/install_detectron2.py               # does nothing if it is installed
    python tools/environment/install_detectron2.py --source git  # upstream main; needs a compiler
    python tools/environment/install_detectron2.py --check       # exit code 0 if it is installed
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

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
FIX_AND_REPEAT = "Fix the problem that pip names, and run this script again."

PROBE = """
import importlib.util, os
spec = importlib.util.find_spec("detectron2")
# A spec without an origin is only a folder of that name, not the package.
found = ""
if spec is not None and spec.origin is not None:
    import detectron2
    found = f"detectron2 {detectron2.__version__} in {os.path.dirname(spec.origin)}"
print()  # an import may print a line without an end
print(found)
"""


def find_detectron2() -> str:
    """Return version and folder of the detectron2 that this Python imports, or "" if there is none.

    Raises:
        InstallError: importing the installed detectron2 fails. The script never changes it.
    """
    # In a new process and an empty folder, so that a clone in the working folder is not found.
    with tempfile.TemporaryDirectory() as empty:
        probe = subprocess.run(
            [sys.executable, "-c", PROBE], cwd=empty, capture_output=True, text=True, check=False
        )
    if probe.returncode != 0:
        raise InstallError(
            "detectron2 is installed, but importing it fails:\n"
            f"    {_last_lines(probe.stderr, 1)}\n"
            "`python tools/environment/doctor.py` names the cause and the command that fixes it."
        )
    return probe.stdout.splitlines()[-1]


def download_carrier(folder: Path) -> Path:
    """Download the carrier wheel into `folder` and return its path.

    Raises:
        InstallError: pip did not download exactly one wheel.
    """
    # LabGym requires Python < 3.11, but the tree does not: pip shall choose for Python 3.10.
    arguments = ["--no-deps", "--only-binary=:all:", "--python-version=3.10", f"--dest={folder}"]
    hint = "Check the connection to the package index, or give the file with --wheel FILE."
    _pip(["download", *arguments, CARRIER], f"{CARRIER} could not be downloaded", hint)
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise InstallError(f"expected one wheel of {CARRIER}, pip downloaded {len(wheels)}. {hint}")
    return wheels[0]


def install(requirement: str, folder: Path, arguments: Sequence[str] = ()) -> None:
    """Install `requirement` with its dependencies, but keep the installed torch and NumPy.

    Args:
        requirement: a wheel, or a requirement that pip understands.
        folder: a temporary folder.
        arguments: more arguments for `pip install`.

    Raises:
        InstallError: pip failed.
    """
    versions = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    pins = [f"{n}=={versions[n]}\n" for n in ("torch", "torchvision", "numpy") if n in versions]
    keep = folder / "keep.txt"
    keep.write_text("".join(pins))
    requirements = [requirement]
    if importlib.util.find_spec("cv2") is None:
        requirements.append("opencv-python-headless")  # detectron2's Visualizer imports it
    hint = f"detectron2 was not installed. {FIX_AND_REPEAT}"
    _pip(["install", f"--constraint={keep}", *arguments, *requirements], "pip install failed", hint)


def install_from_index(wheel: Path | None, arguments: Sequence[str], folder: Path) -> None:
    """Install the tree in the carrier wheel: `wheel`, or the wheel on the package index.

    Raises:
        InstallError: a step failed; the message says which step.
    """
    if wheel is None:
        _report(f"downloading {CARRIER}")
        wheel = download_carrier(folder)
    _report(f"comparing the hash of {wheel.name}")
    verify_hash(wheel, CARRIER_SHA256)
    tree = read_tree(wheel)
    _report(f"building detectron2 {VERSION} from {len(tree)} files")
    built = build_wheel(tree, folder)
    _report("installing it")
    install(str(built), folder, arguments)


def install_from_git(arguments: Sequence[str], folder: Path) -> None:
    """Install detectron2's main branch, which compiles its operators.

    Raises:
        InstallError: pip failed.
    """
    _report("compiling detectron2's main branch; this takes some minutes")
    # The setup.py of detectron2 imports torch, which an isolated build would not have.
    _pip(["install", "setuptools<81", "wheel"], "pip install failed", FIX_AND_REPEAT)
    install(GIT_SOURCE, folder, ["--no-build-isolation", *arguments])


def _report(step: str) -> None:
    print(f"  {step}", flush=True)


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


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Install detectron2 into this environment.")
    parser.add_argument(
        "--check", action="store_true", help="only say whether detectron2 is installed"
    )
    parser.add_argument(
        "--source",
        choices=("index", "git"),
        default="index",
        help="index: a fixed version, no compiler (default); git: upstream main, compiled",
    )
    parser.add_argument("--wheel", type=Path, help=f"a downloaded wheel of {CARRIER}")
    parser.add_argument(
        "--constraint", "-c", metavar="FILE", help="a constraints file for pip install"
    )
    arguments = parser.parse_args(argv)
    if arguments.wheel is not None and arguments.source == "git":
        parser.error("--wheel belongs to --source index")
    return arguments


def run(arguments: argparse.Namespace) -> int:
    """Run the parsed command line and return the exit code.

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

    pip_arguments = [f"--constraint={arguments.constraint}"] if arguments.constraint else []
    with tempfile.TemporaryDirectory(prefix="install_detectron2_") as temporary:
        if arguments.source == "git":
            install_from_git(pip_arguments, Path(temporary))
        else:
            install_from_index(arguments.wheel, pip_arguments, Path(temporary))
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
