"""Stored proposals are read as they were written, by both loaders; a wrong file is one message."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from small_runs import read_error, write_data
from support import SMALL, TINY_CONFIG, run_train_net

from mask_rcnn_ext import UserError, load_config
from mask_rcnn_ext.data.own_data import register_own_data
from mask_rcnn_ext.engine import trainer
from mask_rcnn_ext.engine.trainer import Trainer
from mask_rcnn_ext.proposals.file import load_training_dicts
from mask_rcnn_ext.proposals.rpn import RPNProposals
from mask_rcnn_ext.recipes.two_stage import make_first_stage, make_second_stage


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), train=12, val=4)


def configs(flags, tmp_path, *options: str):
    """Return the configs of the joint model, the RPN and the second stage, on registered data."""
    joint = load_config(
        TINY_CONFIG,
        [*SMALL, "SOLVER.AMP.ENABLED", "False", "MODEL.DEVICE", "cpu", *options],
    )
    register_own_data(*flags[1::2], clean_dir=str(tmp_path / "clean"))
    joint.OUTPUT_DIR = str(tmp_path / "out")
    joint.DATASETS.TRAIN, joint.DATASETS.TEST = ("own_train",), ("own_val",)
    joint.MODEL.ROI_HEADS.NUM_CLASSES = 2
    return joint, make_first_stage(joint, []), make_second_stage(joint)


def test_stored_proposals_give_what_the_models_own_rpn_gives(flags, tmp_path):
    """Written, read and scaled back, the proposals lead to the joint model's detections."""
    options = ["MODEL.RPN.POST_NMS_TOPK_TEST", "30", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    joint, rpn, second = configs(flags, tmp_path, *options)
    torch.manual_seed(0)
    model = Trainer.build_model(joint).eval()
    torch.nn.init.normal_(model.proposal_generator.rpn_head.objectness_logits.weight, std=0.1)
    rpn.defrost()
    rpn.MODEL.WEIGHTS = str(tmp_path / "joint.pth")
    torch.save({"model": model.state_dict()}, rpn.MODEL.WEIGHTS)
    path = second.DATASETS.PROPOSAL_FILES_TEST[0]
    topk = second.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST
    RPNProposals(rpn, "own_val", topk, path).make(resume=False)
    alone = Trainer.build_model(second).eval()
    alone.load_state_dict({k: v for k, v in model.state_dict().items() if "generator" not in k})
    loaders = (Trainer.build_test_loader(cfg, "own_val") for cfg in (joint, second))
    with torch.no_grad():
        for own, stored in zip(*loaders, strict=True):
            assert len(stored[0]["proposals"]) == 30
            ours, theirs = model(own)[0]["instances"], alone(stored)[0]["instances"]
            assert len(ours) == len(theirs) > 0
            assert torch.allclose(ours.scores, theirs.scores, atol=1e-4)
            gap = (ours.pred_boxes.tensor - theirs.pred_boxes.tensor).abs().max()
            assert gap < 0.05


def test_the_training_loader_hands_proposals_over_flipped_with_the_image(flags, tmp_path):
    cfg = configs(flags, tmp_path)[2].clone()
    cfg.defrost()
    cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN = 2
    given = np.array([[0, 0, 10, 20], [5, 8, 30, 40], [1, 1, 9, 9]], dtype=np.float32)
    path = tmp_path / "given.pkl"
    content = {
        "ids": [*range(1, 13)],
        "boxes": [given] * 11 + [given[:0]],  # none on the last image
        "objectness_logits": [np.array([1, 3, 2], np.float32)] * 11 + [np.zeros(0, np.float32)],
        "bbox_mode": 0,
    }
    path.write_bytes(pickle.dumps(content))
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = (str(path),)
    scale = 64 / 48  # the images are 64 x 48, their shorter side becomes 64
    straight = given[[1, 2]] * scale
    mirrored = straight[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [85, 0, 85, 0]
    seen, batches = set(), iter(Trainer.build_train_loader(cfg, seed=0))
    for _ in range(6):
        for sample in next(batches):
            boxes = sample["proposals"].proposal_boxes.tensor.numpy()
            assert sample["proposals"].image_size == (64, 85)
            kinds = {"straight": straight, "mirrored": mirrored, "none": given[:0]}
            fits = [
                name
                for name, expected in kinds.items()
                if boxes.shape == expected.shape and np.allclose(boxes, expected, atol=0.5)
            ]
            assert len(fits) == 1
            assert (fits[0] == "none") == (sample["image_id"] == 12)
            seen.add(fits[0])
    assert seen == {"straight", "mirrored", "none"}


def write_file(path, images: int) -> None:
    """Write one proposal for each of the images 1, 2, ..."""
    content = {
        "ids": [*range(1, images + 1)],
        "boxes": [np.array([[0, 0, 10, 20]], np.float32)] * images,
        "objectness_logits": [np.zeros(1, np.float32)] * images,
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(pickle.dumps(content))


@pytest.fixture
def refused(flags, tmp_path, capsys):
    """Run `train_net.py` on stored proposals with some keys changed; return its one message."""
    files = {split: tmp_path / f"{split}.pkl" for split in ("TRAIN", "VAL")}
    write_file(files["TRAIN"], 12)
    write_file(files["VAL"], 4)

    def run(*options: str) -> str:
        out = tmp_path / "out"
        code = run_train_net(
            "--config-file", TINY_CONFIG, *flags, *SMALL, "OUTPUT_DIR", str(out),
            "SOLVER.MAX_ITER", "1", "MODEL.LOAD_PROPOSALS", "True",
            "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals",
            "DATASETS.PROPOSAL_FILES_TRAIN", f"('{files['TRAIN']}',)",
            "DATASETS.PROPOSAL_FILES_TEST", f"('{files['VAL']}',)", *options,
        )  # fmt: skip
        if code == 0:
            return "nothing"
        assert code == 2
        assert not out.exists()
        return read_error(capsys)

    return run


def test_files_that_fit_are_not_refused(refused):
    assert refused() == "nothing"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "DATASETS.PROPOSAL_FILES_TEST",
            "('nowhere.pkl',)",
            "nowhere.pkl. tools/compute_proposals.py",
        ),
        ("DATASETS.PROPOSAL_FILES_TRAIN", "()", "one file for each of the 1 data set(s)"),
        ("MODEL.LOAD_PROPOSALS", "False", "MODEL.LOAD_PROPOSALS is False"),
    ],
    ids=["missing", "too few", "contradicting keys"],
)
def test_keys_that_do_not_fit(refused, key, value, message):
    found = refused(key, value)
    assert key in found
    assert message in found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"ids": [1], "boxes": [np.zeros((1, 4))]}, "no 'objectness_logits'"),
        ({"boxes": []}, "no 'ids'"),
        ({"ids": [1], "boxes": [], "objectness_logits": []}, "list index out of range"),
        ({"ids": [99], "boxes": [], "objectness_logits": []}, "no proposals for image '1'"),
        (b"not a pickle", "does not fit"),
        (b"", "does not fit"),
    ],
    ids=["no scores", "no ids", "too few", "of other images", "garbage", "empty"],
)
def test_a_file_of_something_else(refused, tmp_path, content, message):
    path = tmp_path / "other.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    for split in ("TRAIN", "TEST"):  # the test set's, too, before training
        found = refused(f"DATASETS.PROPOSAL_FILES_{split}", f"('{path}',)")
        assert message in found
        assert str(path) in found


@pytest.mark.parametrize("stored", [True, False], ids=["stored proposals", "own RPN"])
def test_distributed_training_allows_for_maps_that_only_an_rpn_reads(
    flags, tmp_path, monkeypatch, stored
):
    """Without an RPN the demo model's p3 to p5 get no gradient, which DDP has to be told."""
    joint, _, second = configs(flags, tmp_path)
    (tmp_path / "out").mkdir()  # detectron2's metrics writer expects it
    for split in ("TRAIN", "TEST"):
        write_file(second.DATASETS[f"PROPOSAL_FILES_{split}"][0], 12)
    given = {}

    def remember(model, **options):
        given.update(options)
        return model

    monkeypatch.setattr(trainer, "create_ddp_model", remember)
    Trainer(second if stored else joint)
    assert given.get("find_unused_parameters", False) is stored


def test_data_without_a_usable_image_is_one_message(tmp_path):
    name = "nothing_labelled"
    DatasetCatalog.register(name, lambda: [{"file_name": "a.png", "annotations": []}])
    try:
        cfg = load_config(None, ["DATASETS.TRAIN", f"('{name}',)"])
        with pytest.raises(UserError, match=f"with an annotation in {name}, got none"):
            load_training_dicts(cfg)
        cfg.MODEL.KEYPOINT_ON = True
        with pytest.raises(UserError, match=f"1 labelled keypoint.*{name}"):
            load_training_dicts(cfg)
    finally:
        DatasetCatalog.remove(name)
