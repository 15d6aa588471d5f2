"""The example projects work, and import nothing but public names."""

import ast
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY, build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from support import REPO, SMALL, run_script, write_coco

from mask_rcnn_ext import UserError, load_config

PROJECTS = REPO / "projects"
FILES = sorted(p for p in PROJECTS.rglob("*.py") if "tests" not in p.parts)
OUR_ROOTS = ("mask_rcnn_ext", "detectron2")


@pytest.fixture(autouse=True)
def _import_path(monkeypatch):
    """Scripts of the projects extend the path; the tests need the packages beside them."""
    monkeypatch.setattr(sys, "path", [*(str(p) for p in PROJECTS.iterdir()), *sys.path])


def imported_names(path: Path):
    """Yield (module, name or None) of every import in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((node.module, alias.name) for alias in node.names)


def private_uses(path: Path) -> list[str]:
    """Return the names of the libraries that a file uses although they are not public.

    Public in `mask_rcnn_ext` is what a module lists in `__all__`; in detectron2, a name without a
    leading underscore. Attributes with one may be a file's own only, on `self` or `cls`.
    """
    found = []
    for module, name in imported_names(path):
        if module.split(".")[0] not in OUR_ROOTS:
            continue
        parts = [*module.split("."), *([name] if name else [])]
        listed = name is None or module.startswith("detectron2")
        if any(part.startswith("_") for part in parts) or not (
            listed or name in getattr(importlib.import_module(module), "__all__", ())
        ):
            found.append(".".join(parts))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and node.attr[1] != "_":
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            found += [] if own else [f".{node.attr}"]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PROJECTS)))
def test_projects_use_public_names_only(path):
    assert private_uses(path) == []


@pytest.mark.parametrize(
    "line",
    [
        "from mask_rcnn_ext.config import _declare",
        "from mask_rcnn_ext.engine.trainer import logger",
        "from detectron2.data.build import _test_loader_from_config",
        "import mask_rcnn_ext._version",
        "x = loader._dataset",
    ],
)
def test_a_private_name_is_found(tmp_path, line):
    path = tmp_path / "x.py"
    path.write_text(line)
    assert private_uses(path)


@pytest.mark.parametrize("project", ["DiceMask", "TimmBackbone", "cityscapes"])
def test_readme_names_files_that_exist(project):
    text = (PROJECTS / project / "README.md").read_text()
    words = {word.strip("`,.:()") for word in text.split()}
    named = {word for word in words if word.startswith("projects/") and "." in word}
    assert {Path(name).suffix for name in named} >= {".py", ".yaml"}
    assert [name for name in named if not (REPO / name).is_file()] == []


# ---- DiceMask


def test_dice_by_hand():
    from dice_mask import dice_loss

    truth = torch.zeros(2, 4, 4, dtype=torch.bool)
    truth[:, :2] = True  # 8 pixels
    sure = torch.where(truth, 50.0, -50.0)
    assert dice_loss(sure, truth) == pytest.approx(0, abs=1e-6)
    assert dice_loss(-sure, truth) == pytest.approx(1 - 1 / 17)  # no overlap: (0 + 1) / (16 + 1)
    half = torch.stack([sure[0], -sure[0]])
    assert dice_loss(half, truth) == pytest.approx((1 - 1 / 17) / 2)  # the mean over masks
    # p = 1/2 everywhere: 2 * 4 + 1 over 16 / 4 + 8 + 1
    assert dice_loss(torch.zeros(1, 4, 4), truth[:1]) == pytest.approx(1 - 9 / 13)


def test_dice_without_masks_keeps_the_graph():
    from dice_mask import dice_loss

    logits = torch.zeros(0, 4, 4, requires_grad=True)
    loss = dice_loss(logits, torch.zeros(0, 4, 4, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None


def dice_config(*overrides: str):
    config = PROJECTS / "DiceMask/configs/dice_mask_tiny_FPN.yaml"
    return load_config(str(config), [*SMALL, "MODEL.DEVICE", "cpu", *overrides])


def foreground(images: int, classes: list[int]) -> list[Instances]:
    found = []
    for _ in range(images):
        instances = Instances((32, 32))
        instances.proposal_boxes = Boxes(torch.tensor([[2.0, 2.0, 18.0, 18.0]] * len(classes)))
        instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
        masks = torch.zeros(len(classes), 32, 32, dtype=torch.bool)
        masks[:, 2:10, 2:18] = True
        instances.gt_masks = BitMasks(masks)
        found.append(instances)
    return found


@pytest.mark.parametrize("agnostic", ["True", "False"])
def test_head_adds_dice_of_the_right_channel(agnostic):
    from detectron2.modeling.roi_heads.mask_head import mask_rcnn_loss
    from dice_mask import dice_loss

    cfg = dice_config("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", agnostic)
    head = build_model(cfg).roi_heads.mask_head
    instances = [*foreground(1, [1, 4]), *foreground(1, [])]
    channels = 1 if agnostic == "True" else 5
    logits = torch.randn(2, channels, 28, 28, requires_grad=True)
    channel = [0, 0] if agnostic == "True" else [1, 4]
    truth = torch.zeros(2, 28, 28, dtype=torch.bool)
    truth[:, :14] = True  # the upper half of the box
    with EventStorage():
        loss = head.mask_loss(logits, instances)
        bce = mask_rcnn_loss(logits, instances)
    assert torch.allclose(loss, bce + dice_loss(logits[[0, 1], channel], truth))
    loss.backward()
    assert torch.isfinite(logits.grad).all()


def test_head_without_foreground():
    head = build_model(dice_config()).roi_heads.mask_head.train()
    with EventStorage():
        losses = head(torch.zeros(0, 16, 14, 14), foreground(2, []))
    assert losses["loss_mask"] == 0
    losses["loss_mask"].backward()


def test_head_has_the_keys_of_the_stock_head_and_refuses_softmax():
    names = []
    for name in ("DiceMaskHead", "MaskRCNNConvUpsampleHead"):
        model = build_model(dice_config("MODEL.ROI_MASK_HEAD.NAME", name))
        names.append(list(model.state_dict()))
        assert type(model.roi_heads.mask_head) is ROI_MASK_HEAD_REGISTRY.get(name)
    assert names[0] == names[1]
    with pytest.raises(UserError, match="needs 'sigmoid', got 'softmax'"):
        build_model(dice_config("MODEL.ROI_MASK_HEAD.LOSS", "softmax"))


def test_dice_project_trains_from_its_command_line(tmp_path, coco_pair, monkeypatch):
    code = run_script(
        PROJECTS / "DiceMask/train.py", monkeypatch,
        "--config-file", str(PROJECTS / "DiceMask/configs/dice_mask_tiny_FPN.yaml"), *coco_pair,
        *SMALL, "MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "2", "OUTPUT_DIR", str(tmp_path / "run"),
    )  # fmt: skip
    assert code == 0
    assert "segm" in json.loads((tmp_path / "run/results.json").read_text())


# ---- TimmBackbone


def test_read_channels(tmp_path):
    from timm_channels import read_channels

    path = str(tmp_path / "x.npy")
    pixels = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    np.save(path, pixels)
    image = read_channels(path, 4)
    assert image.dtype == np.float32
    assert (image == pixels).all()
    with pytest.raises(UserError, match=r"expected numbers of shape \(H, W, 3\), got uint16"):
        read_channels(path, 3)
    np.save(path, pixels[:, :, 0])
    assert read_channels(path, 1).shape == (2, 3, 1)
    np.save(path, np.array([None, {}], dtype=object))  # loading it would run code
    with pytest.raises(OSError, match="not an array of numbers"):
        read_channels(path, 1)


def channel_data(tmp_path: Path, channels: int) -> None:
    """Register `small_{train,val}` afresh, COCO data of `channels` channels."""
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from timm_channels import convert, register_channels

    for split, images in (("train", 8), ("val", 2)):
        json_file, root = write_coco(tmp_path / split, images=images)
        convert(str(json_file), str(root), tmp_path / f"{split}_converted", channels)
        name = f"small_{split}"
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.pop(name, None)
        folder = tmp_path / f"{split}_converted"
        register_channels(name, str(folder / "annotations.json"), str(folder))


def test_mapper_resizes_and_flips_every_channel(tmp_path):
    from detectron2.data import DatasetCatalog
    from timm_channels import ChannelsMapper

    channel_data(tmp_path, 6)
    cfg = timm_config(6, "INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.RANDOM_FLIP", "horizontal")
    record = DatasetCatalog.get("small_train")[0]
    stored = np.load(record["file_name"])
    assert stored.shape == (48, 64, 6)
    mapper = ChannelsMapper(cfg, is_train=False)
    plain = mapper(record)
    assert plain["image"].shape == (6, 64, 85)
    assert "instances" not in plain
    mapper = ChannelsMapper(cfg, is_train=True)
    flips = 0
    for _ in range(8):
        sample = mapper(record)
        assert sample["image"].shape == (6, 96, 128)
        box = sample["instances"].gt_boxes.tensor[0]
        original = record["annotations"][0]["bbox"]
        left = 2 * original[0]
        flipped = 128 - 2 * (original[0] + original[2])
        assert float(box[0]) in (pytest.approx(left), pytest.approx(flipped))
        flips += float(box[0]) == pytest.approx(flipped)
        # The colour of the rectangle is where its box is.
        x, y = ((box[:2] + box[2:]) / 2).int().tolist()
        assert sample["image"][:3, y, x].max() > 150
    assert 0 < flips < 8
    assert "annotations" in record  # the data set's own record is left alone


def timm_config(channels: int, *overrides: str):
    config = PROJECTS / f"TimmBackbone/configs/timm_resnet10t_FPN_{channels}ch.yaml"
    return load_config(str(config), [*SMALL, "MODEL.DEVICE", "cpu", *overrides])


@pytest.mark.parametrize("channels", [1, 6])
def test_timm_project_trains_and_evaluates(tmp_path, channels, monkeypatch):
    pytest.importorskip("timm", reason='timm is not installed: pip install -e ".[timm]"')
    channel_data(tmp_path, channels)
    run = tmp_path / "run"
    config = PROJECTS / f"TimmBackbone/configs/timm_resnet10t_FPN_{channels}ch.yaml"
    overrides = [
        *SMALL, "MODEL.DEVICE", "cpu", "MASK_RCNN_EXT.TIMM.NAME", "test_resnet",
        "OUTPUT_DIR", str(run),
        "MODEL.ROI_HEADS.NUM_CLASSES", "2", "SOLVER.MAX_ITER", "2",
        "DATASETS.TRAIN", "('small_train',)", "DATASETS.TEST", "('small_val',)",
    ]  # fmt: skip
    train = PROJECTS / "TimmBackbone/train.py"
    assert run_script(train, monkeypatch, "--config-file", str(config), *overrides) == 0
    results = json.loads((run / "results.json").read_text())
    assert {"bbox", "segm", "run"} <= set(results)
    weights = torch.load(run / "model_final.pth", weights_only=True)["model"]
    first = next(name for name in weights if name.startswith("backbone.bottom_up.net.conv1"))
    assert weights[first].shape[1] == channels

    evaluate = ["--config-file", str(run / "config.yaml"), "--eval-only"]
    weights = ["MODEL.WEIGHTS", str(run / "model_final.pth")]
    assert run_script(train, monkeypatch, *evaluate, *weights) == 0
    evaluation = run / "evaluations/small_val-model_final"
    again = json.loads((evaluation / "results.json").read_text())
    assert again["segm"] == results["segm"]


def test_missing_channel_data_is_one_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    config = PROJECTS / "TimmBackbone/configs/timm_resnet10t_FPN_6ch.yaml"
    code = run_script(
        PROJECTS / "TimmBackbone/train.py", monkeypatch,
        "--config-file", str(config), "OUTPUT_DIR", str(tmp_path / "run"),
    )  # fmt: skip
    assert code == 2
    assert "occluded_shapes_6ch_train" in capsys.readouterr().err


def test_unknown_number_of_channels_is_one_error(monkeypatch, capsys):
    assert run_script(PROJECTS / "TimmBackbone/make_data.py", monkeypatch, "5") == 2
    assert capsys.readouterr().err == "error: channels: expected 1 or 6, got 5\n"
