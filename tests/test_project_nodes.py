"""Config nodes that a project declares."""

import fvcore.common.config
import pytest
from detectron2.config import CfgNode

from mask_rcnn_ext import UserError, load_config


def test_a_node_of_a_class_of_its_own_keeps_its_methods(tmp_path):
    class Node(CfgNode):
        def count(self):
            return len(self)

    def add_keys(cfg):
        cfg.MODEL.MINE = Node({"DROP": 0.5})

    path = tmp_path / "mine.yaml"
    path.write_text("MODEL: {MASK_ON: True}")
    assert load_config(str(path), add_keys=add_keys).MODEL.MINE.count() == 1


@pytest.mark.parametrize("kind", [CfgNode, fvcore.common.config.CfgNode])
def test_a_project_declares_nodes_as_for_detectron2s_config(kind, tmp_path):
    def add_keys(cfg):
        cfg.MODEL.MINE = kind()
        cfg.MODEL.MINE.DROP = 0.5
        cfg.MODEL.MINE.INNER = kind({"SIZE": 3})
        cfg.MODEL.MINE.ANY = kind(new_allowed=True)

    path = tmp_path / "mine.yaml"
    path.write_text("MODEL: {MINE: {DROP: 0.25, INNER: {SIZE: 4}, ANY: {OTHER: 1}}}")
    mine = load_config(str(path), add_keys=add_keys).MODEL.MINE
    assert (mine.DROP, mine.INNER.SIZE, mine.ANY.OTHER) == (0.25, 4, 1)
    path.write_text("MODEL: {MINE: {DROPS: 0.25}}")
    with pytest.raises(UserError, match=r"'MODEL\.MINE\.DROPS'.*MODEL\.MINE\.DROP\b"):
        load_config(str(path), add_keys=add_keys)
