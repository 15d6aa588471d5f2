"""Names and keys that all plugins of detectron2 share: no clash, and old configs go on loading."""

import pytest
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, ROI_BOX_HEAD_REGISTRY
from support import REPO, TINY_CONFIG, run_python

import mask_rcnn_ext
from mask_rcnn_ext import UserError, get_cfg, load_config
from mask_rcnn_ext.config import config_hash, flat_config
from mask_rcnn_ext.modeling.checks import check_registry_names
from mask_rcnn_ext.old_names import RENAMED_PARTS, restore_old_names

FOREIGN = """
import warnings
warnings.filterwarnings("ignore")
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, ROI_BOX_HEAD_REGISTRY

def register():
    for name in {names}:
        part = type(name, (), {{}})
        for registry in (BACKBONE_REGISTRY, META_ARCH_REGISTRY, ROI_BOX_HEAD_REGISTRY):
            registry.register(part)

def get_name():
    from mask_rcnn_ext import load_config
    cfg = load_config(None, ["MODEL.BACKBONE.NAME", "build_timm_backbone"])
    return cfg.MODEL.BACKBONE.NAME
"""
# Both orders, each in a process of its own, after the slow import that they share.
ORDERS = """
import os

if not (child := os.fork()):
    register()
    import mask_rcnn_ext
    print(get_name(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
import mask_rcnn_ext
print(get_name())
register()
print(get_name())
"""


def test_another_project_registers_our_old_names():
    """As Detic does with `build_timm_backbone`, before our import and after it."""
    code = FOREIGN.format(names=list(RENAMED_PARTS)) + ORDERS
    done = run_python("-c", code, cwd=REPO)
    first, last = ["build_timm_backbone"], ["mask_rcnn_ext_timm_backbone", "build_timm_backbone"]
    assert done.stdout.split() == [*first, *last], done.stderr


def test_every_registered_name_begins_with_a_name_of_ours():
    """A bare word or method name could be anyone's."""
    ours = set()
    for registry in mask_rcnn_ext.detectron2.modeling.__dict__.values():
        if type(registry).__name__ == "Registry":
            named = [(n, part.__module__ or "") for n, part in registry]
            ours |= {n for n, module in named if module.startswith("mask_rcnn_ext")}
    assert set(RENAMED_PARTS.values()) <= ours
    assert not ours & set(RENAMED_PARTS)
    prefixes = ("mask_rcnn_ext_", "MaskRCNN", "FCISROI", "RCNNROI")
    assert [name for name in ours if not name.startswith(prefixes)] == []


@pytest.mark.parametrize(("old", "new"), RENAMED_PARTS.items())
def test_an_old_name_in_a_file_is_the_new_one(tmp_path, old, new):
    key, registry = {
        "b": ("BACKBONE: {NAME", BACKBONE_REGISTRY),
        "C": ("ROI_BOX_HEAD: {NAME", ROI_BOX_HEAD_REGISTRY),
    }.get(old[0], ("META_ARCHITECTURE", META_ARCH_REGISTRY))
    path = tmp_path / "old.yaml"
    path.write_text(f"VERSION: 2\nMODEL: {{{key}: {old}}}" + "}" * ("{" in key))
    model = load_config(str(path)).MODEL
    assert new in [model.META_ARCHITECTURE, model.BACKBONE.NAME, model.ROI_BOX_HEAD.NAME]
    assert new in registry


OLD_KEYS = """
VERSION: 2
MODEL:
  TIMM: {NAME: resnet10t, PRETRAINED: true}
  TINY_RESNET: {CHANNELS: [4, 8, 12, 16]}
  NON_LOCAL: {STAGES: [res3]}
"""


def test_an_old_name_that_python_sets_is_told_with_the_new_one():
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "FCIS"
    with pytest.raises(UserError, match=r"as 'FCIS'; its name is now MaskRCNNExtFCIS\. If"):
        check_registry_names(cfg)


def test_old_keys_of_a_file_and_of_a_command_line_are_read(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(OLD_KEYS)
    cfg = load_config(str(path), ["MODEL.TINY_RESNET.NORM", "GN"])
    ours = cfg.MASK_RCNN_EXT
    assert (ours.TIMM.NAME, ours.TIMM.PRETRAINED) == ("resnet10t", True)
    assert ours.TINY_RESNET.CHANNELS == [4, 8, 12, 16]
    assert ours.TINY_RESNET.BLOCKS == [2, 2, 2, 2]
    assert ours.TINY_RESNET.NORM == "GN"
    assert ours.NON_LOCAL.STAGES == ["res3"]
    path.write_text(cfg.dump())
    assert config_hash(load_config(str(path)), 0) == config_hash(cfg, 0)


def test_an_old_config_on_a_base_of_ours_counts_and_says_so(tmp_path, caplog):
    path = tmp_path / "mine.yaml"
    path.write_text(f"_BASE_: {TINY_CONFIG}\nMODEL: {{TINY_RESNET: {{BLOCKS: [1, 1, 1, 1]}}}}")
    assert load_config(str(path)).MASK_RCNN_EXT.TINY_RESNET.BLOCKS == [1, 1, 1, 1]
    assert caplog.messages == [
        "MODEL.TINY_RESNET.BLOCKS counts, not MASK_RCNN_EXT.TINY_RESNET.BLOCKS, its new name"
    ]


def test_an_unknown_key_of_an_old_node_is_an_error(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("VERSION: 2\nMODEL: {TIMM: {NAEM: resnet10t}}")
    for arguments in ([str(path)], [None, ["MODEL.TIMM.NAEM", "x"]]):
        with pytest.raises(UserError, match=r"unknown config key.*mean 'MASK_RCNN_EXT.TIMM.NAME'"):
            load_config(*arguments)


@pytest.mark.parametrize("first", [True, False], ids=["before ours", "after ours"])
def test_a_node_of_another_project_is_its_own(tmp_path, first):
    """Detic has `MODEL.TIMM` with its own keys, one of them named as ours was."""

    def add_keys(cfg):
        cfg.MODEL.TIMM = type(cfg)({"BASE_NAME": "resnet50", "PRETRAINED": False})

    if first:
        cfg = mask_rcnn_ext.config.ExtCfgNode(mask_rcnn_ext.config.detectron2_get_cfg())
        add_keys(cfg)
        mask_rcnn_ext.add_mask_rcnn_ext_config(cfg)
    else:
        cfg = get_cfg()
        add_keys(cfg)
    path = tmp_path / "theirs.yaml"
    path.write_text("VERSION: 2\nMODEL: {TIMM: {PRETRAINED: true}}\n")
    cfg.merge_from_file(str(path))
    cfg.merge_from_list(
        ["MODEL.TIMM.BASE_NAME", "resnet18", "MASK_RCNN_EXT.TIMM.NAME", "resnet10t"]
    )
    assert dict(cfg.MODEL.TIMM) == {"BASE_NAME": "resnet18", "PRETRAINED": True}
    assert dict(cfg.MASK_RCNN_EXT.TIMM) == {"NAME": "resnet10t", "PRETRAINED": False}


def test_old_names_for_hashes():
    """Finished runs are found by it."""
    cfg = load_config(TINY_CONFIG, ["MODEL.ROI_BOX_HEAD.NAME", "MaskRCNNExtClassifierBoxHead"])
    values = restore_old_names(dict(flat_config(cfg)))
    assert values["MODEL.BACKBONE.NAME"] == "build_tiny_resnet_fpn_backbone"
    assert values["MODEL.ROI_BOX_HEAD.NAME"] == "ClassifierBoxHead"
    assert values["MODEL.TINY_RESNET.NORM"] == "BN"
    assert "MASK_RCNN_EXT.TINY_RESNET.NORM" not in values
