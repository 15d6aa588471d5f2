"""The contact sheet of a data set from the command line."""

import json
import os

import numpy as np
import preview_dataset as tool
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as mask_util
from support import change_json, make_annotation, write_coco

from mask_rcnn_ext.report.drawing.pictures import choose_color

# pycocotools' compiled code under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAME = "preview_of_two_classes"


def make_records(folder, count):
    """Return records of detectron2's: a polygon and a bitmap in each image, and a crowd."""
    records = []
    bitmap = np.zeros((30, 40), dtype=np.uint8)
    bitmap[15:28, 20:38] = 1
    for i in range(count):
        path = folder / f"{i}.png"
        Image.new("RGB", (40, 30), (10 * i, 0, 0)).save(path)
        shared = {"bbox_mode": BoxMode.XYWH_ABS}
        polygon = [[2.0, 2.0, 14.0, 2.0, 14.0, 12.0, 2.0, 12.0]]
        annotations = [
            {"category_id": 0, "bbox": [2, 2, 12, 10], "segmentation": polygon, **shared},
            {"category_id": 1, "bbox": [20, 15, 18, 13], "segmentation": bitmap, **shared},
            {"category_id": 1, "bbox": [0, 0, 40, 30], "iscrowd": 1, **shared},
        ]
        record = {"file_name": str(path), "image_id": i, "height": 30, "width": 40}
        records.append({**record, "annotations": annotations})
    return records


@pytest.fixture
def registered(tmp_path, forget_data_sets):
    records = make_records(tmp_path, 5)
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(thing_classes=["one", "two"])
    return tmp_path


def name_files(path, images, output) -> list[str]:
    """Return the options for the sheet of a data set that is given by its files."""
    return ["--json", str(path), "--images", str(images), "--output", str(output)]


def test_no_file_of_the_data_set_is_replaced(registered, tmp_path, capsys):
    path, images = write_coco(tmp_path / "data", images=2)
    (tmp_path / "link.png").symlink_to(images / "000.png")
    (tmp_path / "json.png").symlink_to(path)  # other names than .png are refused anyway
    given = [
        (name_files(path, images, tmp_path / "json.png"), path),
        (name_files(path, images, images / "000.png"), images / "000.png"),
        (name_files(path, images, tmp_path / "link.png"), images / "000.png"),
        (["--dataset", NAME, "--output", str(registered / "3.png")], registered / "3.png"),
    ]
    for command, file in given:
        before = file.read_bytes()
        assert tool.main(command) == 2
        assert "is a file of the data set, which the sheet would replace" in capsys.readouterr().err
        assert file.read_bytes() == before


def test_a_registered_data_set(registered, capsys):
    output = registered / "out" / "sheet.png"
    command = ["--dataset", NAME, "--output", str(output), "--num", "4", "--columns", "2"]
    assert tool.main([*command, "--size", "120"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(output)
    assert lines[1] == "5 images, 10 objects and 5 crowd regions"
    assert [line.split() for line in lines[2:]] == [["one", "5"], ["two", "5"]]
    sheet = np.array(Image.open(output))
    assert sheet.shape[1] == 2 * 120 + 3 * 10
    for index in (0, 1):  # both kinds of mask are drawn, in each of the four pictures
        near = np.abs(sheet.astype(int) - choose_color(index)).max(axis=2) < 30
        assert near.sum() > 4 * 50
    assert os.listdir(output.parent) == ["sheet.png"]


def test_the_seed_decides_the_images(registered):
    def sheet(seed, num):
        output = registered / "sheet.png"
        command = ["--dataset", NAME, "--output", str(output), "--size", "32"]
        assert tool.main([*command, "--num", str(num), "--seed", str(seed)]) == 0
        return output.read_bytes()

    sheets = [sheet(seed, 2) for seed in range(6)]
    assert sheet(0, 2) == sheets[0]
    assert len(set(sheets)) > 1
    width = np.array(Image.open(registered / "sheet.png")).shape[1]
    assert width == 2 * 32 + 3 * 10
    sheet(0, 9)  # more than there are: all
    assert np.array(Image.open(registered / "sheet.png")).shape[1] == 5 * 32 + 6 * 10


def test_json_and_images(tmp_path, capsys):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "annotations": [make_annotation(1, 1, 9, (2, 2, 12, 10))],
        "categories": [{"id": 9, "name": "cell"}],
    }
    (tmp_path / "data.json").write_text(json.dumps(content), encoding="utf-8")
    output = tmp_path / "sheet.png"
    assert tool.main(name_files(tmp_path / "data.json", tmp_path, output)) == 0
    assert output.is_file()
    assert capsys.readouterr().out.split()[-2:] == ["cell", "1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "occluded_shapes_trian"], "did you mean 'occluded_shapes_train'"),
        ([], "either --dataset NAME"),
        (["--json", "a.json"], "--images"),
        (["--dataset", "a", "--json", "b", "--images", "c"], "either --dataset NAME"),
        (["--json", "gone.json", "--images", "."], "gone.json"),
        (["--dataset", "a", "--num", "0"], "--num"),
        (["--dataset", "a", "--output", "a.json"], "a name that ends with .png, got a.json"),
    ],
)
def test_bad_input_is_exit_code_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert tool.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("options", [["--size", "50000"], ["--size", "7000", "--augmented"]])
def test_a_sheet_that_would_fill_the_memory_is_refused(options, registered, capsys):
    output = registered / "sheet.png"
    assert tool.main(["--dataset", NAME, "--output", str(output), *options]) == 2
    assert "lower --size or --num" in capsys.readouterr().err
    assert not output.exists()


def test_a_missing_image_is_named_and_nothing_is_written(registered, capsys):
    (registered / "3.png").unlink()
    output = registered / "sheet.png"
    assert tool.main(["--dataset", NAME, "--output", str(output)]) == 2
    assert "3.png" in capsys.readouterr().err
    assert not output.exists()


def test_boxes_without_masks_are_shown_when_asked_for(tmp_path, capsys):
    path, images = write_coco(tmp_path, images=2)
    with change_json(path) as content:
        for annotation in content["annotations"][::2]:
            del annotation["segmentation"]
    arguments = name_files(path, images, tmp_path / "a.png")
    assert tool.main(arguments) == 0
    assert "2 images, 2 objects" in capsys.readouterr().out
    assert tool.main([*arguments, "--boxes"]) == 0
    assert "2 images, 4 objects" in capsys.readouterr().out


def test_odd_images_are_shown_or_named(tmp_path, capsys, caplog):
    path, folder = write_coco(tmp_path, images=3)
    with change_json(path) as content:
        page = Image.open(folder / "001.png").convert("RGB")
        page.save(folder / "pages.tif", save_all=True, append_images=[page])
        Image.new("RGB", (2000, 1)).save(folder / "strip.png")
        for image, name, size in zip(
            content["images"], ("pages.tif", "strip.png"), (page.size, (2000, 1)), strict=False
        ):
            image.update(file_name=name, width=size[0], height=size[1])
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 2]
    command = name_files(path, folder, tmp_path / "sheet.png")
    assert tool.main(command) == 0
    assert "only the first is read: pages.tif (2)" in caplog.text
    Image.new("I;16", page.size).save(folder / "002.png")
    capsys.readouterr()
    assert tool.main(command) == 2
    assert "002.png: has more than 8 bits per channel" in capsys.readouterr().err


def test_augmented_draws_are_the_samples_of_training(registered, capsys):
    """Turned images have a corner of the fill colour, and the rows hold one image each."""
    for record in DatasetCatalog.get(NAME):
        bitmap = record["annotations"][1]  # detectron2 trains on RLE, not on arrays
        bitmap["segmentation"] = mask_util.encode(np.asfortranarray(bitmap["segmentation"]))
    output = registered / "sheet.png"
    keys = [
        "INPUT.MIN_SIZE_TRAIN", "(30,)", "MODEL.PIXEL_MEAN", "[255.0, 0.0, 255.0]",
        "MASK_RCNN_EXT.AUGMENTATION.ROTATION", "45.0",
        "MASK_RCNN_EXT.AUGMENTATION.COPY_PASTE", "1.0",
    ]  # fmt: skip
    command = ["--dataset", NAME, "--output", str(output), "--size", "120", "--columns", "3"]
    assert tool.main([*command, "--num", "2", "--augmented", *keys]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "5 images, 10 objects and 5 crowd regions"
    sheet = np.array(Image.open(output)).astype(int)
    assert sheet.shape[1] == 3 * 120 + 4 * 10
    pink = (np.abs(sheet - (255, 0, 255)).max(axis=2) < 40).any(axis=0)
    assert not pink[:130].any()
    assert pink[140:260].any()
    assert pink[270:].any()
    first = output.read_bytes()
    assert tool.main([*command, "--num", "2", "--augmented", *keys]) == 0
    assert output.read_bytes() == first
    assert tool.main([*command, "--num", "2", "--augmented", "--seed", "7", *keys]) == 0
    assert output.read_bytes() != first


def test_polygons_and_boxes_are_drawn_where_the_model_gets_them(tmp_path):
    path, images = write_coco(tmp_path, images=2)
    output = tmp_path / "sheet.png"
    command = name_files(path, images, output)
    for keys in ([], ["MODEL.MASK_ON", "False"]):
        assert tool.main([*command, "--augmented", "INPUT.MIN_SIZE_TRAIN", "(48,)", *keys]) == 0
        sheet = np.array(Image.open(output)).astype(int)
        near = np.abs(sheet - choose_color(0)).max(axis=2) < 30
        assert near.sum() > 500


def test_a_config_without_augmented_is_refused(registered, capsys):
    assert tool.main(["--dataset", NAME, "SEED", "1"]) == 2
    assert "SEED 1: only --augmented reads a config" in capsys.readouterr().err
    named = ["--augmented", "--config-file", "shapes/mask_rcnn_tiny_FPN"]  # not a path
    keys = ["MASK_RCNN_EXT.AUGMENTATION.HUE", "2.0"]
    assert tool.main(["--dataset", NAME, *named, *keys]) == 2
    assert "HUE: expected 0 to 0.5, got 2" in capsys.readouterr().err
    assert tool.main(["--dataset", NAME, "--augmented", *keys]) == 2
    assert "HUE: expected 0 to 0.5, got 2" in capsys.readouterr().err
