import base64
import io
import json
import re

import cv2
import numpy as np
import pytest
import torch
from demo_runs import *  # noqa: F403
from demo_runs import PNG, encode
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from tiny_model import picture, tiny_cfg

from mask_rcnn_ext import Predictor
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.layers.packed_masks import MaskCrop
from mask_rcnn_ext.prediction import demo_answer
from mask_rcnn_ext.prediction.demo_answer import answer_upload, make_outline


def open_picture(answer: dict) -> np.ndarray:
    head, _, data = answer["picture"].partition(",")
    assert head == "data:image/jpeg;base64"
    return np.array(Image.open(io.BytesIO(base64.b64decode(data))))


def fill(outline: str, height: int, width: int) -> np.ndarray:
    """Fill a path by the even-odd rule: a ray from a pixel inside meets an odd number of sides."""
    inside = np.zeros((height, width), bool)
    for loop in re.findall(r"M(\d+) (\d+)([hv\d-]+)z", outline):
        x, y = int(loop[0]), int(loop[1])
        steps = [(way, int(length)) for way, length in re.findall(r"([hv])(-?\d+)", loop[2])]
        corners = [(x, y)]
        for way, length in steps:
            x, y = (x + length, y) if way == "h" else (x, y + length)
            corners.append((x, y))
        for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
            assert x0 == x1 or y0 == y1
            if x0 == x1:  # all pixels to the right of an upright side are turned over
                inside[min(y0, y1) : max(y0, y1), x0:] ^= True
    return inside


def test_the_answer_has_what_the_predictor_finds(demo_predictor):
    image = picture(90, 130)
    answer = json.loads(json.dumps(answer_upload(demo_predictor, encode(image))))
    found = demo_predictor(np.ascontiguousarray(image[:, :, ::-1]))
    assert (answer["width"], answer["height"]) == (130, 90)
    objects = answer["objects"]
    scores = [each["annotation"]["score"] for each in objects]
    assert len(objects) == len(found) == 10
    assert scores == sorted(scores, reverse=True)
    order = found.scores.argsort(descending=True)
    for each, index in zip(objects, order.tolist(), strict=True):
        x0, y0, x1, y1 = found.pred_boxes.tensor[index].tolist()
        annotation, mask = each["annotation"], found.pred_masks[index].numpy()
        assert each["class"] == found.pred_classes[index]
        assert annotation["category_id"] == [2, 7, 90][each["class"]]
        assert each["box"] == pytest.approx([x0, y0, x1, y1], abs=0.01)
        assert annotation["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=0.01)
        assert annotation["score"] == pytest.approx(found.scores[index].item(), abs=1e-6)
        assert annotation["area"] == mask.sum()
        assert np.array_equal(coco_mask.decode(annotation["segmentation"]), mask)
        assert np.array_equal(fill(each["outline"], 90, 130), mask)
    assert np.abs(open_picture(answer).astype(int) - image).mean() < 3  # JPEG


def test_the_annotations_make_a_coco_json(demo_predictor, tmp_path):
    answer = answer_upload(demo_predictor, PNG)
    content = {
        "images": [{"id": 1, "file_name": "x.png", "width": 130, "height": 90}],
        "categories": [{"id": i, "name": str(i)} for i in (2, 7, 90)],
        "annotations": [each["annotation"] for each in answer["objects"]],
    }
    (tmp_path / "x.json").write_text(json.dumps(content))
    coco = COCO(tmp_path / "x.json")
    areas = [coco.annToMask(coco.anns[number]).sum() for number in range(1, 11)]
    assert areas == [each["annotation"]["area"] for each in answer["objects"]]


def test_an_upload_is_turned_upright_as_its_camera_says(demo_predictor):
    exif = Image.Exif()
    exif[274] = 6
    image = picture(60, 100)
    answer = answer_upload(demo_predictor, encode(image, "JPEG", exif=exif, quality=95))
    assert (answer["width"], answer["height"]) == (60, 100)
    assert np.abs(open_picture(answer).astype(int) - np.rot90(image, -1)).mean() < 6


@pytest.fixture(scope="module")
def predictor_of_bands(tiny_weights) -> Predictor:
    cfg = tiny_cfg(3)
    cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS, cfg.MASK_RCNN_EXT.DATA.PIXEL_STATISTICS = 3, "fixed"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [9000.0] * 3, [50.0] * 3
    return Predictor(cfg, tiny_weights)


@pytest.mark.parametrize("name", ["x.png", "x.npy"])
def test_16_bits_are_read_as_by_the_predictor(predictor_of_bands, tmp_path, name):
    predictor = predictor_of_bands
    values = picture(64, 80).astype(np.uint16) * 70
    if name.endswith("png"):
        cv2.imwrite(str(tmp_path / name), values)
    else:
        np.save(tmp_path / name, values)
    answer = answer_upload(predictor, (tmp_path / name).read_bytes())
    expected = predictor(tmp_path / name).scores.sort(descending=True).values.tolist()
    scores = [each["annotation"]["score"] for each in answer["objects"]]
    assert scores == pytest.approx(expected, abs=1e-5)
    assert len(scores) == 10
    shown = open_picture(answer)
    assert shown.shape == (64, 80, 3)
    assert shown.std() > 20


def test_a_large_image_is_shown_smaller_and_measured_in_its_own_pixels(demo_predictor, monkeypatch):
    monkeypatch.setattr(demo_answer, "_LARGEST_PICTURE", 65)
    answer = answer_upload(demo_predictor, PNG)
    assert open_picture(answer).shape == (45, 65, 3)
    assert (answer["width"], answer["height"]) == (130, 90)
    assert max(each["box"][2] for each in answer["objects"]) > 65


def test_no_object_and_no_mask(demo_predictor):
    class Stub:
        cfg, category_ids = demo_predictor.cfg, demo_predictor.category_ids
        read = demo_predictor.read

        def __init__(self, count):
            self.found = Instances((40, 60))
            self.found.pred_boxes = Boxes(torch.tensor([[1.0, 2.0, 11.0, 22.0]] * count))
            self.found.scores = torch.full((count,), 0.5)
            self.found.pred_classes = torch.ones(count, dtype=torch.int64)

        def stream_packed(self, images):
            return [self.found for _ in images]

    assert answer_upload(Stub(0), encode(picture(40, 60)))["objects"] == []
    (only,) = answer_upload(Stub(1), encode(picture(40, 60)))["objects"]
    assert only["outline"] == ""
    assert only["annotation"]["area"] == 200
    assert "segmentation" not in only["annotation"]


def test_outlines_of_holes_corners_and_nothing(monkeypatch):
    mask = np.zeros((9, 12), bool)
    mask[1:8, 1:8] = True
    mask[3:6, 3:6] = False  # a hole
    mask[4, 4] = mask[8, 8] = True  # an island in it, and a pixel that touches by a corner
    outline = make_outline(MaskCrop(2, 3, mask))
    assert np.array_equal(fill(outline, 20, 20)[2:11, 3:15], mask)
    assert fill(outline, 20, 20).sum() == mask.sum()
    assert make_outline(MaskCrop(0, 0, np.ones((1, 1), bool))) in ("M0 0h1v1h-1z", "M0 1v-1h1v1z")
    assert make_outline(MaskCrop(0, 0, np.zeros((5, 0), bool))) == ""
    monkeypatch.setattr(demo_answer, "_TRACED", 30)  # every second pixel of 9 x 12
    coarse = fill(make_outline(MaskCrop(0, 0, mask)), 10, 12)
    assert np.array_equal(coarse, mask[::2, ::2].repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"no image", r"^cannot be read as an image \(no image format that Pillow knows\)$"),
        (encode(picture(40, 60))[:200], r"^cannot be read as an image \("),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "EPS is a program"),
        (encode(np.full((4, 4), 9, np.uint16)), r"^has more than 8 bits per channel"),
    ],
)
def test_a_bad_upload_is_one_sentence_without_a_path(demo_predictor, data, says):
    with pytest.raises(UserError, match=says) as caught:
        answer_upload(demo_predictor, data)
    assert "upload" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_many_pixels_are_refused_by_the_header(demo_predictor, monkeypatch):
    monkeypatch.setattr(demo_answer, "MAX_PIXELS", 40 * 60 - 1)
    monkeypatch.setattr(demo_predictor, "read", lambda path: pytest.fail("the pixels were decoded"))
    with pytest.raises(UserError, match="the image has 60 x 40 pixels; the demo page takes up to"):
        answer_upload(demo_predictor, encode(picture(40, 60)))
