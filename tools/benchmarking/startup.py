"""The time until a command works: help texts, imports, one small prediction.

The time is the processor time, user and system, over all threads: other programs change it less
than the time of the clock. Each contender is a new process.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from detectron2 import model_zoo
from detectron2.modeling import build_model
from PIL import Image

from mask_rcnn_ext import UserError

from .inference import CONFIG, make_image
from .parts import Part, compare_rows
from .rounds import Times, take_turns

__all__ = ["run"]

_ROOT = Path(__file__).resolve().parents[2]
_HELP = ("train_net.py", "tools/predict.py", "tools/check_dataset.py", "tools/compare.py")
_NOTHING = ["-c", "pass"]
_STOCK = """
import sys
from detectron2 import model_zoo
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
cfg = model_zoo.get_config(sys.argv[1])
cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE, cfg.DATASETS.TEST = sys.argv[2], "cpu", ()
DefaultPredictor(cfg)(read_image(sys.argv[3], "BGR"))
"""


def run(args: argparse.Namespace) -> Part:
    """Time the processes."""
    options = {"rounds": args.rounds, "seed": args.seed, "image": "480 x 640"}
    part = Part("Start of a command, seconds of the processor", options)
    with tempfile.TemporaryDirectory() as folder:
        weights, photo = Path(folder, "weights.pth"), Path(folder, "photo.png")
        torch.manual_seed(args.seed)
        cfg = model_zoo.get_config(CONFIG)
        cfg.MODEL.DEVICE = "cpu"
        torch.save({"model": build_model(cfg).state_dict()}, weights)
        Image.fromarray(make_image(480, 640, args.seed)).save(photo)
        ours = ["tools/predict.py", "--config-file", CONFIG, "--weights", str(weights)]
        ours += ["--device", "cpu", "--output", str(Path(folder, "out")), str(photo)]
        cases = {
            "--help": {"python -c pass": _NOTHING, **{name: [name, "--help"] for name in _HELP}},
            "import": {
                "detectron2.modeling": ["-c", "import detectron2.modeling"],
                "mask_rcnn_ext": ["-c", "import mask_rcnn_ext"],
                "mask_rcnn_ext.Predictor": ["-c", "from mask_rcnn_ext import Predictor"],
            },
            "one photo": {
                "detectron2's DefaultPredictor": ["-c", _STOCK, CONFIG, str(weights), str(photo)],
                "tools/predict.py, with picture and results": ours,
            },
        }
        for case, contenders in cases.items():
            turns = {name: partial(_time_process, words) for name, words in contenders.items()}
            part.rows += compare_rows(case, take_turns(turns, args.rounds), next(iter(turns)))
    return part


def _time_process(words: list[str]) -> Times:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *words],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise UserError(f"{' '.join(words[:2])} failed: {(done.stderr.strip() or '?')[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"": after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime}
