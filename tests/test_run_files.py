"""The files of a run: moved aside, removed, and distinguished from other people's files."""

import errno
import os
import shutil
import subprocess
import sys

import pytest
from small_runs import list_files
from support import REPO, run_python

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.run_files import find_run_files, holds_training, remove_run, set_aside

RUN = (
    "config.yaml", "log.txt", "log.txt.rank1", "metrics.json", "results.json", "last_checkpoint",
    "model_0000099.pth", "model_final.pth", "model_best.pth", "events.out.tfevents.1.host.2.0",
    "report.html", "predictions.png", "analysis.json", "data/own_val.json",
    "inference/a/coco_instances_results.json", "inference/a/instances_predictions.pth",
    "evaluations/b-model_final/results.json",
    "evaluations/b-model_final/inference/b/coco_instances_results.json",
)  # fmt: skip
FOREIGN = ("notes.txt", "best.pth", "inference/a/notes.txt", "other/results.json")


def write(folder, names) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_an_earlier_run_is_moved_as_a_whole_and_no_other_file(tmp_path):
    foreign = ("notes.txt", "best.pth", "other/results.json", "images/inference/a.png")
    for number in ("1", "2"):
        write(tmp_path, [*RUN, *foreign, "made_from.json"])
        assert set_aside(tmp_path, ["made_from.json"]) == tmp_path / "earlier_runs" / number
        assert list_files(tmp_path / "earlier_runs" / number) == {*RUN, "made_from.json"}
    assert set_aside(tmp_path) is None
    left = list_files(tmp_path)
    assert {name for name in left if not name.startswith("earlier_runs/")} == {*foreign}


def test_a_file_that_is_named_as_the_callers_and_is_the_runs_is_moved_once(tmp_path):
    write(tmp_path, ["log.txt", "console.txt"])
    assert set_aside(tmp_path, {"log.txt", "console.txt"}) == tmp_path / "earlier_runs" / "1"
    assert list_files(tmp_path) == {"earlier_runs/1/log.txt", "earlier_runs/1/console.txt"}


def test_in_a_runs_folders_only_the_runs_files_are_moved(tmp_path):
    foreign = ("inference/mine.txt", "evaluations/b-model_final/inference/b/c.txt", "inference/d/e")
    write(tmp_path, [*RUN, *foreign])
    set_aside(tmp_path)
    assert list_files(tmp_path) == {*foreign, *(f"earlier_runs/1/{name}" for name in RUN)}
    assert not (tmp_path / "inference/a").exists()


def test_what_cannot_be_moved_aside_stays_as_a_whole(tmp_path, monkeypatch):
    write(tmp_path, [*RUN, "earlier_runs"])
    with pytest.raises(UserError, match=r"cannot be moved to .*/earlier_runs/1: "):
        set_aside(tmp_path)
    assert list_files(tmp_path) == {*RUN, "earlier_runs"}
    (tmp_path / "earlier_runs").unlink()

    def rename(path, target):
        if path.name == "metrics.json":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        os.rename(path, target)

    monkeypatch.setattr(type(tmp_path), "rename", rename)
    write(tmp_path, ["inference/mine.txt"])
    with pytest.raises(UserError, match="cross-device"):
        set_aside(tmp_path)
    assert list_files(tmp_path) == {*RUN, "inference/mine.txt"}
    assert not (tmp_path / "earlier_runs").exists()


def test_removing_a_run_leaves_what_no_run_writes(tmp_path):
    write(tmp_path, [*RUN, "made_from.json"])
    set_aside(tmp_path, ["made_from.json"])
    write(tmp_path, [*RUN, *FOREIGN, "made_from.json", "earlier_runs/1/notes.txt"])
    (tmp_path / "empty").mkdir()
    left = remove_run(tmp_path, ["made_from.json"])
    assert list_files(tmp_path) == {*FOREIGN, "earlier_runs/1/notes.txt"}
    assert {str(path.relative_to(tmp_path)) for path in left} == list_files(tmp_path)
    assert (tmp_path / "empty").is_dir()
    for name in list_files(tmp_path):
        (tmp_path / name).unlink()


def test_removing_a_run_follows_no_link(tmp_path):
    other, folder = tmp_path / "other", tmp_path / "run"
    write(other, RUN)
    write(folder, ["config.yaml", "evaluations/x/log.txt", "earlier_runs/keep/model_final.pth"])
    write(folder, ["inference/b/coco_instances_results.json"])
    links = {
        "metrics.json": other / "metrics.json",
        "inference/a": other / "inference/a",
        "evaluations/b": other / "evaluations/b-model_final",
        "earlier_runs/1": other,
        "inference_TTA": other / "inference",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    left = remove_run(folder)
    assert list_files(other) == {*RUN}
    assert {str(path.relative_to(folder)) for path in left} == {
        *links, "earlier_runs/keep/model_final.pth"
    }  # fmt: skip


def test_a_folder_that_the_demo_never_used_stays(tmp_path):
    write(tmp_path, [*RUN, "earlier_runs/1/results.json"])
    before = list_files(tmp_path)
    done = run_python("-S", REPO / "tools/clean_demo.py", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path} holds a run that is not the demo's")
    assert list_files(tmp_path) == before


def test_the_demo_can_be_removed_without_anything_installed(tmp_path):
    folder = tmp_path / "demo"
    write(folder, [*RUN, "made_from.json", "notes.txt"])
    command = ["-S", REPO / "tools/clean_demo.py", folder]
    said = run_python(*command, check=True).stdout
    assert "1 file(s) in it are not the demo's" in said
    assert "notes.txt" in said
    assert list_files(folder) == {"notes.txt"}
    (folder / "notes.txt").unlink()
    assert run_python(*command, check=True).stdout == ""
    assert not folder.exists()


def test_a_folder_that_cannot_be_looked_at_is_no_clean_one(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for folder in (tmp_path / "loop", tmp_path / ("x" * 300)):
        done = run_python("-S", REPO / "tools/clean_demo.py", folder)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {tmp_path}")


def test_make_clean_leaves_what_our_tools_have_not_made(tmp_path):
    package = (f"mask_rcnn_ext/{name}.py" for name in ("errors", "run_files", "temporary_files"))
    tools = ("tools/clean_demo.py", "tools/command_line/light.py")
    for name in ("Makefile", *tools, *package):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, tmp_path / name)
    before = list_files(tmp_path)
    foreign = {"build/a", "dist/b.whl", "other/__pycache__/c.pyc", "tools/__pycache__/d.txt"}
    made = ["build/lib/mask_rcnn_ext/a.py", "dist/mask_rcnn_ext-1-py3-none-any.whl"]
    write(tmp_path, [*foreign, *made, "tools/__pycache__/e.pyc", "tests/__pycache__/f.pyc"])
    (tmp_path / "projects").mkdir()
    command = ["make", "clean", f"PYTHON={sys.executable}"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert list_files(tmp_path) == before | foreign
    assert not (tmp_path / "tests/__pycache__").exists()


def test_a_users_folder_named_data_is_no_runs(tmp_path):
    write(tmp_path, ["config.yaml", "data/own_val.json", "data/train.json"])
    assert [path.name for path in find_run_files(tmp_path)] == ["config.yaml"]
    (tmp_path / "data/train.json").unlink()
    assert [path.name for path in find_run_files(tmp_path)] == ["config.yaml", "data"]


@pytest.mark.parametrize(
    ("names", "training"),
    [
        (("metrics.json",), True),
        (("last_checkpoint",), True),
        (("model_final.pth",), True),
        (("config.yaml", "results.json", "inference/a/coco_instances_results.json"), False),
        ((), False),
    ],
)
def test_a_training_is_distinguished_from_an_evaluation(tmp_path, names, training):
    write(tmp_path, names)
    assert holds_training(tmp_path) is training
    assert len(find_run_files(tmp_path)) == len(names)
