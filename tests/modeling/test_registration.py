"""What importing the package adds to detectron2's own registries and catalogs."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    GeneralizedRCNN,
)
from detectron2.modeling.roi_heads import BaseMaskRCNNHead, Res5ROIHeads, StandardROIHeads
from tiny_model import tiny_cfg

import mask_rcnn_ext
from mask_rcnn_ext import (
    FCIS,
    MaskRCNN,
    MaskRCNNFCNHead,
    MaskRCNNMLPHead,
    MaskRCNNRes5ROIHeads,
    MaskRCNNROIHeads,
    UserError,
)
from mask_rcnn_ext.engine.data_of_run import prepare_data
from mask_rcnn_ext.modeling.checks import check_registry_names


@pytest.mark.parametrize(
    ("registry", "names"),
    [
        (
            BACKBONE_REGISTRY,
            [
                "mask_rcnn_ext_alexnet_backbone",
                "mask_rcnn_ext_nonlocal_resnet_fpn_backbone",
                "mask_rcnn_ext_timm_backbone",
                "mask_rcnn_ext_timm_fpn_backbone",
                "mask_rcnn_ext_tiny_resnet_backbone",
                "mask_rcnn_ext_tiny_resnet_fpn_backbone",
                "mask_rcnn_ext_vgg16_backbone",
            ],
        ),
        (META_ARCH_REGISTRY, ["MaskRCNN", "MaskRCNNExtFCIS", "MaskRCNNExtRCNN"]),
        (
            ROI_HEADS_REGISTRY,
            [
                *("MaskRCNNROIHeads", "MaskRCNNRes5ROIHeads", "MaskRCNNTinyRes5ROIHeads"),
                *("FCISROIHeads", "RCNNROIHeads"),
            ],
        ),
        (ROI_MASK_HEAD_REGISTRY, ["MaskRCNNFCNHead", "MaskRCNNMLPHead"]),
    ],
    ids=["backbones", "meta-architectures", "RoI heads", "mask heads"],
)
def test_names_are_in_detectron2s_registries(registry, names):
    for name in names:
        assert registry.get(name).__module__.startswith(mask_rcnn_ext.__name__)


def test_data_sets_are_in_detectron2s_catalogs():
    for split in ("train", "val", "test"):
        assert f"occluded_shapes_{split}" in DatasetCatalog.list()
        assert MetadataCatalog.get(f"occluded_shapes_{split}").evaluator_type == "coco"


@pytest.mark.parametrize("meta_arch", ["GeneralizedRCNN", "MaskRCNN"])
@pytest.mark.parametrize(
    ("key", "name", "known"),
    [
        ("MODEL.RPN.HEAD_NAME", "StandardRPNHaed", "StandardRPNHead"),
        ("MODEL.PROPOSAL_GENERATOR.NAME", "RNP", "RPN"),
        ("MODEL.ROI_HEADS.NAME", "MaskRCNNRes5RoIHeads", "MaskRCNNRes5ROIHeads"),
        ("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvHead", "FastRCNNConvFCHead"),
        ("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNMLP", "MaskRCNNMLPHead"),
    ],
)
def test_the_parts_of_every_two_stage_model_are_checked(meta_arch, key, name, known):
    cfg = tiny_cfg()
    cfg.MODEL.META_ARCHITECTURE = meta_arch
    check_registry_names(cfg)
    cfg.merge_from_list([key, name])
    with pytest.raises(UserError, match=rf"{key}: .*{name!r}; did you mean {known!r}"):
        check_registry_names(cfg)


def test_the_parts_that_a_model_does_not_have_are_not_checked():
    cfg = tiny_cfg()
    cfg.MODEL.ROI_BOX_HEAD.NAME = "none"
    for name in ("Res5ROIHeads", "MaskRCNNRes5ROIHeads", "MaskRCNNTinyRes5ROIHeads"):
        cfg.MODEL.ROI_HEADS.NAME = name  # res5 is the box head
        check_registry_names(cfg)
    cfg.MODEL.ROI_HEADS.NAME = "none"
    for name in ("ProposalNetwork", "RetinaNet"):
        cfg.MODEL.META_ARCHITECTURE = name
        check_registry_names(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.RPN.HEAD_NAME = "ProposalNetwork", "none"
    with pytest.raises(UserError, match=r"RPN.HEAD_NAME"):
        check_registry_names(cfg)
    cfg.MODEL.META_ARCHITECTURE = "MaskRCMN"
    with pytest.raises(UserError, match=r"META_ARCHITECTURE.*did you mean 'MaskRCNN'"):
        check_registry_names(cfg)


@pytest.mark.parametrize("meta_arch", ["GeneralizedRCNN", "MaskRCNN"])
def test_the_class_count_of_every_two_stage_model_is_checked(meta_arch, forget_data_sets):
    name = "registration_test"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).thing_classes = ["cat", "dog"]
    cfg = tiny_cfg(2)
    cfg.MODEL.META_ARCHITECTURE, cfg.DATASETS.TRAIN = meta_arch, (name,)
    prepare_data(cfg)
    assert cfg.MASK_RCNN_EXT.CLASS_NAMES == ["cat", "dog"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
    with pytest.raises(UserError, match=r"NUM_CLASSES is 80, but .* has 2 classes"):
        prepare_data(cfg)


@pytest.mark.parametrize(
    ("ours", "base"),
    [
        (MaskRCNN, GeneralizedRCNN),
        (FCIS, GeneralizedRCNN),
        (MaskRCNNROIHeads, StandardROIHeads),
        (MaskRCNNRes5ROIHeads, Res5ROIHeads),
        (MaskRCNNFCNHead, BaseMaskRCNNHead),
        (MaskRCNNMLPHead, BaseMaskRCNNHead),
    ],
    ids=lambda cls: cls.__name__,
)
def test_a_part_extends_the_one_of_detectron2(ours, base):
    """Plugins and detectron2's own code ask with isinstance."""
    assert issubclass(ours, base)
