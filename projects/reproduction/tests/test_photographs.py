"""`run_fcis_experiment.py --photographs`: trained, measured and told, and not again."""

import json
import re

import numpy as np
import pytest
import run_fcis_experiment as tool
import torch
from detectron2.modeling import build_model
from finished_runs import leave_training
from PIL import Image
from reproduction.fcis import photographs
from reproduction.fcis.experiment_results import PhotographResults
from reproduction.fcis.photographs import PHOTOGRAPH_MODELS, PhotographRun, plan_photographs
from reproduction.fcis.photographs_markdown import describe_photographs, photographs_doc
from reproduction.training_runs import find_differences
from test_photograph_pairs import APART, NESTED, make_set

from mask_rcnn_ext.report.json_records import from_json
from mask_rcnn_ext.report.text import NO_NUMBER

SMALL = {
    "MODEL.DEVICE": "cpu",
    "MASK_RCNN_EXT.TINY_RESNET.CHANNELS": [8, 16, 8, 16],
    "INPUT.MIN_SIZE_TEST": 90,
}


def write_photographs(folder, *, names):
    """Write three images to train on, one of which has a nested pair, and one to measure."""
    rng = np.random.default_rng(0)
    for split, images in (("train", [APART, NESTED, APART]), ("val", [APART])):
        content = make_set(*images, names=names)
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for image in content["images"]:
            image["file_name"] = f"{split}{image['file_name']}"
            pixels = rng.integers(0, 255, (90, 90, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / image["file_name"])
        (folder / f"annotations_{split}.json").write_text(json.dumps(content))


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Return a function that calls the tool with one seed, and what was trained: its list."""
    write_photographs(tmp_path / "nuclei", names=("nucleus", "other"))
    write_photographs(tmp_path / "coco", names=("person", "dog"))
    trained = []

    def train(run, resume):
        trained.append(f"{run.variant} {run.seed}")
        metrics = {"AP": 20.0 + run.seed, "AP50": 40.0, "AP75": None}
        cfg = leave_training(run, metrics, train_seconds=9.0)
        torch.manual_seed(run.seed)
        torch.save({"model": build_model(cfg).state_dict()}, run.folder / "model_final.pth")
        return 0

    monkeypatch.setattr(PhotographRun, "train", train)
    monkeypatch.setattr(photographs, "_OPTIONS", {**photographs._OPTIONS, **SMALL})
    options = ["--photographs", "--seeds", "1", "--output", str(tmp_path / "out")]
    options += ["--dsb2018", str(tmp_path / "nuclei"), "--coco", str(tmp_path / "coco")]
    options += ["--results", str(tmp_path / "results.json")]
    return lambda *more: tool.main([*options, *more]), trained


def test_all_is_done_once(call, tmp_path, capsys):
    run, trained = call
    assert run() == 0
    assert trained == [f"{variant} 1" for variant in PHOTOGRAPH_MODELS]
    said = capsys.readouterr().out
    assert "The 2 held-out images of nuclei have 2 pairs of one class" in said
    assert "The models learn from 2 other images, in 3 trainings." in said
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["data"]["coco"]["images"] == 4
    measured = {v: m["same_part"]["k = 3"] for v, m in content["models"].items()}
    # Ten by ten pixels of the nested pair, each for both masks.
    assert {v: found["pixels"] for v, found in measured.items()} == dict.fromkeys(measured, 200)
    for found in measured.values():
        same, other = (found[f"one_class/{where}"]["value"] for where in ("same", "other"))
        assert found["one_class/difference"]["value"] == pytest.approx(same - other)
    assert {found["images"] for found in measured.values()} == {1}
    own, rival = measured["fcis_tiny_nested_k3"], measured["mask_rcnn_tiny_nested"]
    difference = own["one_class/difference"]["value"] - rival["one_class/difference"]["value"]
    assert own["minus_rival"]["value"] == pytest.approx(difference)
    doc = photographs_doc(from_json(PhotographResults, content))
    assert re.search(r"\| nuclei, held out \| +2 \| +4 \| +2 \| +1 \| +901 \|", doc)
    assert f"21.0 / 40.0 / {NO_NUMBER}" in doc
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("photographs.json")}
    assert len(stamps) == 3
    del trained[:]
    assert run() == 0
    assert trained == []
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert run("--only-report") == 0


def test_the_models_differ_as_in_the_experiment(call, tmp_path):
    runs = plan_photographs(tmp_path / "out", tmp_path / "nuclei", 1)
    configs = {run.variant: run.config() for run in runs}
    same = ["DATASETS", "INPUT", "SOLVER", "MODEL.RPN", "MODEL.ANCHOR", "MODEL.BACKBONE"]
    found = find_differences(configs, same=same, base="")
    assert set(found["MODEL.FCIS.NUM_BINS"].values()) == {7, 3}


def make_numbers(low, high, pixels, images):
    """Return results with one interval of FCIS minus Mask R-CNN."""
    entry = {"value": None if low is None else (low + high) / 2, "low": low, "high": high}
    counts = {"pixels": pixels, "images": images}
    numbers = ("one_class/same", "one_class/other", "one_class/difference", "minus_rival")
    errors = {f"k = {k}": {**dict.fromkeys(numbers, entry), **counts} for k in (7, 3)}
    ks = {"k = 7": 0, "k = 3": 0}
    count = {"images": 2, "objects": 3, "pairs": 1, "nested": 0, "area": 0.0}
    count |= {"same": ks, "able_pairs": ks, "able_images": ks}
    places = {f"lines_{k}": {"value": 2.0, "low": low, "high": high} for k in (7, 3)}
    model = {"same_part": errors, "axis": places, "axis_by_rival": entry, "right": entry}
    models = {v: {"name": v, **model, "runs": []} for v in PHOTOGRAPH_MODELS}
    data = {"nuclei": count, "coco": count}
    content = {"data": data, "training_images": 9, "models": models}
    return from_json(PhotographResults, content)


@pytest.mark.parametrize(
    ("low", "high", "images", "verdict", "came_true"),
    [
        (-3.0, 5.0, 6, "cannot be told apart: the difference is +1.0", [True, False]),
        (1.0, 5.0, 6, "is larger than Mask R-CNN's", [False, True]),
        (-5.0, -1.0, 6, "is smaller than Mask R-CNN's", [False, False]),
        (None, None, 0, "nothing can be concluded. The pairs' masks have 0 pixels", [None, None]),
        (2.0, 2.0, 5, "concluded. The pairs' masks have 40 pixels", [None, None]),
    ],
)
def test_what_can_be_concluded(low, high, images, verdict, came_true):
    said = describe_photographs(make_numbers(low, high, 0 if low is None else 40, images))
    words = {True: "came true", False: "did not come true", None: "is open"}
    for number, true in enumerate(came_true, 1):
        assert any(s.startswith(f"Prediction {number} {words[true]}") for s in said)
    assert sum(verdict in sentence for sentence in said) == 2
    prefer = "prefer" if low is not None and low > 1 else "do not prefer"
    for k in (7, 3):
        assert sum(f"FCIS {prefer} the places g/{k} between" in sentence for sentence in said) == 1
    if images == 6:
        assert any(f"less than about {(high - low) / 2:.1f} points" in s for s in said)


def test_the_options_belong_together(capsys):
    with pytest.raises(SystemExit, match="2"):
        tool.main(["--photographs", "--coco", "x"])
    with pytest.raises(SystemExit, match="2"):
        tool.main(["--dsb2018", "x", "--coco", "x"])
    assert "--photographs, --dsb2018 DIR and --coco DIR together" in capsys.readouterr().err
