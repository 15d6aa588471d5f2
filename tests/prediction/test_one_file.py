"""The file of a trained model is enough: in Python, and for tools/predict.py."""

import json

import predict as tool  # tools/ is on the path
import pytest
import torch
from PIL import Image
from small_runs import read_error, write_data
from support import SMALL, TINY_CONFIG, run_train_net
from tiny_model import picture, tiny_model

from mask_rcnn_ext import Predictor
from mask_rcnn_ext.checkpoint.description import load_contents
from mask_rcnn_ext.files import file_sha256


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two iterations with all kinds of files, after its folder of data was deleted."""
    torch.set_num_threads(1)  # this fixture comes before the one that does it for each test
    folder = tmp_path_factory.mktemp("run")
    flags = write_data(folder / "data", train=3, val=1)
    keys = ["SOLVER.MAX_ITER", "2", "SOLVER.CHECKPOINT_PERIOD", "1", "SEED", "-1"]
    keys += ["MASK_RCNN_EXT.BEST_CHECKPOINT.ENABLED", "True"]
    keys += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "OUTPUT_DIR", str(folder / "out")]
    assert run_train_net("--config-file", TINY_CONFIG, *flags, *SMALL, *keys) == 0
    sums = [
        file_sha256(str(folder / f"data/{split}/annotations.json")) for split in ("train", "val")
    ]
    (folder / "data").rename(folder / "moved")
    return folder / "out", sums


@pytest.mark.parametrize("name", ["model_final", "model_best", "model_0000000"])
def test_every_file_of_a_run_predicts_without_its_config(run, name):
    folder, (train, val) = run
    path = folder / f"{name}.pth"
    alone, both = Predictor(path), Predictor(folder / "config.yaml", path)
    assert (alone.class_names, alone.category_ids) == (["cat", "dog"], [3, 10])
    found, expected = alone(picture(48, 64)), both(picture(48, 64))
    assert len(found) > 0
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.pred_masks, expected.pred_masks)
    said = load_contents(path)["provenance"]
    files = [facts for split in ("train", "test") for facts in said["data"][split].values()]
    assert [facts["sha256"] for facts in files] == [train, val]
    results = json.loads((folder / "results.json").read_text())["run"]
    assert said["seed"] == results["seed"] >= 0  # the seed that was drawn
    assert said["versions"].items() >= results["versions"].items()


def test_a_resumed_run_keeps_the_seed_that_was_drawn(run, tmp_path):
    folder, _ = run
    flags = write_data(tmp_path, train=3, val=1)
    seed = load_contents(folder / "model_final.pth")["provenance"]["seed"]
    keys = ["--resume", "SOLVER.MAX_ITER", "3", "OUTPUT_DIR", str(folder)]
    assert run_train_net("--config-file", str(folder / "config.yaml"), *flags, *keys) == 0
    resumed = load_contents(folder / "model_final.pth")
    assert (resumed["iteration"], resumed["provenance"]["seed"]) == (2, seed)


@pytest.fixture
def place(run, tmp_path, monkeypatch):
    """A working folder with a model, one without a config, a photo, and a folder of photos."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.pth").write_bytes((run[0] / "model_final.pth").read_bytes())
    torch.save({"model": tiny_model(2).state_dict()}, "old.pth")
    Image.fromarray(picture(48, 64)).save("photo.png")
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ["m.pth", "photo.png"],
        ["--weights", "m.pth", "photo.png"],
        ["--config-file", "m.pth", "photo.png"],
    ],
    ids=lambda words: words[0],
)
def test_the_tool_needs_no_config(place, words, capsys):
    assert tool.main([*words, "--output", "out", "--score-threshold", "0"]) == 0
    images = json.loads((place / "out/images.json").read_text())
    assert [c["name"] for c in images["categories"]] == ["cat", "dog"]
    assert json.loads((place / "out/coco_instances_results.json").read_text())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("photo.png", "no model given: expected a file such as model_final.pth before photo.png"),
        ("run", "before run, or --config-file and --weights. Did you mean run/model_final.pth?"),
        ("m.pth", "no images given: name images or folders after m.pth"),
        ("m.pth old.pth photo.png", "old.pth is a model, not an image"),
        ("--weights m.pth old.pth photo.png", "old.pth is a model, not an image"),
        ("old.pth photo.png", "old.pth contains no config"),
        ("n.pth photo.png", "weights not found: n.pth"),
    ],
)
def test_a_mistake_is_one_sentence(place, words, says, capsys):
    (place / "run").mkdir()
    (place / "run/model_final.pth").touch()
    assert tool.main([*words.split(), "--output", "out"]) == 2
    assert says in read_error(capsys)
    assert not (place / "out").exists()
