"""Config values that do not fit together: an error of one line, exit code 2, no files."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from small_runs import read_error
from support import run_train_net, write_coco

from mask_rcnn_ext import UserError, get_cfg
from mask_rcnn_ext.config_files import list_config_names
from mask_rcnn_ext.engine.data_of_run import prepare_data
from mask_rcnn_ext.model_zoo import get_config, get_config_file
from mask_rcnn_ext.modeling.checks import (
    require_fitting_parts,
    require_fitting_training_data,
    require_known_classes,
)
from mask_rcnn_ext.modeling.read_keys import require_read_keys


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        ("mask_rcnn_R50_FPN", {"ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignMax"}, "MaskRCNNROIHeads"),
        ("mask_rcnn_R50_FPN", {"ROI_MASK_HEAD.POOLER_TYPE": "ROIWarpAve"}, "ROI_MASK_HEAD"),
        (
            "keypoints/keypoint_rcnn_R50_FPN",
            {"ROI_KEYPOINT_HEAD.POOLER_TYPE": "ROIWarpMax"},
            "ROI_KEYPOINT_HEAD",
        ),
        ("mask_rcnn_R50_C4", {"ROI_BOX_HEAD.POOLER_TYPE": "ROIWarpMax"}, "MaskRCNNRes5ROIHeads"),
        ("mask_rcnn_R50_C4", {"ROI_MASK_HEAD.OUTPUT_RESOLUTION": 14}, "MaskRCNNRes5ROIHeads"),
        ("mask_rcnn_R50_C4", {"ROI_MASK_HEAD.NAME": "MaskRCNNMLPHead"}, "MaskRCNNRes5ROIHeads"),
    ],
)
def test_what_detectron2s_roi_heads_cannot_take(config, values, message):
    cfg = get_config(config)
    words = [word for key, value in values.items() for word in (f"MODEL.{key}", value)]
    cfg.merge_from_list(words)
    require_fitting_parts(cfg)  # with our RoI heads
    on_res5 = "C4" in config
    cfg.MODEL.ROI_HEADS.NAME = "Res5ROIHeads" if on_res5 else "StandardROIHeads"
    with pytest.raises(UserError, match=message):
        require_fitting_parts(cfg)


@pytest.mark.parametrize(
    ("name", "value", "key", "stock"),
    [
        ("MODEL.ROI_MASK_HEAD.LOSS", "softmax", "ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
        ("MODEL.ROI_MASK_HEAD.OUTPUT_RESOLUTION", 56, "ROI_MASK_HEAD.NAME",
         "MaskRCNNConvUpsampleHead"),
        ("MASK_RCNN_EXT.MASK_HEAD.PREDICTOR_STD", 0.18, "ROI_MASK_HEAD.NAME",
         "MaskRCNNConvUpsampleHead"),
        ("MODEL.ROI_MASK_HEAD.PASTE_THRESH", 0.4, "META_ARCHITECTURE", "GeneralizedRCNN"),
    ],
)  # fmt: skip
def test_a_key_that_no_class_would_read(name, value, key, stock):
    cfg = get_config("mask_rcnn_R50_FPN")
    cfg.merge_from_list([name, str(value)])
    require_read_keys(cfg)
    cfg.merge_from_list([f"MODEL.{key}", stock])
    with pytest.raises(UserError, match=rf"{name} {value}: .* {stock} does not read this key"):
        require_read_keys(cfg)
    cfg.MODEL.MASK_ON = False
    require_read_keys(cfg)


def test_heads_without_a_name_are_left_to_those_who_build_them():
    cfg = get_config("mask_rcnn_R50_FPN")
    cfg.MODEL.ROI_MASK_HEAD.NAME = ""
    require_read_keys(cfg)


@pytest.mark.parametrize(
    ("config", "name", "value", "remedy"),
    [
        ("fcis_R101_C5_dilated", "MODEL.ROI_MASK_HEAD.PASTE_THRESH", 0.3, "FCIS.MASK_THRESH"),
        ("mask_rcnn_R50_FPN", "MODEL.ROI_BOX_HEAD.DROPOUT", 0.5, "MaskRCNNExtClassifierBoxHead"),
        ("shapes/mask_rcnn_tiny_FPN", "MODEL.RESNETS.RES5_DILATION", 2, "tiny_resnet_backbone"),
        ("shapes/mask_rcnn_tiny_FPN", "MASK_RCNN_EXT.TINY_RESNET.RES4_DILATION", 2,
         "mask_rcnn_ext_tiny_resnet_backbone"),
    ],
)  # fmt: skip
def test_a_key_that_no_part_would_read(config, name, value, remedy):
    cfg = get_config(config)
    require_read_keys(cfg)
    cfg.merge_from_list([name, str(value)])
    with pytest.raises(UserError, match=rf"^{name} {value}: .* does not read this.*{remedy}$"):
        require_read_keys(cfg)


def test_our_configs_have_only_keys_that_are_read():
    for name in list_config_names():
        require_read_keys(get_config(name))


def test_what_detectron2s_roi_heads_can_take():
    cfg = get_config("mask_rcnn_R50_C4")
    cfg.MODEL.ROI_HEADS.NAME = "Res5ROIHeads"
    assert cfg.MODEL.ROI_MASK_HEAD.NAME == "MaskRCNNFCNHead"
    require_fitting_parts(cfg)
    cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE = "ROIWarpAve"  # the C4 heads do not read it
    require_fitting_parts(cfg)
    cfg = get_config("faster_rcnn_R101_FPN")
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE = "ROIWarpAve"  # there is no mask branch
    require_fitting_parts(cfg)
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE = "ROIWarpAve"
    require_fitting_parts(cfg)


@pytest.mark.parametrize(
    ("config", "key", "value", "remedy"),
    [
        ("fcis_R101_C5_dilated", "ROI_HEADS.NAME", "MaskRCNNROIHeads",
         "Set MODEL.ROI_HEADS.NAME FCISROIHeads"),
        ("fcis_R101_C5_dilated", "ROI_HEADS.NAME", "Res5ROIHeads",
         "Set MODEL.ROI_HEADS.NAME FCISROIHeads"),
        ("fcis_R101_C5_dilated", "META_ARCHITECTURE", "GeneralizedRCNN",
         "Set MODEL.META_ARCHITECTURE MaskRCNNExtFCIS"),
        ("mask_rcnn_R50_C4", "ROI_HEADS.NAME", "FCISROIHeads",
         "Set MODEL.META_ARCHITECTURE MaskRCNNExtFCIS"),
    ],
)  # fmt: skip
def test_fcis_and_its_heads_need_one_another(config, key, value, remedy):
    cfg = get_config(config)
    require_fitting_parts(cfg)
    cfg.merge_from_list([f"MODEL.{key}", value])
    with pytest.raises(UserError, match=f"{value}.*{remedy}$"):
        require_fitting_parts(cfg)


def test_another_projects_architecture_may_take_the_heads_of_fcis(monkeypatch):
    class Voter(GeneralizedRCNN):
        pass

    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "Voter", Voter)
    cfg = get_config("fcis_R101_C5_dilated")
    cfg.MODEL.META_ARCHITECTURE = "Voter"
    assert require_fitting_parts(cfg) is None  # no UserError


def test_fcis_trains_on_bit_masks():
    cfg = get_config("fcis_R101_C5_dilated")
    require_fitting_training_data(cfg)
    cfg.INPUT.MASK_FORMAT = "polygon"
    with pytest.raises(UserError, match=r"'polygon'\. Set INPUT.MASK_FORMAT bitmask"):
        require_fitting_training_data(cfg)
    cfg.MODEL.META_ARCHITECTURE = "MaskRCNN"
    require_fitting_training_data(cfg)


@pytest.mark.parametrize("config", ["fcis_R101_C5_dilated", "mask_rcnn_R50_FPN"])
def test_own_polygons_are_drawn_for_fcis(tmp_path, config):
    path, images = write_coco(tmp_path, images=1)
    cfg = get_config(config)
    cfg.MASK_RCNN_EXT.DATA.TRAIN_JSON = str(path)
    cfg.MASK_RCNN_EXT.DATA.TRAIN_IMAGES = str(images)
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    prepare_data(cfg)
    drawn = cfg.INPUT.MASK_FORMAT == "bitmask"
    assert drawn == ("fcis" in config)
    require_fitting_training_data(cfg)


@pytest.fixture
def keypoint_data(forget_data_sets):
    name = "five_points"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(keypoint_names=list("abcde"), keypoint_flip_map=[("a", "b")])
    return name


def test_the_number_of_keypoints_follows_from_the_data(keypoint_data):
    cfg = get_config("keypoints/keypoint_rcnn_R50_FPN")
    cfg.DATASETS.TRAIN = (keypoint_data,)
    with pytest.raises(UserError, match=r"NUM_KEYPOINTS is 17, but .* has 5"):
        require_fitting_training_data(cfg)
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 5
    require_fitting_training_data(cfg)


@pytest.mark.parametrize(
    "flip_map", [None, [("a", "x")], [("a", "b", "c")]], ids=["none", "unknown name", "no pair"]
)
def test_a_mirror_must_exchange_known_keypoints(keypoint_data, flip_map):
    metadata = MetadataCatalog.get(keypoint_data)
    del metadata.keypoint_flip_map
    if flip_map:
        metadata.keypoint_flip_map = flip_map
    cfg = get_config("keypoints/keypoint_rcnn_R50_FPN")
    cfg.DATASETS.TRAIN = (keypoint_data,)
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 5
    with pytest.raises(
        UserError, match=r"expected keypoint_flip_map .* for the names a, b, c, d, e"
    ):
        require_fitting_training_data(cfg)


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "choice or range"),
        ("INPUT.RANDOM_FLIP", "horizontal, vertical or none"),
        ("INPUT.CROP.TYPE", "relative, relative_range, absolute or absolute_range"),
        ("INPUT.MASK_FORMAT", "polygon or bitmask"),
        ("MODEL.RPN.BBOX_REG_LOSS_TYPE", "smooth_l1, giou, diou or ciou"),
        ("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "smooth_l1, giou, diou or ciou"),
    ],
)
def test_a_name_that_detectron2_does_not_know(key, known):
    cfg = get_cfg()
    cfg.merge_from_list([key, "other"])
    with pytest.raises(UserError, match=f"^{key}: expected {known}, got 'other'"):
        require_fitting_training_data(cfg)


@pytest.mark.parametrize(
    ("kind", "size", "expected"),
    [
        ("relative_range", [], "two shares"),
        ("relative_range", [2.0, 0.5], "two shares"),
        ("relative", [0.0, 0.5], "two shares"),
        ("absolute", [0.9, 0.9], "two whole numbers of pixels"),
        ("absolute_range", [60, 10], "the first not above the second"),
        ("absolute_range", [10, 60], ""),
        ("absolute", [60, 10], ""),
        ("relative", [0.5, 1], ""),
    ],
)
def test_the_size_of_crops_fits_their_type(kind, size, expected):
    cfg = get_cfg()
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = kind, size
    require_fitting_training_data(cfg)  # crops are off
    cfg.INPUT.CROP.ENABLED = True
    if not expected:
        require_fitting_training_data(cfg)
        return
    with pytest.raises(UserError, match=f"^INPUT.CROP.SIZE: expected .*{expected}"):
        require_fitting_training_data(cfg)


def test_an_empty_order_of_channels_is_none():
    """detectron2 would take the order of the file, which is RGB."""
    cfg = get_cfg()
    cfg.INPUT.FORMAT = ""
    with pytest.raises(UserError, match=r"^INPUT\.FORMAT: expected .* BGR or RGB, got nothing"):
        require_fitting_training_data(cfg)


def test_training_needs_a_size_of_images():
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN = ()
    with pytest.raises(UserError, match="MIN_SIZE_TRAIN: expected the shorter sides"):
        require_fitting_training_data(cfg)


def test_the_range_of_sizes_has_two_ends():
    cfg = get_config("enhanced/mask_rcnn_X101_FPN_augm")
    require_fitting_training_data(cfg)
    cfg.INPUT.MIN_SIZE_TRAIN = (160,)
    with pytest.raises(UserError, match="expected two sizes"):
        require_fitting_training_data(cfg)


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        ("mask_rcnn_R50_FPN", ["MODEL.ROI_HEADS.NAME", "StandardROIHeads",
                               "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignMax"], "POOLER_TYPE"),
        ("keypoints/keypoint_rcnn_R50_FPN", [], "MODEL.KEYPOINT_ON"),
        ("fcis_R101_C5_dilated", ["MODEL.ROI_HEADS.NAME", "StandardROIHeads"], "FCISROIHeads"),
    ],
)  # fmt: skip
def test_train_net_prints_the_error_in_one_line(tmp_path, capsys, config, values, message):
    path, images = write_coco(tmp_path / "data", images=2)
    out = tmp_path / "out"
    code = run_train_net(
        "--config-file", get_config_file(config), "--train-json", str(path),
        "--train-images", str(images), "OUTPUT_DIR", str(out), "MODEL.WEIGHTS", "", *values,
    )  # fmt: skip
    assert code == 2
    assert message in read_error(capsys)
    assert not out.exists()


def test_classes_of_crowds_and_of_images_without_objects_do_not_count():
    cfg = get_cfg()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.DATASETS.TRAIN = 3, ("own",)
    crowd = {"category_id": 9, "iscrowd": 1}
    fitting = [{"annotations": [{"category_id": 2}, crowd, {"category_id": "9"}, {}]}, {}]
    require_known_classes(cfg, [*fitting, {"annotations": None}, {"annotations": []}])
    require_known_classes(cfg, [])
    with pytest.raises(UserError, match=r"\(own\) has the class 3.*NUM_CLASSES 4 or more"):
        require_known_classes(cfg, [*fitting, {"annotations": [{"category_id": np.int64(3)}]}])
