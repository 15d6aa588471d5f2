"""Mean and deviation of the channels, and the keys that ask for them."""

import numpy as np
import pytest

from mask_rcnn_ext import Predictor, UserError, get_cfg
from mask_rcnn_ext.data import pixel_statistics
from mask_rcnn_ext.data.mapper import ImageMapper
from mask_rcnn_ext.data.pixel_statistics import (
    fill_pixel_statistics,
    measure_pixels,
    require_channels,
    require_colours,
)


def write(folder, count: int, channels: int) -> list[dict]:
    rng = np.random.default_rng(0)
    records = []
    for index in range(count):
        image = rng.normal(30000, 900, (5 + index, 7, channels)) * np.arange(1, channels + 1)
        np.save(folder / f"{index}.npy", image)
        records.append({"file_name": str(folder / f"{index}.npy")})
    return records


def test_they_are_numpys_over_all_pixels(tmp_path):
    records = write(tmp_path, 3, 4)
    images = [np.load(record["file_name"]).reshape(-1, 4) for record in records]
    pixels = np.concatenate(images).astype(np.float32).astype(np.float64)
    mean, deviation = measure_pixels(records, 4)
    assert mean == pytest.approx(pixels.mean(axis=0), rel=1e-5)
    assert deviation == pytest.approx(pixels.std(axis=0), rel=1e-5)


def test_many_images_are_sampled_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(pixel_statistics, "IMAGES_MEASURED", 2)
    records = write(tmp_path, 5, 1)
    assert measure_pixels(records, 1) == measure_pixels([records[0], records[3]], 1)


def test_a_constant_channel_does_not_divide_by_zero(tmp_path):
    np.save(tmp_path / "x.npy", np.full((4, 4), 0.1))
    mean, deviation = measure_pixels([{"file_name": str(tmp_path / "x.npy")}], 1)
    assert (mean, deviation) == ([0.1], [1.0])


def test_they_are_filled_in_once_and_only_when_asked_for(tmp_path):
    records = write(tmp_path, 2, 3)
    cfg = get_cfg()
    before = cfg.dump()
    fill_pixel_statistics(cfg, records)
    assert cfg.dump() == before
    cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS = 3
    fill_pixel_statistics(cfg, records)
    mean, deviation = measure_pixels(records, 3)
    assert mean[::-1] == cfg.MODEL.PIXEL_MEAN  # INPUT.FORMAT BGR, the file is R, G, B
    assert deviation[::-1] == cfg.MODEL.PIXEL_STD
    assert cfg.MASK_RCNN_EXT.DATA.PIXEL_STATISTICS == "fixed"
    fill_pixel_statistics(cfg, records[:1])
    assert mean[::-1] == cfg.MODEL.PIXEL_MEAN


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["MASK_RCNN_EXT.DATA.IMAGE_CHANNELS", "-1"], "or 0 for 8-bit colour images, got -1"),
        (["MASK_RCNN_EXT.DATA.PIXEL_STATISTICS", "no"], "expected auto or fixed, got 'no'"),
        (["MASK_RCNN_EXT.DATA.IMAGE_CHANNELS", "5"], r"Use config\.yaml of the run"),
        (
            ["MASK_RCNN_EXT.DATA.IMAGE_CHANNELS", "5", "VIS_PERIOD", "20"],
            "draws training images of 3 channels only",
        ),
        (
            ["MASK_RCNN_EXT.DATA.IMAGE_CHANNELS", "5", "MASK_RCNN_EXT.DATA.PIXEL_STATISTICS",
             "fixed"],
            r"PIXEL_MEAN has 3 values, expected one for each of the 5 channels",
        ),
    ],
)  # fmt: skip
def test_keys_that_do_not_fit_are_refused(keys, message):
    cfg = get_cfg()
    require_channels(cfg)
    cfg.merge_from_list(keys)
    with pytest.raises(UserError, match=message):
        require_channels(cfg)


ONE = ["MODEL.PIXEL_MEAN", "[1.0]", "MODEL.PIXEL_STD", "[1.0]"]


@pytest.mark.parametrize(
    ("keys", "fits"),
    [
        ([], True),
        (["MODEL.PIXEL_MEAN", "[1.0]"], False),
        ([*ONE, "INPUT.FORMAT", "L"], True),
        (["MODEL.PIXEL_MEAN", "[1.0]", "INPUT.FORMAT", "RGB"], False),
        (["INPUT.FORMAT", "L"], True),
        ([*ONE, "MASK_RCNN_EXT.DATA.IMAGE_CHANNELS", "1"], True),
    ],
)
def test_a_model_of_other_channels_than_the_reader_gives_is_refused(keys, fits):
    cfg = get_cfg()
    cfg.merge_from_list(keys)
    if fits:
        require_colours(cfg)
        return
    message = "PIXEL_MEAN: expected one value for each channel, 3 with"
    with pytest.raises(UserError, match=message):
        ImageMapper(cfg, is_train=True)
    with pytest.raises(UserError, match=message):
        Predictor(cfg)


def test_as_many_deviations_as_means():
    cfg = get_cfg()
    cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN = "L", [1.0]
    with pytest.raises(UserError, match=r"PIXEL_STD has 3 values, expected as many as .*, 1$"):
        Predictor(cfg)


@pytest.mark.parametrize("name", ["RGBA", "rgb", "YUV-BT.601", "I;16"])
def test_a_format_that_is_not_read_is_refused_before_a_training(name):
    cfg = get_cfg()
    cfg.INPUT.FORMAT = name
    with pytest.raises(UserError, match=r"INPUT\.FORMAT: expected"):
        ImageMapper(cfg, is_train=True)
    cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS = 3
    with pytest.raises(UserError, match=r"INPUT\.FORMAT: expected"):
        require_colours(cfg)
    cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS = 4  # read by another reader
    require_colours(cfg)


def test_a_damaged_image_is_left_out_if_the_run_skips_it(tmp_path):
    records = write(tmp_path, 3, 4)
    expected = measure_pixels(records[1:], 4)
    (tmp_path / "0.npy").write_bytes(b"")
    cfg = get_cfg()
    cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS = 4
    with pytest.raises(UserError, match=r"0\.npy"):
        fill_pixel_statistics(cfg, records)
    cfg.MASK_RCNN_EXT.DATA.ON_BAD_IMAGE = "skip"
    fill_pixel_statistics(cfg, records)
    assert expected == (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
    cfg.MASK_RCNN_EXT.DATA.PIXEL_STATISTICS = "auto"
    with pytest.raises(UserError, match=r"0\.npy"):
        fill_pixel_statistics(cfg, records[:1])
