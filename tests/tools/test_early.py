"""Mistakes that a look at the command line and at the disk shows."""

import argparse
import os
import signal
from functools import partial

import convert_dataset
import predict
import pytest
from command_line.early import (
    check_conversion,
    check_prediction,
    check_report,
    check_server,
    check_training,
    stop_at_mistakes,
)
from command_line.light import import_light
from small_runs import read_error
from support import REPO, run_python

from mask_rcnn_ext.engine.launch import run_as_command

CONFIG = ["--config-file", "mask_rcnn_lite0_FPN"]
parse_training = import_light("engine.arguments").argument_parser().parse_args


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a model, photos and a json, which is the current one."""
    for name in ("model.pth", "train.json", "file"):
        (tmp_path / name).touch()
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def require_stop(capsys, says, *args, **options) -> None:
    """Check that `stop_at_mistakes` ends the command with this message."""
    with pytest.raises(SystemExit, match="2"):
        stop_at_mistakes(*args, **options)
    assert read_error(capsys).startswith(f"error: {says}")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model": "modl.pth"}, "weights not found: modl.pth (looked for {}/modl.pth); did you "),
        ({"weights": "x"}, "weights not found: x (looked for {}/x). Give the file of a trained"),
        ({"train_json": "tain.json"}, "json file not found: tain.json "),
        ({"val_images": "photo"}, "image folder not found: photo (looked for {}/photo); did you m"),
        ({"images": ["photos", "more"]}, "input not found: more (looked for {}/more)"),
        ({"run": "/nowhere"}, "folder of a run not found: /nowhere. Give the OUTPUT_DIR"),
    ],
)
def test_what_is_not_there_is_named(options, says, folder, capsys):
    require_stop(capsys, says.format(folder), argparse.Namespace(**options))


def test_what_is_there_or_elsewhere_passes(folder, monkeypatch, capsys):
    there = {"model": "model.pth", "train_json": "train.json", "images": ["photos", "*.jpg"]}
    names = {"weights": "https://x.org/a.pth", "val_json": "", "a": None}
    stop_at_mistakes(argparse.Namespace(**there, **names), folder="new")
    stop_at_mistakes(argparse.Namespace(model="mask_rcnn_R50_FPN"))  # the name of a config
    for there in ([], ["MODEL.WEIGHTS", "detectron2://x.pkl"], ["OUTPUT_DIR", "photos"]):
        stop_at_mistakes(parse_training([*CONFIG, *there]), check_training)
    stop_at_mistakes(parse_training(["--eval-only", "MODEL.WEIGHTS", "model.pth"]), check_training)
    stop_at_mistakes(parse_training(["--train-json", "x", "--slurm"]))
    monkeypatch.setenv("RANK", "1")
    stop_at_mistakes(parse_training(["--train-json", "x"]))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--config-file", "lite0"], "config file not found: lite0 (looked from "),
        ([], "training needs a config: --config-file NAME, such as mask_rcnn_lite0_FPN on a CPU"),
        (["--eval-only", "MODEL.WEIGHTS", "x.pth"], "weights not found: x.pth "),
        ([*CONFIG, "OUTPUT_DIR", "file"], "OUTPUT_DIR file: is a file, expected a folder"),
        ([*CONFIG, "OUTPUT_DIR", ""], "OUTPUT_DIR: expected a folder, got ''. Is a variable of"),
        ([*CONFIG, "--split", "80"], "--split: expected a number between 0 and 1, such as 0.8, "),
    ],
)
def test_a_training(words, says, folder, capsys):
    require_stop(capsys, says, parse_training(words), check_training)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["photos"], "no model given: expected a file such as model_final.pth before photos"),
        (["photos", "model.pth"], "expected the model first: model.pth stands after photos"),
        (["x.pth", "photos"], "weights not found: x.pth "),
        (["model.pth", "photo"], "input not found: photo (looked for "),
        (["model.pth", "photos", "--processes", "0"], "--processes: expected 1 or more, got 0"),
        (["model.pth", "photos", "--score-threshold", "5"], "--score-threshold: expected a score"),
        (["model.pth", "photos", "--output", "file"], "--output file: is a file, expected a fold"),
        (["model.pth", "photos", "--output", ""], "--output: expected a folder, got ''. Is a var"),
    ],
)
def test_a_prediction(words, says, folder, capsys):
    args = predict.build_parser().parse_args(["--output", "new", *words])
    require_stop(capsys, says, args, check_prediction, folder=args.output)


@pytest.mark.parametrize(
    ("check", "options", "says"),
    [
        (check_report, {"run": "photos"}, "photos is not a run's folder: it has no config.yaml. "),
        (check_server, {"port": 70000}, "--port: expected 0 to 65535, got 70000"),
    ],
)
def test_a_report_and_a_server(check, options, says, folder, capsys):
    require_stop(capsys, says, argparse.Namespace(**options), check)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tain.json", "new"], "input not found: tain.json (looked for {}/tain.json); did you mea"),
        (["train.json", "new", "--to", "yolo9"], "--to: expected coco, yolo, labelme, "),
        (["train.json", "new", "--from", "coc"], "--from: expected coco, yolo, "),
        (["train.json", "new", "--split", "8"], "--split: expected a number between 0 and 1, such"),
        (["train.json", "new", "--images", "photo"], "input not found: photo (looked for {}/photo"),
        (["train.json", ""], "OUTPUT: expected a file or a folder, got ''. Is a variable of the"),
        (["train.json", "new", "--images", ""], "--images: expected a folder, got ''. Is a variab"),
    ],
)
def test_a_conversion(words, says, folder, capsys):
    args = convert_dataset.build_parser().parse_args(words)
    check = partial(check_conversion, formats=convert_dataset._FORMATS)
    require_stop(capsys, says.format(folder), args, check)


def test_a_prediction_on_what_may_be_there(folder, capsys):
    inputs = ["model.pth", "photos", "0", "rtsp://camera/1", "*.png", "--every", "3"]
    args = predict.build_parser().parse_args(["--output", "new", *inputs])
    stop_at_mistakes(args, check_prediction, folder=args.output)
    assert args.inputs == inputs[:-2]  # the command still finds the model there
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "words",
    [
        ["run_demo.py"],
        ["convert_coco_to_cityscapes.py", "--weights", "x", "--output", "y"],
        ["benchmark.py", "layers"],
        ["environment/doctor.py"],
    ],
    ids=lambda words: words[0],
)
def test_ctrl_c_before_the_command_begins_gives_no_traceback(words, tmp_path):
    """PyTorch, which all of them import first, is replaced by a module that sends Ctrl-C."""
    (tmp_path / "torch.py").write_text(
        "import os, signal, time\nos.killpg(0, signal.SIGINT)\ntime.sleep(9)\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPO}"}
    path = REPO / "tools" / words[0]
    # A shell's background job, such as this test run, may ignore Ctrl-C, and hand this down.
    default = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    ended = run_python(path, *words[1:], env=env, start_new_session=True, preexec_fn=default)
    assert ended.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
    assert "Traceback" not in ended.stderr


def test_a_path_that_cannot_be_used_is_one_sentence(folder, capsys):
    says = "is too long for a file. Give another name"
    args = predict.build_parser().parse_args(["x" * 300, "photos", "--output", "found"])
    with pytest.raises(SystemExit, match="2"):
        stop_at_mistakes(args, check_prediction)
    assert says in read_error(capsys)
    assert run_as_command((folder / ("x" * 300)).mkdir) == 2
    assert says in read_error(capsys)
    (folder / "loop").symlink_to(folder / "loop")
    assert run_as_command(lambda: (folder / "loop").read_text()) == 2
    assert "loop is a link in a circle. Give another name" in read_error(capsys)

    def open_secret():
        raise PermissionError(13, "Permission denied", "secret")

    assert run_as_command(open_secret) == 2
    assert read_error(capsys).startswith("error: secret cannot be opened: Permission denied. Fix")


@pytest.mark.parametrize("words", [["run_demo.py", "--output", "file"], ["clean_demo.py", "file"]])
def test_a_file_in_place_of_the_demos_folder(words, folder):
    ended = run_python(REPO / "tools" / words[0], *words[1:])
    assert ended.returncode == 2
    assert "file" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert (folder / "file").is_file()
