import errno
import math
import os
import re

import numpy as np
import predict as tool  # tools/ is on the path
import pytest
from PIL import Image
from predict_runs import *  # noqa: F403
from predict_runs import outputs, write_image
from pycocotools import mask as mask_util
from support import REPO
from tiny_model import picture

from mask_rcnn_ext import Predictor
from mask_rcnn_ext.modeling.speed import SPEEDS
from mask_rcnn_ext.prediction import filters, image_outputs

RCNN = REPO / "configs/shapes/lineage/rcnn_tiny.yaml"


def test_folder_gives_results_images_and_pictures(predict, run_folder, tmp_path):
    for name in ("img10.jpg", "img2.PNG", "img1.bmp"):
        write_image(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    (tmp_path / "in" / "._img1.jpg").write_text("macOS leaves such files")
    assert predict(tmp_path / "in") == 0
    results, images = outputs(tmp_path)
    assert images["images"] == [
        {"id": 1, "file_name": "img1.bmp", "width": 80, "height": 60},
        {"id": 2, "file_name": "img2.PNG", "width": 80, "height": 60},
        {"id": 3, "file_name": "img10.jpg", "width": 80, "height": 60},
    ]
    assert images["categories"] == [
        {"id": 2, "name": "cat"},
        {"id": 7, "name": "dog"},
        {"id": 90, "name": "cow"},
    ]
    assert {r["image_id"] for r in results} == {1, 2, 3}
    kinds = {"img1.bmp.png": "PNG", "img10.jpg": "JPEG", "img2.PNG": "PNG"}
    assert sorted(os.listdir(tmp_path / "out" / "pictures")) == list(kinds)
    for name, kind in kinds.items():
        with Image.open(tmp_path / "out" / "pictures" / name) as picture:
            assert (picture.format, picture.size) == (kind, (480, 360))
    assert sorted(os.listdir(tmp_path / "out")) == [
        "coco_instances_results.json",
        "images.json",
        "pictures",
    ]


def test_inputs_may_stand_before_and_after_the_options(predict, tmp_path, monkeypatch):
    for name in ("a.png", "b.png", "-c.png"):
        write_image(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert predict("a.png", more=["b.png", "--no-pictures", "--", "-c.png"]) == 0
    names = [image["file_name"] for image in outputs(tmp_path)[1]["images"]]
    assert names == ["a.png", "b.png", "-c.png"]


def test_levels_of_speed(predict, tmp_path):
    write_image(tmp_path / "x.png")
    scores = {}
    for speed in SPEEDS:
        more = ["--no-pictures", "--speed", speed]
        assert predict(tmp_path / "x.png", more=more) == 0
        results, _ = outputs(tmp_path)
        scores[speed] = [r["score"] for r in results]
    assert len(scores["fast"]) == 10
    assert scores["fast"] == pytest.approx(scores["exact"], abs=1e-4)
    assert tool.SPEEDS == SPEEDS
    assert tool.MEASURES == filters.MEASURES


# Of pycocotools' decode, under NumPy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_results_lose_nothing_of_the_prediction(predict, run_folder, tmp_path):
    write_image(tmp_path / "x.png")
    assert predict(tmp_path / "x.png", more=["--no-pictures"]) == 0
    results, _ = outputs(tmp_path)
    predictor = Predictor(run_folder / "config.yaml", run_folder / "model_final.pth")
    instances = predictor(str(tmp_path / "x.png"))
    ids = [predictor.category_ids[label] for label in instances.pred_classes]
    assert len(results) == len(instances) == 10
    assert [r["category_id"] for r in results] == ids
    assert len(set(ids)) > 1
    scores = np.array([r["score"] for r in results], dtype=np.float32)
    assert (scores == instances.scores.numpy()).all()
    boxes = instances.pred_boxes.tensor.numpy()
    xywh = np.array([r["bbox"] for r in results], dtype=np.float32)
    assert (xywh == np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)).all()
    assert all(isinstance(r["segmentation"]["counts"], str) for r in results)
    masks = np.stack([mask_util.decode(r["segmentation"]) for r in results]).astype(bool)
    assert (masks == instances.pred_masks.numpy()).all()
    assert not (tmp_path / "out" / "pictures").exists()


def test_score_threshold_default_and_overrides(predict, tmp_path):
    write_image(tmp_path / "x.png")
    assert predict(tmp_path / "x.png") == 0
    everything, _ = outputs(tmp_path)
    middle = sorted(r["score"] for r in everything)[4]
    assert predict(tmp_path / "x.png", threshold=repr(middle)) == 0
    some, _ = outputs(tmp_path)
    assert [r["score"] for r in some] == [r["score"] for r in everything if r["score"] > middle]
    assert predict(tmp_path / "x.png", more=["--opts", "TEST.DETECTIONS_PER_IMAGE", "2"]) == 0
    assert len(outputs(tmp_path)[0]) == 2
    defaults = tool.build_parser().parse_args(["x", "--config-file", "c", "--output", "o"])
    assert tool.parse_thresholds(defaults.score_threshold) == pytest.approx(0.5)


def test_without_a_detection_the_highest_score_is_told(predict, tmp_path, capsys):
    write_image(tmp_path / "x.png")
    assert predict(tmp_path / "x.png") == 0
    classes = dict(zip([2, 7, 90], ["cat", "dog", "cow"], strict=True))
    results, _ = outputs(tmp_path)
    for more, wanted in (([], {2, 7, 90}), (["--classes", "dog"], {7})):
        capsys.readouterr()
        assert predict(tmp_path / "x.png", threshold="1", more=more) == 0
        best = max((r for r in results if r["category_id"] in wanted), key=lambda r: r["score"])
        name, score = classes[best["category_id"]], math.floor(best["score"] * 1000) / 1000
        line = f"no detection reached 1; the highest score was {score:g} ({name})"
        assert capsys.readouterr().out.splitlines()[-1] == line


def test_of_many_images_without_a_detection_a_few_are_looked_at(predict, tmp_path, capsys):
    for number in range(9):
        write_image(tmp_path / f"in/{number}.png")
    assert predict(tmp_path / "in", threshold="cat=1,1", more=["--tile", "64"]) == 0
    where = "inside 16 tiles of 8 of 9 images"
    line = rf"no detection reached cat=1,1; the highest score {where} was 0\.\d+ \(\w+\)"
    assert re.fullmatch(line, capsys.readouterr().out.splitlines()[-1])


def test_exif_rotated_and_gray_images(predict, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    write_image(tmp_path / "in" / "turned.jpg", 50, 90, exif=exif)
    Image.new("L", (70, 40), 100).save(tmp_path / "in" / "gray.png")
    assert predict(tmp_path / "in") == 0
    results, images = outputs(tmp_path)
    sizes = {i["file_name"]: (i["width"], i["height"]) for i in images["images"]}
    assert sizes == {"turned.jpg": (50, 90), "gray.png": (70, 40)}
    assert all(r["segmentation"]["size"] == [90, 50] for r in results if r["image_id"] == 2)
    assert any(r["image_id"] == 2 for r in results)
    with Image.open(tmp_path / "out" / "pictures" / "turned.jpg") as picture:
        assert picture.size == (267, 480)


def test_unreadable_files_are_reported_and_the_rest_is_done(predict, tmp_path, capsys):
    for name in ("a.png", "c.png"):
        write_image(tmp_path / "in" / name)
    (tmp_path / "in" / "b.jpg").write_bytes(b"no image")
    whole = (tmp_path / "in" / "c.png").read_bytes()
    (tmp_path / "in" / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert predict(tmp_path / "in") == 1
    _, images = outputs(tmp_path)
    assert [i["file_name"] for i in images["images"]] == ["a.png", "c.png"]
    said = capsys.readouterr().err
    assert "2 of 4 images failed" in said
    assert "b.jpg: cannot be read as an image" in said
    assert "cut.png: cannot be read as an image" in said


def test_when_no_image_is_readable_each_is_named_and_the_results_are_empty(
    predict, tmp_path, capsys
):
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes(b"no image")
    assert predict(tmp_path / "a.png", tmp_path / "b.jpg") == 1
    said = capsys.readouterr().err
    assert "2 of 2 images failed" in said
    assert "a.png: cannot be read as an image" in said
    assert "b.jpg: cannot be read as an image" in said
    results, images = outputs(tmp_path)
    assert (results, images["images"]) == ([], [])
    assert [c["name"] for c in images["categories"]] == ["cat", "dog", "cow"]
    assert sorted(os.listdir(tmp_path / "out")) == ["coco_instances_results.json", "images.json"]


@pytest.mark.parametrize("batch_size", ["1", "3"])
def test_an_image_that_fails_in_the_model_costs_no_other(
    predict, tmp_path, capsys, monkeypatch, batch_size
):
    """The model cannot take one image; the batch that holds it is run again one by one."""
    for name, height in (("a.png", 60), ("b.png", 61), ("c.png", 60), ("d.png", 60)):
        write_image(tmp_path / "in" / name, height)
    from mask_rcnn_ext.modeling import packed_outputs

    finish = packed_outputs._paste

    def fail(model, image, raw):
        if image["height"] == 61:
            raise RuntimeError("out of memory\nand much more to read")
        return finish(model, image, raw)

    monkeypatch.setattr(packed_outputs, "_paste", fail)
    assert predict(tmp_path / "in", more=["--batch-size", batch_size]) == 1
    results, images = outputs(tmp_path)
    assert [i["file_name"] for i in images["images"]] == ["a.png", "c.png", "d.png"]
    assert {r["image_id"] for r in results} == {1, 2, 3}
    assert sorted(os.listdir(tmp_path / "out/pictures")) == ["a.png", "c.png", "d.png"]
    said = capsys.readouterr().err
    assert "1 of 4 images failed:" in said
    assert "b.png: failed (RuntimeError: out of memory)\n" in said
    assert "Traceback" not in said


def test_a_picture_that_cannot_be_written_costs_no_result(predict, tmp_path, capsys, monkeypatch):
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name)
    save = image_outputs._save_picture

    def fail(path, *args):
        if path.name == "b.png":
            raise MemoryError
        save(path, *args)

    monkeypatch.setattr(image_outputs, "_save_picture", fail)
    assert predict(tmp_path / "in") == 1
    _, images = outputs(tmp_path)
    assert [i["file_name"] for i in images["images"]] == ["a.png", "b.png"]
    assert "b.png: failed (MemoryError" in capsys.readouterr().err


def test_large_images_have_smaller_pictures_and_full_results(
    predict, tmp_path, capsys, monkeypatch, recwarn
):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 70_000)  # Pillow warns above it
    Image.new("RGB", (70_000, 2)).save(tmp_path / "large.png")
    (tmp_path / "large.png").rename(tmp_path / "large.jpg")  # a JPEG has up to 65,535
    assert predict(tmp_path / "large.jpg") == 0
    assert not [w for w in recwarn if "decompression bomb" in str(w.message)]
    _, images = outputs(tmp_path)
    assert [(i["width"], i["height"]) for i in images["images"]] == [(70_000, 2)]
    with Image.open(tmp_path / "out/pictures/large.jpg") as picture:
        assert picture.size == (4096, 1)
    said = "1 of the pictures, not the results, are scaled down: 4096 pixels on the longer side\n"
    assert capsys.readouterr().out.endswith(said)


def test_tiles_of_a_tiff_and_of_a_photo(predict, tmp_path, capsys, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    image = picture(150, 200, seed=5)
    Image.fromarray(image).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(64, 64), photometric="rgb")
    options = {"threshold": "0.5", "more": ["--tile", "auto", "--write", "pictures,soft"]}
    assert predict(tmp_path / "a.png", tmp_path / "a.tif", **options) == 0
    results, _ = outputs(tmp_path)
    photo, tiff = ([r | {"image_id": 0} for r in results if r["image_id"] == i] for i in (1, 2))
    assert photo == tiff
    assert len(photo) > 10  # as many as an image or a tile may have
    with np.load(tmp_path / "out/soft/a.tif.npz") as soft:
        assert len(soft["windows"]) == len(tiff)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # for Pillow, half of what it refuses
    assert predict(tmp_path / "a.tif", **options, output=tmp_path / "big") == 0
    assert not (tmp_path / "big/pictures").exists()


def test_odd_images_are_predicted_or_named_and_other_files_are_counted(predict, tmp_path, caplog):
    folder = tmp_path / "in"
    write_image(folder / "plain.jp2")
    write_image(folder / "strip.png", 1, 2000)
    first, *others = (Image.fromarray(picture(60, 80, seed=seed)) for seed in range(3))
    for name in ("pages.tif", "film.gif"):
        first.save(folder / name, save_all=True, append_images=others)
    Image.new("I;16", (80, 60)).save(folder / "deep.png")
    for name in ("a.heic", "b.HEIC", "notes.txt", "README", ".hidden"):
        (folder / name).write_text("something")
    assert predict(folder) == 1
    _, images = outputs(tmp_path)
    names = [i["file_name"] for i in images["images"]]
    assert names == ["film.gif", "pages.tif", "plain.jp2", "strip.png"]
    assert (
        f"{folder}: left out 4 files of other kinds: 2 x .heic, 1 x .txt, 1 x without suffix"
        in caplog.text
    )
    for name in ("pages.tif", "film.gif"):
        assert f"{name}: only the first of 3 frames or pages is read" in caplog.text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"inputs": ["missing.jpg"]}, "input not found: missing.jpg"),
        ({"inputs": ["empty"]}, "no images in the folder empty"),
        ({"inputs": ["*.gif"]}, "no image matches the pattern *.gif"),
        ({"output": "x.png/out"}, "x.png/out cannot be written to: Not a directory"),
        ({"config": "nowhere.yaml"}, "no config 'nowhere.yaml'"),
        ({"weights": "nowhere.pth"}, "weights not found: nowhere.pth"),
        ({"more": ["--device", "cuda"]}, "device cuda: PyTorch finds no CUDA"),
        ({"more": ["--batch-size", "0"]}, "--batch-size: expected 1 or more, got 0"),
        ({"more": ["--opts", "TEST.DETECTION_PER_IMAGE", "2"]}, "TEST.DETECTIONS_PER_IMAGE"),
        ({"threshold": "50"}, "--score-threshold: expected a score from 0 to 1, got '50'"),
        (
            {"threshold": "cat=0.4,dgo=0.5"},
            "no class 'dgo'; the model knows cat, dog, cow",
        ),
        ({"more": ["--classes", ""]}, "--classes: expected names such as cat,dog, got none"),
        ({"more": ["--classes", "horse"]}, "no class 'horse'; the model knows cat, dog, cow"),
        (
            {"more": ["--write", "label"]},
            "--write label: expected names of coco, polygons, ",
        ),
        ({"more": ["--mask-overlap", "7"]}, "mask overlap: expected more than 0 and up to 1"),
        ({"more": ["--tile", "big"]}, "--tile: expected a number of pixels or auto, got big"),
        ({"more": ["--tile", "64", "--tile-overlap", "40"]}, "--tile-overlap: expected 1 to 32"),
        ({"more": ["--tile-overlap", "40"]}, "--tile-overlap needs --tile"),
        ({"more": ["--processes", "0"]}, "--processes: expected 1 or more, got 0"),
        ({"more": ["--every", "5"]}, "--every needs a video or a camera"),
        ({"more": ["--overlap-measure", "iou"]}, "--overlap-all-classes need --mask-overlap"),
        ({"more": ["--overlap-all-classes"]}, "--overlap-all-classes need --mask-overlap"),
        ({"inputs": ["cut.mp4"]}, "cut.mp4: cannot be read as a video by OpenCV"),
        ({"inputs": ["cut.mp4"], "more": ["--every", "0"]}, "--every: expected 1 or more, got 0"),
        ({"output": "x.png"}, "--output x.png: is a file, expected a folder"),
        ({"more": ["--selective-search", "fast"]}, "the model makes its own"),
        ({"more": ["--search-width", "500"]}, "need --selective-search MODE"),
        ({"config": RCNN}, "Add --selective-search MODE"),
        (
            {"config": RCNN, "more": ["--selective-search", "fast", "--search-width", "-1"]},
            "--search-width: expected 0 or more, got -1",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_usage_ends_with_2_and_one_line(
    predict, tmp_path, monkeypatch, capsys, options, says
):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "x.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.mp4").write_bytes(b"cut")
    inputs = options.get("inputs", ["x.png"])
    rest = {key: value for key, value in options.items() if key != "inputs"}
    assert predict(*inputs, **rest) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.startswith("error: ") or "\nerror: " in said
    assert says in said
    assert not (tmp_path / "out").exists()


def test_unwritable_output_is_noticed_before_the_model_is_built(predict, tmp_path, monkeypatch):
    write_image(tmp_path / "x.png")
    monkeypatch.setattr(tool, "Predictor", lambda *args, **kwargs: pytest.fail("built a model"))
    assert predict(tmp_path / "x.png", output=tmp_path / "x.png" / "out") == 2


def test_same_names_in_two_folders_keep_apart(predict, tmp_path):
    write_image(tmp_path / "in" / "a" / "x.png", 40, 50)
    write_image(tmp_path / "in" / "b" / "x.png", 50, 40)
    assert predict(tmp_path / "in", more=["--recursive"]) == 0
    _, images = outputs(tmp_path)
    assert [i["file_name"] for i in images["images"]] == ["a/x.png", "b/x.png"]
    for name, size in (("a/x.png", (480, 384)), ("b/x.png", (384, 480))):
        with Image.open(tmp_path / "out" / "pictures" / name) as picture:
            assert picture.size == size


def test_pictures_of_an_earlier_run_are_not_inputs(predict, tmp_path):
    write_image(tmp_path / "x.png")
    for _ in range(2):
        assert predict(tmp_path, more=["--recursive"]) == 0
        assert [i["file_name"] for i in outputs(tmp_path)[1]["images"]] == ["x.png"]


def test_a_folder_without_permission_is_not_called_empty(predict, tmp_path, capsys, monkeypatch):
    write_image(tmp_path / "in" / "a.png")

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert predict(tmp_path / "in") == 2
    assert (
        f"folder {tmp_path / 'in'} cannot be listed: Permission denied" in capsys.readouterr().err
    )
