"""From `.npy` files of 5 float channels, and 16-bit TIFF, to a model, its AP and predictions."""

import json
from pathlib import Path

import check_dataset
import make_report
import numpy as np
import predict
import preview_dataset
import pytest
import torch
from PIL import Image
from small_runs import evaluate, read_error, read_results, train_small, write_data
from support import change_json

from mask_rcnn_ext import Predictor, UserError, load_config

KEYS = ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "TEST.DETECTIONS_PER_IMAGE", "5"]
AUGMENTATION = "MASK_RCNN_EXT.AUGMENTATION"


def to_bands(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (5, H, W) float64 with ranges far apart; some values are negative."""
    channels = [*np.moveaxis(pixels.astype(float), 2, 0), pixels.mean(axis=2), pixels[:, :, 0]]
    return np.stack(channels) * np.array([1, 90, 0.001, 7, -2])[:, None, None] - 3


def write_bands(root, kind: str, **counts) -> list[str]:
    """Write a COCO set of each split, with other images; return the flags that name them."""
    flags = write_data(root, **counts)
    for path, images in zip(map(Path, flags[1::4]), map(Path, flags[3::4]), strict=True):
        with change_json(path) as content:
            for image in content["images"]:
                source = images / image["file_name"]
                pixels = np.asarray(Image.open(source))
                image["file_name"] = source.with_suffix(kind).name
                if kind == ".npy":
                    np.save(images / image["file_name"], to_bands(pixels))
                else:
                    gray = pixels.max(axis=2).astype(np.uint16) * 257
                    Image.fromarray(gray).save(images / image["file_name"])
                source.unlink()
    return flags


def train(flags, folder, channels: int, *keys: str) -> int:
    own = ["MASK_RCNN_EXT.DATA.IMAGE_CHANNELS", str(channels)]
    return train_small(flags, folder, *KEYS, *own, *keys)


@pytest.fixture(scope="module", params=[(".npy", 5), (".tif", 1)], ids=["npy", "tif"])
def run(request, tmp_path_factory):
    """Two augmented iterations and an evaluation: folder, flags, number of channels."""
    kind, channels = request.param
    if kind == ".tif":
        pytest.importorskip("tifffile")
    root = tmp_path_factory.mktemp("bands")
    flags = write_bands(root, kind, train=4, val=2)
    keys = [
        f"{AUGMENTATION}.ROTATION", "20.0", f"{AUGMENTATION}.SCALE_JITTER", "[0.5, 1.5]",
        f"{AUGMENTATION}.BRIGHTNESS", "0.2", f"{AUGMENTATION}.CONTRAST", "0.2",
        f"{AUGMENTATION}.BLUR", "1.0", f"{AUGMENTATION}.COPY_PASTE", "1.0",
    ]  # fmt: skip
    assert train(flags, root / "out", channels, *keys) == 0
    return root, flags, channels


def test_config_yaml_has_the_statistics_of_the_training_images(run):
    root, _, channels = run
    cfg = load_config(str(root / "out/config.yaml"))
    assert cfg.MASK_RCNN_EXT.DATA.PIXEL_STATISTICS == "fixed"
    assert len(cfg.MODEL.PIXEL_MEAN) == len(cfg.MODEL.PIXEL_STD) == channels
    if channels == 5:
        images = [np.load(path) for path in sorted((root / "train/images").glob("*.npy"))]
        pixels = np.stack(images).astype(np.float64)
        assert list(cfg.MODEL.PIXEL_MEAN) == pytest.approx(pixels.mean(axis=(0, 2, 3)), rel=1e-4)
        assert list(cfg.MODEL.PIXEL_STD) == pytest.approx(pixels.std(axis=(0, 2, 3)), rel=1e-4)
    else:
        assert 255 < cfg.MODEL.PIXEL_MEAN[0] < 65535


def test_eval_only_repeats_the_result(run, capsys):
    root, flags, _ = run
    assert evaluate(root / "out", root / "eval", *flags[4:]) == 0
    assert read_results(root / "eval")["segm"] == read_results(root / "out")["segm"]


def test_the_report_draws_them(run):
    root, _, channels = run
    if channels == 1:
        pytest.skip("a report takes seconds, and one kind of file is enough")
    assert make_report.main([str(root / "out")]) == 0
    page = (root / "out/report.html").read_text("utf-8")
    assert "picture is left out" not in page
    assert page.count("data:image/jpeg") >= 4  # two images, each with truth and prediction


def test_the_predict_tool_and_python_find_the_same(run, tmp_path, capsys):
    root, _, channels = run
    config, weights = str(root / "out/config.yaml"), str(root / "out/model_final.pth")
    folder, out = root / "val/images", tmp_path / "predictions"
    command = [str(folder), "--config-file", config, "--weights", weights, "--output", str(out)]
    assert predict.main([*command, "--score-threshold", "0"]) == 0
    results = json.loads((out / "coco_instances_results.json").read_text())
    pictures = sorted((out / "pictures").iterdir())
    assert len(pictures) == 2
    assert np.asarray(Image.open(pictures[0])).std() > 20  # scaled to be seen
    predictor = Predictor(config, weights, score_threshold=0.0)
    paths = sorted(folder.iterdir())
    found = predictor(paths)
    assert sum(len(instances) for instances in found) == len(results) > 0
    array = predictor.read(paths[0])
    assert array.shape == (48, 64, channels)
    assert torch.equal(predictor(array).scores, found[0].scores)
    with pytest.raises(UserError, match=r"expected an image of . channel\(s\)"):
        predictor(np.zeros((8, 9, 2)))


def test_the_preview_shows_them_and_training_without_the_key_refuses(run, tmp_path, capsys):
    _, flags, channels = run
    sheet = tmp_path / "sheet.png"
    command = ["--json", flags[1], "--images", flags[3], "--output", str(sheet)]
    turned = ["--augmented", "INPUT.MIN_SIZE_TRAIN", "(48,)", f"{AUGMENTATION}.ROTATION", "9.0"]
    command += ["--num", "1", "--columns", "2", "--size", "64"]
    for extra in ([], turned):
        assert preview_dataset.main([*command, "--channels", str(channels), *extra]) == 0
        assert np.asarray(Image.open(sheet)).std() > 20
    assert preview_dataset.main(command) == 2
    assert train(flags, tmp_path / "out", 0) == 2
    assert "MASK_RCNN_EXT.DATA.IMAGE_CHANNELS" in capsys.readouterr().err
    assert train(flags, tmp_path / "out", 7) == 2
    told = capsys.readouterr().err
    assert "expected an image of 7 channel(s), (H, W, 7) or (7, H, W)" in told
    assert "Traceback" not in told
    assert train(flags, tmp_path / "out", channels, f"{AUGMENTATION}.HUE", "0.1") == 2
    assert "HUE change the colours of 8-bit images" in read_error(capsys)
    assert not (tmp_path / "out").exists()


def test_the_check_of_the_data_reads_them(run, tmp_path, capsys):
    _, flags, channels = run
    command = [*flags, "--output", str(tmp_path)]
    assert check_dataset.main([*command, "--channels", str(channels)]) == 0
    said = capsys.readouterr().out
    assert f" {channels} channel" in said
    assert "0 errors, 0 warnings" in said
    assert check_dataset.main([*command, "--channels", "7"]) == 1
    assert "expected an image of 7 channel(s)" in capsys.readouterr().out
    assert check_dataset.main([*command, "--channels", "-1"]) == 2
