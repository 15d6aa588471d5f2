"""The commands answer at once, and importing the package brings no more than it needs."""

import json
import os
import signal
import subprocess
import sys

import command  # tools/ is on the path
import pytest
from support import REPO, run_python

SCRIPTS = [["train_net.py"], *([f"tools/{path.name}"] for path in (REPO / "tools").glob("*.py"))]
COMMANDS = [["tools/command.py", name] for name in command.find_commands()]


@pytest.mark.parametrize("words", [*sorted(SCRIPTS), *COMMANDS], ids=" ".join)
def test_help_imports_nothing_slow_and_prints_no_warning(words, tmp_path):
    script, *arguments = words
    options = ["-X", "importtime", REPO / script, *arguments, "--help"]
    done = run_python(*options, check=True, cwd=tmp_path)
    assert done.stdout.startswith("usage: ")
    if arguments:
        assert done.stdout.startswith(f"usage: mask-rcnn-ext {arguments[0]} ")
    lines = done.stderr.splitlines()
    assert [line for line in lines if not line.startswith("import time:")] == []
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert imported & {"argparse", "runpy"}
    assert not imported & {"torch", "numpy", "detectron2", "mask_rcnn_ext"}


MISTAKES = [
    "train --config-file missing",
    "evaluate MODEL.WEIGHTS missing.pth",
    "predict missing.pth photos --output out",
    "export missing.pth --output out",
    "report missing",
    "check --train-json missing.json --train-images missing",
    "compare --a missing.json --b missing.json --output out",
    "inspect missing.pth",
    "preview --json missing.json",
    "serve missing.pth",
]


@pytest.mark.parametrize("words", MISTAKES)
def test_a_name_of_nothing_is_told_before_pytorch_is_imported(words, tmp_path):
    """In a process of its own, since this one has imported PyTorch."""
    code = f"import command, sys; sys.argv[1:] = {words.split()}; sys.modules['torch'] = None"
    code += "; sys.exit(command.main())"
    environment = {**os.environ, "PYTHONPATH": str(REPO / "tools")}
    done = run_python("-c", code, cwd=tmp_path, env=environment)
    assert done.returncode == 2
    assert "not found: missing" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


SLOW = {
    "train_net.py": [],
    "tools/command.py": ["evaluate"],
    "tools/compare.py": ["--a", "{here}", "--b", "{here}", "--output", "new"],
    "tools/train_two_stage.py": [],
}


@pytest.mark.parametrize("script", SLOW)
def test_ctrl_c_during_the_imports_is_no_traceback(script, tmp_path):
    torch = tmp_path / "torch.py"
    torch.write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    words = [word.format(here=torch) for word in SLOW[script]]
    process = subprocess.Popen(
        [sys.executable, REPO / script, *words], cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # not as here
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == -signal.SIGINT
    finally:
        process.kill()


_IMPORT = """
import json, sys, warnings

# Python hides these by default.
hidden = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
with warnings.catch_warnings(record=True) as shown:
    warnings.simplefilter("always")
    filters = list(warnings.filters)
    import mask_rcnn_ext
    kept = warnings.filters == filters
print(json.dumps({
    "warnings": [
        str(warning.message) for warning in shown
        if not issubclass(warning.category, hidden)
    ],
    "kept": kept,
    "modules": list(sys.modules),
}))

import detectron2.data, torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

features = [torch.zeros(1, 4, 8, 8)]
DefaultAnchorGenerator(sizes=[[8]], aspect_ratios=[[1.0]], strides=[4])(features)
ROIPooler(2, [0.25], 0, "ROIAlignV2")(features, [Boxes(torch.tensor([[0.0, 0, 8, 8]]))])
"""


@pytest.fixture(scope="module")
def imported():
    """Import the package in a process of its own, then use some of detectron2's model parts."""
    return run_python("-c", _IMPORT, check=True, cwd=REPO)


def test_the_import_is_quiet_and_defers_what_registering_does_not_need(imported):
    seen = json.loads(imported.stdout.splitlines()[0])
    assert seen["warnings"] == []
    assert seen["kept"], "the import changed the user's warning filters"
    assert "mask_rcnn_ext.modeling.fcis" in seen["modules"]
    slow = {"matplotlib", "scipy", "sklearn", "timm", "tensorboard", "jinja2", "pkg_resources"}
    slow |= {"detectron2.engine", "detectron2.evaluation", "mask_rcnn_ext.engine"}
    assert not slow & set(seen["modules"])


def test_detectron2_s_model_parts_print_no_warning_of_pytorch(imported):
    assert imported.stdout.count("\n") == 1  # the line of the import
    assert imported.stderr == ""
