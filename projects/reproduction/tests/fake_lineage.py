"""In place of the trainings of `make lineage`: what they leave, with small untrained models."""

import functools
import json
import pickle

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import build_model
from reproduction import training_runs
from reproduction.lineage import runs as lineage_runs
from reproduction.lineage.runs import METHODS, LineageRun
from reproduction.training_runs import read_run_config
from support import REPO, SMALL, write_coco

from mask_rcnn_ext.config import load_config

SETS = ("lineage_train", "lineage_val")
RCNN, SVM, FAST, FASTER, ALIGN, MASK = (method.variant for method in METHODS)
TRAINED = [RCNN, FAST, FASTER, MASK]
_SHRUNK = {
    *("MASK_RCNN_EXT.TINY_RESNET.STEM_CHANNELS", "MASK_RCNN_EXT.TINY_RESNET.CHANNELS"),
    *("MASK_RCNN_EXT.TINY_RESNET.BLOCKS", "MODEL.ROI_BOX_HEAD.FC_DIM"),
    "MODEL.ROI_MASK_HEAD.CONV_DIM",
    *("MODEL.ROI_MASK_HEAD.NUM_CONV", "INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TEST"),
}

_WRITTEN = {}  # text of a config.yaml -> config: reading one takes 50 ms


@functools.cache
def _load_once(path):
    cfg = load_config(path)
    pairs = zip(SMALL[::2], SMALL[1::2], strict=True)
    cfg.merge_from_list([word for pair in pairs if pair[0] in _SHRUNK for word in pair])
    cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.DEVICE = 2, "cpu"
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = SETS[:1], SETS[1:]
    return cfg


def use_small_configs(monkeypatch):
    """Read every yaml of the lineage once, with a smaller model and the sets of `small_sets`."""
    monkeypatch.setattr(
        training_runs,
        "load_config",
        lambda path: _load_once(path).clone() if path.startswith(str(REPO)) else load_config(path),
    )
    monkeypatch.setattr(training_runs, "read_run_config", _read_written)
    leave_out_svm(monkeypatch)


def _read_written(path):
    text = path.read_text() if path.is_file() else ""
    return _WRITTEN[text] if text in _WRITTEN else read_run_config(path)


def leave_out_svm(monkeypatch):
    monkeypatch.setattr(
        lineage_runs, "METHODS", tuple(m for m in METHODS if not (m.base or m.variation))
    )


def pretend_svm(monkeypatch):
    """Make the second step of R-CNN one of the methods, of R-CNN's own yaml."""
    real = lineage_runs.get_config_file
    monkeypatch.setattr(lineage_runs, "METHODS", tuple(m for m in METHODS if not m.variation))
    for module in (lineage_runs, training_runs):
        monkeypatch.setattr(module, "get_config_file", lambda name: real(name.removesuffix("_svm")))


def small_sets(folder):
    """Register six images to train on and four to test on; return what removes them again."""
    for index, name in enumerate(SETS):
        path, images = write_coco(folder / name, images=6 - 2 * index, seed=index)
        register_coco_instances(name, {}, str(path), str(images))

    def remove():
        for name in SETS:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)

    return remove


class FakeLineage:
    """Leaves what train_net.py and compute_proposals.py leave.

    Attributes:
        calls: (variant, "trained" or "resumed"), and ("proposals", data sets).
        fail: variants, or "proposals".
        weights: whether `model_final.pth` holds weights; else it is empty.
        best: left edge of the best proposal.
    """

    def __init__(self):
        self.calls, self.fail, self.weights, self.best = [], set(), False, 4.0

    def propose(self, folder, names):
        self.calls.append(("proposals", *names))
        if "proposals" in self.fail:
            return 1
        for index, name in enumerate(names):
            count = 6 - 2 * index
            boxes = np.array([[self.best, 6, 40, 40], [10, 10, 30, 44]], dtype=np.float32)
            content = {
                "ids": list(range(1, count + 1)),
                "boxes": [boxes] * count,
                "objectness_logits": [np.array([2, 1], dtype=np.float32)] * count,
                "bbox_mode": 0,
            }
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.pkl").write_bytes(pickle.dumps(content))
            said = {"recall": {"recall_50": 91.26, "recall_70": 55.0, "AR": 48.0, "objects": 12}}
            said |= {"proposals_per_image": 2.0, "seconds_per_image": 0.25}
            (folder / f"{name}.json").write_text(json.dumps(said))
        return 0

    def train(self, run: LineageRun, resume):
        self.calls.append((run.variant, "resumed" if resume else "trained"))
        return self.leave(run)

    def leave(self, run: LineageRun):
        if run.variant in self.fail:
            return 1
        cfg = run.config()
        cfg.OUTPUT_DIR, cfg.SEED = str(run.folder), run.seed
        cfg.MASK_RCNN_EXT.CLASS_NAMES = ["cat", "dog"]
        predictions = run.folder / "inference/lineage_val/coco_instances_results.json"
        predictions.parent.mkdir(parents=True, exist_ok=True)
        text = cfg.dump()
        _WRITTEN[text] = cfg
        (run.folder / "config.yaml").write_text(text)
        for name in ("model_0000099.pth", "model_final.pth"):
            (run.folder / name).touch()
        if self.weights:
            torch.manual_seed(run.seed)
            torch.save({"model": build_model(cfg).state_dict()}, run.weights)
        found = {"category_id": 3, "score": 0.8, "bbox": [4, 6, 36, 34]}
        if cfg.MODEL.MASK_ON:
            found["segmentation"] = [[4, 6, 40, 6, 40, 40, 4, 40]]
        results = [{**found, "image_id": image} for image in range(1, 5)]
        predictions.write_text(json.dumps(results))
        info = {"train_seconds": 60.0 * run.seed, "eval_seconds": 5.0, "peak_memory_mb": 500.0}
        info |= {"device": "a cpu", "seed": run.seed, "versions": {"torch": "9.8"}}
        place = TRAINED.index(run.variant.removesuffix("_svm"))
        box = {"AP": 20.0 + place + run.seed, "AP50": 50.0, "AP75": 10.0, "APs": None}
        tasks = {"bbox": box, **({"segm": {**box, "AP": 19.5}} if cfg.MODEL.MASK_ON else {})}
        (run.folder / "results.json").write_text(json.dumps({**tasks, "run": info}))
        return 0
