"""`train_net.py --split`: one json is training and validation data."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from small_runs import evaluate, read_error, read_results, read_weights, same, tree, write_data
from support import SMALL, TINY_CONFIG, change_json, run_train_net

from mask_rcnn_ext import load_config


def run(folder, *arguments):
    options = ["--config-file", TINY_CONFIG]
    keys = ["OUTPUT_DIR", str(folder), "SOLVER.MAX_ITER", "2"]
    return run_train_net(*options, *arguments, *SMALL, *keys)


def read_files(folder):
    """Return the names of the images of each part."""
    paths = [folder / "data" / f"split_{part}.json" for part in ("train", "val")]
    return [[i["file_name"] for i in json.loads(p.read_text())["images"]] for p in paths]


def test_one_json_trains_is_evaluated_and_resumed(tmp_path):
    flags = [*write_data(tmp_path, train=10), "--split", "0.8", "--group-by", r"^0*(\d)"]
    path, images = Path(flags[1]), flags[3]
    out = tmp_path / "out"
    assert run(out, *flags) == 0
    train, val = read_files(out)
    assert (len(train), len(val)) == (8, 2)
    assert not {*train} & {*val}
    data = yaml.safe_load((out / "config.yaml").read_text())["MASK_RCNN_EXT"]["DATA"]
    assert data["TRAIN_JSON"] == str(out / "data" / "split_train.json")
    assert data["VAL_JSON"] == str(out / "data" / "split_val.json")
    assert data["VAL_IMAGES"] == images
    assert (data["SPLIT"], data["GROUP_BY"]) == (0, "")
    assert {"bbox", "segm"} <= read_results(out).keys()

    first = read_weights(out / "model_final.pth")
    assert run(out, *flags, "--resume") == 0  # the same flags again
    assert read_files(out) == [train, val]
    assert same(read_weights(out / "model_final.pth"), first)

    with change_json(path) as content:  # another json would be split in another way
        content["images"] = content["images"][2:]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] > 2]
    assert run(out, *flags, "--resume") == 0
    assert read_files(out) == [train, val]
    assert "The split is the run's own" in (out / "log.txt").read_text()

    assert evaluate(out, tmp_path / "eval") == 0
    results = read_results(out)
    assert read_results(tmp_path / "eval")["segm"] == results["segm"]

    # The command of the training, to evaluate. The json has changed, so a new split would differ.
    weights = ["MODEL.WEIGHTS", str(out / "model_final.pth")]
    assert run(out, *flags, "--eval-only", *weights) == 0
    (evaluation,) = (out / "evaluations").iterdir()
    assert evaluation.name == "split_val-model_final"
    assert read_results(evaluation)["segm"] == results["segm"]
    assert not (evaluation / "data" / "split_val.json").exists()
    log = (evaluation / "log.txt").read_text()
    assert f"--split: the training kept {out / 'data' / 'split_val.json'}." in log
    assert log.count("Loading from") == 1


def test_a_split_replaces_only_the_parts_of_a_split(tmp_path, capsys):
    flags = [*write_data(tmp_path, train=4), "--split", "0.5"]
    own = tmp_path / "out" / "data" / "split_val.json"
    own.parent.mkdir(parents=True)
    own.write_text("of the user")
    assert run(tmp_path / "out", *flags) == 2
    assert f"--split: {own} exists, and no --split has written it" in read_error(capsys)
    assert own.read_text() == "of the user"
    assert not own.with_name("split_train.json").exists()


def test_an_earlier_run_is_not_evaluated_on_the_split_of_a_later_one_in_silence(tmp_path):
    flags, out = write_data(tmp_path, train=8), tmp_path / "out"
    for share in ("0.5", "0.75"):
        assert run(out, *flags, "--split", share) == 0
    earlier = out / "earlier_runs/1"
    for folder in (earlier, out):  # each has its own split
        assert evaluate(folder, tmp_path / folder.name) == 0
        part = str(folder / "data" / "split_val.json")
        text = (tmp_path / folder.name / "config.yaml").read_text()
        assert yaml.safe_load(text)["MASK_RCNN_EXT"]["DATA"]["VAL_JSON"] == part
        log = (tmp_path / folder.name / "log.txt").read_text()
        assert "is another split than the one of the training of" not in log
    shutil.rmtree(earlier / "data")
    assert evaluate(earlier, tmp_path / "2") == 0
    log = (tmp_path / "2/log.txt").read_text()
    assert log.count("is another split than the one of the training of") == 1


def test_a_resumed_run_does_not_train_on_its_validation_part(tmp_path, capsys):
    out, flags = tmp_path / "out", write_data(tmp_path, train=8)
    assert run(out, *flags, "--split", "0.5") == 0
    before = tree(out)
    assert run(out, *flags, "--resume") == 2
    assert "the run trains on a part of a split" in read_error(capsys)
    assert tree(out) == before


def test_a_run_on_other_files_does_not_follow_its_folder(tmp_path):
    """Only the parts of a split are the run's own."""
    path = tmp_path / "here/config.yaml"
    for folder in ("here", "there/output"):
        (tmp_path / folder / "data").mkdir(parents=True)
        (tmp_path / folder / "data/train.json").write_text("{}")
    given = str(tmp_path / "there/output/data/train.json")
    path.write_text(f"OUTPUT_DIR: output\nMASK_RCNN_EXT: {{DATA: {{TRAIN_JSON: {given}}}}}\n")
    assert given == load_config(str(path)).MASK_RCNN_EXT.DATA.TRAIN_JSON


def test_a_moved_run_has_its_split(tmp_path):
    out = tmp_path / "out"
    assert run(out, *write_data(tmp_path, train=8), "--split", "0.5") == 0
    parts, weights = read_files(out), read_weights(out / "model_final.pth")
    moved = out.rename(tmp_path / "moved")
    assert evaluate(moved, tmp_path / "eval") == 0
    assert read_results(tmp_path / "eval")["segm"] == read_results(moved)["segm"]
    keys = ["SOLVER.MAX_ITER", "2"]
    assert run_train_net("--config-file", str(moved / "config.yaml"), "--resume", *keys) == 0
    assert same(read_weights(moved / "model_final.pth"), weights)
    assert read_files(moved) == parts
    assert not out.exists()


def test_a_mistake_leaves_the_split_of_an_earlier_run(tmp_path, capsys):
    flags, out = write_data(tmp_path, train=8), tmp_path / "out"
    assert run(out, *flags, "--split", "0.5") == 0
    before = tree(out)
    assert run(out, *flags, "--split", "0.75", "MODEL.WEIGHTS", "typo.pth") == 2
    assert "typo.pth" in read_error(capsys)
    assert tree(out) == before


def test_an_evaluation_does_not_split_data(tmp_path, capsys):
    own = [*write_data(tmp_path, train=4), "--split", "0.8"]
    (tmp_path / "model.pth").write_bytes(b"")
    weights = ["MODEL.WEIGHTS", str(tmp_path / "model.pth")]
    assert run(tmp_path / "out", *own, "--eval-only", *weights) == 2
    told = read_error(capsys)
    assert f"expected {tmp_path / 'data' / 'split_val.json'}, the folder" in told
    assert not (tmp_path / "out").exists()


def test_without_validation_data_the_log_says_how_to_get_some(tmp_path, caplog):
    assert run(tmp_path / "out", *write_data(tmp_path, train=4)) == 0
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "There is no validation data" in log
    assert "--split 0.8 to train on 80 % of the images" in log


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--split", "80"], "expected a number between 0 and 1, such as 0.8, got 80"),
        (["--split", "0"], "got 0"),
        (["--split", "0.8", "--group-by", "slide"], "no match of 'slide' in the file name"),
        (["--group-by", "slide"], "--group-by needs --split"),
        (["--split", "0.8", "--val-json", "DATA", "--val-images", "IMAGES"], "are both given"),
    ],
)
def test_what_is_refused_leaves_nothing(flags, message, tmp_path, capsys):
    own = write_data(tmp_path, train=3)
    names = {"DATA": own[1], "IMAGES": own[3]}
    assert run(tmp_path / "out", *own, *(names.get(f, f) for f in flags)) == 2
    assert message in read_error(capsys)
    assert not (tmp_path / "out").exists()


def test_a_split_needs_a_json(tmp_path, capsys):
    assert run(tmp_path / "out", "--split", "0.8") == 2
    assert "--split needs --train-json and --train-images" in read_error(capsys)
