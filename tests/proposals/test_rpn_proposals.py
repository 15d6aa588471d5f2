"""Stored proposals of a trained RPN, as `tools/compute_proposals.py rpn` writes them."""

import json
import os
import pickle
import re
import signal

import compute_proposals
import numpy as np
import pytest
import torch
from detectron2.data.datasets import register_coco_instances
from small_runs import read_error, write_small_weights
from support import SMALL, TINY_CONFIG, write_coco

from mask_rcnn_ext import load_config, run_as_command
from mask_rcnn_ext.data.mapper import ImageMapper
from mask_rcnn_ext.proposals.rpn import RPNProposals, make_rpn_config

DATA = "proposals_of_an_rpn"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file with the random weights of a whole Mask R-CNN."""
    torch.manual_seed(0)
    return write_small_weights(tmp_path_factory.mktemp("weights") / "model_final.pth")


@pytest.fixture(scope="module", autouse=True)
def _data(tmp_path_factory, forget_data_sets_of_file):
    paths = write_coco(tmp_path_factory.mktemp("data"), images=3)
    register_coco_instances(DATA, {}, *map(str, paths))


def propose(output, *arguments: str) -> int:
    options = ["--config-file", TINY_CONFIG, "--dataset", DATA, "--output", str(output)]
    return compute_proposals.main(["rpn", *options, *arguments])


def test_the_config_may_be_the_name_of_one_of_ours(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--config-file", "shapes/mask_rcnn_tiny_FPN", "--dataset", DATA, "--output", "out"]
    assert compute_proposals.main(["rpn", *options, "MODEL.RPN.NMS_THRESHOLD", "1"]) == 2
    assert "unknown config key 'MODEL.RPN.NMS_THRESHOLD'" in capsys.readouterr().err


def test_an_rpn_gives_what_its_evaluator_writes(weights, tmp_path, capsys, caplog):
    keys = [*SMALL, "MODEL.WEIGHTS", weights]
    assert propose(tmp_path, "--topk", "40", *keys) == 0
    assert "recall" in capsys.readouterr().out
    assert "roi_heads" not in caplog.text  # that the file has more weights is as it should be
    cfg = make_rpn_config(load_config(TINY_CONFIG, keys), 40)
    RPNProposals(cfg, DATA, 40, str(tmp_path / "expected.pkl")).make(resume=False)
    ours, expected = (
        pickle.loads((tmp_path / name).read_bytes()) for name in (f"{DATA}.pkl", "expected.pkl")
    )
    assert ours["ids"] == expected["ids"]
    assert ours["bbox_mode"] == expected["bbox_mode"]
    for key in ("boxes", "objectness_logits"):
        assert [len(a) for a in ours[key]] == [40] * 3
        assert all(map(np.array_equal, ours[key], expected[key]))
    stored = json.loads((tmp_path / f"{DATA}.json").read_text())
    assert len(stored["rpn_weights_sha256"]) == 64
    # The same weights elsewhere are the same proposals; another RPN's are not.
    assert propose(tmp_path, "--topk", "40", *keys, "MODEL.RPN.NMS_THRESH", "0.5") == 2
    assert "rpn_config_sha256" in read_error(capsys)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["MODEL.META_ARCHITECTURE", "RetinaNet"], "expected the config of a model with an RPN"),
        (["MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"], "PrecomputedProposals"),
        (["MODEL.WEIGHTS", "", "SEED", "1"], "no weights: add MODEL.WEIGHTS"),
        (["MODEL.WEIGHTS", "nowhere.pth"], "weights not found: nowhere.pth"),
        (["MODEL.FPN.OUT_CHANNELS", "8"], "does not fit the model"),
        (["MODEL.RPN.HEAD_NAME", "NoHead"], "MODEL.RPN.HEAD_NAME"),
    ],
    ids=["retinanet", "precomputed", "no-weights", "lost-weights", "other-weights", "head"],
)
def test_a_config_that_does_not_fit(weights, tmp_path, capsys, keys, message):
    assert propose(tmp_path, *SMALL, "MODEL.WEIGHTS", weights, *keys) == 2
    assert message in read_error(capsys)
    assert not list(tmp_path.iterdir())


def test_a_worker_that_is_killed_names_its_image(weights, tmp_path, monkeypatch, capsys):
    """The trainings of several steps read images without `Trainer`."""
    monkeypatch.setattr(ImageMapper, "__call__", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    keys = [*SMALL, "MODEL.WEIGHTS", weights, "DATALOADER.NUM_WORKERS", "1"]
    cfg = make_rpn_config(load_config(TINY_CONFIG, keys), 40)
    step = RPNProposals(cfg, DATA, 40, str(tmp_path / "proposals.pkl"))
    assert run_as_command(lambda: step.make(resume=False)) == 2
    assert re.search(r"while it read .*images/00\d\.png", read_error(capsys))
    assert not list(tmp_path.iterdir())
