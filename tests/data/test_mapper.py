"""`ImageMapper` is detectron2's mapper, with images that are named when they cannot be used."""

import copy

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from drawn_objects import draw_record, write_record
from PIL import Image, ImageOps
from pycocotools import mask as mask_util
from tiny_model import tiny_cfg

from mask_rcnn_ext.data.bad_images import NamedErrors, WrongKey
from mask_rcnn_ext.data.loader import seed_everything
from mask_rcnn_ext.data.mapper import ImageMapper
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.layers.resizing import ResizeShortestEdge


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("crop", [True, False])
def test_it_gives_the_tensors_of_detectron2(tmp_path, is_train, crop):
    cfg = tiny_cfg()
    cfg.INPUT.CROP.ENABLED = crop
    record = write_record(tmp_path / "x.png", 50, 90)
    ours, theirs = (cls(cfg, is_train) for cls in (ImageMapper, DatasetMapper))
    for seed in range(3):
        samples = []
        for mapper in (ours, theirs):
            seed_everything(seed)
            samples.append(mapper(record))
        assert torch.equal(samples[0]["image"], samples[1]["image"])
        assert samples[0].keys() == samples[1].keys()
        if is_train:
            boxes = [sample["instances"].gt_boxes.tensor for sample in samples]
            assert torch.equal(*boxes)


@pytest.mark.parametrize("is_train", [True, False])
def test_labels_of_all_pixels_are_augmented_too(tmp_path, is_train):
    """As detectron2's semantic segmentation needs them."""
    cfg = tiny_cfg()
    cfg.INPUT.CROP.ENABLED = True
    record = write_record(tmp_path / "x.png", 50, 90)
    labels = np.random.default_rng(0).integers(0, 9, (50, 90), dtype=np.uint8)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    record["sem_seg_file_name"] = str(tmp_path / "labels.png")
    samples = []
    for kind in (ImageMapper, DatasetMapper):
        seed_everything(0)
        samples.append(kind(cfg, is_train)(record))
    assert samples[0].keys() == samples[1].keys()
    for key in ("image", "sem_seg"):
        assert torch.equal(samples[0][key], samples[1][key])


@pytest.mark.parametrize("name", ["x.tif", "x.png", "x.jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_image_of_a_model_is_upright(tmp_path, name, orientation):
    """Its upper left quarter is white; detectron2 turns a TIFF twice."""
    stored = np.zeros((64, 96, 3), np.uint8)
    stored[:32, :48] = 255
    turned = (ImageOps.exif_transpose(_save(stored, tmp_path / name, orientation))).convert("L")
    shown = np.asarray(turned) > 128
    record = {"file_name": str(tmp_path / name), "height": shown.shape[0], "width": shown.shape[1]}
    cfg = tiny_cfg()
    cfg.INPUT.MIN_SIZE_TEST = 0  # not resized
    pixels = ImageMapper(cfg, is_train=False)(record)["image"].numpy()
    assert ((pixels > 128) == shown).mean() > 0.99


def _save(pixels, path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    return image


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1), (3, 9000), (1, 1)])
@pytest.mark.parametrize("is_train", [True, False])
def test_no_side_becomes_0(tmp_path, is_train, size):
    record = write_record(tmp_path / "x.png", *size)
    sample = ImageMapper(tiny_cfg(), is_train)(record)
    assert min(sample["image"].shape) > 0
    if is_train:
        height, width = sample["image"].shape[1:]
        assert sample["instances"].gt_boxes.tensor.tolist() == [[0, 0, width, height]]


def test_resized_masks_can_be_written_to(tmp_path):
    """Otherwise PyTorch warns when detectron2 turns them into tensors."""
    cfg = tiny_cfg()
    cfg.INPUT.MASK_FORMAT, cfg.INPUT.RANDOM_FLIP = "bitmask", "none"
    record = write_record(tmp_path / "x.png", 50, 90)
    full = np.ones((50, 90), dtype=np.uint8, order="F")
    record["annotations"][0]["segmentation"] = mask_util.encode(full)
    mapper = ImageMapper(cfg, is_train=True)
    resized = mapper.augmentations.augs[0].get_transform(full).apply_segmentation(full)
    assert resized.flags.writeable
    assert mapper(record)["instances"].gt_masks.tensor.all()


def test_an_image_that_cannot_be_used_is_named(tmp_path):
    mapper = ImageMapper(tiny_cfg(), is_train=True)
    record = write_record(tmp_path / "x.png", 30, 40)
    with pytest.raises(UserError, match=r"x\.png: expected 41 x 30 pixels .*got 40 x 30"):
        mapper({**record, "width": 41})
    whole = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").write_bytes(whole[:-60])
    with pytest.raises(UserError, match=r"x\.png: cannot be read as an image"):
        mapper(record)
    damaged = whole[: len(whole) // 2] + bytes(8) + whole[len(whole) // 2 + 8 :]
    (tmp_path / "x.png").write_bytes(damaged)  # detectron2 reads black pixels
    with pytest.raises(UserError, match=r"x\.png: cannot be read as an image"):
        mapper(record)
    Image.fromarray(np.zeros((30, 40), np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"x\.png: has more than 8 bits"):
        mapper(record)


@pytest.mark.parametrize("bitmap", [False, True])
def test_masks_that_are_no_polygons_name_the_key(tmp_path, bitmap):
    record = draw_record(tmp_path / "x.png", "rle")
    for annotation in record["annotations"] if bitmap else ():
        annotation["segmentation"] = mask_util.decode(annotation["segmentation"])
    cfg = tiny_cfg()
    cfg.INPUT.MASK_FORMAT = "polygon"
    mapper = NamedErrors(ImageMapper(cfg, is_train=True))  # no image is skipped for it
    with pytest.raises(WrongKey, match=r"x\.png: INPUT.MASK_FORMAT is polygon, but the mask of"):
        mapper(copy.deepcopy(record))
    for annotation in record["annotations"]:
        annotation["iscrowd"] = 1
    assert len(mapper(copy.deepcopy(record))["instances"]) == 0
    for annotation in record["annotations"]:
        annotation["iscrowd"] = 0
    cfg.MODEL.MASK_ON = False
    assert len(ImageMapper(cfg, is_train=True)(record)["instances"]) == 3


def test_a_fault_of_something_else_is_not_blamed_on_the_image(tmp_path):
    record = write_record(tmp_path / "x.png", 30, 40)
    record["annotations"][0]["segmentation"] = "nonsense"
    with pytest.raises(ValueError, match="segmentation"):
        ImageMapper(tiny_cfg(), is_train=True)(record)


@pytest.mark.parametrize("size", [(20, 33), (100, 165)])
def test_float_images_are_resized_as_pillow_resizes_8_bits(size):
    """Shrinking averages all pixels; detectron2 would skip most of them."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 99, 3), dtype=np.uint8)
    transform = ResizeShortestEdge([size[0]] * 2, 400).get_transform(pixels)
    expected = transform.apply_image(pixels).astype(float)
    resized = transform.apply_image(pixels.astype(np.float32))
    assert resized.dtype == np.float32
    assert resized.shape == (*size, 3)
    assert np.abs(resized - expected).max() <= 1.01
