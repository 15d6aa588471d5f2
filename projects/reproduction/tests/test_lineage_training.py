"""The line's four methods, small: each trained for 20 iterations and evaluated, end to end."""

import json
import math

import numpy as np
import pytest
import torch
from support import REPO, SMALL, name_files, run_train_net, write_coco

from mask_rcnn_ext.proposals.file import write_proposal_file

LINEAGE = REPO / "configs/shapes/lineage"
NARROW = [
    *SMALL[:6],
    "MODEL.ROI_BOX_HEAD.CONV_DIM", "8", "MODEL.ROI_BOX_HEAD.FC_DIM", "32",
    "MODEL.ROI_MASK_HEAD.CONV_DIM", "8", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0",
    "MODEL.RCNN.CROP_SIZE", "32", "MODEL.RCNN.CROP_CONTEXT", "2",
    "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64",
    "SOLVER.IMS_PER_BATCH", "2", "SOLVER.WARMUP_ITERS", "2", "SOLVER.MAX_ITER", "20",
]  # fmt: skip


def write_proposals(path, json_file, seed=0) -> None:
    """Store 12 boxes of every image: two near each object, the rest anywhere."""
    content = json.loads(json_file.read_text())
    rng = np.random.default_rng(seed)
    boxes = []
    for image in content["images"]:
        true = [a["bbox"] for a in content["annotations"] if a["image_id"] == image["id"]]
        true = np.array([[x, y, x + w, y + h] for x, y, w, h in true], np.float32).repeat(2, axis=0)
        corner = rng.uniform(0, 40, (12 - len(true), 2))
        rest = np.concatenate([corner, corner + rng.uniform(6, 20, corner.shape)], axis=1)
        found = np.concatenate([true + rng.uniform(-2, 2, true.shape), rest]).clip(0, [64, 48] * 2)
        boxes.append(found.astype(np.float32))
    logits = [-np.arange(12, dtype=np.float32)] * len(boxes)
    write_proposal_file(path, [image["id"] for image in content["images"]], boxes, logits)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return the flags of four images, trained and evaluated on, and the keys of proposals."""
    root = tmp_path_factory.mktemp("lineage")
    path, images = write_coco(root / "data", images=4)
    write_proposals(root / "proposals.pkl", path)
    flags = [*name_files("train", path, images), *name_files("val", path, images)]
    files = f"('{root / 'proposals.pkl'}',)"
    keys = ["DATASETS.PROPOSAL_FILES_TRAIN", files, "DATASETS.PROPOSAL_FILES_TEST", files]
    return flags, keys


def train(name: str, data, out, *keys: str) -> int:
    flags, proposals = data
    stored = "fast" in name or name.startswith("rcnn")
    return run_train_net(
        "--config-file", str(LINEAGE / f"{name}.yaml"), *flags,
        "OUTPUT_DIR", str(out), *NARROW, *(proposals if stored else []), *keys,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "tasks", "losses"),
    [
        ("rcnn_tiny", {"bbox"}, {"loss_cls", "loss_box_reg"}),
        ("fast_rcnn_tiny", {"bbox"}, {"loss_cls", "loss_box_reg"}),
        ("faster_rcnn_tiny", {"bbox"},
         {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"}),
        ("mask_rcnn_tiny", {"bbox", "segm"},
         {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"}),
    ],
)  # fmt: skip
def test_twenty_iterations_end_to_end(tmp_path, data, name, tasks, losses):
    assert train(name, data, tmp_path) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert {"bbox", "segm"} & set(results) == tasks
    for task in tasks:
        assert 0 <= results[task]["AP"] <= 100
    found = list((tmp_path / "inference").rglob("coco_instances_results.json"))
    assert json.loads(found[0].read_text())  # something was detected
    metrics = json.loads((tmp_path / "metrics.json").read_text().splitlines()[0])
    assert {key for key in metrics if key.startswith("loss_")} == losses
    assert all(math.isfinite(metrics[key]) for key in losses)
    weights = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert weights["iteration"] == 19


def test_the_line_shares_backbone_and_box_head(tmp_path, data):
    """What is learned in one step of the line fits the others, tensor for tensor."""
    from detectron2.modeling import build_model

    from mask_rcnn_ext import load_config

    shapes = {}
    for name in ("rcnn_tiny", "fast_rcnn_tiny", "faster_rcnn_tiny", "mask_rcnn_tiny"):
        cfg = load_config(str(LINEAGE / f"{name}.yaml"), ["MODEL.DEVICE", "cpu"])
        state = build_model(cfg).state_dict()
        shared = ("backbone.", "roi_heads.box_head.", "roi_heads.box_predictor.")
        shapes[name] = {k: v.shape for k, v in state.items() if k.startswith(shared)}
    assert len(shapes["rcnn_tiny"]) > 40
    assert all(each == shapes["rcnn_tiny"] for each in shapes.values())
