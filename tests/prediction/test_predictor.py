import logging

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg as detectron2_get_cfg
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from PIL import Image
from tiny_model import picture, tiny_cfg

from mask_rcnn_ext import Predictor
from mask_rcnn_ext.data.images import read_bgr
from mask_rcnn_ext.data.mapper import ImageMapper
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.prediction.predictor import resolve_config


@pytest.fixture(scope="module")
def predictor(tiny_weights) -> Predictor:
    return Predictor(tiny_cfg(3), tiny_weights, batch_size=3)


def assert_equal(ours, theirs) -> None:
    assert ours.image_size == theirs.image_size
    assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
    assert torch.equal(ours.scores, theirs.scores)
    assert torch.equal(ours.pred_classes, theirs.pred_classes)
    assert torch.equal(ours.pred_masks, theirs.pred_masks)


def assert_close(ours, theirs) -> None:
    """Kernels may add up in another order for another batch size."""
    assert ours.image_size == theirs.image_size
    assert torch.equal(ours.pred_classes, theirs.pred_classes)
    assert torch.allclose(ours.scores, theirs.scores, atol=1e-5)
    assert torch.allclose(ours.pred_boxes.tensor, theirs.pred_boxes.tensor, atol=1e-2)
    assert (ours.pred_masks == theirs.pred_masks).float().mean() > 0.999


@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
def test_one_image_gives_detectron2s_numbers_bit_for_bit(tiny_weights, image_format):
    cfg = tiny_cfg(3)
    cfg.MODEL.WEIGHTS, cfg.INPUT.FORMAT = tiny_weights, image_format
    image = picture(90, 130)
    ours = Predictor(cfg)(image)
    theirs = DefaultPredictor(cfg)(image)["instances"]
    assert len(ours) == 10
    assert ours.pred_masks.any()
    assert not ours.pred_masks.all()
    assert_equal(ours, theirs)


def test_a_batch_gives_what_the_images_give_one_by_one(predictor):
    sizes = [(90, 130), (90, 130), (64, 64), (130, 90), (90, 130), (64, 70), (50, 80)]
    images = [picture(*size, seed=i) for i, size in enumerate(sizes)]
    together = predictor(images)
    for image, instances in zip(images, together, strict=True):
        alone = predictor(image)
        assert instances.image_size == image.shape[:2]
        assert_close(instances, alone)


def test_images_of_one_size_share_a_forward_pass_and_batch_size_is_the_limit(
    predictor, monkeypatch
):
    sizes = []
    run = predictor.model.preprocess_image
    monkeypatch.setattr(
        predictor.model, "preprocess_image", lambda x: sizes.append(len(x)) or run(x)
    )
    predictor([picture(64, 64)] * 7)
    assert sizes == [3, 3, 1]


def test_paths_arrays_and_generators_in_their_order(predictor, tmp_path):
    images = [picture(64, 64, seed=1), picture(64, 96, seed=2)]
    Image.fromarray(images[0][:, :, ::-1]).save(tmp_path / "a.png")
    given = (item for item in (str(tmp_path / "a.png"), images[1], tmp_path / "a.png"))
    first, second, third = predictor(given)
    assert_close(first, predictor(images[0]))
    assert_close(third, first)
    assert second.image_size == (64, 96)
    assert_equal(predictor(tmp_path / "a.png"), predictor(images[0]))


def test_nothing_gives_nothing(predictor):
    assert predictor([]) == []


def test_stream_reads_no_further_than_a_batch(predictor):
    taken = []

    def images():
        for index in range(9):
            taken.append(index)
            yield picture(64, 64, seed=index)

    next(predictor.stream(images()))
    assert taken == [0, 1, 2]


def test_without_masks_the_rest_is_the_same(predictor):
    images = [picture(90, 130, seed=1), picture(64, 70, seed=2)]
    pairs = zip(predictor.stream(images), predictor.stream_packed(images, masks=False), strict=True)
    for whole, instances in pairs:
        assert len(instances) == 10
        assert not instances.has("pred_masks")
        instances.pred_masks = whole.pred_masks
        assert_equal(instances, whole)


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1), (1, 1)])
def test_images_of_extreme_shape(predictor, size):
    instances = predictor(picture(*size))
    assert instances.image_size == size


def test_exif_orientation_is_honoured(predictor, tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned: show the image rotated by 90 degrees
    Image.fromarray(picture(60, 100)).save(tmp_path / "turned.jpg", exif=exif)
    instances = predictor(str(tmp_path / "turned.jpg"))
    assert instances.image_size == (100, 60)
    assert instances.pred_masks.shape[1:] == (100, 60)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_gray_and_other_modes_become_three_channels(predictor, tmp_path, mode):
    Image.fromarray(picture(64, 80)).convert(mode).save(tmp_path / "x.png")
    assert read_bgr(tmp_path / "x.png").shape == (64, 80, 3)
    assert predictor(str(tmp_path / "x.png")).image_size == (64, 80)


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "P", "1", "CMYK", "RGBA"])
@pytest.mark.parametrize(("image_format", "channels"), [("BGR", 3), ("RGB", 3), ("L", 1), ("L", 3)])
def test_the_model_sees_an_image_as_in_an_evaluation(tmp_path, image_format, channels, mode):
    cfg = tiny_cfg(3)
    cfg.INPUT.FORMAT = image_format
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [100.0] * channels, [50.0] * channels
    weights = str(tmp_path / "model.pth")
    torch.save({"model": build_model(cfg).state_dict()}, weights)
    path = str(tmp_path / "x.tif")
    Image.fromarray(picture(64, 80)).convert(mode).save(path)
    predictor = Predictor(cfg, weights)
    seen = ImageMapper(cfg, False)({"file_name": path, "height": 64, "width": 80})["image"]
    for image in (path, read_bgr(path)):
        assert torch.equal(predictor.prepare(image)["image"], seen.float())
    assert predictor(path).image_size == (64, 80)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (np.zeros((8, 8), np.uint8), r"array \(8, 8\) uint8"),
        (np.zeros((8, 8, 4), np.uint8), r"array \(8, 8, 4\)"),
        (np.zeros((0, 8, 3), np.uint8), r"array \(0, 8, 3\)"),
        (Image.new("RGB", (8, 8)), r"got a Pillow image\. Give numpy\.array\(image\.convert"),
        (np.zeros((8, 8, 3), np.float32), "float32"),
        (torch.zeros(3, 8, 8), "Tensor"),
        ([torch.zeros(3, 8, 8)], "Tensor"),
        ({"image": 1}, "dict"),
        (b"bytes", "bytes"),
        (None, "NoneType"),
        (3, "int"),
    ],
)
def test_other_input_is_an_error_that_says_what_came(predictor, given, says):
    with pytest.raises(ValueError, match=rf"expected a \(H, W, 3\) uint8 array.*{says}"):
        predictor(given)


@pytest.mark.parametrize("content", [None, b"no image", b""])
def test_unreadable_file_is_named(predictor, tmp_path, content):
    path = tmp_path / "x.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.jpg: cannot be read as an image"):
        predictor([str(path)])


def test_score_threshold(tiny_weights, predictor):
    image = picture(90, 130)
    everything = predictor(image)
    middle = float(everything.scores.median())
    some = Predictor(tiny_cfg(3), tiny_weights, score_threshold=middle)(image)
    assert 0 < len(some) < len(everything)
    assert (some.scores > middle).all()
    assert torch.equal(some.scores, everything.scores[everything.scores > middle])


def test_the_model_is_in_eval_mode_and_the_config_untouched(tiny_weights):
    cfg = tiny_cfg(3)
    before = cfg.dump()
    predictor = Predictor(cfg, tiny_weights, score_threshold=0.3)
    assert not predictor.model.training
    image = picture(64, 64)
    result = predictor(image)
    predictor.model.train()
    assert_equal(predictor(image), result)
    assert not result.scores.requires_grad
    assert cfg.dump() == before


def test_amp_and_channels_last_keys_are_used(tiny_weights):
    cfg = tiny_cfg(3)
    cfg.MASK_RCNN_EXT.CHANNELS_LAST = cfg.MASK_RCNN_EXT.AMP_INFERENCE = True
    cfg.SOLVER.AMP.ENABLED = True
    predictor = Predictor(cfg, tiny_weights)
    dtypes = []
    predictor.model.backbone.fpn_lateral2.register_forward_hook(
        lambda module, args, output: dtypes.append(output.dtype)
    )
    predictor(picture(64, 64))
    assert dtypes == [torch.bfloat16]
    weight = predictor.model.backbone.bottom_up.stem.conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_cuda_config_falls_back_to_the_cpu_with_a_line(tiny_weights, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg = tiny_cfg(3)
    cfg.MODEL.DEVICE, cfg.MASK_RCNN_EXT.AMP_DTYPE = "cuda", "float16"
    cfg.SOLVER.AMP.ENABLED = cfg.MASK_RCNN_EXT.AMP_INFERENCE = True
    with caplog.at_level(logging.INFO, "mask_rcnn_ext"):
        predictor = Predictor(cfg, tiny_weights)
    assert "running on the CPU" in caplog.text
    assert predictor.cfg.MODEL.DEVICE == "cpu"
    assert predictor(picture(64, 64)).image_size == (64, 64)
    with pytest.raises(UserError, match="device cuda: PyTorch finds no CUDA"):
        Predictor(cfg, tiny_weights, device="cuda")
    with pytest.raises(UserError, match=r"device: expected.*'gpu'"):
        Predictor(cfg, tiny_weights, device="gpu")


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device, and MASK_RCNN_EXT_TEST_GPU=1"
)
def test_results_of_a_gpu_are_on_the_cpu(tiny_weights):
    instances = Predictor(tiny_cfg(3), tiny_weights, device="cuda")(picture(64, 64))
    assert instances.scores.device.type == instances.pred_masks.device.type == "cpu"


def test_no_weights_or_others_are_errors(tiny_weights):
    with pytest.raises(UserError, match="the model would be random"):
        Predictor(tiny_cfg(3))
    with pytest.raises(UserError, match="has 3 classes, the config says 4"):
        Predictor(tiny_cfg(4), tiny_weights)


@pytest.mark.parametrize("kwargs", [{"batch_size": 0}, {"score_threshold": 50}])
def test_bad_arguments(tiny_weights, kwargs):
    with pytest.raises(UserError, match=f"{next(iter(kwargs))}: expected"):
        Predictor(tiny_cfg(3), tiny_weights, **kwargs)


def test_names_and_ids_of_the_config(tiny_weights):
    cfg = tiny_cfg(3)
    cfg.MASK_RCNN_EXT.CLASS_NAMES, cfg.MASK_RCNN_EXT.CATEGORY_IDS = ["cat", "dog", "cow"], [2, 7, 9]
    predictor = Predictor(cfg, tiny_weights)
    assert predictor.class_names == ["cat", "dog", "cow"]
    assert predictor.category_ids == [2, 7, 9]
    cfg.MASK_RCNN_EXT.CLASS_NAMES = ["cat"]
    with pytest.raises(UserError, match=r"CLASS_NAMES has values for 1 class, expected 3 "):
        Predictor(cfg, tiny_weights)


def test_names_and_ids_of_a_registered_data_set_or_none(tiny_weights):
    cfg = tiny_cfg(3)
    cfg.DATASETS.TEST = ("predictor_test_unknown", "predictor_test_known")
    MetadataCatalog.get("predictor_test_known").set(
        thing_classes=["a", "b", "c"], thing_dataset_id_to_contiguous_id={30: 2, 10: 0, 20: 1}
    )
    try:
        predictor = Predictor(cfg, tiny_weights)
    finally:
        MetadataCatalog.remove("predictor_test_known")
    assert (predictor.class_names, predictor.category_ids) == (["a", "b", "c"], [10, 20, 30])
    predictor = Predictor(cfg, tiny_weights)
    assert predictor.class_names == ["class 0", "class 1", "class 2"]
    assert predictor.category_ids == [1, 2, 3]
    assert "predictor_test_unknown" not in MetadataCatalog


def test_config_as_file_name_or_detectron2s(tiny_weights, tmp_path):
    cfg = tiny_cfg(3)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert resolve_config(tmp_path / "config.yaml").MODEL.FPN.OUT_CHANNELS == 16
    assert resolve_config(detectron2_get_cfg()).MASK_RCNN_EXT.CLASS_NAMES == []
    frozen = cfg.clone()
    frozen.freeze()
    assert len(Predictor(frozen, tiny_weights)(picture(64, 64))) == 10
    with pytest.raises(UserError, match=r"no config 'mask_rcnn_R5_FPN.*There is no file .* either"):
        resolve_config("mask_rcnn_R5_FPN")
    with pytest.raises(UserError, match="expected a CfgNode, a path or a name, got int"):
        resolve_config(3)


def test_a_head_of_a_project_that_is_not_imported(tiny_weights):
    cfg = tiny_cfg(3)
    cfg.MODEL.ROI_MASK_HEAD.NAME = "HeadOfAProject"
    said = r"nothing is registered as 'HeadOfAProject'\. If a project registers it, use a script"
    with pytest.raises(UserError, match=said):
        Predictor(cfg, tiny_weights)
