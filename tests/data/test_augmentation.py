"""Augmented images and their masks, boxes and keypoints show the same thing.

The oracle is a picture: each object has a colour of its own, so its pixels tell where its mask must
be, whatever was done to the image.
"""

import itertools

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from drawn_objects import SIZE, draw_record, iou, make_cfg, object_pixels, tight_box, write_record
from PIL import Image

from mask_rcnn_ext import UserError
from mask_rcnn_ext.data.augmentation import ChannelContrast, Rotation, SaturationAndHue
from mask_rcnn_ext.data.loader import seed_everything
from mask_rcnn_ext.data.mapper import ImageMapper


def objects_of(sample):
    """Return mask (None without masks), box and class of each object."""
    found = sample["instances"]
    masks = found.gt_masks.tensor.numpy() if found.has("gt_masks") else [None] * len(found)
    return zip(masks, found.gt_boxes.tensor.tolist(), found.gt_classes.tolist(), strict=True)


def draw_samples(mapper, record, count):
    """Yield the samples of a record with the seeds 0, 1, ..."""
    for seed in range(count):
        seed_everything(seed)
        yield mapper(record)


@pytest.mark.parametrize("mask_format", ["polygon", "rle"])
@pytest.mark.parametrize(
    "keys",
    [
        {"VERTICAL_FLIP": True, "ROTATION": 1e-6},
        {"ROTATION": 180.0},
        {"SCALE_JITTER": [0.4, 2.0]},
        {"SCALE_JITTER": [0.6, 1.5], "ROTATION": 30.0, "VERTICAL_FLIP": True},
    ],
    ids=lambda keys: "+".join(keys),
)
def test_masks_and_boxes_lie_on_the_pixels_of_their_object(tmp_path, keys, mask_format):
    record = draw_record(tmp_path / "x.png", mask_format)
    mapper = ImageMapper(make_cfg(**keys), is_train=True)
    found = 0
    for sample in draw_samples(mapper, record, 8):
        assert sample["image"].shape[1:] == sample["instances"].image_size
        shown = {label for label in range(3) if object_pixels(sample, label).sum() > 60}
        assert shown <= set(sample["instances"].gt_classes.tolist())
        for mask, box, label in objects_of(sample):
            pixels = object_pixels(sample, label)
            if label not in shown or pixels.sum() < 150:
                continue
            found += 1
            assert iou(mask, pixels) > 0.85
            assert box == tight_box(mask)
            assert np.abs(np.subtract(box, tight_box(pixels))).max() <= 2
    assert found >= 12


def test_flips_alone_move_every_pixel_with_its_mask(tmp_path):
    record = draw_record(tmp_path / "x.png", "rle")
    cfg = make_cfg(VERTICAL_FLIP=True)
    cfg.INPUT.MASK_FORMAT, cfg.INPUT.RANDOM_FLIP = "bitmask", "horizontal"
    cfg.INPUT.MIN_SIZE_TRAIN = (90,)
    mapper, seen = ImageMapper(cfg, is_train=True), set()
    for sample in draw_samples(mapper, record, 12):
        for mask, _, label in objects_of(sample):
            assert np.array_equal(mask, object_pixels(sample, label))
        seen.add(sample["image"].numpy().tobytes())
    assert len(seen) == 4


def test_boxes_stay_tight_in_a_model_without_masks(tmp_path):
    cfg = make_cfg(ROTATION=90.0)
    cfg.MODEL.MASK_ON = False
    mapper = ImageMapper(cfg, is_train=True)
    for seed, with_mask in itertools.product(range(4), (True, False)):
        record = draw_record(tmp_path / "x.png", "polygon" if with_mask else "none")
        seed_everything(seed)
        sample = mapper(record)
        assert not sample["instances"].has("gt_masks")
        for _, box, label in objects_of(sample):
            pixels = object_pixels(sample, label)
            if pixels.sum() < 60:
                continue
            outward = np.subtract(tight_box(pixels), box) * [1, 1, -1, -1]
            assert outward.min() >= -2  # the box holds the object
            assert not with_mask or outward.max() <= 2


@pytest.mark.filterwarnings("ignore:Creating a tensor from a list")  # in detectron2's Keypoints
@pytest.mark.parametrize(
    "keys",
    [{"VERTICAL_FLIP": True}, {"ROTATION": 180.0}, {"VERTICAL_FLIP": True, "ROTATION": 40.0}],
    ids=lambda keys: "+".join(keys),
)
def test_keypoints_follow_and_a_mirror_exchanges_left_and_right(tmp_path, forget_data_sets, keys):
    name = "augmentation_keypoints"
    MetadataCatalog.get(name).set(
        keypoint_names=["left", "right"], keypoint_flip_map=[("left", "right")]
    )
    cfg = make_cfg(**keys)
    cfg.DATASETS.TRAIN, cfg.MODEL.KEYPOINT_ON = (name,), True
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    mapper = ImageMapper(cfg, is_train=True)
    record = draw_record(tmp_path / "x.png", "polygon")
    picture = np.zeros((*SIZE, 3), dtype=np.uint8)
    ends = [(30, 45), (110, 45)]  # the left point is red, the right one green, the top is blue
    for channel, (x, y) in enumerate([*ends, (70, 12)]):
        picture[y - 4 : y + 4, x - 4 : x + 4, channel] = 255
    Image.fromarray(picture).save(tmp_path / "x.png")
    record["annotations"][0]["keypoints"] = [*ends[0], 2, *ends[1], 2]
    turns = set()
    for sample in draw_samples(mapper, record, 16):
        centres = []
        for channel in range(3):
            rows, columns = np.nonzero(object_pixels(sample, channel))
            centres.append((columns.mean() + 0.5, rows.mean() + 0.5) if len(rows) else None)
        if None in centres:  # a point was turned out of the image
            continue
        red, green, blue = np.array(centres)
        middle, across, up = (red + green) / 2, green - red, blue - (red + green) / 2
        mirrored = across[0] * up[1] - across[1] * up[0] > 0  # as drawn: right x up < 0
        turns.add((mirrored, bool(blue[1] < middle[1])))
        points = sample["instances"].gt_keypoints.tensor[0].numpy()
        expected = (green, red) if mirrored else (red, green)
        assert np.abs(points[:, :2] - expected).max() < 2.5
        assert points[:, 2].tolist() == [2, 2]
    assert {mirrored for mirrored, _ in turns} == {True, False}
    assert {upright for _, upright in turns} == {True, False}


def test_colours_and_blur_change_the_image_and_nothing_else(tmp_path):
    record = draw_record(tmp_path / "x.png", "rle")
    for keys in (
        *({"BRIGHTNESS": 0.5}, {"CONTRAST": 0.5}, {"SATURATION": 0.5}, {"HUE": 0.1}),
        {"BLUR": 2.0},
    ):
        cfg = make_cfg(**keys)
        cfg.INPUT.MASK_FORMAT, cfg.INPUT.MIN_SIZE_TRAIN = "bitmask", (90,)
        mapper = ImageMapper(cfg, is_train=True)
        seed_everything(1)
        samples = [mapper(record) for _ in range(4)]
        assert len({sample["image"].numpy().tobytes() for sample in samples}) > 1, keys
        for sample in samples:
            assert sample["image"].dtype == torch.uint8
            for mask, label in zip(sample["instances"].gt_masks.tensor, range(3), strict=True):
                brightest = sample["image"].argmax(dim=0) == label
                assert iou(mask.numpy(), (brightest & (sample["image"].amax(0) > 70)).numpy()) > 0.8
        assert "instances" not in ImageMapper(cfg, is_train=False)(record)


@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
def test_saturation_and_hue_know_the_order_of_the_channels(tmp_path, image_format):
    """Gray is the weighted sum of R, G and B; a third of the circle turns red into green."""
    colours = np.zeros((2, 3, 3), dtype=np.uint8)
    colours[:, 0, 0] = colours[:, 1, 1] = colours[:, 2, 2] = 200
    order = slice(None, None, -1 if image_format == "BGR" else 1)
    image = colours[:, :, order].copy()
    augmentation = SaturationAndHue(0.0, 0.5, bgr=image_format == "BGR")
    for drawn, expected in (([0.0, 0.0], [60, 117, 23]), ([1.0, 1 / 3], None)):
        values = iter(drawn)
        augmentation._rand_range = lambda *_, values=values: next(values)
        changed = augmentation.get_transform(image).apply_image(image)[:, :, order].astype(int)
        if expected:
            assert np.abs(changed[0] - np.array(expected)[:, None]).max() <= 1
        else:
            assert np.abs(changed[0] - np.roll(colours[0].astype(int), 1, axis=1)).max() <= 1


@pytest.mark.parametrize("means", [[40.0], [30.0, 40.0, 50.0]])
def test_the_corners_of_a_turned_grey_image_have_the_mean(tmp_path, means):
    """One value, also if the image becomes three channels in the model."""
    cfg = make_cfg(ROTATION=45.0)
    cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = "L", means, [1.0] * len(means)
    record = draw_record(tmp_path / "x.png", "polygon")
    (sample,) = draw_samples(ImageMapper(cfg, is_train=True), record, 1)
    assert sample["image"].shape[0] == 1
    assert sample["image"][0, 0, 0] == sample["image"][0, -1, -1] == 40


def test_five_float_channels_turn_and_change_contrast_each_on_its_own():
    scales = np.array([1, 1000, 0.001, -5, 7])
    image = (np.random.default_rng(0).random((40, 60, 5)) * scales).astype(np.float32)
    fill = [3.0, -4.0, 5.0, 6.0, 70000.0]
    seed_everything(0)
    turned = Rotation(45.0, fill).get_transform(image).apply_image(image)
    assert turned.dtype == np.float32
    assert turned[0, 0].tolist() == fill
    for channel in range(5):
        alone = np.ascontiguousarray(image[:, :, channel : channel + 1])
        seed_everything(0)
        single = Rotation(45.0, fill[channel : channel + 1]).get_transform(alone)
        assert np.array_equal(single.apply_image(alone)[:, :, 0], turned[:, :, channel])
    changed = ChannelContrast(0.5, 0.5).get_transform(image).apply_image(image)
    assert changed.dtype == np.float32
    assert np.allclose(changed.mean(axis=(0, 1)), image.mean(axis=(0, 1)), rtol=1e-4)
    assert np.allclose(changed.std(axis=(0, 1)), image.std(axis=(0, 1)) / 2, rtol=1e-4)


@pytest.mark.parametrize(
    ("keys", "others", "message"),
    [
        ({"ROTATION": 200.0}, [], "ROTATION: expected 0 to 180, got 200"),
        ({"HUE": 0.7}, [], "HUE: expected 0 to 0.5"),
        ({"BLUR": -1.0}, [], "BLUR: expected 0 to 100"),
        ({"BLUR": 1e9}, [], "BLUR: expected 0 to 100, got 1000000000"),
        ({"SCALE_JITTER": [2.0, 0.1]}, [], r"such as \[0.5, 2.0\], got \[2.0, 0.1\]"),
        ({"SCALE_JITTER": [0.5, 1e6]}, [], r"scale, up to 100, such as"),
        ({"COPY_PASTE": 1.5}, [], "COPY_PASTE: expected 0 to 1"),
        ({"VERTICAL_FLIP": True}, ["INPUT.RANDOM_FLIP", "vertical"], "flip both ways"),
        ({"COPY_PASTE": 0.5}, ["MODEL.MASK_ON", False], "needs a model with masks"),
        ({"HUE": 0.1}, ["INPUT.FORMAT", "L"], r"expected INPUT\.FORMAT BGR or RGB, got L"),
    ],
)
def test_a_value_outside_its_range_or_beside_others_is_refused(keys, others, message):
    cfg = make_cfg(**keys)
    cfg.merge_from_list(others)
    with pytest.raises(UserError, match=message):
        ImageMapper(cfg, is_train=True)


def test_a_crop_of_detectron2s_key_cuts_polygons_too(tmp_path):
    cfg = make_cfg(ROTATION=20.0)
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.SIZE = True, [0.5, 0.5]
    mapper = ImageMapper(cfg, is_train=True)
    record = draw_record(tmp_path / "x.png", "polygon")
    for sample in draw_samples(mapper, record, 6):
        for mask, _, label in objects_of(sample):
            pixels = object_pixels(sample, label)
            assert pixels.sum() < 150 or iou(mask, pixels) > 0.85


@pytest.mark.parametrize("size", [(1, 300), (300, 1), (2, 2)])
def test_tiny_images_survive_everything(tmp_path, size):
    record = write_record(tmp_path / "x.png", *size)
    Image.new("RGB", size[::-1], (255, 0, 0)).save(tmp_path / "x.png")  # no contrast, no other hue
    cfg = make_cfg(
        SCALE_JITTER=[0.01, 1.5], ROTATION=45.0, BLUR=3.0, CONTRAST=0.2, HUE=0.1, VERTICAL_FLIP=True
    )
    for sample in draw_samples(ImageMapper(cfg, is_train=True), record, 4):
        assert min(sample["image"].shape) > 0
