"""In place of the trainings of `make compare`: what they leave, from hand-made masks."""

import json

from comparison_cases import CATEGORIES, cut, detections
from reproduction.fcis.runs import MODELS, ComparisonRun, UnvotedEvaluation

RIVAL, FCIS = MODELS


class FakeTraining:
    """Leaves what train_net.py leaves. Mask R-CNN is exact; FCIS cuts, more with each seed."""

    def __init__(self):
        self.calls, self.fail = [], set()

    def use(self, monkeypatch):
        """Train and evaluate nothing else."""
        monkeypatch.setattr(ComparisonRun, "train", lambda run, resume: self.train(run, resume))
        monkeypatch.setattr(UnvotedEvaluation, "evaluate", lambda step: self.evaluate(step.run))

    def train(self, run, resume):
        self.calls.append((run.variant, run.seed, "resumed" if resume else "trained"))
        return self.leave(run, run.folder, [])

    def evaluate(self, run):
        self.calls.append((run.variant, run.seed, "unvoted"))
        options = ["MODEL.FCIS.MASK_VOTING", "False", "MODEL.WEIGHTS", "some.pth"]
        return self.leave(run, run.unvoted, options)

    def leave(self, run, folder, options):
        if (run.variant, run.seed, bool(options)) in self.fail:
            return 1
        filled = ["MODEL.DEVICE", "cpu", "MASK_RCNN_EXT.CLASS_NAMES", "['3', '10']"]
        filled += ["MASK_RCNN_EXT.CATEGORY_IDS", str(list(CATEGORIES))]
        filled += ["OUTPUT_DIR", str(folder), "SEED", str(run.seed)]
        cfg = run.config()
        cfg.merge_from_list([*filled, *options])
        predictions = folder / "inference/occluded_shapes_val/coco_instances_results.json"
        predictions.parent.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(cfg.dump())
        if not options:
            for name in ("model_0000099.pth", "model_final.pth"):
                (folder / name).touch()
        # In the images where objects meet, 2, 4 and 6; before voting in all of them.
        wrong = range(2, 8 if options else 2 + 2 * run.seed, 2) if run.is_fcis else ()
        found = [
            entry
            for image in range(1, 7)
            for entry in detections([image], cut if image in wrong else lambda masks: masks)
        ]
        predictions.write_text(json.dumps(found))
        info = {"train_seconds": 100.0 * run.seed, "eval_seconds": 20.0, "peak_memory_mb": 500.0}
        info |= {"device": "a cpu", "seed": run.seed, "versions": {"torch": "9.8"}}
        aps = dict.fromkeys(("AP", "AP50", "AP75", "APs"), 50.0 + run.seed)
        (folder / "results.json").write_text(json.dumps({"segm": aps, "bbox": aps, "run": info}))
        return 0
