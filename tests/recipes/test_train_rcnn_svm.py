"""`tools/train_rcnn_svm.py`: the network stays as it is, what the run leaves, the mistakes."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from small_runs import evaluate, read_error, read_results, read_weights, write_data
from support import REPO
from tiny_rcnn import SMALL, small_cfg, small_model

from mask_rcnn_ext import UserError, load_config
from mask_rcnn_ext.proposals.file import write_proposal_file

pytest.importorskip("sklearn", reason="scikit-learn, of the extra svm, is not installed")

import train_rcnn_svm

from mask_rcnn_ext.checkpoint.checkpointer import Checkpointer
from mask_rcnn_ext.checkpoint.description import read_config
from mask_rcnn_ext.recipes.rcnn_svm import _load_network, _require_svm_config

# The whole command, on bright rectangles. The network has random weights: its features tell
# colours apart even so.
CONFIG = str(REPO / "configs/shapes/lineage/rcnn_tiny_svm.yaml")


def propose(path, out) -> str:
    """Write four boxes near each object and twelve random ones for each image of a json."""
    coco, rng, boxes = json.loads(path.read_text()), np.random.default_rng(0), []
    for image in coco["images"]:
        objects = [a["bbox"] for a in coco["annotations"] if a["image_id"] == image["id"]]
        found = [np.array([x, y, x + w, y + h]) for x, y, w, h in objects for _ in range(4)]
        found = [box + rng.uniform(-3, 3, 4) for box in found]
        corners = rng.uniform(0, [44, 28], (12, 2))
        found += list(np.concatenate([corners, corners + rng.uniform(8, 20, (12, 2))], axis=1))
        boxes.append(np.clip(np.array(found, np.float32), 0, [64, 48, 64, 48]))
    logits = [-np.arange(len(each), dtype=np.float32) for each in boxes]
    write_proposal_file(out, [image["id"] for image in coco["images"]], boxes, logits)
    return repr((str(out),))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return the flags of a small train and val set, and the keys of a small model on it."""
    root = tmp_path_factory.mktemp("data")
    flags = write_data(root, train=16, val=6)
    keys = [*SMALL, "MODEL.ROI_BOX_HEAD.FC_DIM", "64", "INPUT.MIN_SIZE_TEST", "64"]
    for split, path in (("TRAIN", flags[1]), ("TEST", flags[5])):
        keys += [f"DATASETS.PROPOSAL_FILES_{split}", propose(Path(path), root / f"{split}.pkl")]
    torch.manual_seed(0)
    softmax = build_model(load_config(CONFIG, [*keys, "MODEL.RCNN.SCORER", "softmax", *CLASSES]))
    torch.save({"model": softmax.state_dict()}, root / "network.pth")
    return flags, [*keys, "MODEL.WEIGHTS", str(root / "network.pth")]


CLASSES = ["MODEL.ROI_HEADS.NUM_CLASSES", "2"]


def fit(data, out, *arguments: str) -> int:
    """Run the command; `arguments` are options, then KEY VALUE pairs."""
    flags, keys = data
    split = next((i for i, word in enumerate(arguments) if word[0].isupper()), len(arguments))
    options, pairs = arguments[:split], arguments[split:]
    config = [] if "--config-file" in options else ["--config-file", CONFIG]
    return train_rcnn_svm.main([*config, *flags, *options, *keys, "OUTPUT_DIR", str(out), *pairs])


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    assert fit(data, out) == 0
    return out


def test_training_step_by_step_does_not_reach_the_backbone(data, run):
    """Bit for bit, batch statistics included: R-CNN's second stage changes no feature."""
    before, after = read_weights(data[1][-1]), read_weights(run / "model_final.pth")
    layers = "roi_heads.box_predictor."
    kept = {name for name in before if not name.startswith(layers)}
    assert {name.split(".")[0] for name in kept} == {"backbone", "roi_heads"}
    assert any(name.endswith("running_mean") for name in kept)
    assert all(torch.equal(before[name], after[name]) for name in kept)
    fitted = {f"{layers}{name}.{part}" for name in ("svm", "ridge") for part in ("weight", "bias")}
    assert after.keys() - kept == fitted
    assert all(after[name].any() for name in fitted)


def test_it_leaves_a_runs_files(run):
    results = read_results(run)
    assert set(results) == {"bbox", "run"}
    assert results["run"]["train_seconds"] > 0
    assert results["run"]["seed"] == 1
    assert (run / "inference/own_val/coco_instances_results.json").is_file()
    assert load_config(str(run / "config.yaml")).MODEL.RCNN.SCORER == "svm"
    assert read_config(run / "model_final.pth").MODEL.RCNN.SCORER == "svm"
    log = (run / "log.txt").read_text()
    assert "cat: an SVM of " in log
    assert "Proposals: 16 of 16 images" in log
    assert not list(run.rglob(".mask_rcnn_ext-*"))


def test_eval_only_repeats_the_result_which_is_better_than_chance(run, tmp_path):
    assert evaluate(run, tmp_path) == 0
    ours, again = (read_results(folder)["bbox"] for folder in (run, tmp_path))
    assert again == ours
    assert ours["AP50"] > 60  # with SVMs whose weights are 0, 22


def test_fewer_images(data, run, tmp_path):
    assert fit(data, tmp_path / "out", "--max-images", "2") == 0
    assert "Proposals: 2 of 2 images" in (tmp_path / "out/log.txt").read_text()


def test_another_class_count_is_told(run):
    model = small_model("MODEL.RCNN.SCORER", "svm", "MODEL.ROI_BOX_HEAD.FC_DIM", "64")
    with pytest.raises(UserError, match="has 2 classes, the config says 5"):
        Checkpointer(model).load(str(run / "model_final.pth"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--eval-only"], "use train_net.py --eval-only"),
        (["--resume"], "Leave --resume out"),
        (["--max-images", "0"], "--max-images: expected 1 or more, got 0"),
        (["MODEL.RCNN.SCORER", "softmax"], "shapes/lineage/rcnn_tiny_svm.yaml"),
        (["MODEL.ROI_BOX_HEAD.FC_DIM", "32"], r"does not fit the model: roi_heads\.box_head\.fc1"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_mistakes_are_told_at_once_and_leave_nothing(data, tmp_path, capsys, arguments, told):
    assert fit(data, tmp_path / "out", *arguments) == 2
    assert re.search(told, read_error(capsys))
    assert not (tmp_path / "out").exists()


def test_a_config_of_another_model_is_told():
    with pytest.raises(UserError, match=r"an R-CNN.*got MODEL\.META_ARCHITECTURE Gene"):
        _require_svm_config(small_cfg(name="fast_rcnn_tiny"))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "MODEL.WEIGHTS is empty.*Train the network first"),
        ("no.pth", r"not found: .*no\.pth.*Train the network first"),
        ("other.pth", "SCORER softmax.* has no weights for backbone"),
    ],
)
def test_weights_of_no_trained_network_are_told(tmp_path, name, told):
    model = small_model("MODEL.RCNN.SCORER", "svm")
    layers = model.roi_heads.box_predictor
    heads = {k: v for k, v in model.state_dict().items() if k.startswith("roi_heads.box_head")}
    torch.save({"model": heads}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=told):
        _load_network(model, name and str(tmp_path / name))
    assert model.roi_heads.box_predictor is layers


def test_a_missing_scikit_learn_is_told(data, tmp_path, capsys, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "sklearn" else real(name, *more),
    )
    assert fit(data, tmp_path / "out") == 2
    assert "pip install 'mask_rcnn_ext[svm]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
