"""Say what is installed, what is wrong, and the command that mends it.

    python tools/environment/doctor.py

The exit code is 1 when Mask R-CNN could not run in this environment, else 0. Each thing is tried by
using it, in a child process that may crash, so this runs however broken the rest is.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


def in_shell(path: str | Path) -> str:
    """Return `path` as typed in a shell here: relative when it is in the working folder."""
    path, here = Path(path), Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def this_python() -> str:
    """Return the shortest name by which a shell here runs this same Python."""
    for name in ("python", "python3"):
        if shutil.which(name) == sys.executable:  # as it is: an environment's is often a link
            return name
    return in_shell(sys.executable)


PIP = f"{this_python()} -m pip install"
PINS = f"-c {in_shell(ROOT / 'constraints.txt')}"
ANOTHER_PYTHON = "make setup PYTHON=python3.11"
# Where the name of a module is not that of the distribution to install.
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


def install(module: str) -> str:
    """Return the command that installs what a top-level module is in."""
    return f"{PIP} {DISTRIBUTIONS.get(module, module.replace('_', '-'))}"


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
        mend: the command for when it does not; unless it lacks a module of another distribution:
            then that one is installed.
        needs: the probes that must have succeeded, or this one fails for the same cause.
        mark: the mark for when it does not work.
        broken: the command for when it is there but fails, if that is another one.
    """

    use: Callable[[], str]
    mend: str
    needs: tuple[str, ...] = ()
    mark: str = "wrong"
    broken: str = ""


class Answer(NamedTuple):
    """What came of using a probe; `lacks` is the top-level module that was not found, or ""."""

    name: str
    works: bool
    text: str
    lacks: str = ""


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


def use_selective_search() -> str:
    """Find selective search, which only OpenCV's contrib distributions have."""
    import cv2

    if not hasattr(getattr(cv2, "ximgproc", None), "segmentation"):
        text = f"not in OpenCV {cv2.__version__}; only tools/compute_proposals.py can use it"
        raise NotWorkingError(text)
    return f"in OpenCV {cv2.__version__}"


def install_contrib() -> str:
    """Return the command that puts the OpenCV with selective search in place of the other."""
    # They are one module, cv2, and overwrite each other: the one that is there has to go first.
    there = [d.metadata["Name"] for d in importlib.metadata.distributions()]
    there = sorted({name for name in there if name and name.startswith("opencv-")})
    names = " ".join(there)
    first = f"{this_python()} -m pip uninstall -y {names} && " if there else ""
    version = f"=={_version(there[0])}" if there else ""
    return f"{first}{PIP} opencv-contrib-python-headless{version}"


def use_tensorboard() -> str:
    """Import the writer of training curves."""
    import torch.utils.tensorboard  # noqa: F401 - needs more than `tensorboard` itself

    return _version("tensorboard")


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
INSTALL_DETECTRON2 = f"{this_python()} {in_shell(ROOT / 'tools/environment/install_detectron2.py')}"
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
    "NumPy": Probe(lambda: use_module("numpy", "numpy"), install("numpy")),
    "Pillow": Probe(lambda: use_module("PIL.Image", "pillow"), install("PIL")),
    "pycocotools": Probe(
        use_pycocotools, f"{PIP} --force-reinstall --no-deps pycocotools", ("NumPy",)
    ),
    "OpenCV": Probe(lambda: use_module("cv2", ""), install("cv2"), ("NumPy",)),
    "setuptools": Probe(use_pkg_resources, install("pkg_resources")),
    "tensorboard": Probe(use_tensorboard, install("tensorboard"), ("torch",)),
    "jinja2": Probe(lambda: use_module("jinja2", "jinja2"), install("jinja2")),
    "detectron2": Probe(
        use_detectron2,
        INSTALL_DETECTRON2,
        IMPORTED_BY_DETECTRON2,
        # The installer leaves a detectron2 that is there as it is.
        broken=f"{this_python()} -m pip uninstall -y detectron2 && {INSTALL_DETECTRON2}",
    ),
    "mask_rcnn_ext": Probe(use_package, f"{PIP} -e {in_shell(ROOT)}", ("detectron2",)),
    "selective-search": Probe(use_selective_search, install_contrib(), ("OpenCV",), mark="note"),
    "scikit-learn": Probe(
        lambda: use_module("sklearn", "scikit-learn"),
        install("sklearn"),
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


def answer(names: Sequence[str]) -> None:
    """Use the named things in turn; print the `Answer` for each, as one line of JSON."""
    for name in names:
        lacks = ""
        try:
            works, text = True, PROBES[name].use()
        except Exception as error:  # whatever a broken installation raises is the answer
            lines = str(error).strip().splitlines() or [""]
            works, text = False, f"{type(error).__name__}: {lines[0]}"
            if isinstance(error, ModuleNotFoundError) and error.name:
                lacks = error.name.partition(".")[0]
                text = "not installed" if error.name == name.lower() else text
            elif isinstance(error, NotWorkingError):
                text = lines[0]
        print(json.dumps(Answer(name, works, text, lacks)), flush=True)


def ask(names: Sequence[str]) -> Iterator[Answer]:
    """Yield the answers of a child process; start another for the rest where one crashes it."""
    left = list(names)
    while left:
        command = [sys.executable, __file__, "--probe", *left]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        for line in child.stdout.splitlines():
            if line.startswith('["'):
                said = Answer(*json.loads(line))
                left.remove(said.name)
                yield said
        if left:
            text = f"using it ends Python (exit code {child.returncode})"
            yield Answer(left.pop(0), False, text)


def check_python() -> Finding:
    """Report the Python that runs this."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 10):  # noqa: UP036 - this also runs where the package could not
        text = f"{version} at {sys.executable}; expected 3.10 or later"
        return Finding("wrong", "Python", text, ANOTHER_PYTHON)
    return Finding("ok", "Python", f"{version} at {sys.executable}")


def check_modules() -> Iterator[Finding]:
    """Report every probe, and skip those whose need has failed already."""
    failed: set[str] = set()
    for said in ask(list(PROBES)):
        name, probe = said.name, PROBES[said.name]
        if said.works:
            yield Finding("ok", name, said.text)
            continue
        failed.add(name)
        causes = [need for need in probe.needs if need in failed]
        if causes:
            yield Finding("skip", name, f"cannot work while {causes[0]} does not")
        else:
            yield Finding(probe.mark, name, said.text, choose_mend(said))


def choose_mend(said: Answer) -> str:
    """Return the command for a probe that does not work."""
    probe = PROBES[said.name]
    if said.lacks in sys.stdlib_module_names:  # a Python that was built without a system library
        return ANOTHER_PYTHON
    if said.text == "not installed":
        return probe.mend
    if said.lacks and said.lacks != said.name:
        return install(said.lacks)
    return probe.broken or probe.mend


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
