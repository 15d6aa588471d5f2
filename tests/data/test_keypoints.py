"""Objects without keypoints, next to others that have them, count as not labelled."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.structures import Boxes, Instances
from PIL import Image

from mask_rcnn_ext import UserError, get_cfg
from mask_rcnn_ext.data.keypoints import complete_keypoints, complete_true_keypoints
from mask_rcnn_ext.engine.trainer import Trainer
from mask_rcnn_ext.evaluation.build import require_known_evaluators
from mask_rcnn_ext.evaluation.coco import MaskRCNNCOCOEvaluator
from mask_rcnn_ext.proposals.file import load_training_dicts

pytestmark = [
    pytest.mark.usefixtures("forget_data_sets"),
    # detectron2 makes a tensor of the arrays of the objects.
    pytest.mark.filterwarnings("ignore:Creating a tensor from a list of numpy:UserWarning"),
]

NAME, SIDE = "some_keypoints", 64
LEFT = (2, 22, 42)  # the left sides of three objects, 16 x 32 pixels


def labelled(x):
    return [x + 2, 12, 2, x + 9, 20, 1, 0, 0, 0]


@pytest.fixture
def register(tmp_path):
    """Return a function that registers one image, given the keypoints of its three objects."""

    def write(*keypoints):
        Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "a.png")
        annotations = []
        for i, (x, points) in enumerate(zip(LEFT, keypoints, strict=True), 1):
            box = {"bbox": [x, 8, 16, 32], "area": 512, "iscrowd": 0}
            polygon = [[x, 8, x + 16, 8, x + 16, 40, x, 40]]
            annotations.append(
                {"id": i, "image_id": 1, "category_id": 1, **box, "segmentation": polygon}
            )
            if points is not ...:
                annotations[-1]["keypoints"] = points
        image = {"id": 1, "file_name": "a.png", "width": SIDE, "height": SIDE}
        coco = {"info": {}, "images": [image], "annotations": annotations}
        path = tmp_path / "a.json"
        path.write_text(json.dumps({**coco, "categories": [{"id": 1, "name": "person"}]}))
        DatasetCatalog.register(NAME, lambda: load_coco_json(str(path), str(tmp_path), NAME))
        metadata = MetadataCatalog.get(NAME)
        metadata.set(json_file=str(path), image_root=str(tmp_path), evaluator_type="coco")
        metadata.set(keypoint_names=["a", "b", "c"], keypoint_flip_map=[("a", "b")])
        return metadata

    return write


def config():
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (NAME,)
    cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH = 0, 1
    cfg.INPUT.MIN_SIZE_TRAIN = (SIDE,)
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.MODEL.KEYPOINT_ON, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = True, 3
    cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.05] * 3
    return cfg


@pytest.mark.parametrize("nothing", [..., [], None], ids=["absent", "empty", "null"])
@pytest.mark.parametrize("lacking", [(), (0,), (1,), (0, 2)], ids=str)
def test_objects_without_keypoints_are_not_labelled(register, lacking, nothing):
    register(*(nothing if i in lacking else labelled(x) for i, x in enumerate(LEFT)))
    batch = next(iter(Trainer.build_train_loader(config(), 1)))
    points = batch[0]["instances"].gt_keypoints.tensor
    assert points.shape == (3, 3, 3)
    for i, x in enumerate(LEFT):
        # detectron2 takes COCO's coordinates as indices of pixels, whose centres it stores
        expected = [[x + 2.5, 12.5, 2], [x + 9.5, 20.5, 1], [0, 0, 0]]
        assert points[i].tolist() == (np.zeros((3, 3)).tolist() if i in lacking else expected)


@pytest.mark.parametrize("least", [0, 1])
def test_no_labelled_keypoint_at_all(register, least):
    register(..., [], [5, 5, 0] * 3)
    cfg = config()
    cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE = least
    with pytest.raises(UserError, match=f"expected images with 1 labelled keypoint.* in {NAME}"):
        load_training_dicts(cfg)


def test_images_with_too_few_labelled_keypoints_are_left_out(register):
    register(labelled(2), ..., ...)
    cfg = config()
    cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE = 2
    assert len(load_training_dicts(cfg)) == 1
    cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE = 3
    with pytest.raises(UserError, match="3 labelled keypoint"):
        load_training_dicts(cfg)


@pytest.mark.parametrize(
    "wrong",
    ["x", [1, 2, 2], [[1, 2, 2]] * 3, [1, 2, 2, [3]], [1, 2, "2"] * 3, [float("nan")] * 9, 5],
    ids=str,
)
def test_wrong_keypoints_are_reported(wrong):
    right = {"keypoints": labelled(2)}
    records = [{"file_name": "a.png", "annotations": [right, {"keypoints": wrong}, {}]}]
    expected = r"1 object with wrong keypoints: expected 9 numbers.*: object 2 of a.png has"
    with pytest.raises(UserError, match=expected):
        complete_keypoints(records, 3)
    with pytest.raises(UserError, match=r"expected 9 numbers.*: annotation 7 has"):
        complete_true_keypoints([{"id": 6, **right}, {"id": 7, "keypoints": wrong}], 3)


def test_the_records_of_a_data_set_stay_as_they_are():
    records = [{"file_name": "a.png", "annotations": [{"iscrowd": 0}]}]
    completed = complete_keypoints(records, 2)
    assert completed[0]["annotations"][0]["keypoints"] == [0.0] * 6
    assert records == [{"file_name": "a.png", "annotations": [{"iscrowd": 0}]}]


def test_detections_on_objects_without_keypoints_do_not_count(register, tmp_path):
    """Two detections are right, one is on an object without keypoints: AP is 100."""
    register(..., labelled(22), labelled(42))
    DatasetCatalog.get(NAME)  # fills in the numbers of the classes
    evaluator = MaskRCNNCOCOEvaluator(
        NAME, tasks=("keypoints",), output_dir=str(tmp_path), kpt_oks_sigmas=[0.05] * 3
    )
    assert [a["num_keypoints"] for a in evaluator._coco_api.anns.values()] == [0, 2, 2]
    found = Instances((SIDE, SIDE))
    found.pred_boxes = Boxes(torch.tensor([[x, 8.0, x + 16, 40] for x in LEFT]))
    found.scores, found.pred_classes = torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3).long()
    points = torch.tensor([labelled(x) for x in LEFT], dtype=torch.float32).reshape(3, 3, 3)
    found.pred_keypoints = points + torch.tensor([0.5, 0.5, 0])
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    assert evaluator.evaluate()["keypoints"]["AP"] == pytest.approx(100)


def test_there_is_a_tolerance_for_each_keypoint():
    cfg = config()
    require_known_evaluators(cfg)
    cfg.TEST.KEYPOINT_OKS_SIGMAS = []
    with pytest.raises(UserError, match=r"TEST.KEYPOINT_OKS_SIGMAS: expected 3 numbers.*got 0"):
        require_known_evaluators(cfg)
    cfg.DATASETS.TEST = ()
    require_known_evaluators(cfg)
    cfg.DATASETS.TEST, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = (NAME,), 17
    require_known_evaluators(cfg)
