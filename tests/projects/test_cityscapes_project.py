"""projects/cityscapes on a folder in Cityscapes' layout, of images of 64 x 128 pixels.

What needs the official scripts (and shapely, with which detectron2 reads polygons) skips without
them: pip install cityscapesscripts shapely.
"""

import json
import shutil
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import BoxMode, Instances
from detectron2.utils.visualizer import GenericMask
from PIL import Image
from support import REPO, SMALL, TINY_CONFIG, run_script

from mask_rcnn_ext import UserError, load_config


@pytest.fixture(autouse=True)
def _threads(monkeypatch):
    """detectron2 reads the data in forked processes, which can wait for locks of our threads."""
    monkeypatch.setattr("multiprocessing.Pool", ThreadPool)


PROJECT = REPO / "projects/cityscapes"
TRAIN, VAL = "cityscapes_instances_train", "cityscapes_instances_val"
H, W = 64, 128
CLASSES = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
# Label, id in instanceIds.png, and a rectangle: columns and rows, both ends included. What stands
# later hides what stands earlier. A group has the id of its label, as all without instances have.
OBJECTS = [
    ("road", 7, (0, 127), (0, 63)),
    ("car", 26000, (10, 49), (20, 49)),
    ("rider", 25000, (40, 59), (10, 39)),
    ("car", 26001, (64, 75), (44, 59)),
    ("person", 24000, (70, 89), (8, 39)),
    ("persongroup", 24, (95, 120), (10, 40)),
    ("license plate", -1, (12, 14), (45, 46)),  # has no id; instanceIds keeps the car there
]
FRAMES = {"train": ("aachen_000000_000019", "ulm_000001_000019"), "val": ("ulm_000009_000019",)}

# detectron2 calls shapely with a name that is out of date, in processes that it forks.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'resolution' argument:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed running:ResourceWarning"),
]


@pytest.fixture(autouse=True)
def _project(monkeypatch):
    """Put the project on the path, forget its data sets afterwards."""
    monkeypatch.setattr(sys, "path", [str(PROJECT), *sys.path])
    monkeypatch.delenv("CITYSCAPES_DATASET", raising=False)
    yield
    for split in ("train", "val", "test"):
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.pop(f"cityscapes_instances_{split}", None)


@pytest.fixture
def official():
    reason = "pip install cityscapesscripts shapely"
    pytest.importorskip("cityscapesscripts", reason=reason)
    pytest.importorskip("shapely", reason=reason)


def write_frame(root: Path, split: str, frame: str) -> None:
    """Write one image and, but for test, its truth."""
    city = frame.split("_")[0]
    ids = np.zeros((H, W), dtype=np.uint16)
    pixels = np.random.default_rng(0).integers(0, 60, (H, W, 3), dtype=np.uint8)
    objects = []
    for label, number, (x0, x1), (y0, y1) in OBJECTS:
        objects.append({"label": label, "polygon": [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]})
        if number >= 0:
            ids[y0 : y1 + 1, x0 : x1 + 1] = number
        pixels[y0 : y1 + 1, x0 : x1 + 1, number % 3] += 40
    folder = root / "leftImg8bit" / split / city
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / f"{frame}_leftImg8bit.png")
    if split == "test":
        return
    folder = root / "gtFine" / split / city
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids).save(folder / f"{frame}_gtFine_instanceIds.png")
    labels = np.where(ids < 1000, ids, ids // 1000).astype(np.uint8)
    Image.fromarray(labels).save(folder / f"{frame}_gtFine_labelIds.png")
    truth = {"imgHeight": H, "imgWidth": W, "objects": objects}
    (folder / f"{frame}_gtFine_polygons.json").write_text(json.dumps(truth))


@pytest.fixture
def root(tmp_path) -> Path:
    for split, frames in FRAMES.items():
        for frame in frames:
            write_frame(tmp_path / "city", split, frame)
    write_frame(tmp_path / "city", "test", "berlin_000000_000019")
    return tmp_path / "city"


def truth_mask(number: int) -> np.ndarray:
    """Return the visible part of an object, (H, W) bool, painted by hand."""
    mask = np.zeros((H, W), dtype=bool)
    for _, other, (x0, x1), (y0, y1) in OBJECTS:
        if other >= 0:
            mask[y0 : y1 + 1, x0 : x1 + 1] = other == number
    return mask


# ---- the folder


def test_the_folder_becomes_records(root, official):
    from cityscapes_project import register_cityscapes, require_layout

    require_layout(str(root), ["train", "val", "test"])
    register_cityscapes(str(root))
    records = sorted(DatasetCatalog.get(TRAIN), key=lambda record: record["file_name"])
    names = [f"leftImg8bit/train/{f.split('_')[0]}/{f}_leftImg8bit.png" for f in FRAMES["train"]]
    assert [record["file_name"] for record in records] == [str(root / name) for name in names]
    for record in records:
        assert (record["height"], record["width"]) == (H, W)
        found = {}
        for annotation in record["annotations"]:
            name = CLASSES[annotation["category_id"]]
            found.setdefault((name, bool(annotation["iscrowd"])), []).append(annotation)
        # XYXY: the pixels' outer edges; the car ends where the rider in front of it does not.
        boxes = {
            ("car", False): [(10, 20, 50, 50), (64, 44, 76, 60)],
            ("rider", False): [(40, 10, 60, 40)],
            ("person", False): [(70, 8, 90, 40)],
            ("person", True): [(95, 10, 121, 41)],
        }
        assert {key: sorted(a["bbox"] for a in value) for key, value in found.items()} == boxes
        assert all(a["bbox_mode"] == BoxMode.XYXY_ABS for a in record["annotations"])
        for key, number in (("car", 26000), ("rider", 25000), ("person", 24000)):
            annotation = min(found[key, False], key=lambda a: a["bbox"])
            mask = GenericMask(annotation["segmentation"], H, W).mask
            assert (mask == truth_mask(number)).mean() > 0.99  # shapely rounds the corners
    assert DatasetCatalog.get(VAL) is DatasetCatalog.get(VAL)  # read once for both evaluators
    (test,) = DatasetCatalog.get("cityscapes_instances_test")
    assert "annotations" not in test
    assert test["image_id"] == "berlin_000000_000019_leftImg8bit.png"
    for name in (TRAIN, VAL):
        assert MetadataCatalog.get(name).thing_classes == CLASSES


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("rm leftImg8bit", r"no folder leftImg8bit/train. Unpack leftImg8bit_trainvaltest.zip"),
        ("rm gtFine/val", r"no folder gtFine/val. Unpack gtFine_trainvaltest.zip"),
        ("rm leftImg8bit/val/ulm", r"leftImg8bit/val has no image <city>/\*_leftImg8bit.png"),
        (
            "rm gtFine/train/ulm",
            "1 of 2 images of train have no gtFine/train/<city>/.*, for example ulm/ulm_",
        ),
        (
            "rm gtFine/val/ulm/ulm_000009_000019_gtFine_instanceIds.png",
            r"1 of 1 images of val have no gtFine/val/<city>/\*_gtFine_instanceIds.png, .* files "
            r"need no preparation \(the output of createTrainIdInstanceImgs is not read\)",
        ),
        (
            "rm leftImg8bit/train/ulm",
            "1 truths of train have no image, for example ulm/ulm_000001_000019",
        ),
        ("add leftImg8bit/train/ulm/Thumbs.db", "Thumbs.db: expected nothing but <city>/<city>_"),
        ("add leftImg8bit/val/.DS_Store", "DS_Store: expected nothing but .*; move it away"),
        ("add gtFine/train/ulm/ulm_000001_000019_gtFine_color.png", ""),
    ],
    ids=lambda value: value if value[:3] in ("rm ", "add") else "",
)
def test_an_incomplete_folder_is_one_line(root, damage, message):
    from cityscapes_project import require_layout

    kind, _, name = damage.partition(" ")
    path = root / name
    if kind == "add":
        path.touch()
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    if not message:
        require_layout(str(root), ["train", "val"])
        return
    with pytest.raises(UserError, match=message) as error:
        require_layout(str(root), ["train", "val"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["fine", "fine_coco"])
def test_configs_are_those_of_the_paper_with_other_names(name):
    path = f"configs/mask_rcnn_R50_FPN_{name}.yaml"
    ours = load_config(str(PROJECT / path))
    papers = load_config(str(REPO / path.replace("configs/", "configs/cityscapes/")))
    assert (ours.DATASETS.TRAIN, ours.DATASETS.TEST) == ((TRAIN,), (VAL,))
    ours.DATASETS, ours.OUTPUT_DIR = papers.DATASETS, papers.OUTPUT_DIR
    assert ours == papers


# ---- the evaluation


def predicted(*objects) -> Instances:
    """Return predictions: (class, mask, score) each."""
    found = Instances((H, W))
    found.pred_classes = torch.tensor([CLASSES.index(name) for name, _, _ in objects])
    found.pred_masks = torch.from_numpy(np.stack([mask for _, mask, _ in objects]))
    found.scores = torch.tensor([score for _, _, score in objects])
    return found


def test_the_official_ap_by_hand(root, official, tmp_path, monkeypatch):
    from cityscapes_project import CityscapesAPEvaluator, register_cityscapes

    monkeypatch.chdir(tmp_path)
    register_cityscapes(str(root))
    perfect = [
        ("car", truth_mask(26000), 0.9), ("car", truth_mask(26001), 0.9),
        ("rider", truth_mask(25000), 0.8), ("person", truth_mask(24000), 0.7),
        ("person", truth_mask(24), 0.95),  # in a group: neither right nor wrong
    ]  # fmt: skip
    nowhere = np.zeros((H, W), dtype=bool)
    nowhere[:8, :40] = True
    # A false car that is surer than both cars: precision 2/3 at recall 1. The scripts' curve starts
    # at an artificial precision of 1 and is summed by steps half to each side: (2/3 + 0) / 2.
    for extra, car in (([], 100.0), ([("car", nowhere, 0.99)], 100 / 3)):
        evaluator = CityscapesAPEvaluator(VAL)
        evaluator.reset()
        image = root / f"leftImg8bit/val/ulm/{FRAMES['val'][0]}_leftImg8bit.png"
        output = {"instances": predicted(*perfect, *extra)}
        evaluator.process([{"file_name": str(image)}], [output])
        segm = evaluator.evaluate()["segm"]
        assert segm["AP"] == pytest.approx((car + 200) / 3)  # the mean over classes that are there
        assert segm["AP50"] == pytest.approx((car + 200) / 3)
        assert segm["AP-car"] == pytest.approx(car)
        assert segm["AP-rider"] == segm["AP-person"] == pytest.approx(100)
        assert np.isnan(segm["AP-train"])
    assert list(tmp_path.iterdir()) == [root]  # the scripts left nothing here


# ---- the command line


def write_coco_model(path: Path) -> dict[str, torch.Tensor]:
    """Save a small model with COCO's 80 classes; return its weights."""
    cfg = load_config(
        TINY_CONFIG, [*SMALL, "MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NUM_CLASSES", "80"]
    )
    weights = build_model(cfg).state_dict()
    torch.save({"model": weights}, path)
    return weights


def test_from_coco_weights_to_results_and_a_submission(root, official, tmp_path, monkeypatch):
    weights = write_coco_model(tmp_path / "coco.pth")
    run = tmp_path / "run"
    common = ["--config-file", TINY_CONFIG, "--cityscapes", str(root)]
    overrides = [
        *SMALL, "MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NUM_CLASSES", "8", "SOLVER.MAX_ITER", "2",
        "INPUT.MASK_FORMAT", "polygon", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0",
        "TEST.DETECTIONS_PER_IMAGE", "5", "SOLVER.IMS_PER_BATCH", "2", "OUTPUT_DIR", str(run),
        "DATASETS.TRAIN", f"('{TRAIN}',)", "DATASETS.TEST", f"('{VAL}',)",
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    start = ["--coco-weights", str(tmp_path / "coco.pth")]
    assert run_script(PROJECT / "train.py", monkeypatch, *common, *start, *overrides) == 0
    results = json.loads((run / "results.json").read_text())
    assert {"AP", "AP50", "AP-rider"} <= set(results["segm"])
    assert results["segm"]["AP-train"] is None  # no train in val
    assert results["bbox"]["AP"] is not None

    scores = "roi_heads.box_predictor.cls_score.weight"
    converted = torch.load(run / "coco_for_cityscapes.pth", weights_only=True)["model"][scores]
    assert torch.equal(converted[CLASSES.index("car")], weights[scores][2])
    assert torch.equal(converted[8], weights[scores][80])
    rider = converted[CLASSES.index("rider")]
    assert not (weights[scores] == rider).all(dim=1).any()
    # Two steps of a small rate: what was trained is still near what it started from.
    trained = torch.load(run / "model_final.pth", weights_only=True)["model"][scores]
    assert 0 < (trained - converted).abs().max() < 0.05 * converted.abs().max()

    last = ["MODEL.WEIGHTS", str(run / "model_final.pth")]
    test = ["DATASETS.TEST", "('cityscapes_instances_test',)"]
    shutil.rmtree(root / "gtFine")  # which the images of test do not need
    evaluation = run / "evaluations/cityscapes_instances_test-model_final"
    submission = evaluation / "inference/cityscapes_instances_test/submission"
    submission.mkdir(parents=True)
    (submission / "bonn_000000_000019_leftImg8bit_pred.txt").touch()  # of an earlier run
    code = run_script(
        PROJECT / "train.py", monkeypatch, *common, "--eval-only", *overrides, *last, *test
    )
    assert code == 0
    (text,) = submission.glob("*.txt")
    assert text.name == "berlin_000000_000019_leftImg8bit_pred.txt"
    lines = [line.split() for line in text.read_text().splitlines()]
    assert len(lines) == 5
    assert all((submission / name).is_file() and 24 <= int(i) <= 33 for name, i, _ in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --cityscapes DIR"),
        (["--cityscapes", "nowhere"], "there is no folder leftImg8bit/train"),
        (["--coco-weights", "x.pth", "--eval-only"], "does not go with --eval-only"),
        (["--coco-weights", "x.pth", "MODEL.WEIGHTS", "y.pth"], "does not go with MODEL.WEIGHTS"),
        (["--coco-weights", "x.pth", "OUTPUT_DIR", "run"], "x.pth"),
    ],
    ids=["no folder", "no such folder", "evaluation", "two weights", "no such weights"],
)
def test_mistakes_are_one_line_and_leave_nothing(
    root, official, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    config = str(PROJECT / "configs/mask_rcnn_R50_FPN_fine.yaml")
    if "--coco-weights" in arguments:
        monkeypatch.setenv("CITYSCAPES_DATASET", str(root))
    code = run_script(PROJECT / "train.py", monkeypatch, "--config-file", config, *arguments)
    assert code == 2
    error = capsys.readouterr().err.lower()
    assert message.lower() in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["city"]
