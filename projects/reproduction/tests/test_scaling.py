"""What `make scaling` draws, plans, compares and writes."""

import json

import numpy as np
import pytest
import torch
from reproduction.scaling import two_nodes
from reproduction.scaling.drawn_images import SIDE, draw_images, draw_one
from reproduction.scaling.killed_prediction import compare_folders, plan_kills
from reproduction.scaling.markdown import scaling_doc
from reproduction.scaling.results_file import Kill, PredictionFacts, ScalingResults, TrainingFacts
from reproduction.scaling.two_nodes import compare_weights
from run_scaling import main

from mask_rcnn_ext.data.coco_json import check_coco_json

NAMES = ["a.png", "b.png", "c.png"]


def write_results(folder, names=NAMES, results=None):
    folder.mkdir()
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    found = (
        [{"image_id": i, "score": 0.5} for i in range(len(names))] if results is None else results
    )
    (folder / "images.json").write_text(json.dumps({"images": images}))
    (folder / "coco_instances_results.json").write_text(json.dumps(found))
    return folder


def test_images_are_annotated_as_they_are_drawn(tmp_path):
    path = draw_images(tmp_path, 5, 3)
    content = check_coco_json(str(path), str(tmp_path / "images"), strict=True, masks=True).content
    assert [len(content["images"]), len(list((tmp_path / "images").iterdir()))] == [3, 5]
    pixels, objects = draw_one(1)
    assert pixels.shape == (SIDE, SIDE, 3)
    assert np.array_equal(pixels, draw_one(1)[0])
    assert sum(mask.astype(int) for _, mask in objects).max() == 1  # what is visible
    assert sum(a["image_id"] == 2 for a in content["annotations"]) == len(objects)


def test_kills_come_in_order_and_hit_different_processes():
    kills = plan_kills(6, 1000, seed=3)
    assert kills == plan_kills(6, 1000, seed=3) != plan_kills(6, 1000, seed=4)
    assert [m for m, _ in kills] == sorted(m for m, _ in kills)
    assert all(20 <= moment < 980 for moment, _ in kills)
    assert len({what for _, what in kills}) == 3


@pytest.mark.parametrize(
    ("names", "results", "lost", "doubled"),
    [
        (NAMES, None, 0, 0),
        (NAMES[:2], None, 1, 0),
        ([*NAMES, "a.png"], None, 0, 1),
        (NAMES, [{"image_id": 0, "score": 0.5}] * 2, 0, 1),
    ],
)
def test_what_is_lost_or_doubled_is_found(tmp_path, names, results, lost, doubled):
    first, second = write_results(tmp_path / "1"), write_results(tmp_path / "2", names, results)
    found = compare_folders(first, second, NAMES)
    assert (found.lost, found.doubled) == (lost, doubled)
    assert found.bytes_equal == (names == NAMES and results is None)
    assert found.left_over == []
    (second / "parts").mkdir()
    assert compare_folders(first, second, NAMES).left_over == ["parts"]


def test_weights_are_equal_to_the_bit(tmp_path):
    weights = torch.ones(2)
    for name, value in (("a", weights), ("b", weights.clone()), ("c", weights + 1e-6)):
        torch.save({"model": {"weight": value}}, tmp_path / name)
    assert compare_weights(tmp_path / "a", tmp_path / "b")
    assert not compare_weights(tmp_path / "a", tmp_path / "c")


def test_the_page_says_what_was_run():
    assert "Not run yet" in scaling_doc(None)
    equal = {"two_nodes": True, "torchrun": False}
    training = TrainingFacts(60, 4, dict.fromkeys(["one_node", *equal], 12.3), equal)
    prediction = PredictionFacts(
        images=20000, side=64, processes=2, lost=0, doubled=1, left_over=[], seed=0, instances=5,
        kills=[Kill(1234, "the command")], undisturbed_seconds=60.0, killed_seconds=90.0,
        peak_memory_mb=700.0, bytes_equal=False,
    )  # fmt: skip
    doc = scaling_doc(ScalingResults(training, prediction, 2, {"torch": "2.0"}))
    rows = [line.split("|")[-2].strip() for line in doc.splitlines() if line.startswith("| ")]
    assert rows[1:4] == ["", "yes", "NO"]
    assert "the command after 1,234" in doc
    assert "20,000 of 64 x 64 pixels" in doc


def test_too_few_images(capsys):
    assert main(["--images", "10"]) == 2
    assert "expected --images 100 or more" in capsys.readouterr().err


def test_the_trainings_are_stale_when_their_config_changes(tmp_path, monkeypatch):
    annotations = tmp_path / "annotations.json"
    annotations.write_text("{}")

    def find_inputs():
        return two_nodes.NodesTraining(tmp_path, annotations).find_inputs()

    before = find_inputs()
    assert find_inputs() == before
    monkeypatch.setattr(two_nodes, "_KEYS", [*two_nodes._KEYS, "SOLVER.GAMMA", "0.5"])
    assert find_inputs()["config_sha256"] != before["config_sha256"]
    annotations.write_text("[]")
    assert find_inputs()["annotations_sha256"] != before["annotations_sha256"]
