"""Named data sets: are they on disk, and what does the error say if not?"""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from mask_rcnn_ext.data.catalog import require_datasets
from mask_rcnn_ext.errors import UserError


@pytest.fixture
def coco_sets(tmp_path, monkeypatch, forget_data_sets):
    """Register sets with relative paths, as detectron2 does when no root was set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    names = ["absent_coco_train", "absent_coco_val"]
    for name in names:
        year = f"{name.split('_')[-1]}2017"
        json_file = f"datasets/coco/annotations/instances_{year}.json"
        register_coco_instances(name, {}, json_file, f"datasets/coco/{year}")
    return names


def explain(*names: str) -> str:
    """Return the error about data sets."""
    with pytest.raises(UserError) as info:
        require_datasets(names)
    return str(info.value)


def test_an_unknown_name_gets_the_nearest_and_own_data():
    message = explain("coco_2017_trian")
    assert "'coco_2017_trian'; did you mean 'coco_2017_train'" in message
    assert "--train-json F --train-images D --val-json F --val-images D" in message
    assert "coco_2017_trian" not in MetadataCatalog


def test_coco_that_is_not_there(tmp_path, coco_sets):
    message = explain(coco_sets[0])
    for part in (
        f"  {tmp_path}/datasets/coco/annotations/instances_train2017.json\n",
        f"  {tmp_path}/datasets/coco/train2017\n",
        f"The root of data sets is {tmp_path}/datasets ($DETECTRON2_DATASETS is not set",
        "Put there coco/annotations/instances_train2017.json, coco/train2017/, or set",
        "--train-json F --train-images D --val-json F --val-images D",
        "--config-file configs/shapes/mask_rcnn_tiny_FPN.yaml, or `make demo`",
    ):
        assert part in message


def test_the_root_that_was_set_is_named(tmp_path, coco_sets, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "./datasets/")
    expected = f"{tmp_path}/datasets ($DETECTRON2_DATASETS is './datasets/')"
    assert expected in explain(coco_sets[1])


def test_only_what_is_missing_is_named(tmp_path, coco_sets):
    (tmp_path / "datasets" / "coco" / "train2017").mkdir(parents=True)
    assert "train2017/" not in explain(coco_sets[0])
    annotations = tmp_path / "datasets" / "coco" / "annotations"
    annotations.mkdir()
    (annotations / "instances_train2017.json").touch()
    require_datasets([coco_sets[0]])


def test_several_make_one_message(coco_sets):
    train, val = coco_sets
    message = explain(train, "occluded_shapes_val", val, train, "cocoo")
    assert f"the data of {train!r}, {val!r} is not there" in message
    assert "unknown data set 'cocoo'" in message
    assert message.count("instances_train2017.json\n") == 1
    assert message.count("To run without it") == 1


@pytest.mark.parametrize(
    "name",
    [
        "coco_2017_val",
        "coco_2017_val_panoptic",
        "coco_2017_val_panoptic_separated",
        "coco_2017_val_panoptic_stuffonly",
        "cityscapes_fine_sem_seg_val",
        "cityscapes_fine_panoptic_val",
        "ade20k_sem_seg_val",
        "voc_2007_trainval",
        "lvis_v1_val",
    ],
)
def test_every_kind_of_builtin_set(name):
    with pytest.raises(UserError, match=f"the data of '{name}' is not there"):
        require_datasets([name])


def test_sets_that_are_there(tmp_path, forget_data_sets):
    require_datasets(["occluded_shapes_train", "occluded_shapes_val"])  # drawn at first use
    (tmp_path / "a.json").touch()
    found = {"catalog_files": {"json_file": str(tmp_path / "a.json"), "image_root": tmp_path}}
    found["catalog_url"] = {"json_file": "https://example.org/a.json"}
    found["catalog_none"] = {"json_file": None}
    for name, metadata in found.items():
        DatasetCatalog.register(name, list)
        MetadataCatalog.get(name).set(**metadata)
    DatasetCatalog.register("catalog_bare", list)
    require_datasets([*found, "catalog_bare"])
    (tmp_path / "a.json").unlink()
    expected = r"'catalog_files' is not there. Looked for:\n  .*a.json\nTo"
    with pytest.raises(UserError, match=expected):
        require_datasets([*found, "catalog_bare"])
