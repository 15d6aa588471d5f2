"""Augmented images and their masks, boxes and keypoints show the same thing.

The oracle is a picture: each object has a colour of its own, so its pixels tell where its mask must
be, whatever was done to the image.
"""

import itertools

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.samplers import TrainingSampler
from detectron2.structures import Boxes, BoxMode, Instances, Keypoints
from PIL import Image
from pycocotools import mask as mask_util
from tiny_model import tiny_cfg

from mask_rcnn_ext import UserError
from mask_rcnn_ext.data.augmentation import ChannelContrast, Rotation, SaturationAndHue
from mask_rcnn_ext.data.copy_paste import CopyPaste, paste_instances
from mask_rcnn_ext.data.loader import TrainLoader, seed_everything
from mask_rcnn_ext.data.mapper import ImageMapper

SIZE = (90, 140)  # height, width
OUTLINES = (  # x, y, ...: a slim triangle, a quadrangle at the border, an L
    [10, 20, 60, 30, 15, 70],
    [100, 0, 139, 10, 139, 50, 90, 40],
    [60, 60, 130, 60, 130, 70, 72, 70, 72, 88, 60, 88],
)


def draw_record(path, mask_format: str, shift: int = 0) -> dict:
    """Draw three objects, one in each channel (RGB); return the record."""
    channels = [Image.new("L", SIZE[::-1]) for _ in OUTLINES]
    annotations = []
    for index, (channel, outline) in enumerate(zip(channels, OUTLINES, strict=True)):
        corners = [v - shift if i % 2 == 0 else v for i, v in enumerate(outline)]
        points = list(zip(corners[::2], corners[1::2], strict=True))
        annotation = {"category_id": index, "bbox_mode": BoxMode.XYXY_ABS, "iscrowd": 0}
        xs, ys = zip(*points, strict=True)
        annotation["bbox"] = [min(xs), min(ys), max(xs), max(ys)]
        rle = mask_util.merge(mask_util.frPyObjects([corners], *SIZE))
        pixels = mask_util.decode(rle)
        channel.paste(Image.fromarray(pixels * 255))
        if mask_format == "polygon":
            annotation["segmentation"] = [corners]
        elif mask_format == "rle":
            annotation["segmentation"] = rle
        annotation["keypoints"] = [*points[0], 2, *points[1], 2]
        annotations.append(annotation)
    Image.merge("RGB", channels).save(path)
    height, width = SIZE
    return {
        "file_name": str(path), "height": height, "width": width, "image_id": 1,
        "annotations": annotations,
    }  # fmt: skip


def make_cfg(**keys):
    """Return a config with keys of `MASK_RCNN_EXT.AUGMENTATION`; images keep their colours."""
    cfg = tiny_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (120,), 400
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.FORMAT = "none", "RGB"
    cfg.MODEL.PIXEL_MEAN = [0.0, 0.0, 0.0]  # rotation fills with it; the background is black too
    for key, value in keys.items():
        cfg.MASK_RCNN_EXT.AUGMENTATION[key] = value
    return cfg


def object_pixels(sample, label: int) -> np.ndarray:
    """Where the picture shows the object of a class."""
    return sample["image"][label].numpy() > 127


def iou(a, b) -> float:
    return (a & b).sum() / max(1, (a | b).sum())


def tight_box(pixels) -> list[int]:
    rows, columns = (np.flatnonzero(pixels.any(axis=axis)) for axis in (1, 0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


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
    for seed in range(8):
        seed_everything(seed)
        sample = mapper(record)
        assert sample["image"].shape[1:] == sample["instances"].image_size
        shown = {label for label in range(3) if object_pixels(sample, label).sum() > 60}
        instances = sample["instances"]
        assert shown <= set(instances.gt_classes.tolist())
        for mask, box, label in zip(
            instances.gt_masks.tensor.numpy(),
            instances.gt_boxes.tensor.tolist(),
            instances.gt_classes.tolist(),
            strict=True,
        ):
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
    for seed in range(12):
        seed_everything(seed)
        sample = mapper(record)
        for mask, label in zip(
            sample["instances"].gt_masks.tensor.numpy(),
            sample["instances"].gt_classes.tolist(),
            strict=True,
        ):
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
        for box, label in zip(
            sample["instances"].gt_boxes.tensor.tolist(),
            sample["instances"].gt_classes.tolist(),
            strict=True,
        ):
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
def test_keypoints_follow_and_a_mirror_exchanges_left_and_right(tmp_path, keys):
    name = "augmentation_keypoints"
    MetadataCatalog.get(name).set(
        keypoint_names=["left", "right"], keypoint_flip_map=[("left", "right")]
    )
    try:
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
        for seed in range(16):
            seed_everything(seed)
            sample = mapper(record)
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
    finally:
        MetadataCatalog.pop(name)


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


def make_samples(tmp_path, shift: int, **keys):
    cfg = make_cfg(COPY_PASTE=1.0, **keys)
    cfg.INPUT.MIN_SIZE_TRAIN = (90,)
    mapper = ImageMapper(cfg, is_train=True)
    own = mapper(draw_record(tmp_path / "own.png", "polygon"))
    other = mapper(draw_record(tmp_path / "other.png", "polygon", shift=shift))
    return own, other


def test_pasted_objects_cover_what_is_below(tmp_path):
    own, other = make_samples(tmp_path, shift=-5)
    before = own["image"].clone(), own["instances"].gt_masks.tensor.clone()
    paste_instances(own, other["image"], other["instances"][[1]])
    instances = own["instances"]
    assert instances.gt_classes.tolist() == [0, 1, 2, 1]
    masks = instances.gt_masks.tensor
    pasted = other["instances"].gt_masks.tensor[1]
    assert torch.equal(masks[3], pasted)
    assert torch.equal(masks[:3], before[1] & ~pasted)
    assert torch.equal(own["image"], torch.where(pasted, other["image"], before[0]))
    for mask, box in zip(masks, instances.gt_boxes.tensor.tolist(), strict=True):
        assert box == tight_box(mask.numpy())


def test_an_object_that_is_covered_as_a_whole_is_dropped(tmp_path):
    own, other = make_samples(tmp_path, shift=0)
    paste_instances(own, other["image"], other["instances"])  # the same three, in the same places
    assert own["instances"].gt_classes.tolist() == [0, 1, 2]
    assert own["instances"].gt_masks.nonempty().all()


def test_pasting_into_a_smaller_image_cuts_and_into_an_empty_one_works(tmp_path):
    own, other = make_samples(tmp_path, shift=0)
    small = {"image": own["image"][:, :50, :80].clone(), "instances": Instances((50, 80))}
    small["instances"].gt_boxes = Boxes(torch.zeros(0, 4))
    small["instances"].gt_classes = torch.zeros(0, dtype=torch.int64)  # as of an image without any
    paste_instances(small, other["image"], other["instances"])
    assert small["instances"].gt_classes.tolist() == [0]  # the others lie outside
    assert small["instances"].gt_masks.tensor.shape == (1, 50, 80)
    (mask,) = small["instances"].gt_masks.tensor.numpy()
    assert np.array_equal(mask, other["instances"].gt_masks.tensor[0, :50, :80].numpy())
    assert small["instances"].gt_boxes.tensor.tolist() == [tight_box(mask)]


def test_a_covered_keypoint_is_not_visible_and_one_outside_is_not_there(tmp_path):
    own, other = make_samples(tmp_path, shift=0)
    for sample, points in ((own, [[105, 20, 2], [20, 25, 2]]), (other, [[100, 5, 2], [300, 5, 2]])):
        sample["instances"].gt_keypoints = Keypoints(torch.tensor([points] * 3, dtype=torch.float))
    paste_instances(own, other["image"], other["instances"][[1]])
    points = own["instances"].gt_keypoints.tensor
    assert points[0].tolist() == [[105, 20, 1], [20, 25, 2]]
    assert points[-1].tolist() == [[100, 5, 2], [0, 0, 0]]


def make_loader(tmp_path, workers: int):
    cfg = make_cfg(
        COPY_PASTE=0.5, ROTATION=30.0, SCALE_JITTER=[0.5, 1.5], BRIGHTNESS=0.2, HUE=0.1, BLUR=1.0
    )
    records = []
    for index in range(4):
        record = draw_record(tmp_path / f"{index}.png", "polygon", shift=4 * index)
        records.append({**record, "image_id": index})
    return TrainLoader(
        records, ImageMapper(cfg, is_train=True), TrainingSampler(len(records), seed=3),
        batch_size=2, num_workers=workers, seed=3, mix=CopyPaste(0.5),
    )  # fmt: skip


def test_the_loader_gives_the_same_samples_with_workers_and_after_a_restart(tmp_path):
    plain, parallel, later = (make_loader(tmp_path, workers) for workers in (0, 2, 0))
    later.batches.start = 4
    whole = list(itertools.islice(iter(plain), 8))
    for start, loader in ((0, parallel), (4, later)):
        for expected, batch in zip(whole[start:], iter(loader), strict=False):
            for a, b in zip(expected, batch, strict=True):
                assert torch.equal(a["image"], b["image"])
                assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)
                assert torch.equal(a["instances"].gt_masks.tensor, b["instances"].gt_masks.tensor)
    counts = {len(sample["instances"]) for batch in whole for sample in batch}
    assert max(counts) > 3, "nothing was pasted"


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.25, 35, 65), (1.0, 200, 200)])
def test_the_share_of_images_that_get_objects(share, least, most):
    seed_everything(0)
    drawn = []
    for _ in range(200):
        CopyPaste(share)({}, lambda: drawn.append(1) or {"instances": ()})
    assert least <= len(drawn) <= most


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"ROTATION": 200.0}, "ROTATION: expected 0 to 180, got 200"),
        ({"HUE": 0.7}, "HUE: expected 0 to 0.5"),
        ({"BLUR": -1.0}, "BLUR: expected 0 or more"),
        ({"SCALE_JITTER": [2.0, 0.1]}, r"such as \[0.5, 2.0\], got \[2.0, 0.1\]"),
        ({"COPY_PASTE": 1.5}, "COPY_PASTE: expected 0 to 1"),
    ],
)
def test_a_value_outside_its_range_is_refused(keys, told):
    with pytest.raises(UserError, match=told):
        ImageMapper(make_cfg(**keys), is_train=True)


def test_keys_that_do_not_fit_are_refused():
    cfg = make_cfg(VERTICAL_FLIP=True)
    cfg.INPUT.RANDOM_FLIP = "vertical"
    with pytest.raises(UserError, match="flip both ways"):
        ImageMapper(cfg, is_train=True)
    cfg = make_cfg(COPY_PASTE=0.5)
    cfg.MODEL.MASK_ON = False
    with pytest.raises(UserError, match="needs a model with masks"):
        ImageMapper(cfg, is_train=True)
    cfg = make_cfg(HUE=0.1)
    cfg.INPUT.FORMAT = "L"
    with pytest.raises(UserError, match=r"expected INPUT\.FORMAT BGR or RGB, got L"):
        ImageMapper(cfg, is_train=True)


def test_a_crop_of_detectron2s_key_cuts_polygons_too(tmp_path):
    cfg = make_cfg(ROTATION=20.0)
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.SIZE = True, [0.5, 0.5]
    mapper = ImageMapper(cfg, is_train=True)
    record = draw_record(tmp_path / "x.png", "polygon")
    for seed in range(6):
        seed_everything(seed)
        sample = mapper(record)
        for mask, label in zip(
            sample["instances"].gt_masks.tensor.numpy(),
            sample["instances"].gt_classes.tolist(),
            strict=True,
        ):
            pixels = object_pixels(sample, label)
            assert pixels.sum() < 150 or iou(mask, pixels) > 0.85


@pytest.mark.parametrize("size", [(1, 300), (300, 1), (2, 2)])
def test_tiny_images_survive_everything(tmp_path, size):
    height, width = size
    Image.new("RGB", (width, height), (255, 0, 0)).save(tmp_path / "x.png")
    box = [0, 0, width, height]
    record = {
        "file_name": str(tmp_path / "x.png"), "height": height, "width": width, "image_id": 1,
        "annotations": [{
            "bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0,
            "segmentation": [[0, 0, width, 0, width, height, 0, height]],
        }],
    }  # fmt: skip
    cfg = make_cfg(
        SCALE_JITTER=[0.01, 1.5], ROTATION=45.0, BLUR=3.0, CONTRAST=0.2, HUE=0.1, VERTICAL_FLIP=True
    )
    mapper = ImageMapper(cfg, is_train=True)
    for seed in range(4):
        seed_everything(seed)
        assert min(mapper(record)["image"].shape) > 0
