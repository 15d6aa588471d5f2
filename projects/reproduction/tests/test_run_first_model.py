"""The first model: the page's commands, the way with a tiny model, and what is told."""

import contextlib
import io
import json
import re
import shlex
from dataclasses import replace

import check_dataset
import cv2
import export_model
import make_report
import predict
import pytest
import run_first_model as tool
from reproduction.first_model import photos, stages
from reproduction.first_model.facts import key_lines
from reproduction.first_model.markdown import PAGE, first_model_parts
from reproduction.first_model.results_file import FirstModelResults, WrittenOperation
from reproduction.first_model.stages import plan_stages
from support import REPO, SMALL, TINY_CONFIG, run_train_net, write_coco

from mask_rcnn_ext.report.json_records import from_json, to_json

COMMANDS = {
    "check": check_dataset.main,
    "train": lambda words: run_train_net(*words),
    "evaluate": lambda words: run_train_net("--eval-only", *words),
    "report": make_report.main,
    "predict": predict.main,
    "export": export_model.main,
}


@pytest.fixture
def arguments(tmp_path):
    """Return the options of a way with a tiny model, two iterations and a dozen drawn photos."""
    path, _ = write_coco(tmp_path / "coco", images=16, classes=("person",))
    content = json.loads(path.read_text())
    for split, images in (("train", content["images"][:8]), ("val", content["images"][8:])):
        path.with_name(f"annotations_{split}.json").write_text(
            json.dumps({**content, "images": images})
        )
    files = {"output": "out", "results": "first_model.json", "picture": "first_model.png"}
    options = [word for name, file in files.items() for word in (f"--{name}", str(tmp_path / file))]
    small = [*SMALL, "SOLVER.MAX_ITER", "2", "MODEL.DEVICE", "cpu"]
    config = ["--config-file", TINY_CONFIG]
    return ["--coco", str(tmp_path / "coco"), *options, *config, "--opts", *small]


@pytest.fixture
def ran(monkeypatch):
    """Run the commands in this process; return the names of those that ran."""
    names = []

    def run_words(words, home, console):
        names.append(words[0])
        monkeypatch.chdir(home)
        printed = io.StringIO()  # stays open for the loggers
        with contextlib.redirect_stdout(printed):
            code = COMMANDS[words[0]](list(words[1:]))
        console.write_text(printed.getvalue())
        return code

    monkeypatch.setattr(stages, "run_words", run_words)
    monkeypatch.setattr(photos, "FRAMES", 6)
    return names


def read_commands(text):
    """Return the commands of a page, each as its words."""
    joined = re.sub(r"\\\n +", "", text)
    return [
        tuple(shlex.split(line)[1:])
        for line in joined.splitlines()
        if line.startswith("    mask-rcnn-ext ")
    ]


def test_the_page_shows_the_commands_that_the_script_runs():
    expected = [stage.words for stage in plan_stages()]
    assert read_commands((REPO / PAGE).read_text()) == expected
    assert sum(len(read_commands(part)) for part in first_model_parts(None).values()) == 7


def test_the_whole_way_and_what_is_skipped(arguments, ran, tmp_path, capsys):
    assert tool.main([arguments[0], arguments[1], "--list", *arguments[2:]]) == 0
    assert capsys.readouterr().out.splitlines()[1].split(maxsplit=3)[:3] == [
        *("left", "mask-rcnn-ext", "check")
    ]
    assert tool.main(arguments) == 0, capsys.readouterr().err
    names = ["check", "train", "report", "predict", "export", "evaluate", "predict"]
    assert ran == names
    found = json.loads((tmp_path / "first_model.json").read_text())
    results = from_json(FirstModelResults, found)
    assert to_json(results) == found
    assert found["data"]["photos"] == 13  # 8, and 5 of the 8 for validation
    assert found["data"]["new_photos"] == found["found"]["images"] == 3
    assert found["video"]["frames"] == 6
    printed = {stage["name"]: "\n".join(stage["printed"]) for stage in found["stages"]}
    assert printed["check"].startswith("train: photos.json\n  images: 13,")
    assert "SOLVER.MAX_ITER" in printed["train"]
    assert "checked on 14 images" in printed["export"]
    assert "6 frames, " in printed["video"]
    for name in ("first_model.png", "first_model_video.png"):
        assert cv2.imread(str(tmp_path / name)).shape[0] > 100

    parts = first_model_parts(results)  # of a trial: no figure of it gets onto the page
    assert all("Not run yet." in part for part in parts.values())
    pairs = zip(results.stages, plan_stages(), strict=True)
    stages = [replace(stage, command=planned.command) for stage, planned in pairs]
    report = replace(
        results.report, threshold=0.456, best=WrittenOperation(0.456, 0.5, 0.25, 1 / 3)
    )
    parts = first_model_parts(replace(results, stages=stages, report=report))
    assert not any("Not run yet." in part for part in parts.values())
    assert "13 photos with" in parts["the first model's data"]
    assert "**0.46**. With it, 50 % of the detections are right" in parts["the command report"]

    (tmp_path / "out/home/found_video/videos/clip.mp4").unlink()
    assert tool.main(arguments) == 0
    assert ran == [*names, "predict"]


def test_a_command_that_fails_is_told_with_its_last_lines(arguments, monkeypatch, capsys):
    def fail(words, home, console):
        console.write_text("error: no room\n")
        return 2

    monkeypatch.setattr(stages, "run_words", fail)
    assert tool.main(arguments) == 2
    message = capsys.readouterr().err
    assert "mask-rcnn-ext check" in message
    assert message.endswith("error: no room\n")


def test_a_folder_without_annotations(tmp_path, capsys):
    assert tool.main(["--coco", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "Give --coco a folder with annotations_train.json" in capsys.readouterr().err


def test_what_is_quoted():
    log = "[11/29 07:30 a]: The recipe:\nkey  value\n---  ---\nA  1\n[11/29 07:31 b]: Using\n"
    assert key_lines("train", log) == ["key  value", "---  ---", "A  1"]
    text = "  0%| | 0/2 [00:00]\r100%\n2 frames, 1 objects: videos/clip.mp4\n"
    assert key_lines("video", text) == ["2 frames, 1 objects: videos/clip.mp4"]
