"""The doctor names each broken requirement and the command that fixes it. Modules are stubs."""

import os
import sys
from pathlib import Path

import doctor
import pytest
from support import run_python

SCRIPT = Path(doctor.__file__)

# Just enough of each module for its probe to succeed.
HEALTHY = {
    "torch": """
        __version__ = "2.15.0"
        class version: cuda = None
        class cuda: is_available = staticmethod(lambda: False)
        class ones:
            def __init__(self, count): self.count = count
            def sum(self): return self.count
        def tensor(values): return values
    """,
    "torch.utils": "",
    "torch.utils.tensorboard": "import tensorboard",
    "tensorboard": "",
    "jinja2": '__version__ = "3"',
    "torchvision": """
        import torch
        __version__ = "0.29.2"
        class Kept: tolist = staticmethod(lambda: [0])
        class ops: nms = staticmethod(lambda boxes, scores, threshold: Kept)
    """,
    "numpy": '__version__ = "2"\nuint8 = None\ndef ones(*args, **kwargs): pass',
    "PIL": "",
    "PIL.Image": '__version__ = "13"',
    "pycocotools": "",
    "pycocotools.mask": "def encode(mask): pass",
    "cv2": '__version__ = "5"\nclass ximgproc: segmentation = None',
    "sklearn": '__version__ = "1.9"',
    "pkg_resources": "",
    "detectron2": 'import torchvision\n__version__ = "0.6"',
    "detectron2.engine": "",
    "detectron2.evaluation": "",
    "detectron2.modeling": "",
    "mask_rcnn_ext": "import detectron2",
}


def missing(name):
    message = f"No module named {name!r}"
    return f"raise ModuleNotFoundError({message!r}, name={name!r})"


def write_module(site, name, source):
    folder = site.joinpath(*name.split("."))
    folder.mkdir(parents=True, exist_ok=True)
    lines = source.splitlines()
    indent = len(lines[1]) - len(lines[1].lstrip()) if len(lines) > 1 and not lines[0] else 0
    (folder / "__init__.py").write_text("\n".join(line[indent:] for line in lines) + "\n")


@pytest.fixture
def examine(tmp_path):
    """Return a function that runs the doctor with HEALTHY stubs, some of them replaced."""

    def run(**replaced):
        site = tmp_path / "site"
        for name, source in {**HEALTHY, **replaced}.items():
            write_module(site, name, source)
        # The stubs come before what is installed in the environment that runs the tests.
        return run_doctor(tmp_path, PYTHONPATH=str(site))

    return run


def run_doctor(folder, **environment):
    # Without the user's DETECTRON2_DATASETS: the data is looked for in `folder`.
    kept = {key: value for key, value in os.environ.items() if key != "DETECTRON2_DATASETS"}
    return run_python(SCRIPT, cwd=folder, env={**kept, **environment})


def test_a_healthy_environment(examine):
    result = examine()
    assert result.returncode == 0, result.stdout + result.stderr
    marks = {line.split()[1]: line.split()[0] for line in result.stdout.splitlines()[:19]}
    assert marks == {
        "Python": "ok",
        **{name: "ok" for name in doctor.PROBES},
        "GPU": "note",
        **{name: "note" for name in doctor.DATA_SETS},
    }
    assert result.stdout.splitlines()[-1] == "Mask R-CNN can run here."


# Case -> module, source of its stub, a part of the line of the report, a part of the command.
TORCH = "constraints.txt torch torchvision"
BROKEN = {
    "torch-missing": (
        "torch", missing("torch"), "torch            not installed",
        "pip install --upgrade --force-reinstall -c",
    ),
    "torch-too-old": (
        "torch", HEALTHY["torch"].replace("2.15.0", "2.3.1"),
        "torch            2.3.1; expected 2.4 or later", TORCH,
    ),
    "torchvision-does-not-fit": (
        "torchvision", "raise RuntimeError('operator torchvision::nms does not exist')",
        "operator torchvision::nms does not exist", TORCH,
    ),
    "torchvision-wrong-result": (
        "torchvision", HEALTHY["torchvision"].replace("[0]", "[0, 1]"),
        "nms kept [0, 1] of two equal boxes", TORCH,
    ),
    "torchvision-crashes": (
        "torchvision", "import os\nos.abort()", "using it ends Python (exit code -6)", TORCH,
    ),
    "torchvision-exits": (
        "torchvision", "raise SystemExit(0)", "using it ends Python (exit code 0)", TORCH,
    ),
    "setuptools-too-new": (
        "pkg_resources", missing("pkg_resources"),
        "has no pkg_resources, which detectron2.model_zoo imports", 'pip install "setuptools<81"',
    ),
    "detectron2-missing": (
        "detectron2", missing("detectron2"), "detectron2       not installed",
        "tools/environment/install_detectron2.py",
    ),
    "detectron2-lacks-a-module": (
        "detectron2.engine", missing("fvcore.nn"), "No module named 'fvcore.nn'",
        "-m pip install fvcore",
    ),
    "detectron2-lacks-a-module-of-another-name": (
        "detectron2", missing("hydra"), "No module named 'hydra'", "-m pip install hydra-core",
    ),
    "python-lacks-a-module": (
        "detectron2", missing("_lzma"), "No module named '_lzma'",
        "make setup PYTHON=python3.11",
    ),
    "detectron2-incomplete": (
        "detectron2.engine", missing("detectron2.engine.defaults"),
        "No module named 'detectron2.engine.defaults'", "-m pip uninstall -y detectron2 && ",
    ),
    "tensorboard-missing": (
        "tensorboard", missing("tensorboard"), "tensorboard      not installed",
        "-m pip install tensorboard",
    ),
    "tensorboard-lacks-a-module": (
        "torch.utils.tensorboard", missing("google.protobuf"),
        "No module named 'google.protobuf'", "-m pip install protobuf",
    ),
    "jinja2-missing": (
        "jinja2", missing("jinja2"), "jinja2           not installed", "-m pip install jinja2",
    ),
    "package-lacks-a-module": (
        "mask_rcnn_ext", missing("yacs"), "No module named 'yacs'", "-m pip install yacs",
    ),
    "pycocotools-for-another-numpy": (
        "pycocotools.mask", "raise ValueError('numpy.dtype size changed')",
        "ValueError: numpy.dtype size changed",
        "pip install --force-reinstall --no-deps pycocotools",
    ),
    "opencv-missing": (
        "cv2", missing("cv2"), "No module named 'cv2'", "pip install opencv-python-headless",
    ),
    "package-missing": (
        "mask_rcnn_ext", missing("mask_rcnn_ext"), "mask_rcnn_ext    not installed",
        f"pip install -e {doctor.ROOT}",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("module", "source", "text", "fix"), BROKEN.values(), ids=BROKEN)
def test_a_broken_environment(examine, module, source, text, fix):
    result = examine(**{module: source})
    assert result.returncode == 1, result.stdout + result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    wrong = [index for index, line in enumerate(lines) if line.startswith("wrong ")]
    assert len(wrong) == 1, result.stdout  # what depends on it is skipped
    assert text in lines[wrong[0]]
    assert lines[wrong[0] + 1].lstrip().startswith("fix: ")
    assert fix in lines[wrong[0] + 1]
    assert lines[-1].startswith("Mask R-CNN cannot run here.")
    assert "occluded_shapes" in result.stdout  # it went on to the end


def test_what_needs_a_broken_thing_is_skipped(examine):
    result = examine(torch=missing("torch"))
    skipped = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("skip")]
    expected = ["torchvision", "torch-safety", "tensorboard", "detectron2", "mask_rcnn_ext", "GPU"]
    assert skipped == expected


def test_what_imports_a_broken_thing_is_skipped(examine):
    result = examine(cv2=missing("cv2"), detectron2="import cv2")
    findings = {line.split()[1]: line.split()[0] for line in result.stdout.splitlines()[:18]}
    assert (findings["OpenCV"], findings["detectron2"]) == ("wrong", "skip")
    assert "detectron2       cannot work while OpenCV does not" in result.stdout
    assert "install_detectron2" not in result.stdout


def test_an_older_torch_is_noted(examine):
    result = examine(torch=HEALTHY["torch"].replace("2.15.0", "2.9.1"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "note  torch-safety     CVE-2026-24747 before torch 2.10" in result.stdout


def test_optional_parts_are_noted(examine):
    result = examine(cv2='__version__ = "5"', sklearn=missing("sklearn"))
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    for name, fix in (
        ("selective-search", "pip install opencv-contrib-python-headless=="),
        ("scikit-learn", "pip install scikit-learn"),
    ):
        (index,) = (i for i, line in enumerate(lines) if line.startswith(f"note  {name}"))
        assert lines[index + 1].lstrip().startswith("fix: ")
        assert fix in lines[index + 1]
        assert "uninstall -y opencv-" in lines[index + 1] or name == "scikit-learn"


def test_the_python_of_the_commands(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "a b" / "bin" / "python"))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert doctor.find_python_name() == f"'{tmp_path}/a b/bin/python'"
    monkeypatch.chdir(tmp_path)
    assert doctor.find_python_name() == "'a b/bin/python'"
    found = {"python": "/another/python", "python3": sys.executable}
    monkeypatch.setattr(doctor.shutil, "which", found.get)
    assert doctor.find_python_name() == "python3"


def test_data_sets(tmp_path, monkeypatch):
    (tmp_path / "occluded_shapes").mkdir()
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    (tmp_path / "coco" / "annotations" / "instances_val2017.json").touch()
    (tmp_path / "coco" / "val2017").mkdir()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    findings = {finding.name: finding for finding in doctor.check_data()}
    assert findings["occluded_shapes"].mark == "ok"
    assert findings["cityscapes"].text == f"not in {tmp_path}"
    assert findings["coco"].mark == "note"
    lacks = "lacks annotations/instances_train2017.json, train2017"
    assert findings["coco"].text == f"{tmp_path / 'coco'} {lacks}"
    for part in ("annotations/instances_train2017.json", "train2017"):
        (tmp_path / "coco" / part).mkdir()
    assert {finding.name: finding.mark for finding in doctor.check_data()}["coco"] == "ok"


def test_the_environment_of_these_tests_is_healthy(tmp_path):
    result = run_doctor(tmp_path)
    assert result.returncode == 0, result.stdout
    assert "wrong" not in result.stdout
