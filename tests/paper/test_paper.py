"""`mask_rcnn_ext.paper` holds the numbers of the paper, and the checkpoints that fit them."""

import functools
import json
import re

import pytest
from config_files import flatten, load
from detectron2 import model_zoo as stock_zoo
from detectron2.model_zoo.model_zoo import _ModelZooUrls
from support import REPO

from mask_rcnn_ext import paper
from mask_rcnn_ext.paper.deviations import COMMON

JSON = REPO / "tests/reference/paper_tables.json"  # the tables, copied from the paper independently
CONFIGS = sorted(paper.CONFIGS)


@functools.cache
def ours(name, overrides=()):
    """Return the values of one of our configs."""
    return flatten(load(name, *overrides))


def rows_of_table(table, split):
    """Return the rows of a table that have numbers of their own."""
    return [row for row in paper.ROWS if (row.table, row.split) == (table, split) and row.published]


def numbers_of(table, split, keys):
    """Return the printed numbers of a table, row by row; None where none is printed."""
    rows = rows_of_table(table, split)
    assert {key for row in rows for key in row.published} <= set(keys)
    return [[row.published.get(key) for key in keys] for row in rows]


def printed():
    return {table["id"]: table for table in json.loads(JSON.read_text())}


def key_of(column):
    """Return detectron2's task and metric for a column such as "APbb50" or "APkpM"."""
    task, metric = re.fullmatch(r"(?:mask )?AP(bb|mask|kp|)(50|75|S|M|L|)", column).groups()
    task = {"bb": "bbox", "kp": "keypoints"}.get(task, "segm")
    return f"{task}/AP{metric.lower()}"


@pytest.mark.parametrize(
    ("table", "split", "words"),
    [
        ("1", "test-dev", 3), ("2a", "minival", 1), ("2b", "minival", 1), ("2c", "minival", 4),
        ("2d", "minival", 1), ("2e", "minival", 2), ("3", "test-dev", 2), ("4", "test-dev", 1),
        ("5", "minival", 1), ("6", "minival", 1), ("8", "minival", 2), ("9", "minival", 2),
    ],
)  # fmt: skip
def test_every_number_is_the_papers(table, split, words):
    """`words` columns of a row are text; a row "delta" is the difference of the two before it."""
    reference = printed()[f"table{table}"]
    keys = [key_of(column.removesuffix("_person")) for column in reference["columns"][words:]]
    rows = [row for row in reference["rows"] if row[0] != "delta"]
    found = numbers_of(table, split, keys)
    assert found == [row[words:] for row in rows]
    for ours_row, row in zip(rows_of_table(table, split), rows, strict=True):
        words_outside_brackets = re.sub(r"\(.*?\)", "", row[0]).split()
        assert all(word.strip(",") in ours_row.name for word in words_outside_brackets), row[0]
    for delta in (row[words:] for row in reference["rows"] if row[0] == "delta"):
        low, high = sorted(found)
        assert [round(b - a, 1) for a, b in zip(low, high, strict=True)] == delta


def test_every_number_of_cityscapes_and_of_the_text_is_the_papers():
    tables = printed()
    rows = tables["table7"]["rows"]
    classes = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    keys = ["segm/AP", "segm/AP50", *(f"segm/AP-{name}" for name in classes)]
    assert tables["table7"]["columns"][3:-2] == ["AP", "AP50", *classes[:-2]]
    assert numbers_of("7", "test", keys) == [row[3:] for row in rows]
    # val has the classes of appendix A too
    per_class = tables["table7"]["val_test_per_class"]
    found = numbers_of("7", "val", [f"segm/AP{end}" for end in ("", "-truck", "-bus", "-train")])
    assert [row[0] for row in found] == [row[2] for row in rows if row[2] is not None]
    for found_row, data in zip(found[-2:], ("fine", "fine + COCO"), strict=True):
        assert found_row[1:] == [per_class[data][name][0] for name in ("truck", "bus", "train")]
    assert numbers_of("text", "minival", ["segm/AP"]) == [
        [row[1]] for row in tables["text_class_agnostic"]["rows"]
    ]
    (row,) = paper.get_rows("ablations/mask_rcnn_R50_FPN_RoIPool")
    gains = tables["text_roialign_fpn"]["rows"]
    assert all(f"{gain} {what}" in row.note for what, gain in gains)


def test_rows_of_one_model_agree():
    """A model's minival AP is printed in up to four tables."""
    for name in CONFIGS:
        seen = {}
        for row in paper.get_rows(name):
            for key, value in row.published.items():
                assert seen.setdefault((row.split, key), value) == value, (name, key)


@pytest.mark.parametrize("row", [r for r in paper.ROWS if r.config], ids=lambda r: r.name)
def test_a_rows_name_is_its_configs(row):
    """The name and the model have the same depth, type (ResNet or ResNeXt) and feature map."""
    cfg = ours(row.config)
    if found := re.search(r"(ResNet|ResNeXt|R|X)-(\d+)", row.name):
        assert int(found[2]) == cfg["MODEL.RESNETS.DEPTH"]
        assert (cfg["MODEL.RESNETS.NUM_GROUPS"] > 1) == (found[1] in ("ResNeXt", "X"))
    if found := re.search(r"-(C4|FPN)\b", row.name):
        assert found[1] in row.config
    if row.table in ("2b", "2c", "text", "2e", "2d"):
        head = {"2e": "R50_FPN", "2d": "R50_C5"}.get(
            row.table, "R50_FPN" if "FPN" in row.name else "R50_C4"
        )
        assert head in row.config


def test_how_masks_are_made_and_pasted_concerns_the_rows_with_masks():
    about = [text for text in COMMON if "pasted" in text or "mask target" in text]
    assert len(about) == 2
    for row in paper.ROWS:
        if row.config and "FCIS" not in row.name:  # its masks are voted
            found = [text for text in about if text in row.deviations]
            assert found == (about if ours(row.config)["MODEL.MASK_ON"] else []), row.config


def test_other_methods_and_rows_without_public_weights_have_no_config():
    without = [row for row in paper.ROWS if row.config is None]
    assert all(row.note and not row.checkpoints and not row.deviations for row in without)
    missing = [row.name for row in without if "not public" in row.note]
    assert missing == ["+ ImageNet-5k, X-101-FPN", "+ data distillation, X-101-FPN"]
    assert not [row.name for row in without if "Mask R-CNN" in row.name or "FCIS" in row.name]


def test_the_rows_of_fcis_are_its_configs():
    found = [(row.name, row.config) for row in paper.ROWS if "fcis" in (row.config or "")]
    assert found == [
        ("FCIS +OHEM, ResNet-101-C5-dilated", "fcis_R101_C5_dilated"),
        ("FCIS+++ +OHEM, ResNet-101-C5-dilated", "fcis/fcis_plusplusplus_R101_C5_dilated"),
    ]
    assert all(ours(config)["MODEL.META_ARCHITECTURE"] == "MaskRCNNExtFCIS" for _, config in found)


CHECKPOINTS = sorted(
    {(row.config, checkpoint) for row in paper.ROWS for checkpoint in row.checkpoints},
    key=lambda pair: (pair[0], pair[1].path),
)


def test_every_checkpoint_is_detectron2s():
    known = _ModelZooUrls.CONFIG_PATH_TO_URL_SUFFIX
    for _, checkpoint in CHECKPOINTS:
        assert known[checkpoint.config.removesuffix(".yaml")] == checkpoint.path
        assert checkpoint.fit in ("identical", "nearest", "different")
        assert checkpoint.note


@functools.cache
def stock_flat(name):
    return flatten(stock_zoo.get_config(name))


# Keys that do not change a trained model's predictions: they are for training, name files, or name
# our classes that compute the same as detectron2's.
NOT_DECISIVE = (
    "SOLVER.", "DATASETS.", "OUTPUT_DIR", "MODEL.WEIGHTS", "TEST.EVAL_PERIOD", "TEST.AUG.",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "MODEL.META_ARCHITECTURE", "MODEL.ROI_HEADS.NAME",
    "MODEL.ROI_MASK_HEAD.NAME",
)  # fmt: skip
TRAINING_ONLY = re.compile(r"_TRAIN(_SAMPLING)?$|\.SMOOTH_L1_BETA$")


@pytest.mark.parametrize(("name", "checkpoint"), CHECKPOINTS, ids=lambda v: getattr(v, "path", v))
def test_with_its_overrides_a_config_tests_as_the_checkpoint_was_trained(name, checkpoint):
    if not checkpoint.overrides and checkpoint.fit == "different":
        assert "own config" in checkpoint.note
        return
    mine, stock = ours(name, checkpoint.overrides), stock_flat(checkpoint.config)
    unread = [
        f"MODEL.ROI_{head}_HEAD." for head in ("MASK", "KEYPOINT") if not stock[f"MODEL.{head}_ON"]
    ]
    if "C4" in name:  # it pools once, for box and mask
        unread.append("MODEL.ROI_MASK_HEAD.POOLER_")
    skipped = (*NOT_DECISIVE, *unread)
    keys = [key for key in stock if not (key.startswith(skipped) or TRAINING_ONLY.search(key))]
    assert "MODEL.ROI_BOX_HEAD.POOLER_TYPE" in keys
    assert {key: mine[key] for key in keys} == {key: stock[key] for key in keys}
    if checkpoint.fit != "different":  # the overrides do not change the backbone
        assert not any("MODEL.RESNETS." in word for word in checkpoint.overrides)


FACTS = REPO.parent / "shared/reference/maskrcnn.md"


@pytest.mark.skipif(not FACTS.is_file(), reason="detectron2's APs are not part of this repository")
def test_the_aps_of_the_checkpoints_are_detectron2s():
    """Each is in a line `| row | path | box/mask or box, kp keypoint | ...` of the facts."""
    table = FACTS.read_text().split("\n## 4.")[1].split("\n### 4.1")[0].splitlines()
    for _, checkpoint in CHECKPOINTS:
        (line,) = (line for line in table if checkpoint.path in line)
        cell = line.split("|")[3].split("(")[0]
        numbers = [None if word == "-" else float(word) for word in re.findall(r"[\d.]+|-", cell)]
        second = checkpoint.keypoint if "kp" in cell else checkpoint.mask
        assert numbers == [checkpoint.box, second], checkpoint.path
