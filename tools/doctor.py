"""Say what is installed, what is wrong, and the command that mends it.

    python tools/doctor.py

The exit code is 1 when Mask R-CNN could not run in this environment, else 0. Each thing is tried by
using it, in a child process that may crash, so this runs however broken the rest is.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PIP = f"{shlex.quote(sys.executable)} -m pip install"
PINS = f"-c {shlex.quote(str(ROOT / 'constraints.txt'))}"


class Finding(NamedTuple):
    """One line of the report; `mark` is "ok", "note", "wrong" or "skip"."""

    mark: str
    name: str
    text: str
    mend: str = ""


class NotWorkingError(Exception):
    """Something is there but does not do what it should; the message is shown as it is."""


class Probe(NamedTuple):
    """Something that Mask R-CNN needs.

    Attributes:
        use: uses it and returns what is there, in words; any exception means that it does not work.
        mend: the command for when it does not.
        needs: the probe that must have succeeded, or this one fails for the same cause.
        mark: the mark for when it does not work.
    """

    use: Callable[[], str]
    mend: str
    needs: str = ""
    mark: str = "wrong"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "(version unknown)"


def use_torch() -> str:
    """Add two numbers."""
    import torch

    if float(torch.ones(2).sum()) != 2:
        raise NotWorkingError("torch.ones(2).sum() is not 2")
    device = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    return f"{torch.__version__}, built for {device}"


def use_torchvision() -> str:
    """Run a compiled operator: it exists only when torchvision fits torch."""
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.0]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist()
    if kept != [0]:
        raise NotWorkingError(f"torchvision.ops.nms kept {kept} of two equal boxes, expected [0]")
    return str(torchvision.__version__)


def use_pycocotools() -> str:
    """Encode a mask: fails when it was compiled for another NumPy."""
    import numpy as np
    from pycocotools import mask

    mask.encode(np.ones((2, 2, 1), dtype=np.uint8, order="F"))
    return _version("pycocotools")


def use_module(module: str, distribution: str) -> str:
    """Import a module."""
    imported = importlib.import_module(module)
    return str(getattr(imported, "__version__", None) or _version(distribution))


def use_pkg_resources() -> str:
    """Import pkg_resources, which setuptools 81 dropped."""
    version = _version("setuptools")
    try:
        importlib.import_module("pkg_resources")
    except ModuleNotFoundError as error:
        text = f"{version} has no pkg_resources, which detectron2.model_zoo imports"
        raise NotWorkingError(text) from error
    return version


def use_detectron2() -> str:
    """Import the parts that train and evaluate."""
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


INSTALL_TORCH = f"{PIP} --upgrade --force-reinstall {PINS} torch torchvision"
PROBES = {
    "torch": Probe(use_torch, INSTALL_TORCH),
    "torchvision": Probe(use_torchvision, INSTALL_TORCH, "torch"),
    "NumPy": Probe(lambda: use_module("numpy", "numpy"), f"{PIP} numpy"),
    "Pillow": Probe(lambda: use_module("PIL.Image", "pillow"), f"{PIP} pillow"),
    "pycocotools": Probe(
        use_pycocotools, f"{PIP} --force-reinstall --no-deps pycocotools", "NumPy"
    ),
    "OpenCV": Probe(lambda: use_module("cv2", ""), f"{PIP} opencv-python-headless", "NumPy"),
    "setuptools": Probe(use_pkg_resources, f'{PIP} "setuptools<81"'),
    "detectron2": Probe(
        use_detectron2,
        f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'tools/install_detectron2.py'))}",
        "torchvision",
    ),
    "mask_rcnn_ext": Probe(use_package, f"{PIP} -e {shlex.quote(str(ROOT))}", "detectron2"),
    "GPU": Probe(use_gpu, "", "torch", mark="note"),
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


def answer(names: Sequence[str]) -> None:
    """Use the named things in turn; print one line of JSON for each: [name, works, text]."""
    for name in names:
        try:
            works, text = True, PROBES[name].use()
        except Exception as error:  # whatever a broken installation raises is the answer
            lines = str(error).strip().splitlines() or [""]
            works, text = False, f"{type(error).__name__}: {lines[0]}"
            if isinstance(error, ModuleNotFoundError) and error.name == name.lower():
                text = "not installed"
            elif isinstance(error, NotWorkingError):
                text = lines[0]
        print(json.dumps([name, works, text]), flush=True)


def ask(names: Sequence[str]) -> Iterator[tuple[str, bool, str]]:
    """Yield the answers of a child process; start another for the rest where one crashes it."""
    left = list(names)
    while left:
        command = [sys.executable, __file__, "--probe", *left]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        for line in child.stdout.splitlines():
            if line.startswith('["'):
                name, works, text = json.loads(line)
                left.remove(name)
                yield name, works, text
        if left:
            yield left.pop(0), False, f"using it ends Python (exit code {child.returncode})"


def check_python() -> Finding:
    """Report the Python that runs this."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 10):  # noqa: UP036 - this also runs where the package could not
        text = f"{version} at {sys.executable}; expected 3.10 or later"
        return Finding("wrong", "Python", text, "make setup PYTHON=python3.11")
    return Finding("ok", "Python", f"{version} at {sys.executable}")


def check_modules() -> Iterator[Finding]:
    """Report every probe, and skip those whose need has failed already."""
    failed: set[str] = set()
    for name, works, text in ask(list(PROBES)):
        probe = PROBES[name]
        if works:
            yield Finding("ok", name, text)
            continue
        if probe.needs in failed:
            yield Finding("skip", name, f"not tried, since {probe.needs} does not work")
        else:
            yield Finding(probe.mark, name, text, probe.mend)
        failed.add(name)


def check_data() -> Iterator[Finding]:
    """Report which data sets are in the folder where detectron2 looks for them."""
    folder = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser().absolute()
    for name, parts in DATA_SETS.items():
        place = folder / name
        missing = [part for part in parts if not (place / part).exists()]
        if not place.is_dir() and not parts:
            yield Finding("note", name, f"not in {folder} yet; it is drawn at first use")
        elif not place.is_dir():
            yield Finding("note", name, f"not in {folder}")
        elif missing:
            yield Finding("note", name, f"{place} lacks {', '.join(missing)}")
        else:
            yield Finding("ok", name, f"in {place}")


def report() -> int:
    """Print all findings and the verdict, and return the exit code."""
    findings = []
    for source in ([check_python()], check_modules(), check_data()):
        for finding in source:
            findings.append(finding)
            print(f"{finding.mark:6}{finding.name:17}{finding.text}", flush=True)
            if finding.mend:
                print(f"{'':23}mend: {finding.mend}", flush=True)
    wrong = [finding.name for finding in findings if finding.mark == "wrong"]
    if wrong:
        print(f"\nMask R-CNN cannot run here. To mend, in this order: {', '.join(wrong)}.")
        return 1
    print("\nMask R-CNN can run here.")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--probe"]:
        answer(sys.argv[2:])
    else:
        sys.exit(report())
