"""Registration of a user's own COCO-format files. Images are 40 x 30 pixels."""

import json
import logging
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_masks import compressed, uncompressed
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from small_runs import read_results
from support import SMALL, TINY_CONFIG, change_json, run_train_net

from mask_rcnn_ext.data import own_data
from mask_rcnn_ext.data.own_data import OwnData, register_own_data
from mask_rcnn_ext.errors import UserError

pytestmark = pytest.mark.usefixtures("forget_data_sets")

W, H = 40, 30
CAT, DOG, COW = {"id": 0, "name": "cat"}, {"id": 4, "name": "dog"}, {"id": 7, "name": "cow"}
MASK = np.zeros((H, W), dtype=np.uint8)
MASK[5:25, 10:18] = 1
MASK[15:25, 18:30] = 1  # an L, so that a transposed or mirrored mask is another one
POLYGON = [[10, 5, 18, 5, 18, 15, 30, 15, 30, 25, 10, 25]]


def annotation(number: int, category: int = 0, image: int = 1, **changes: Any) -> dict[str, Any]:
    keys = {"id": number, "image_id": image, "category_id": category, "iscrowd": 0}
    return {**keys, "bbox": [10, 5, 20, 20], "area": 280, "segmentation": POLYGON, **changes}


def write(path: Path, categories: list[dict], annotations: list[dict]) -> Path:
    """Write a json with the images 1..3, and the images next to it if they are missing."""
    images = []
    for i in (1, 2, 3):
        images.append({"id": i, "file_name": f"{i}.png", "width": W, "height": H})
        if not (path.parent / f"{i}.png").exists():
            Image.new("RGB", (W, H), (i * 60, 0, 0)).save(path.parent / f"{i}.png")
    # Not in the order of the ids, as many tools write them.
    coco = {"info": {}, "images": images[::-1], "categories": categories[::-1]}
    path.write_text(json.dumps({**coco, "annotations": annotations}))
    return path


def register(train: Path | None, val: Path | None = None, **options: Any) -> OwnData:
    pairs = [p for f in (train, val) for p in ((str(f), str(f.parent)) if f else ("", ""))]
    some = train or val
    assert some is not None
    return register_own_data(*pairs, **{"clean_dir": str(some.parent / "clean"), **options})


def registered() -> list[str]:
    names = ("own_train", "own_val")
    return [n for n in names if n in DatasetCatalog or n in MetadataCatalog]


def test_a_sound_pair_is_registered_as_it_is(tmp_path):
    crowd = annotation(9, 4, iscrowd=1, segmentation=uncompressed(MASK))
    train = write(tmp_path / "t.json", [CAT, DOG, COW], [annotation(5, 7), annotation(6, 4), crowd])
    val = write(tmp_path / "v.json", [CAT, DOG, COW], [annotation(5, 0, image=2)])
    own = register(train, val)
    assert own == OwnData("own_train", "own_val", (0, 4, 7), ("cat", "dog", "cow"), "polygon")
    assert MetadataCatalog.get("own_train").json_file == str(train)
    assert MetadataCatalog.get("own_val").json_file == str(val)
    assert MetadataCatalog.get("own_val").thing_classes == ["cat", "dog", "cow"]
    assert not (tmp_path / "clean").exists()
    records = DatasetCatalog.get("own_train")
    assert [r["image_id"] for r in records] == [1, 2, 3]
    assert [a["category_id"] for a in records[0]["annotations"]] == [2, 1, 1]
    assert records[0]["file_name"] == str(tmp_path / "1.png")


SEGMENTATIONS: dict[str, Any] = {
    "polygon": POLYGON,
    "flat polygon": POLYGON[0],
    "compressed RLE": compressed(MASK),
    "uncompressed RLE": uncompressed(MASK),
    "png": "mask.png",
    "list": MASK.tolist(),
}


@pytest.mark.parametrize(
    "kinds", [[k] for k in SEGMENTATIONS] + [list(SEGMENTATIONS)], ids=", ".join
)
def test_the_mapper_of_detectron2_gets_the_masks(tmp_path, kinds):
    Image.fromarray(MASK * 255).save(tmp_path / "mask.png")
    annotations = [
        annotation(i + 1, segmentation=SEGMENTATIONS[kind]) for i, kind in enumerate(kinds)
    ]
    own = register(write(tmp_path / "t.json", [CAT], annotations), strict=len(kinds) == 1)
    assert own.mask_format == ("polygon" if all("polygon" in k for k in kinds) else "bitmask")
    mapper = DatasetMapper(
        is_train=True,
        augmentations=[],
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format=own.mask_format,
    )
    instances = mapper(DatasetCatalog.get("own_train")[0])["instances"]
    assert len(instances) == len(kinds)
    assert instances.gt_boxes.tensor.tolist() == [[10, 5, 30, 25]] * len(kinds)
    masks = instances.gt_masks
    if own.mask_format == "polygon":
        rles = [mask_util.merge(mask_util.frPyObjects(p, H, W)) for p in masks.polygons]
        decoded = np.stack([mask_util.decode(rle) for rle in rles])
    else:
        decoded = masks.tensor.numpy()
    assert np.array_equal(decoded, np.stack([MASK] * len(kinds)))


def perfect_predictions(name: str, evaluator: COCOEvaluator) -> None:
    """Feed `evaluator` the ground truth of the data set `name`, in the model's class numbers."""
    for record in DatasetCatalog.get(name):
        found = [a for a in record["annotations"] if not a["iscrowd"]]
        instances = Instances((H, W))
        xyxy = [BoxMode.convert(a["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for a in found]
        instances.pred_boxes = Boxes(torch.tensor(xyxy, dtype=torch.float32).reshape(-1, 4))
        instances.pred_classes = torch.tensor([a["category_id"] for a in found], dtype=torch.int64)
        instances.scores = torch.full((len(found),), 0.9)
        instances.pred_masks = torch.from_numpy(np.stack([MASK.astype(bool)] * len(found)))
        evaluator.process([record], [{"instances": instances}])


def test_a_val_file_without_a_category_keeps_the_numbers(tmp_path):
    train = write(tmp_path / "t.json", [CAT, DOG, COW], [annotation(1, 4), annotation(2, 7)])
    annotations = [
        annotation(0, 7, image=1),  # the id 0 would never count as matched
        annotation(3, 7, image=2, segmentation=compressed(MASK)),
        annotation(4, 0, image=3, segmentation=MASK.tolist()),
        annotation(5, 0, image=3, bbox=[0, 0, 0, 0]),
    ]
    for entry in annotations:
        del entry["area"], entry["iscrowd"]
    val = write(tmp_path / "v.json", [CAT, COW], annotations)
    register(train, val)
    metadata = MetadataCatalog.get("own_val")
    assert metadata.json_file == str(tmp_path / "clean" / "own_val.json")
    assert metadata.thing_dataset_id_to_contiguous_id == {0: 0, 4: 1, 7: 2}
    seen = {a["category_id"] for r in DatasetCatalog.get("own_val") for a in r["annotations"]}
    assert seen == {0, 2}
    evaluator = COCOEvaluator("own_val", tasks=("bbox", "segm"), distributed=False)
    evaluator.reset()
    perfect_predictions("own_val", evaluator)
    results = evaluator.evaluate()
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == pytest.approx(100)
        assert results[task]["AP-cow"] == pytest.approx(100)
        assert np.isnan(results[task]["AP-dog"])
    assert len(COCO(metadata.json_file).getAnnIds()) == 3
    assert [p.name for p in (tmp_path / "clean").iterdir()] == ["own_val.json"]


@pytest.mark.parametrize(
    "ids",
    [
        pytest.param([3, 1, 2], id="small"),
        pytest.param([2**62 + 1, 2**62, -(2**62)], id="64 bits"),
        pytest.param([2**100 + 1, 2**100, 0], id="100 bits"),
        pytest.param(["9", "10", "11"], id="text"),
        pytest.param([1.0, 2.0, 1e15], id="floats"),
        pytest.param(["b", "a", "ü"], id="names"),
    ],
)
def test_the_registered_ids_fit_every_reader(tmp_path, ids):
    val = write(tmp_path / "v.json", [CAT], [annotation(1), annotation(2, image=3)])
    with change_json(val) as coco:
        new = {image["id"]: own for image, own in zip(coco["images"], ids, strict=True)}
        for image in coco["images"]:
            image["id"] = new[image["id"]]
        for entry in coco["annotations"]:
            entry.update(image_id=new[entry["image_id"]], id=new[entry["image_id"]])
    register(None, val)
    path = MetadataCatalog.get("own_val").json_file
    images = json.loads(Path(path).read_text())["images"]
    assert all(type(i["id"]) is int and -(2**63) <= i["id"] < 2**63 for i in images)
    own = [str(i.get("original_id", i["id"])) for i in images]
    assert own == [str(i).removesuffix(".0") for i in ids]
    assert [(r["image_id"], len(r["annotations"])) for r in DatasetCatalog.get("own_val")] == [
        (i["id"], int(i["file_name"] != "2.png")) for i in sorted(images, key=lambda i: i["id"])
    ]


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        pytest.param(
            [CAT, {"id": 4, "name": "fox"}], "id 4 is 'fox' here and 'dog' there", id="name"
        ),
        pytest.param([CAT, {"id": 5, "name": "dog"}], "'dog' has id 5 here and 4 there", id="id"),
        pytest.param([CAT, {"id": 9, "name": "owl"}], r"'owl' \(id 9\) is not there", id="lacking"),
        pytest.param(
            [CAT, {"id": 9, "name": "cat"}],
            r"v.json: 1 .* categories 9, 0 have the same name 'cat'",
            id="twice",
        ),
    ],
)
def test_categories_that_contradict(tmp_path, categories, message):
    train = write(tmp_path / "t.json", [CAT, DOG], [annotation(1)])
    val = write(tmp_path / "v.json", categories, [annotation(1)])
    with pytest.raises(UserError, match=message):
        register(train, val)
    assert registered() == []


def test_the_faults_of_both_files_are_reported_in_one_message(tmp_path):
    train = write(tmp_path / "t.json", [CAT, DOG], [annotation(1, image=9), annotation(2)])
    val = write(tmp_path / "v.json", [CAT, {"id": 5, "name": "dog"}], [annotation(1, 6)])
    with pytest.raises(UserError) as error:
        register(train, val)
    first, *lines = str(error.value).split("\n")
    assert first == "the data cannot be used, for 3 reasons:"
    assert "t.json: 1 of 2 annotations has an unknown image_id" in lines[0]
    assert "v.json: 1 of 1 annotations has an unknown category_id" in lines[1]
    assert "v.json contradict" in lines[2]
    assert "'dog' has id 5 here and 4 there" in lines[2]


def test_one_file_that_is_no_json_leaves_the_faults_of_the_other(tmp_path):
    val = write(tmp_path / "v.json", [CAT], [annotation(1, image=9)])
    (tmp_path / "t.json").write_text("[]")
    with pytest.raises(UserError, match=r"t.json: expected a json object .*\n.*v.json: 1 of 1 ann"):
        register(tmp_path / "t.json", val)


@pytest.mark.parametrize("name", [{"id": 1}, None, 5, ""], ids=str)
def test_a_name_of_a_class_that_is_no_text(tmp_path, name):
    for number in (0, "x"):
        categories = [{"id": number, "name": name}, DOG]
        path = write(tmp_path / "t.json", categories, [annotation(1, number)])
        with pytest.raises(UserError, match="1 of 2 categories has no name"):
            register(path, path)


def test_categories_with_names_as_ids_are_the_same_in_both_files(tmp_path):
    cat, dog = {"id": "felis", "name": "cat"}, {"id": "canis", "name": "dog"}
    train = write(tmp_path / "t.json", [cat, dog], [annotation(1, "canis")])
    val = write(tmp_path / "v.json", [cat], [annotation(1, "felis")])
    own = register(train, val)
    assert (own.category_ids, own.class_names) == ((1, 2), ("dog", "cat"))  # in the file's order
    assert DatasetCatalog.get("own_val")[0]["annotations"][0]["category_id"] == 1
    classes = list(zip(own.category_ids, own.class_names, strict=True))
    assert register(None, val, classes=classes).category_ids == (1, 2)
    assert DatasetCatalog.get("own_val")[0]["annotations"][0]["category_id"] == 1


def test_the_weights_class_table_takes_the_place_of_train(tmp_path):
    val = write(tmp_path / "v.json", [DOG], [annotation(1, 4)])
    alone = register(None, val)
    assert alone == OwnData(None, "own_val", (4,), ("dog",), "polygon")
    own = register(None, val, classes=[(0, "cat"), (4, "dog")])
    assert own == OwnData(None, "own_val", (0, 4), ("cat", "dog"), "polygon")
    assert DatasetCatalog.get("own_val")[0]["annotations"][0]["category_id"] == 1
    expected = r"v.json contradict .*weights.*'dog' \(id 4\) is not there"
    with pytest.raises(UserError, match=expected):
        register(None, val, classes=[(0, "cat")])
    with pytest.raises(UserError, match="unique names by ascending unique ids"):
        register(None, val, classes=[(4, "dog"), (0, "cat")])


def test_train_alone(tmp_path):
    train = write(tmp_path / "t.json", [CAT], [annotation(1, segmentation=compressed(MASK))])
    assert register(train) == OwnData("own_train", None, (0,), ("cat",), "bitmask")
    assert registered() == ["own_train"]


def test_registering_again_replaces(tmp_path):
    first = write(tmp_path / "a.json", [CAT, DOG], [annotation(1), annotation(2, 4)])
    register(first, first)
    assert registered() == ["own_train", "own_val"]
    second = write(tmp_path / "b.json", [COW], [annotation(1, 7)])
    register(second)
    assert registered() == ["own_train"]
    assert MetadataCatalog.get("own_train").thing_classes == ["cow"]
    assert len(DatasetCatalog.get("own_train")[0]["annotations"]) == 1


def test_an_error_leaves_nothing_registered_or_written(tmp_path):
    train = write(tmp_path / "t.json", [CAT], [annotation(1, segmentation=POLYGON[0])])
    register(train, train)
    bad = write(tmp_path / "v.json", [CAT], [annotation(1, image=8)])
    with pytest.raises(UserError, match="image_id 8"):
        register(train, bad, clean_dir=str(tmp_path / "other"))
    assert registered() == []
    assert not (tmp_path / "other").exists()


def test_a_clean_dir_that_cannot_be_written(tmp_path):
    train = write(tmp_path / "t.json", [CAT], [annotation(1, segmentation=POLYGON[0])])
    with pytest.raises(UserError, match=r"cannot write .*t.json/own_train.json"):
        register(train, clean_dir=str(train))
    assert registered() == []


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        pytest.param(("t.json", "", "", ""), "also give --train-images", id="no train images"),
        pytest.param(("", "", "", "d"), "also give --val-json", id="no val json"),
        pytest.param(("", "", "", ""), "no data given", id="nothing"),
        pytest.param(("t.json", "d", "", ""), "json file not found: .*t.json", id="no file"),
    ],
)
def test_incomplete_arguments(tmp_path, pairs, message):
    with pytest.raises(UserError, match=message):
        register_own_data(*pairs, clean_dir=str(tmp_path))


def test_strict_names_the_annotation(tmp_path):
    train = write(tmp_path / "t.json", [CAT], [annotation(1), annotation(2, bbox=[1, 1, 0, 0])])
    assert register(train).train_name == "own_train"
    assert len(DatasetCatalog.get("own_train")[0]["annotations"]) == 1
    with pytest.raises(UserError, match=r"t.json: malformed 1 of 2 .*\(first: 2\)"):
        register(train, strict=True)


def test_boxes_without_masks_train_a_model_without_masks(tmp_path, coco_pair, capsys):
    for path in coco_pair[1::4]:
        with change_json(path) as coco:
            for entry in coco["annotations"]:
                del entry["segmentation"], entry["area"]
    run = tmp_path / "run"
    arguments = [
        "--config-file", TINY_CONFIG, *coco_pair, *SMALL,
        "SOLVER.MAX_ITER", "2", "OUTPUT_DIR", str(run), "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0",
    ]  # fmt: skip
    assert run_train_net(*arguments) == 2
    assert "MODEL.MASK_ON False" in capsys.readouterr().err
    assert not run.exists()

    assert run_train_net(*arguments, "MODEL.MASK_ON", "False") == 0
    results = read_results(run)
    assert "segm" not in results
    assert results["bbox"]["AP"] is not None
    # Every instance is there to learn from and to compare with, by the size of its box.
    records = DatasetCatalog.get("own_train")
    assert sum(len(record["annotations"]) for record in records) == 24
    val = json.loads(Path(MetadataCatalog.get("own_val").json_file).read_text())["annotations"]
    assert [a["area"] for a in val] == [a["bbox"][2] * a["bbox"][3] for a in val]


@pytest.mark.parametrize("crowd", [None, 1, 0])
def test_validation_images_without_an_object_are_a_warning(tmp_path, crowd):
    found = [] if crowd is None else [annotation(1, iscrowd=crowd)]
    val = write(tmp_path / "v.json", [CAT], found)
    own = register(write(tmp_path / "t.json", [CAT], [annotation(1)]), val)
    warned = f"{val}: there is no object to find, so AP is undefined" in own.warnings
    assert warned == (crowd != 0)


def test_a_disk_that_fills_up_leaves_no_half_file(tmp_path, monkeypatch):
    def dump(content, file):
        file.write("{")
        raise OSError(28, "No space left on device")

    train = write(tmp_path / "t.json", [CAT], [annotation(1, segmentation=POLYGON[0])])
    monkeypatch.setattr(own_data.json, "dump", dump)
    with pytest.raises(UserError, match=r"cannot write .*own_train.json: No space left"):
        register(train)
    assert list((tmp_path / "clean").iterdir()) == []


def test_the_log_says_how_much_there_is_and_how_to_see_what_is_wrong(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    crowd = annotation(3, 4, image=2, iscrowd=1)
    sound = write(tmp_path / "t.json", [CAT, DOG], [annotation(1), annotation(2, 4), crowd])
    register(sound)
    assert f"{sound}: images: 3, objects: 2, crowd regions: 1, classes: 2" in caplog.messages
    assert "mask-rcnn-ext check" not in caplog.text
    own = register(write(tmp_path / "a b.json", [CAT, DOG], [annotation(1)]))
    assert own.warnings == (f"{tmp_path / 'a b.json'}: 1 of 2 classes has no instance: dog",)
    assert ("mask_rcnn_ext.data.own_data", logging.WARNING, *own.warnings) in caplog.record_tuples
    train = {"--train-json": tmp_path / "a b.json", "--train-images": tmp_path}
    given = " ".join(f"{option} {shlex.quote(str(path))}" for option, path in train.items())
    assert f"mask-rcnn-ext check {given} --output data_check" in caplog.messages[-1]
