"""`mask-rcnn-ext`: its commands are the scripts that are there, and end as these do."""

import ast
import json
import re
import runpy
import sys

import command  # tools/ is on the path
import pytest
from small_runs import read_error, write_data
from support import REPO, SMALL

from mask_rcnn_ext.version import __version__


@pytest.fixture
def run(monkeypatch):
    """Run the command in this process; return its exit code."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])

    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["mask-rcnn-ext", *map(str, words)])
        try:
            return command.main()
        except SystemExit as end:
            return end.code

    return run


def test_help_lists_the_scripts_that_are_there(run, tmp_path, monkeypatch, capsys):
    assert run("--help") == 0
    shown = capsys.readouterr().out
    for name, script in command.SCRIPTS.items():
        there = (command.FOLDER / script).is_file()
        assert (f"\n  {name} " in shown) == there, name
    assert "\n  predict   Find instances in images" in shown
    (tmp_path / "serve.py").write_text('"""Open a page."""\n')
    monkeypatch.setattr(command, "FOLDER", tmp_path)
    assert command.find_commands() == {
        "train": command.TRAIN, "evaluate": command.EVALUATE, "serve": "Open a page."
    }  # fmt: skip
    assert run("predict") == 2
    assert read_error(capsys).startswith("error: unknown command 'predict'")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["predcit"], "unknown command 'predcit'; did you mean 'predict'?"),
        (["x"], "unknown command 'x'; mask-rcnn-ext --help lists them"),
        ([], "no command given"),
        (["inspect", "missing.pth"], "weights not found: missing.pth"),
        (["inspect", "."], "weights: . is a folder, expected a file"),
        (["train", "--config-file", "missing"], "config file not found: missing"),
    ],
)
def test_a_mistake_ends_with_2_and_one_sentence(run, words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2
    assert says in read_error(capsys)
    assert list(tmp_path.iterdir()) == []


def test_the_texts_of_the_package_name_commands_that_a_wheel_has():
    texts = []
    for path in (REPO / "mask_rcnn_ext").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        blocks = (ast.Module, ast.ClassDef, ast.FunctionDef)
        docs = [ast.get_docstring(node, clean=False) for node in nodes if isinstance(node, blocks)]
        said = [node.value for node in nodes if isinstance(node, ast.Constant)]
        texts += [text for text in said if isinstance(text, str) and text not in docs]
    scripts = [text for text in texts if re.search(r"(train_net|tools/\w+|python \w+)\.py", text)]
    in_steps = re.compile(  # trainings that are scripts of the repository only
        r"tools/train_(two_stage|rcnn_svm)\.py|use train_net\.py --eval-only|one with train_net"
        r"|trained by train_net\.py$|with train_net\.py and MODEL\.RCNN|of one model with train_net"
    )
    assert [text for text in scripts if not in_steps.search(text)] == []
    named = {name for text in texts for name in re.findall(r"mask-rcnn-ext ([a-z]+)", text)}
    assert {"train", "evaluate", "proposals", "configs"} <= named
    assert named <= {"train", "evaluate", *command.SCRIPTS}


def test_the_version_is_the_package_s(run, capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"mask-rcnn-ext {__version__}\n"


@pytest.mark.parametrize("words", [["predict", "m.pth", "a"], ["train"], ["inspect", "m.pth"]])
@pytest.mark.parametrize(("missing", "code"), [("detectron2", 2), ("cv2", 2), ("numpy", None)])
def test_before_setup_every_command_names_it(run, words, missing, code, monkeypatch, capsys):
    def fail(*_):
        raise ModuleNotFoundError(f"No module named '{missing}'", name=missing)

    monkeypatch.setattr(command, "run_script", fail)
    monkeypatch.setattr(command, "train", fail)
    if code is None:  # a fault that setup does not fix
        with pytest.raises(ModuleNotFoundError):
            run(*words)
        return
    assert run(*words) == code
    assert read_error(capsys) == f"error: {missing} is not installed: run mask-rcnn-ext setup"


def test_the_list_of_configs(run, capsys):
    assert run("configs") == 0
    names = [line.partition(": ")[0] for line in capsys.readouterr().out.splitlines()]
    assert len(names) == len(set(names))
    assert {"mask_rcnn_lite0_FPN", "shapes/mask_rcnn_tiny_FPN"} <= set(names)
    assert not [name for name in names if "Base-" in name]
    assert names.index("mask_rcnn_R50_FPN") < names.index("ablations/mask_rcnn_R50_C5")
    run("configs", "photos", "CPU")
    said = "mask_rcnn_lite0_FPN: the recommended start for your own photos on a CPU\n"
    assert capsys.readouterr().out == said
    assert run("configs", "nonsense") == 2
    assert capsys.readouterr().err == "error: no config has 'nonsense'\n"


def test_train_evaluate_predict_inspect(run, tmp_path, monkeypatch, capsys):
    """With a config by name, in a folder that holds nothing but data."""
    monkeypatch.chdir(tmp_path)
    flags = write_data(tmp_path / "data", train=2, val=1)
    keys = [*SMALL, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", "out"]
    assert run("train", "--config-file", "shapes/mask_rcnn_tiny_FPN", *flags, *keys) == 0
    weights = tmp_path / "out/model_final.pth"
    (tmp_path / "out/results.json").unlink()
    assert run("evaluate", "--config-file", "out/config.yaml", "MODEL.WEIGHTS", weights) == 0
    assert len([*tmp_path.rglob("results.json")]) == 1
    alone = ("MODEL.WEIGHTS", weights, "OUTPUT_DIR", "alone")
    assert run("evaluate", *flags[4:], *alone) == 0  # without its config
    first, second = (json.loads(p.read_text()) for p in tmp_path.rglob("results.json"))
    assert first["segm"] == second["segm"]
    assert first["run"]["weights_sha256"] == second["run"]["weights_sha256"]
    images = tmp_path / "data/val/images"
    assert run("predict", weights, images, "--output", "found", "--score-threshold", "0") == 0
    assert (tmp_path / "found/images.json").is_file()
    capsys.readouterr()
    assert run("inspect", weights) == 0
    assert "classes: cat, dog (2)" in capsys.readouterr().out.splitlines()


def test_a_script_sees_what_python_would_give_it(run, tmp_path, monkeypatch):
    (tmp_path / "beside.py").write_text("VALUE = 3\n")
    (tmp_path / "serve.py").write_text(
        '"""Open a page."""\nimport sys\n\nfrom beside import VALUE\n\n'
        "if __name__ == '__main__':\n"
        "    assert sys.argv == ['mask-rcnn-ext serve', '--port', '80']\n"
        "    assert sys.modules['__main__'].__file__ == __file__\n"
        "    sys.exit(VALUE)\n"
    )
    monkeypatch.setattr(command, "FOLDER", tmp_path)
    assert run("serve", "--port", "80") == 3


def test_the_module_is_a_script(monkeypatch, capsys):
    """`torchrun -m mask_rcnn_ext_tools.command train ...` runs it."""
    monkeypatch.setattr(sys, "argv", ["command.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(command.__file__, run_name="__main__")
    assert capsys.readouterr().out.startswith("usage: mask-rcnn-ext COMMAND")
