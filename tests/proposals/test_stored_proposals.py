"""Stored proposals are read as they were written, by both loaders; a wrong file is one message."""

import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode
from small_runs import Opens, read_error, write_data
from support import SMALL, TINY_CONFIG, change_json, run_train_net, write_coco

from mask_rcnn_ext import UserError, load_config
from mask_rcnn_ext.data.own_data import register_own_data
from mask_rcnn_ext.engine import trainer
from mask_rcnn_ext.engine.data_of_run import prepare_data
from mask_rcnn_ext.engine.trainer import Trainer
from mask_rcnn_ext.proposals.file import (
    load_training_dicts,
    read_proposal_file,
    write_proposal_file,
)
from mask_rcnn_ext.proposals.rpn import RPNProposals
from mask_rcnn_ext.recipes.two_stage import make_first_stage, make_second_stage

BOX, LOGIT = np.array([[0, 0, 10, 20]], np.float32), np.zeros(1, np.float32)


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), train=12, val=4)


def configs(flags, tmp_path, *options: str):
    """Return the configs of the joint model, the RPN and the second stage, on registered data."""
    keys = [*SMALL, "SOLVER.AMP.ENABLED", "False", "MODEL.DEVICE", "cpu", *options]
    joint = load_config(TINY_CONFIG, keys)
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
    boxes = [given] * 11 + [given[:0]]  # none on the last image
    logits = np.array([1, 3, 2], np.float32)
    write_proposal_file(path, range(1, 13), boxes, [logits] * 11 + [logits[:0]])
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
    write_proposal_file(path, range(1, images + 1), [BOX] * images, [LOGIT] * images)


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


def test_own_data_without_a_val_json_need_no_proposals_to_test(flags, tmp_path):
    second = configs(flags, tmp_path)[2]
    assert second.DATASETS.PROPOSAL_FILES_TEST
    second.defrost()
    train_files = second.DATASETS.PROPOSAL_FILES_TRAIN
    second.MASK_RCNN_EXT.DATA.TRAIN_JSON, second.MASK_RCNN_EXT.DATA.TRAIN_IMAGES = flags[1:4:2]
    prepare_data(second)
    assert second.DATASETS.TEST == second.DATASETS.PROPOSAL_FILES_TEST == ()
    assert train_files == second.DATASETS.PROPOSAL_FILES_TRAIN


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "DATASETS.PROPOSAL_FILES_TEST",
            "('nowhere.pkl',)",
            "file not found: nowhere.pkl (looked for",
        ),
        (
            "DATASETS.PROPOSAL_FILES_TEST",
            "('http://localhost:1/a.pkl',)",
            "file http://localhost:1/a.pkl: could not be fetched (",
        ),
        ("DATASETS.PROPOSAL_FILES_TRAIN", "()", "one file for each of the 1 data set(s)"),
        ("MODEL.LOAD_PROPOSALS", "False", "MODEL.LOAD_PROPOSALS is False"),
    ],
    ids=["missing", "out of reach", "too few", "contradicting keys"],
)
def test_keys_that_do_not_fit(refused, key, value, message):
    found = refused(key, value)
    assert key in found
    assert message in found


def write_code(path, proof) -> None:
    path.write_bytes(pickle.dumps({"ids": [1], "boxes": [Opens(proof)], "objectness_logits": []}))


@pytest.mark.parametrize("split", ["TRAIN", "TEST"])
def test_a_file_with_code_is_refused_and_the_code_does_not_run(refused, tmp_path, split):
    proof, path = tmp_path / "proof", tmp_path / "bad.pkl"
    write_code(path, proof)
    found = refused(f"DATASETS.PROPOSAL_FILES_{split}", f"('{path}',)")
    assert f"{path}: refused, because it names " in found
    assert not proof.exists()


def test_an_evaluation_by_a_config_file_runs_no_code(flags, tmp_path, capsys):
    second = configs(flags, tmp_path)[2]
    proof, path = tmp_path / "proof", Path(second.DATASETS.PROPOSAL_FILES_TEST[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_code(path, proof)
    weights, config = str(tmp_path / "weights.pth"), tmp_path / "config.yaml"
    torch.save({"model": Trainer.build_model(second).state_dict()}, weights)
    config.write_text(second.dump())
    words = ["--config-file", str(config), *flags[4:], "--eval-only", "MODEL.WEIGHTS", weights]
    assert run_train_net(*words) == 2
    assert f"{path}: refused, because it names " in read_error(capsys)
    assert not proof.exists()


def proposals(boxes=BOX, logits=LOGIT, **more):
    return {"ids": [1], "boxes": [boxes], "objectness_logits": [logits], **more}


class Attribute:
    """An attribute that is stored as Python 3.11.0 to 3.11.3 store a member of an enum."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce__(self):
        return getattr, self.arguments


MALFORMED = [
    ("no scores", {"ids": [1], "boxes": [BOX]}, "no 'objectness_logits'"),
    ("no ids", {"boxes": []}, "no 'ids'"),
    ("a text for ids", proposals(ids="1"), "no 'ids'"),
    ("a list", [1, 2], "expected a dict, got list"),
    ("too few", {**proposals(), "boxes": []}, "1 ids, 0 arrays of boxes and 1 of"),
    ("NaN", proposals(BOX * np.nan), "image 1 has numbers that are not finite"),
    ("an infinite score", proposals(logits=LOGIT + np.inf), "numbers that are not finite"),
    ("boxes of 5", proposals(np.zeros((1, 5))), "boxes of shape (1, 5)"),
    ("more boxes than scores", proposals(np.zeros((2, 4))), "boxes of shape (2, 4)"),
    ("scores in a column", proposals(logits=np.zeros((1, 1))), "of shape (1, 1), expected (N, 4)"),
    ("lists for arrays", proposals([[0, 0, 1, 1]]), "image 1 has no arrays of numbers"),
    ("arrays of truth values", proposals(BOX > 0), "image 1 has no arrays of numbers"),
    ("relative boxes", proposals(bbox_mode=2), "its bbox_mode is 2, expected 0 (XYXY_ABS) or 1"),
    ("no box mode", proposals(bbox_mode="XYXY"), "its bbox_mode is 'XYXY'"),
    ("a list for a box mode", proposals(bbox_mode=[0]), "its bbox_mode is a list"),
    ("a tuple for an id", proposals(ids=[(1,)]), "it has an id of type tuple, expected a number"),
    ("code", proposals(ids=[print]), "plain values. Make such files with mask-rcnn-ext proposals"),
    ("garbage", b"not a pickle", "not a readable proposal file"),
    ("another attribute", proposals(bbox_mode=Attribute(BoxMode, "mro")), "not a readable"),
    ("of another class", proposals(bbox_mode=Attribute(OrderedDict, "fromkeys")), "not a readable"),
    ("empty", b"", "not a readable proposal file"),
]


@pytest.mark.parametrize(
    ("content", "message"), [row[1:] for row in MALFORMED], ids=[row[0] for row in MALFORMED]
)
def test_a_malformed_file(tmp_path, content, message):
    path = tmp_path / "other.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    with pytest.raises(UserError) as caught:
        read_proposal_file(str(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("split", ["TRAIN", "TEST"])  # the test set's, too, before training
def test_a_file_of_other_images(refused, tmp_path, split):
    path = tmp_path / "other.pkl"
    path.write_bytes(pickle.dumps(proposals(ids=[99])))
    found = refused(f"DATASETS.PROPOSAL_FILES_{split}", f"('{path}',)")
    assert f"proposal file {path}: does not fit the data" in found
    assert "no proposals for image '1', '2'" in found


@pytest.mark.parametrize(
    "content",
    [
        {"indexes": [1], "boxes": [BOX], "scores": [LOGIT]},  # Detectron
        proposals(ids=np.array([1])),
        proposals(ids=["1"], bbox_mode=BoxMode.XYXY_ABS),
        proposals(bbox_mode=Attribute(BoxMode, "XYXY_ABS")),
        proposals(BOX.astype(int), LOGIT.astype(np.float64)),
    ],
    ids=["Detectron", "array of ids", "detectron2's own classes", "Python 3.11.0", "other types"],
)
def test_files_of_others_are_read(tmp_path, content):
    path = tmp_path / "theirs.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    found, mode = read_proposal_file(str(path))
    assert mode == BoxMode.XYXY_ABS
    assert found["1"][0].tolist() == BOX.tolist()
    assert found["1"][1].tolist() == [0]


def test_ids_of_numpy_such_as_pascal_vocs_are_written_as_plain_ids(tmp_path):
    path = tmp_path / "voc.pkl"
    write_proposal_file(path, [np.str_("000005"), np.int64(7)], [BOX, BOX], [LOGIT, LOGIT])
    found, _ = read_proposal_file(str(path))
    assert list(found) == ["000005", "7"]
    assert [type(each) for each in pickle.loads(path.read_bytes())["ids"]] == [str, int]


def test_several_data_sets_have_a_file_each(tmp_path, forget_data_sets):
    cfg = load_config(TINY_CONFIG)
    cfg.MODEL.LOAD_PROPOSALS = True
    names, paths = ("proposals_a", "proposals_b"), []
    image = {"file_name": "a.png", "annotations": [{"iscrowd": 0, "category_id": 0}]}
    for number, name in enumerate(names):
        DatasetCatalog.register(name, lambda n=number: [{**image, "image_id": n}])
        path = tmp_path / f"{name}.pkl"
        path.write_bytes(pickle.dumps(proposals(BOX + number, ids=[number], bbox_mode=number)))
        paths.append(str(path))
    cfg.DATASETS.TRAIN, cfg.DATASETS.PROPOSAL_FILES_TRAIN = names, tuple(paths)
    first, second = load_training_dicts(cfg)
    assert first["proposal_boxes"].tolist() == BOX.tolist()
    assert second["proposal_boxes"].tolist() == (BOX + 1).tolist()
    assert second["proposal_bbox_mode"] == BoxMode.XYWH_ABS


@pytest.mark.parametrize("stored", [True, False], ids=["stored proposals", "own RPN"])
def test_distributed_training_allows_for_maps_that_only_an_rpn_reads(
    flags, tmp_path, monkeypatch, stored
):
    """Without an RPN the demo model's p3 to p5 get no gradient, which DDP has to know."""
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


def test_data_without_a_usable_image_is_one_message(forget_data_sets):
    name = "nothing_labelled"
    DatasetCatalog.register(name, lambda: [{"file_name": "a.png", "annotations": []}])
    cfg = load_config(None, ["DATASETS.TRAIN", f"('{name}',)"])
    with pytest.raises(UserError, match=f"with an annotation in {name}, got none"):
        load_training_dicts(cfg)
    cfg.MODEL.KEYPOINT_ON = True
    with pytest.raises(UserError, match=f"1 labelled keypoint.*{name}"):
        load_training_dicts(cfg)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[5, 5, 20, 5, 20, -2147483648, 5, 20]], "polygon that leads more than 10 x"),
        ({"size": [48, 64], "counts": [0, 4]}, "RLE that does not add up"),
        ({"size": [0, 64], "counts": [0]}, r"RLE of size \[0, 64\], the image is \[48, 64\]"),
        ({"size": [48, 64], "counts": "o" * 20}, "RLE with wrong characters"),
        # With NumPy 1.26 pycocotools lets them wrap.
        ({"size": [48, 64], "counts": [1 << 62] * 4}, "RLE (has counts that no|that does not add)"),
    ],
    ids=["far polygon", "too few runs", "no height", "characters", "runs that wrap"],
)
@pytest.mark.filterwarnings("ignore:NumPy will stop allowing conversion")  # of pycocotools
def test_a_mask_of_registered_data_that_would_break_pycocotools_is_named(
    tmp_path, forget_data_sets, mask, message
):
    name = "broken_masks"
    path, images = write_coco(tmp_path, images=2)
    with change_json(path) as content:
        content["annotations"][3]["segmentation"] = mask
    register_coco_instances(name, {}, str(path), str(images))
    cfg = load_config(TINY_CONFIG, ["DATASETS.TRAIN", f"('{name}',)"])
    cfg.DATASETS.TEST = (name,)
    for load in (load_training_dicts, lambda cfg: Trainer.build_test_loader(cfg, name)):
        with pytest.raises(UserError, match=f"data set {name}: .*{message}"):
            load(cfg)
