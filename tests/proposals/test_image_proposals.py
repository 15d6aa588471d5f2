"""Prediction by models without an RPN, R-CNN and Fast R-CNN, on images of one's own."""

import importlib
import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data.build import load_proposals_into_dataset
from PIL import Image
from support import needs_search
from tiny_model import picture, tiny_cfg
from tiny_rcnn import small_cfg, small_model

from mask_rcnn_ext import Predictor, UserError
from mask_rcnn_ext.proposals.file import write_proposal_file
from mask_rcnn_ext.proposals.selective_search import selective_search
from mask_rcnn_ext.proposals.single_images import make_search

tool = importlib.import_module("predict")  # tools/predict.py

RESIZED = ["INPUT.MIN_SIZE_TEST", "96", "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST", "12"]


def boxes_of(image: np.ndarray, count: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Boxes that depend on the image, some beyond it and one empty, and descending logits."""
    rng = np.random.default_rng(int(image[:, :, 0].sum()))  # BGR matters
    height, width = image.shape[:2]
    corner = rng.uniform(-4, 0.7, (count, 2)).clip(-0.1) * (width, height)
    boxes = np.hstack([corner, corner + rng.uniform(9, 70, (count, 2))]).astype(np.float32)
    boxes[1:2, 2] = boxes[1:2, 0]
    return boxes, -np.arange(count, dtype=np.float32)


def predictor_without_rpn(tmp_path, name: str, *overrides: str, propose=boxes_of) -> Predictor:
    """A Predictor of a small R-CNN or Fast R-CNN with random weights."""
    model = small_model(*RESIZED, *overrides, name=name)
    torch.save({"model": model.state_dict()}, tmp_path / f"{name}.pth")
    cfg = small_cfg(*RESIZED, *overrides, name=name)
    return Predictor(cfg, tmp_path / f"{name}.pth", propose=propose, batch_size=3)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("rcnn_tiny", []),
        ("rcnn_tiny", ["MODEL.RCNN.SCORER", "svm"]),
        ("fast_rcnn_tiny", ["INPUT.FORMAT", "RGB"]),
    ],
    ids=["softmax", "svm", "fast_rcnn"],
)
def test_given_proposals_give_the_numbers_of_stored_ones(tmp_path, name, overrides):
    predictor = predictor_without_rpn(tmp_path, name, *overrides)
    image = picture(64, 80)
    Image.fromarray(image[:, :, ::-1]).save(tmp_path / "x.png")
    boxes, logits = boxes_of(image)
    shuffled = np.random.default_rng(0).permutation(len(boxes))
    write_proposal_file(tmp_path / "x.pkl", [7], [boxes[shuffled]], [logits[shuffled]])
    record = {"file_name": str(tmp_path / "x.png"), "image_id": 7, "height": 64, "width": 80}
    (stored,) = load_proposals_into_dataset([record], str(tmp_path / "x.pkl"))
    mapped = DatasetMapper(predictor.cfg, is_train=False)(stored)
    assert mapped["image"].shape[-2:] == (96, 120)
    assert len(mapped["proposals"]) == 12
    with torch.no_grad():
        theirs = predictor.model([mapped])[0]["instances"]
    assert len(theirs) > 0
    for ours in (predictor(image), predictor(tmp_path / "x.png")):
        assert ours.image_size == (64, 80)
        assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
        assert torch.equal(ours.scores, theirs.scores)
        assert torch.equal(ours.pred_classes, theirs.pred_classes)


@pytest.mark.parametrize("name", ["rcnn_tiny", "fast_rcnn_tiny"])
def test_without_an_rpn_in_batches_of_several_sizes_and_with_nothing_proposed(tmp_path, name):
    predictor = predictor_without_rpn(
        tmp_path, name, propose=lambda image: boxes_of(image) if image.any() else ([], [])
    )
    nothing = np.zeros((64, 80, 3), np.uint8)
    images = [picture(64, 80), nothing, picture(90, 64), picture(64, 80, seed=1), nothing]
    together = predictor(images)
    assert [len(each) > 0 for each in together] == [True, False, True, True, False]
    for image, each in zip(images, together, strict=True):
        alone = predictor(image)
        assert each.image_size == image.shape[:2]
        torch.testing.assert_close(each.scores, alone.scores)
        torch.testing.assert_close(each.pred_boxes.tensor, alone.pred_boxes.tensor)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((np.zeros((2, 4)), np.zeros(3)), r"got \(2, 4\) and \(3,\)"),
        ((np.zeros((4, 2)), np.zeros(4)), r"got \(4, 2\)"),
        ((np.array([[0, 0, np.nan, 9]]), np.zeros(1)), "finite"),
    ],
)
def test_other_proposals_are_an_error(tmp_path, given, says):
    predictor = predictor_without_rpn(tmp_path, "fast_rcnn_tiny", propose=lambda image: given)
    with pytest.raises(UserError, match=f"propose: expected.*{says}"):
        predictor(picture(64, 64))


SEARCHED = {"method": "selective-search", "mode": "quality", "width": 300, "min_size": 9, "topk": 2}
AS_STORED = "--selective-search quality --search-width 300 --search-min-size 9"


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        (None, r"propose=FUNCTION$"),
        (SEARCHED, rf"made with {AS_STORED} \(.*x\.json\)$"),
        ({"rpn_weights_sha256": "0", "topk": 9}, r"come from an RPN \(.*x\.json\), "),
        ({"method": "selective-search"}, r"propose=FUNCTION$"),
    ],
    ids=["none", "searched", "rpn", "broken"],
)
def test_no_proposals_is_an_error_that_says_how(tmp_path, stored, says):
    if stored:
        (tmp_path / "x.json").write_text(json.dumps(stored))
    cfg = small_cfg("DATASETS.PROPOSAL_FILES_TEST", f"('{tmp_path}/x.pkl',)")
    with pytest.raises(UserError, match=f"MODEL.LOAD_PROPOSALS.*--selective-search MODE.*{says}"):
        Predictor(cfg, "nowhere.pth")


def test_proposals_for_a_model_with_an_rpn_are_an_error():
    with pytest.raises(UserError, match=r"makes its own: MODEL\.LOAD_PROPOSALS is False"):
        Predictor(tiny_cfg(), propose=boxes_of)
    cfg = tiny_cfg()
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    with pytest.raises(UserError, match="LOAD_PROPOSALS is False; set it to True"):
        Predictor(cfg)


def test_other_settings_than_the_stored_ones_are_reported(tmp_path, monkeypatch, caplog):
    module = "mask_rcnn_ext.proposals.single_images"
    asked = []
    monkeypatch.setattr(f"{module}.require_selective_search", lambda: None)
    monkeypatch.setattr(
        f"{module}.selective_search",
        lambda image, **kwargs: asked.append(kwargs) or np.zeros((3, 4), np.float32),
    )
    cfg = small_cfg("DATASETS.PROPOSAL_FILES_TEST", f"('{tmp_path}/x.pkl',)")
    make_search(cfg)(picture(8, 8))
    other = importlib.import_module("compute_proposals")  # tools/compute_proposals.py
    defaults = vars(other.build_parser().parse_args(["selective-search", "--output", "x"]))
    assert asked[-1] == {name: defaults[name] for name in ("mode", "width", "min_size", "topk")}
    (tmp_path / "x.json").write_text(json.dumps(SEARCHED))
    assert not caplog.text
    make_search(cfg, mode="quality", width=300)
    assert f"had other settings: {AS_STORED}" in caplog.text
    caplog.clear()
    _, logits = make_search(cfg, mode="quality", width=300, min_size=9)(picture(8, 8))
    assert not caplog.text
    assert asked[-1]["topk"] == 2
    assert logits.tolist() == [0, -1, -2]
    for options in ({"mode": "slow"}, {"width": -1}, {"min_size": -1}):
        with pytest.raises(UserError, match=r"search.*: expected"):
            make_search(cfg, **options)


@needs_search
def test_a_model_without_an_rpn_searches_for_its_proposals(tmp_path):
    config, weights = tmp_path / "config.yaml", tmp_path / "model.pth"
    cfg, model = small_cfg(name="fast_rcnn_tiny"), small_model(name="fast_rcnn_tiny")
    config.write_text(cfg.dump())
    torch.save({"model": model.state_dict()}, weights)
    Image.fromarray(picture(60, 80)).save(tmp_path / "x.png")
    search = ["--selective-search", "quality", "--search-width", "100", "--search-min-size", "7"]
    files = ["--config-file", config, "--weights", weights, "--output", tmp_path / "out"]
    argv = [tmp_path / "x.png", *files, *search, "--score-threshold", "0", "--no-pictures"]
    assert tool.main([str(each) for each in argv]) == 0

    def propose(image):
        boxes = selective_search(image, mode="quality", width=100, min_size=7)
        return boxes, -np.arange(len(boxes))

    expected = Predictor(cfg, weights, propose=propose, score_threshold=0.0)(tmp_path / "x.png")
    results = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert len(results) == len(expected) > 0
    assert [each["score"] for each in results] == pytest.approx(expected.scores.tolist())
