"""The classes of a run's own data: of its weights, where the config has their ids."""

import pytest
from support import write_coco

from mask_rcnn_ext import get_cfg
from mask_rcnn_ext.engine.data_of_run import prepare_data


@pytest.mark.usefixtures("forget_data_sets")
@pytest.mark.parametrize(
    ("names", "ids", "found"),
    [
        (["cat"], [], ["cat", "dog"]),  # names alone do not say which category is which
        (["cat", "dog", "cow"], [3, 10, 17], ["cat", "dog", "cow"]),
    ],
)
def test_an_evaluation_has_the_classes_of_the_weights(names, ids, found, tmp_path):
    path, images = write_coco(tmp_path / "val", images=2)
    cfg = get_cfg()
    own = cfg.MASK_RCNN_EXT.DATA
    cfg.OUTPUT_DIR, own.VAL_JSON, own.VAL_IMAGES = str(tmp_path), str(path), str(images)
    cfg.MASK_RCNN_EXT.CLASS_NAMES, cfg.MASK_RCNN_EXT.CATEGORY_IDS = names, ids
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(found)
    prepare_data(cfg, eval_only=True)
    assert found == cfg.MASK_RCNN_EXT.CLASS_NAMES
