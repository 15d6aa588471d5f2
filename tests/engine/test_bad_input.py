"""What a user can get wrong on `train_net.py`: one line, exit code 2, nothing left behind."""

import json
import multiprocessing
import os
import re
import shlex
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from small_runs import read_error, train_small, write_small_weights
from support import TINY_CONFIG, change_json, run_train_net, write_coco

from mask_rcnn_ext import UserError, load_config, model_zoo
from mask_rcnn_ext.engine import trainer


@pytest.fixture
def attempt(tmp_path, capsys):
    """Run `train_net.py` with bad input; return the one line of its error."""

    def run(*arguments: str) -> str:
        out = tmp_path / "out"
        assert train_small(arguments, out, "SOLVER.MAX_ITER", "2") == 2
        error = read_error(capsys)
        assert not out.exists(), f"left behind: {sorted(out.rglob('*'))}"
        return error

    return run


def own(folder: Path, **changes):
    """Write a small set, change its json, return the two training flags."""
    path, images = write_coco(folder, images=3)
    coco = json.loads(path.read_text())
    for key, change in changes.items():
        coco[key] = change(coco[key]) if callable(change) else change
    path.write_text(json.dumps({k: v for k, v in coco.items() if v is not None}))
    return ["--train-json", str(path), "--train-images", str(images)]


@pytest.mark.parametrize("content", [None, '{"images": ['], ids=["missing", "broken"])
def test_json_that_cannot_be_read(attempt, tmp_path, content):
    path = tmp_path / "some.json"
    if content:
        path.write_text(content)
    assert "some.json" in attempt("--train-json", str(path), "--train-images", str(tmp_path))


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_json_without_a_list(attempt, tmp_path, key):
    assert f"expected `{key}` to be a list" in attempt(*own(tmp_path / "data", **{key: None}))


@pytest.mark.parametrize(("key", "value"), [("image_id", 999), ("category_id", 77)])
def test_annotation_for_an_unknown_image_or_category(attempt, tmp_path, key, value):
    flags = own(tmp_path / "data", annotations=lambda a: [{**a[0], key: value}, *a[1:]])
    assert str(value) in attempt(*flags)


def test_missing_image_is_named(attempt, tmp_path):
    flags = own(tmp_path / "data")
    (tmp_path / "data/images/001.png").unlink()
    assert "001.png" in attempt(*flags)


def test_degenerate_box_is_an_error_under_strict_data_and_else_dropped(attempt, tmp_path, capsys):
    flags = own(
        tmp_path / "data",
        annotations=lambda a: [{**a[0], "bbox": [5, 5, 0, 4], "segmentation": []}, *a[1:]],
    )
    message = attempt(*flags, "--strict-data")
    assert "1 of 6 annotations" in message
    assert "--strict-data" in message
    assert train_small(flags, tmp_path / "out", "SOLVER.MAX_ITER", "1") == 0
    assert "dropped" in capsys.readouterr().out.lower()


def test_category_that_contradicts(attempt, coco_pair):
    with change_json(coco_pair[5]) as coco:
        coco["categories"][0]["name"] = "horse"
    message = attempt(*coco_pair)
    assert "horse" in message
    assert "cat" in message


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["DATASETS.TRAIN", "('occluded_shapes_trian',)"], "occluded_shapes_train"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "80"], "NUM_CLASSES is 80.* has 5 classes"),
        (["--resume"], "no checkpoint"),
        (["--resume", "--eval-only"], "no checkpoint"),
        (["--eval-only"], r"MODEL\.WEIGHTS"),
    ],
    ids=["data set", "classes", "resume", "resume to evaluate", "evaluate"],
)
def test_what_is_not_there(attempt, arguments, told):
    assert re.search(told, attempt(*arguments))


def test_a_learning_rate_of_zero_with_a_cosine(tmp_path, capsys):
    flags = own(tmp_path / "data")
    assert train_small(flags, tmp_path / "out", "SOLVER.BASE_LR", "0.0") == 2
    said = capsys.readouterr().err
    assert "error: WarmupCosineLR falls from SOLVER.BASE_LR to SOLVER.BASE_LR_END" in said
    assert not (tmp_path / "out").exists()


def test_absent_coco_says_what_to_do(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_train_net("--config-file", model_zoo.get_config_file("mask_rcnn_R50_FPN")) == 2
    errors = capsys.readouterr().err
    for expected in ("coco", "DETECTRON2_DATASETS", "--train-json", "mask_rcnn_tiny_FPN"):
        assert expected in errors
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("key", "value", "nearest"),
    [
        (
            "MODEL.BACKBONE.NAME",
            "mask_rcnn_ext_tiny_resnet_fpn",
            "mask_rcnn_ext_tiny_resnet_fpn_backbone",
        ),
        ("MODEL.ROI_HEADS.NAME", "StandardRoiHeads", "StandardROIHeads"),
        ("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHed", "MaskRCNNConvUpsampleHead"),
        ("MODEL.META_ARCHITECTURE", "GeneralisedRCNN", "GeneralizedRCNN"),
    ],
)
def test_unknown_registered_name(attempt, key, value, nearest):
    message = attempt(key, value)
    assert key in message
    assert f"did you mean '{nearest}'" in message


def test_output_folder_that_cannot_be_written(tmp_path, capsys, coco_pair):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert train_small(coco_pair, blocked / "out") == 2
    assert "OUTPUT_DIR" in capsys.readouterr().err


def test_batch_that_does_not_divide_among_processes(monkeypatch, coco_pair):
    monkeypatch.setattr(trainer.comm, "get_world_size", lambda: 3)
    with pytest.raises(UserError, match="IMS_PER_BATCH is 4"):
        trainer.Trainer.build_train_loader(load_config(TINY_CONFIG), seed=0)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("MASK_RCNN_EXT.AMP_DTYPE", "float16", "use bfloat16"),
        ("MASK_RCNN_EXT.OPTIMIZER", "Adam", "'AdamW'"),
        ("MASK_RCNN_EXT.SPEED", "quick", "exact, fast or fastest"),
        ("DATALOADER.SAMPLER_TRAIN", "RandomSampler", "TrainingSampler"),
        ("MODEL.WEIGHTS", "nowhere.pth", "nowhere.pth"),
        ("MODEL.DEVICE", "gpu", "'cpu'"),
    ],
)
def test_mistakes_found_while_building_leave_nothing_behind(attempt, coco_pair, key, value, told):
    device = [] if key == "MODEL.DEVICE" else ["MODEL.DEVICE", "cpu"]
    assert told in attempt(*coco_pair, *device, key, value)


def test_a_mistake_leaves_an_earlier_runs_config_as_it_was(coco_pair, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.yaml").write_text("VERSION: 2\n")
    assert train_small(coco_pair, out, "MODEL.WEIGHTS", "nowhere.pth") == 2
    assert (out / "config.yaml").read_text() == "VERSION: 2\n"


@pytest.mark.usefixtures("forget_data_sets")
def test_data_sets_with_different_classes(attempt):
    DatasetCatalog.register("five_others", lambda: [])
    MetadataCatalog.get("five_others").thing_classes = ["a", "b", "c", "d", "e"]
    assert "different classes" in attempt("DATASETS.TEST", "('five_others',)")


def test_a_truncated_image_is_named_without_a_traceback(coco_pair, tmp_path, capsys):
    images = Path(coco_pair[3])
    for image in images.glob("*.png"):
        image.write_bytes(image.read_bytes()[:-2000])
    assert train_small(coco_pair, tmp_path / "out") == 2
    captured = capsys.readouterr()
    assert "000.png: cannot be read as an image (image file is truncated)" in captured.err
    assert "Exception during training" not in captured.out + captured.err


@pytest.fixture
def five_class_weights(tmp_path):
    return write_small_weights(tmp_path / "five.pth")


def test_weights_with_other_classes_are_refused_in_evaluation(
    attempt, coco_pair, five_class_weights
):
    message = attempt(*coco_pair, "--eval-only", "MODEL.WEIGHTS", five_class_weights)
    assert "5 classes" in message
    assert "2" in message.replace(five_class_weights, "")


def test_weights_with_other_classes_are_fine_to_start_from(
    coco_pair, five_class_weights, tmp_path, capsys
):
    keys = ["MODEL.WEIGHTS", five_class_weights, "SOLVER.MAX_ITER", "1"]
    assert train_small(coco_pair, tmp_path / "out", *keys) == 0
    assert "start from scratch" in capsys.readouterr().out


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_image_that_is_broken_inside_is_named_when_it_is_read(
    coco_pair, tmp_path, capsys, split
):
    """Its end is whole, so only decoding finds the fault; worker processes decode."""
    for image in (tmp_path / split / "images").glob("*.png"):
        content = image.read_bytes()
        image.write_bytes(content[: len(content) // 2] + content[-12:])
    keys = ["SOLVER.MAX_ITER", "1", "DATALOADER.NUM_WORKERS", "1"]
    assert train_small(coco_pair, tmp_path / "my run", *keys) == 2
    assert not multiprocessing.active_children()  # the program would wait a minute for them
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert ".png: cannot be read as an image (" in line
    assert "Traceback" not in said
    assert (tmp_path / "my run/model_final.pth").exists() == (split == "val")
    config = shlex.quote(str(tmp_path / "my run/config.yaml"))
    assert (f"--config-file {config} --eval-only --resume" in line) == (split == "val")
