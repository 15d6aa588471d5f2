"""What a checkpoint says of its model, and that a hostile one can do nothing with it."""

import json
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import MetadataCatalog
from small_runs import same
from support import write_coco
from tiny_model import tiny_cfg, tiny_model

from mask_rcnn_ext import UserError, load_config
from mask_rcnn_ext.checkpoint.checkpointer import Checkpointer
from mask_rcnn_ext.checkpoint.description import describe_run, load_contents, read_config
from mask_rcnn_ext.config import flat_config
from mask_rcnn_ext.files import file_sha256
from mask_rcnn_ext.version import __version__


@pytest.fixture
def cfg(tmp_path):
    """The config of a run on a user's own data, which names files of her machine."""
    json_file, images = write_coco(tmp_path / "secret", images=2)
    cfg = tiny_cfg(2)
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = str(tmp_path / "secret/run"), str(tmp_path / "R-18.pth")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("own_train",), ("own_val",)
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = (str(tmp_path / "secret/proposals.pkl"),)
    cfg.MASK_RCNN_EXT.CLASS_NAMES, cfg.MASK_RCNN_EXT.CATEGORY_IDS = ["cat", "狗: *x"], [3, 10]
    cfg.MASK_RCNN_EXT.DATA.TRAIN_JSON = cfg.MASK_RCNN_EXT.DATA.VAL_JSON = str(json_file)
    cfg.MASK_RCNN_EXT.DATA.TRAIN_IMAGES = str(images)
    cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = "RGB", [1.5, 2.0, 1e-5], [1.0] * 3
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16]] * 5  # one list five times: an alias in plain yaml
    return cfg


def write(path, config, **more):
    torch.save({"model": {"weight": torch.zeros(2)}, "config": config, **more}, path)
    return path


def test_a_checkpoint_gives_back_its_config_without_paths(cfg, tmp_path):
    path = tmp_path / "model_final.pth"
    names, description = cfg.MASK_RCNN_EXT.CLASS_NAMES, describe_run(cfg, 7)
    model = tiny_model(2)
    Checkpointer(model, str(tmp_path), class_names=names, description=description).save(
        "model_final", iteration=4
    )
    contents = torch.load(path, weights_only=True)  # plain values only
    found, given = dict(flat_config(read_config(path))), dict(flat_config(cfg))
    changed = {key for key in given if json.dumps(found[key]) != json.dumps(given[key])}
    assert changed == {
        "OUTPUT_DIR", "MODEL.WEIGHTS", "DATASETS.PROPOSAL_FILES_TRAIN",
        "MASK_RCNN_EXT.DATA.TRAIN_JSON", "MASK_RCNN_EXT.DATA.TRAIN_IMAGES",
        "MASK_RCNN_EXT.DATA.VAL_JSON",
    }  # fmt: skip
    assert found["MODEL.WEIGHTS"] == str(path)
    assert contents["class_names"] == ["cat", "狗: *x"]
    assert contents["iteration"] == 4
    said = contents["provenance"]
    hashes = {"file": "annotations.json", "sha256": file_sha256(cfg.MASK_RCNN_EXT.DATA.VAL_JSON)}
    assert said["data"] == {"train": {"own_train": hashes}, "test": {"own_val": hashes}}
    assert (said["seed"], said["initial_weights"]) == (7, "R-18.pth")
    assert said["versions"]["mask_rcnn_ext"] == __version__
    assert said["versions"]["torch"] == torch.__version__
    contents.pop("model")
    assert "secret" not in json.dumps(contents)
    assert len(json.dumps(contents)) < 16_000  # bytes
    other = tiny_model(2, seed=5)
    rest = DetectionCheckpointer(other).load(str(path))  # detectron2's own
    assert same(other.state_dict(), model.state_dict())
    assert rest["provenance"]["seed"] == 7


def test_the_text_is_yaml_that_a_config_file_may_hold(cfg, tmp_path):
    (tmp_path / "config.yaml").write_text(describe_run(cfg, 1)["config"], encoding="utf-8")
    assert load_config(str(tmp_path / "config.yaml")).MODEL.PIXEL_MEAN == [1.5, 2.0, 1e-5]


def test_the_names_of_keypoints_are_those_of_the_training_data(cfg, forget_data_sets):
    MetadataCatalog.get("own_train_keypoints").set(keypoint_names=("nose", "tail"))
    cfg.DATASETS.TRAIN, cfg.MODEL.KEYPOINT_ON = ("own_train_keypoints",), True
    assert describe_run(cfg, 1)["keypoint_names"] == ["nose", "tail"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("_BASE_: {folder}/other.yaml\n", "'_BASE_' can only be used in files"),
        ("OUTPUT_DIR: !!python/object/apply:os.mkdir ['{folder}/made']\n", "refused, since"),
        ("MODEL: {{MASKON: true}}\n", "unknown config key 'MODEL.MASKON'; did you mean"),
        ("VERSION: &a 2\nSEED: *a\n", "it has an alias"),
        ("MODEL: " + "[" * 3000, "nested too deeply"),
        ("- 1\n", "expected keys and values"),
        ("MODEL: {{MASK_ON: 3}}\n", "MODEL.MASK_ON"),
        ("MASK_RCNN_EXT: {{TIMM: {{NAME: 'hf-hub:a/b'}}}}\n", "outside timm"),
        (7, "contains no config"),
    ],
)
def test_a_config_of_somebody_else_is_data_only(tmp_path, text, message):
    (tmp_path / "other.yaml").write_text("SEED: 3\n")
    text = text.format(folder=tmp_path) if isinstance(text, str) else text
    before = sorted(tmp_path.iterdir())
    path = write(tmp_path / "my model.pth", text)
    with pytest.raises(UserError, match=r"my model\.pth") as raised:
        read_config(path)
    assert message in str(raised.value)
    if "--weights" in str(raised.value):  # the rest is part of a command
        assert shlex.split(str(raised.value))[-1] == str(path)
    assert sorted(tmp_path.iterdir()) == [*sorted([*before, path])]


def test_paths_and_downloads_in_a_config_are_not_followed(tmp_path):
    text = yaml.safe_dump(
        {
            "OUTPUT_DIR": "/etc",
            "MODEL": {"WEIGHTS": "https://example.com/other.pth"},
            "DATASETS": {"PROPOSAL_FILES_TEST": ["/etc/passwd"]},
            "MASK_RCNN_EXT": {"TIMM": {"PRETRAINED": True}, "DATA": {"VAL_JSON": "/etc/passwd"}},
        }
    )
    path = write(tmp_path / "model.pth", text)
    cfg = read_config(path)
    assert Path(cfg.MODEL.WEIGHTS) == path
    assert Path(cfg.OUTPUT_DIR) == Path("output")
    assert (cfg.DATASETS.PROPOSAL_FILES_TEST, cfg.MASK_RCNN_EXT.DATA.VAL_JSON) == ((), "")
    assert not cfg.MASK_RCNN_EXT.TIMM.PRETRAINED


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_of_old_and_new_files_are_there(tmp_path, zipped):
    content = {"model": {"w": torch.arange(3.0)}, "config": "SEED: 3"}
    torch.save(content, tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    assert load_contents(tmp_path / "m.pth")["model"]["w"].tolist() == [0, 1, 2]
    assert read_config(tmp_path / "m.pth").SEED == 3


def test_what_is_no_checkpoint_is_refused(tmp_path):
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"list\.pth: expected a checkpoint.*got list"):
        load_contents(tmp_path / "list.pth")
