"""Which evaluator a data set gets, what Cityscapes needs, and the writer of proposal files."""

import importlib
import inspect
import json
import pickle
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import CityscapesInstanceEvaluator, cityscapes_evaluation
from detectron2.structures import Boxes, Instances
from support import SMALL, TINY_CONFIG, mask_config, run_train_net, write_coco

from mask_rcnn_ext import UserError
from mask_rcnn_ext.data.own_data import register_own_data
from mask_rcnn_ext.engine.trainer import Trainer
from mask_rcnn_ext.evaluation import build
from mask_rcnn_ext.evaluation.coco import MaskRCNNCOCOEvaluator
from mask_rcnn_ext.evaluation.fcis_comparison import FCISComparisonEvaluator
from mask_rcnn_ext.prediction.coco_results import describe_instances
from mask_rcnn_ext.proposals.file import ProposalFileWriter


@pytest.fixture
def city(tmp_path, forget_data_sets):
    """The name of a data set that is evaluated as Cityscapes is."""
    path, images = write_coco(tmp_path / "city", images=2, classes=("person", "car"))
    register_own_data("", "", str(path), str(images), clean_dir=str(tmp_path / "clean"))
    name, gt = "city_val", tmp_path / "gt"
    (gt / "ulm").mkdir(parents=True)
    (gt / "ulm" / "000_gtFine_instanceIds.png").touch()
    DatasetCatalog.register(name, lambda: DatasetCatalog.get("own_val"))
    MetadataCatalog.get(name).set(
        evaluator_type="cityscapes_instance",
        thing_classes=["person", "car"],
        thing_dataset_id_to_contiguous_id={3: 0, 10: 1},
        json_file=str(path),
        image_dir=str(images),
        gt_dir=str(gt),
    )
    return name


# Stands in for the official scripts: as many modules, with what detectron2 calls. What it returns
# says how many predictions it was given.
_SCRIPTS = {
    "shapely/__init__.py": "",
    "cityscapesscripts/__init__.py": "",
    "cityscapesscripts/helpers/__init__.py": "",
    "cityscapesscripts/helpers/labels.py": """
from types import SimpleNamespace
name2label = {"person": SimpleNamespace(id=24), "car": SimpleNamespace(id=26)}
""",
    "cityscapesscripts/evaluation/__init__.py": "",
    "cityscapesscripts/evaluation/evalInstanceLevelSemanticLabeling.py": """
import glob, json, os, numpy
from types import SimpleNamespace
args = SimpleNamespace(groundTruthSearch="")
def getPrediction(gt, args):
    return os.path.join(args.predictionPath, "000_pred.txt")
def writeDict2JSON(content, path):
    open(path, "w").write(json.dumps(content))
def evaluateImgLists(predictions, ground_truth, args):
    writeDict2JSON({"count": numpy.int64(1)}, "matches.json")
    writeDict2JSON({}, args.gtInstancesFile)
    assert os.path.isfile(args.gtInstancesFile)
    assert numpy.in1d([[1, 2], [3, 4]], [2, 4]).tolist() == [False, True, False, True]
    lines = open(predictions[0]).read().splitlines()
    assert all(os.path.isfile(os.path.join(args.predictionPath, line.split()[0])) for line in lines)
    assert {line.split()[1] for line in lines} <= {"24", "26"}
    return {"averages": {"allAp": 0.25, "allAp50%": 0.5}}
""",
}


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    for name, text in _SCRIPTS.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in _loaded_scripts():  # the real ones, if a test has imported them
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    importlib.invalidate_caches()
    yield
    for name in _loaded_scripts():
        del sys.modules[name]


def _loaded_scripts() -> list[str]:
    roots = ("cityscapesscripts", "deeplearning", "shapely")
    return [name for name in sys.modules if name.split(".")[0] in roots]


@pytest.fixture
def no_scripts(monkeypatch):
    find = importlib.util.find_spec
    missing = ("cityscapesscripts", "shapely")
    monkeypatch.setattr(
        build.importlib.util, "find_spec", lambda m: None if m in missing else find(m)
    )


def test_cityscapes_has_its_official_evaluator(city, scripts, tmp_path):
    evaluator = Trainer.build_evaluator(mask_config("OUTPUT_DIR", str(tmp_path)), city)
    assert isinstance(evaluator, CityscapesInstanceEvaluator)
    assert isinstance(evaluator, build.MaskRCNNCityscapesEvaluator)


@pytest.mark.parametrize(
    "overrides",
    [("MODEL.MASK_ON", "False"), ("MODEL.META_ARCHITECTURE", "ProposalNetwork")],
    ids=["boxes only", "proposals only"],
)
def test_models_without_masks_are_evaluated_by_coco(city, no_scripts, tmp_path, overrides):
    evaluator = Trainer.build_evaluator(mask_config("OUTPUT_DIR", str(tmp_path), *overrides), city)
    assert isinstance(evaluator, MaskRCNNCOCOEvaluator)


def test_everything_else_is_evaluated_by_coco(city, no_scripts, tmp_path):
    cfg = mask_config("MODEL.KEYPOINT_ON", "True", "TEST.DETECTIONS_PER_IMAGE", "300")
    evaluator = build.build_evaluator(cfg, "own_val", tmp_path)
    assert isinstance(evaluator, MaskRCNNCOCOEvaluator)
    assert evaluator._tasks == ("bbox", "segm", "keypoints")
    assert evaluator._max_dets_per_image == [1, 10, 300]
    assert evaluator._output_dir == str(tmp_path / "own_val")
    build.require_evaluators(["own_val"])


def test_detectron2s_name_for_the_scripts_is_the_same_module(scripts):
    labels = importlib.import_module(
        "deeplearning.projects.cityscapesApi.cityscapesscripts.helpers.labels"
    )
    assert labels is importlib.import_module("cityscapesscripts.helpers.labels")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("deeplearning.projects.other")


def test_the_missing_package_is_named(city, no_scripts):
    with pytest.raises(UserError, match="pip install cityscapesscripts shapely"):
        build.require_evaluators(["own_val", city])


def test_the_missing_package_is_told_before_training(city, no_scripts, tmp_path, capsys):
    code = run_train_net(
        "--config-file", TINY_CONFIG, *SMALL, "OUTPUT_DIR", str(tmp_path / "out"),
        "DATASETS.TRAIN", f"('{city}',)", "DATASETS.TEST", f"('{city}',)",
        "MODEL.ROI_HEADS.NUM_CLASSES", "2",
    )  # fmt: skip
    assert code == 2
    assert "pip install cityscapesscripts" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [MaskRCNNCOCOEvaluator, FCISComparisonEvaluator])
def test_changed_annotations_of_a_data_set_without_a_json_count(tmp_path, forget_data_sets, kind):
    """detectron2 would take the json of the evaluation before."""
    square = [[8, 8, 20, 8, 20, 20, 8, 20]]
    one = {"bbox": [8, 8, 12, 12], "bbox_mode": 1, "category_id": 0, "segmentation": square}
    image = {"file_name": "a.png", "image_id": 1, "height": 48, "width": 64}
    objects = [one]
    DatasetCatalog.register("no_json", lambda: [{**image, "annotations": objects}])
    for _ in range(2):
        MetadataCatalog.pop("no_json", None)  # as in another process
        MetadataCatalog.get("no_json").set(thing_classes=["cat"])
        kind("no_json", output_dir=str(tmp_path))
        written = json.loads((tmp_path / "no_json_coco_format.json").read_text())
        assert len(written["annotations"]) == len(objects)
        objects.append(one)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("lvis", "COCO's metrics, .* are wrong on LVIS"), ("sem_seg", "no objects that could be")],
)
def test_data_that_cocos_metrics_do_not_suit_are_refused(forget_data_sets, tmp_path, kind, message):
    MetadataCatalog.get("other").set(evaluator_type=kind)
    cfg = mask_config("DATASETS.TEST", "('other',)", "OUTPUT_DIR", str(tmp_path))
    with pytest.raises(UserError, match=f"data set other.* {message}"):
        Trainer.require_ready(cfg, eval_only=True)
    with pytest.raises(UserError, match=message):
        Trainer.build_evaluator(cfg, "other")

    class OwnTrainer(Trainer):
        @classmethod
        def build_evaluator(cls, cfg, dataset_name, output_folder=None):
            return dataset_name

    class OwnTest(Trainer):
        @classmethod
        def test(cls, cfg, model, evaluators=None):
            return {}

    build.require_known_evaluators(cfg, stock=False)
    if kind == "sem_seg":
        OwnTrainer.require_ready(cfg, eval_only=True)
        OwnTest.require_ready(cfg, eval_only=True)


def test_the_package_that_reads_lvis_is_named(monkeypatch, forget_data_sets):
    MetadataCatalog.get("some_lvis").set(evaluator_type="lvis")
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda m: None)
    with pytest.raises(UserError, match="pip install lvis"):
        build.require_evaluators(["some_lvis"])


@pytest.fixture(params=["as installed", "as on the main branch"])
def detectron2_imports(request, monkeypatch):
    """detectron2's evaluator as it imports the scripts here, and as its main branch does."""
    if request.param == "as installed":
        return
    source = inspect.getsource(cityscapes_evaluation)
    if "deeplearning" in source:
        pytest.skip("the main branch is installed")
    package = "deeplearning.projects.cityscapesApi.cityscapesscripts"
    source = re.sub(r"(from|import) cityscapesscripts", rf"\1 {package}", source)
    assert source.count(package) == 4
    namespace = {**vars(cityscapes_evaluation)}
    exec(source, namespace)
    theirs = namespace["CityscapesInstanceEvaluator"]
    for method in ("process", "evaluate"):
        monkeypatch.setattr(CityscapesInstanceEvaluator, method, getattr(theirs, method))


def test_cityscapes_ap_is_in_0_to_100_in_results_json(
    city, scripts, detectron2_imports, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    out, before = tmp_path / "out", "in1d" in vars(np)
    code = run_train_net(
        "--config-file", TINY_CONFIG, *SMALL, "OUTPUT_DIR", str(out), "SOLVER.MAX_ITER", "2",
        "DATASETS.TRAIN", f"('{city}',)", "DATASETS.TEST", f"('{city}',)",
        "MODEL.ROI_HEADS.NUM_CLASSES", "2", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0",
    )  # fmt: skip
    assert code == 0
    results = json.loads((out / "results.json").read_text())
    assert results["segm"] == {"AP": 25.0, "AP50": 50.0}
    assert ("in1d" in vars(np)) == before  # what NumPy was lent is taken back
    assert not (tmp_path / "matches.json").exists()


def proposals_of(boxes, logits) -> dict:
    return {
        "proposals": Instances(
            (48, 64),
            proposal_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32)),
            objectness_logits=torch.tensor(logits),
        )
    }


def test_the_recall_of_proposals(city, tmp_path):
    """Perfect proposals recall everything, proposals for one of two images half of it."""
    annotations = json.loads(
        (tmp_path / "city/annotations.json").read_text()
    )["annotations"]  # fmt: skip
    cfg = mask_config("MODEL.META_ARCHITECTURE", "ProposalNetwork")
    for images, expected in (((1, 2), 100.0), ((1,), 50.0)):
        evaluator = build.build_evaluator(cfg, "own_val", tmp_path / "out")
        evaluator.reset()
        for image in (1, 2):
            boxes = [a["bbox"] for a in annotations if a["image_id"] == image]
            corners = [[x, y, x + w, y + h] for x, y, w, h in boxes]
            if image not in images:
                corners = [[0.0, 0.0, 1.0, 1.0]]
            output = proposals_of(corners, [1.0] * len(corners))
            evaluator.process([{"image_id": image}], [output])
        results = evaluator.evaluate()
        assert results["box_proposals"]["AR@100"] == pytest.approx(expected)
        assert results["box_proposals"]["AR@1000"] == pytest.approx(expected)


def test_proposal_file(tmp_path):
    path = tmp_path / "new" / "proposals.pkl"
    writer = ProposalFileWriter(path, topk=2)
    writer.process([{"image_id": 5}], [proposals_of([[9, 9, 9, 9]], [0.0])])
    writer.reset()
    boxes = [[0, 0, 10, 10], [1, 2, 3, 4], [5, 5, 6, 6]]
    writer.process(
        [{"image_id": 7}, {"image_id": "b"}],
        [proposals_of(boxes, [0.1, 0.9, 0.5]), proposals_of(np.zeros((0, 4)), [])],
    )
    assert writer.evaluate() == {}
    content = pickle.loads(path.read_bytes())
    assert content["ids"] == [7, "b"]
    assert content["boxes"][0].tolist() == [boxes[1], boxes[2]]
    assert content["objectness_logits"][0] == pytest.approx([0.9, 0.5])
    assert content["boxes"][1].shape == (0, 4)
    assert content["bbox_mode"] == 0


def test_writing_coco_results_leaves_the_keypoints_as_they_were():
    found = Instances((48, 64), pred_boxes=Boxes(torch.tensor([[1.0, 2, 11, 22]])))
    found.scores, found.pred_classes = torch.tensor([0.5]), torch.tensor([0])
    found.pred_keypoints = torch.tensor([[[4.5, 6.5, 0.9]]])
    (result,) = describe_instances(found, [1])
    assert found.pred_keypoints.tolist() == [[[4.5, 6.5, pytest.approx(0.9)]]]
    assert result["keypoints"] == pytest.approx([4, 6, 0.9])  # COCO counts from pixel centres


def test_a_proposal_file_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "proposals.pkl"
    path.write_bytes(b"former")
    writer = ProposalFileWriter(path, topk=2)
    writer.process([{"image_id": 7}], [proposals_of([[0, 0, 10, 10]], [0.1])])
    from mask_rcnn_ext.proposals import file as proposal_file

    def full_disk(content, file, protocol):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    fake = SimpleNamespace(dump=full_disk, HIGHEST_PROTOCOL=5)
    monkeypatch.setattr(proposal_file, "pickle", fake)
    with pytest.raises(UserError, match="No space left"):
        writer.evaluate()
    assert path.read_bytes() == b"former"
    assert [p.name for p in tmp_path.iterdir()] == ["proposals.pkl"]
