"""Report the installed versions, each fault, and the command that fixes it.

    python tools/environment/doctor.py

The exit code is 1 if Mask R-CNN cannot run in this environment, else 0. Every requirement is tested
by using it in a child process, so the doctor itself runs even if an import crashes.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


def quote_path(path: str | Path) -> str:
    """Return `path` quoted for a shell, relative if it is in the working folder."""
    path, here = Path(path), Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def find_python_name() -> str:
    """Return the shortest name with which a shell here runs this Python."""
    for name in ("python", "python3"):
        if shutil.which(name) == sys.executable:  # unresolved, since an environment's is a link
            return name
    return quote_path(sys.executable)


PYTHON = find_python_name()
PIP = f"{PYTHON} -m pip install"
ANOTHER_PYTHON = "make setup PYTHON=python3.11"
# Modules whose distribution has another name.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "antlr4": "antlr4-python3-runtime",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "google": "protobuf",
    "hydra": "hydra-core",
    "pkg_resources": '"setuptools<81"',
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def install_command(module: str) -> str:
    """Return the command that installs the distribution of a top-level module."""
    return f"{PIP} {DISTRIBUTIONS.get(module, module.replace('_', '-'))}"


class Finding(NamedTuple):
    """One line of the report; `mark` is "ok", "note", "wrong" or "skip"."""

    mark: str
    name: str
    text: str
    fix: str = ""


class NotWorkingError(Exception):
    """A module is installed but does not work; the report shows the message."""


class Probe(NamedTuple):
    """A requirement of Mask R-CNN.

    Attributes:
        use: a function that uses the requirement and returns a description; it raises any exception
            if the requirement does not work.
        fix: the command that installs the requirement.
        needs: names of other probes; if one of them fails, this probe is skipped.
        mark: the mark of a failure.
        fix_broken: the command for a requirement that is installed but fails; default: `fix`.
    """

    use: Callable[[], str]
    fix: str
    needs: tuple[str, ...] = ()
    mark: str = "wrong"
    fix_broken: str = ""


def find_version(distribution: str) -> str:
    """Return the version of an installed distribution."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "(version unknown)"


OLDEST_TORCH = (2, 4)  # `make test-oldest` runs the tests with it


def use_torch() -> str:
    """Add two numbers."""
    import torch

    if float(torch.ones(2).sum()) != 2:
        raise NotWorkingError("torch.ones(2).sum() is not 2")
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise NotWorkingError(f"{torch.__version__}; expected {oldest} or later")
    device = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    return f"{torch.__version__}, built for {device}"


SAFE_TORCH = (2, 10)  # without CVE-2026-24747


def use_safe_torch() -> str:
    """Compare the version of torch with the first one whose reader of checkpoints is safe."""
    import torch

    if tuple(map(int, torch.__version__.split(".")[:2])) < SAFE_TORCH:
        raise NotWorkingError(
            "CVE-2026-24747 before torch 2.10: a malicious checkpoint can corrupt memory. Load "
            "only files that you trust"
        )
    return "reads checkpoints without a known fault"


def use_torchvision() -> str:
    """Run a compiled operator, which exists only if torchvision fits torch."""
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.0]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist()
    if kept != [0]:
        raise NotWorkingError(f"torchvision.ops.nms kept {kept} of two equal boxes, expected [0]")
    return str(torchvision.__version__)


def use_pycocotools() -> str:
    """Encode a mask, which fails if pycocotools was compiled for another NumPy."""
    import numpy as np
    from pycocotools import mask

    mask.encode(np.ones((2, 2, 1), dtype=np.uint8, order="F"))
    return find_version("pycocotools")


def use_module(module: str, distribution: str) -> str:
    """Import a module."""
    imported = importlib.import_module(module)
    return str(getattr(imported, "__version__", None) or find_version(distribution))


def use_selective_search() -> str:
    """Find selective search, which only the contrib distributions of OpenCV have."""
    import cv2

    if not hasattr(getattr(cv2, "ximgproc", None), "segmentation"):
        text = f"not in OpenCV {cv2.__version__}; only mask-rcnn-ext proposals needs it"
        raise NotWorkingError(text)
    return f"in OpenCV {cv2.__version__}"


def replace_opencv_command() -> str:
    """Return the command that replaces the installed OpenCV with the one with selective search."""
    names = [d.metadata["Name"] for d in importlib.metadata.distributions()]
    installed = sorted({name for name in names if name and name.startswith("opencv-")})
    command = f"{PIP} opencv-contrib-python-headless"
    if not installed:
        return command
    # All OpenCV distributions contain the same module, cv2: the old one must be uninstalled first.
    uninstall = f"{PYTHON} -m pip uninstall -y {' '.join(installed)}"
    return f"{uninstall} && {command}=={find_version(installed[0])}"


def use_tensorboard() -> str:
    """Import the writer of training curves."""
    import torch.utils.tensorboard  # noqa: F401 - needs more than `tensorboard` itself

    return find_version("tensorboard")


def use_pkg_resources() -> str:
    """Import pkg_resources, which setuptools 81 removed."""
    version = find_version("setuptools")
    try:
        importlib.import_module("pkg_resources")
    except ModuleNotFoundError as error:
        text = f"{version} has no pkg_resources, which detectron2.model_zoo imports"
        raise NotWorkingError(text) from error
    return version


def use_detectron2() -> str:
    """Import the modules that train and evaluate."""
    import detectron2
    from detectron2 import engine, evaluation, modeling  # noqa: F401

    compiled = importlib.util.find_spec("detectron2._C") is not None
    operators = "with" if compiled else "without"
    location = Path(detectron2.__file__).parent
    return f"{detectron2.__version__} in {location}, {operators} compiled operators"


def use_package() -> str:
    """Import this package."""
    import mask_rcnn_ext

    return f"in {Path(mask_rcnn_ext.__file__).parent}"


def use_gpu() -> str:
    """Name the GPU."""
    import torch

    if not torch.cuda.is_available():
        raise NotWorkingError("none that torch can use; everything runs on the CPU, slower")
    return str(torch.cuda.get_device_name())


CHECKOUT = (ROOT / "pyproject.toml").is_file()  # not the folder of an installed wheel
CONSTRAINTS = f"-c {quote_path(ROOT / 'constraints.txt')} " if CHECKOUT else ""
INSTALL_TORCH = f"{PIP} --upgrade --force-reinstall {CONSTRAINTS}torch torchvision"
INSTALL_DETECTRON2 = f"{PYTHON} {quote_path(Path(__file__).with_name('install_detectron2.py'))}"
INSTALL_PACKAGE = f"{PIP} -e {quote_path(ROOT)}" if CHECKOUT else f"{PIP} --force-reinstall WHEEL"
IMPORTED_BY_DETECTRON2 = (
    "torch",
    "torchvision",
    "NumPy",
    "Pillow",
    "pycocotools",
    "OpenCV",
    "setuptools",
    "tensorboard",
)
PROBES = {
    "torch": Probe(use_torch, INSTALL_TORCH),
    "torchvision": Probe(use_torchvision, INSTALL_TORCH, ("torch",)),
    "torch-safety": Probe(use_safe_torch, INSTALL_TORCH, ("torch",), mark="note"),
    "NumPy": Probe(lambda: use_module("numpy", "numpy"), install_command("numpy")),
    "Pillow": Probe(lambda: use_module("PIL.Image", "pillow"), install_command("PIL")),
    "pycocotools": Probe(
        use_pycocotools, f"{PIP} --force-reinstall --no-deps pycocotools", ("NumPy",)
    ),
    "OpenCV": Probe(lambda: use_module("cv2", ""), install_command("cv2"), ("NumPy",)),
    "setuptools": Probe(use_pkg_resources, install_command("pkg_resources")),
    "tensorboard": Probe(use_tensorboard, install_command("tensorboard"), ("torch",)),
    "jinja2": Probe(lambda: use_module("jinja2", "jinja2"), install_command("jinja2")),
    "detectron2": Probe(
        use_detectron2,
        INSTALL_DETECTRON2,
        IMPORTED_BY_DETECTRON2,
        # The installer never changes an installed detectron2.
        fix_broken=f"{PYTHON} -m pip uninstall -y detectron2 && {INSTALL_DETECTRON2}",
    ),
    "mask_rcnn_ext": Probe(use_package, INSTALL_PACKAGE, ("detectron2",)),
    "selective-search": Probe(
        use_selective_search, replace_opencv_command(), ("OpenCV",), mark="note"
    ),
    "scikit-learn": Probe(
        lambda: use_module("sklearn", "scikit-learn"),
        install_command("sklearn"),
        ("NumPy",),
        mark="note",
    ),
    "GPU": Probe(use_gpu, "", ("torch",), mark="note"),
}

DATA_SETS = {
    "coco": (
        "annotations/instances_train2017.json",
        "annotations/instances_val2017.json",
        "train2017",
        "val2017",
    ),
    "cityscapes": ("gtFine/train", "gtFine/val", "leftImg8bit/train", "leftImg8bit/val"),
    "occluded_shapes": (),
}


def run_probe(name: str) -> Finding:
    """Use a requirement; on failure, choose the command that fixes it."""
    probe = PROBES[name]
    try:
        return Finding("ok", name, probe.use())
    except Exception as error:  # a broken installation may raise anything
        text = (str(error).strip().splitlines() or [""])[0]
        if not isinstance(error, NotWorkingError):
            text = f"{type(error).__name__}: {text}"
        fix = probe.fix_broken or probe.fix
        if isinstance(error, ModuleNotFoundError) and error.name:
            missing = error.name.partition(".")[0]
            if error.name == name.lower():
                text, fix = "not installed", probe.fix
            elif missing in sys.stdlib_module_names:  # Python was built without a system library
                fix = ANOTHER_PYTHON
            elif missing != name:
                fix = install_command(missing)
        return Finding(probe.mark, name, text, fix)


def run_probes_in_child() -> Iterator[Finding]:
    """Run all probes in a child process; if one ends it, run the rest in another child."""
    left = list(PROBES)
    while left:
        command = [sys.executable, __file__, "--probe", *left]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        for line in child.stdout.splitlines():
            if line.startswith('["'):
                finding = Finding(*json.loads(line))
                left.remove(finding.name)
                yield finding
        if left:
            text = f"using it ends Python (exit code {child.returncode})"
            name = left.pop(0)
            probe = PROBES[name]
            yield Finding(probe.mark, name, text, probe.fix_broken or probe.fix)


def check_python() -> Finding:
    """Report the Python that runs this."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 10):  # noqa: UP036 - the doctor also runs on an older Python
        text = f"{version} at {sys.executable}; expected 3.10 or later"
        return Finding("wrong", "Python", text, ANOTHER_PYTHON)
    return Finding("ok", "Python", f"{version} at {sys.executable}")


def check_modules() -> Iterator[Finding]:
    """Report every probe, and skip probes that need a failed one."""
    failed: set[str] = set()
    for finding in run_probes_in_child():
        if finding.mark != "ok":
            name = finding.name
            failed.add(name)
            if causes := [need for need in PROBES[name].needs if need in failed]:
                finding = Finding("skip", name, f"cannot work while {causes[0]} does not")
        yield finding


def check_data() -> Iterator[Finding]:
    """Report which data sets are in detectron2's folder of data sets."""
    folder = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser().absolute()
    for name, parts in DATA_SETS.items():
        place = folder / name
        missing = [part for part in parts if not (place / part).exists()]
        if not place.is_dir():
            drawn = "" if parts else " yet; it is drawn at first use"
            yield Finding("note", name, f"not in {folder}{drawn}")
        elif missing:
            yield Finding("note", name, f"{place} lacks {', '.join(missing)}")
        else:
            yield Finding("ok", name, f"in {place}")


def report() -> int:
    """Print all findings and the verdict, and return the exit code."""
    findings = []
    for finding in itertools.chain([check_python()], check_modules(), check_data()):
        findings.append(finding)
        print(f"{finding.mark:6}{finding.name:17}{finding.text}", flush=True)
        if finding.fix:
            print(f"{'':23}fix: {finding.fix}", flush=True)
    wrong = [finding.name for finding in findings if finding.mark == "wrong"]
    if wrong:
        print(f"\nMask R-CNN cannot run here. Fix, in this order: {', '.join(wrong)}.")
        return 1
    print("\nMask R-CNN can run here.")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--probe"]:
        for name in sys.argv[2:]:
            print(json.dumps(run_probe(name)), flush=True)
    else:
        argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
        try:
            sys.exit(report())
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)
