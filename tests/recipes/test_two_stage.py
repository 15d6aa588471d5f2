"""RPN first, then Mask R-CNN on its stored proposals: the files, the resuming, the mistakes."""

import pickle
import shutil

import numpy as np
import pytest
import torch
import train_two_stage
from small_runs import (
    evaluate,
    read_error,
    read_results,
    read_stamps,
    read_weights,
    same,
    write_data,
)
from support import REPO, SMALL, TINY_CONFIG, run_train_net

from mask_rcnn_ext import Predictor, UserError, load_config
from mask_rcnn_ext.recipes.stages import TrainingStage
from mask_rcnn_ext.recipes.two_stage import make_first_stage, make_second_stage

STAGES = [*SMALL, "SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2"]
RPN = ["--rpn-opts", "SOLVER.MAX_ITER 3 SOLVER.CHECKPOINT_PERIOD 2"]


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), train=8, val=2)


def train(folder, flags, *arguments: str) -> int:
    """Train the small model; `arguments` are options, then KEY VALUE pairs."""
    options = ["--config-file", TINY_CONFIG, *flags]
    if "--rpn-opts" not in arguments:
        options += RPN
    words = [a for a in arguments if a.startswith("--")]
    head = list(arguments) if words else []
    tail = [] if words else list(arguments)
    return train_two_stage.main([*options, *head, *STAGES, "OUTPUT_DIR", str(folder), *tail])


@pytest.fixture(scope="module")
def run(tmp_path_factory, flags):
    """A finished run; tests that change it take a copy."""
    out = tmp_path_factory.mktemp("run") / "out"
    assert train(out, flags) == 0
    return out


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "out")


def test_both_stages_leave_a_runs_files(run):
    for folder in (run, run / "rpn"):
        for name in ("config.yaml", "metrics.json", "model_final.pth", "results.json"):
            assert (folder / name).stat().st_size > 0, name
    assert not list(run.rglob(".mask_rcnn_ext-*"))
    recall = read_results(run / "rpn")
    assert set(recall) == {"box_proposals", "run"}
    assert {"AR@100", "AR@1000"} <= set(recall["box_proposals"])
    assert 0 < recall["box_proposals"]["AR@1000"] <= 100
    assert set(read_results(run)) == {"bbox", "segm", "run"}
    log = (run / "log.txt").read_text()
    assert log.index("Stage 1 of 2") < log.index("Proposals for") < log.index("Stage 2")


def test_features_are_not_shared_and_the_second_stage_has_no_rpn(run):
    first, second = (read_weights(run / part / "model_final.pth") for part in ("rpn", ""))
    assert any(key.startswith("proposal_generator.") for key in first)
    assert not any(key.startswith("roi_heads.") for key in first)
    assert not any(key.startswith("proposal_generator.") for key in second)
    stem = "backbone.bottom_up.stem.conv1.weight"
    assert not torch.equal(first[stem], second[stem])
    cfg = load_config(str(run / "config.yaml"))
    assert cfg.MODEL.LOAD_PROPOSALS
    assert cfg.MODEL.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals"
    assert load_config(str(run / "rpn/config.yaml")).SOLVER.MAX_ITER == 3


@pytest.mark.parametrize(("split", "images", "topk"), [("train", 8, 2000), ("val", 2, 100)])
def test_proposal_files(run, split, images, topk):
    content = pickle.loads((run / f"proposals/own_{split}.pkl").read_bytes())
    assert set(content) == {"ids", "boxes", "objectness_logits", "bbox_mode"}
    assert sorted(content["ids"]) == list(range(1, images + 1))
    assert content["bbox_mode"] == 0  # XYXY_ABS
    for boxes, logits in zip(content["boxes"], content["objectness_logits"], strict=True):
        assert boxes.dtype == logits.dtype == np.float32
        assert boxes.shape == (len(logits), 4)
        assert 20 < len(boxes) <= topk
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= [64, 48]).all()  # the original image, not the resized one
        assert (np.diff(logits) <= 0).all()
    if split == "val":
        assert max(map(len, content["boxes"])) == topk  # as many as joint training would see


def test_the_second_stage_is_the_run_that_its_config_describes(run, tmp_path):
    """`train_net.py` on the proposals gives the same weights, also without the first stage."""
    alone = tmp_path / "alone"
    config = ["--config-file", str(run / "config.yaml")]
    assert run_train_net(*config, "OUTPUT_DIR", str(alone)) == 0
    assert same(*(read_weights(folder / "model_final.pth") for folder in (alone, run)))


def test_eval_only_repeats_the_result(run, tmp_path):
    assert evaluate(run, tmp_path / "eval") == 0
    assert read_results(tmp_path / "eval")["segm"] == read_results(run)["segm"]


def test_eval_only_checks_the_expected_results(run, tmp_path):
    expected = ["TEST.EXPECTED_RESULTS", "[['bbox', 'AP', 99.0, 0.1]]"]
    with pytest.raises(SystemExit, match="1"):  # detectron2's way, as after training
        evaluate(run, tmp_path / "eval", *expected)


def test_predicting_without_proposals_is_refused(run):
    with pytest.raises(UserError, match="has no RPN"):
        Predictor(run / "model_final.pth")


def test_a_finished_run_is_left_alone(copy, flags):
    before = read_stamps(copy)
    assert train(copy, flags, "--resume") == 0
    assert read_stamps(copy) == before
    log = (copy / "log.txt").read_text()
    assert f"Stage 1 of 2, the RPN, in {copy}/rpn: done already" in log
    assert f"Stage 2 of 2, on stored proposals, in {copy}: done already" in log


def test_interrupted_in_the_first_stage(run, flags, tmp_path):
    out = tmp_path / "out"
    (out / "rpn").mkdir(parents=True)
    shutil.copy(run / "rpn/model_0000001.pth", out / "rpn")
    (out / "rpn/last_checkpoint").write_text("model_0000001.pth")
    assert train(out, flags, "--resume") == 0
    for part in ("rpn", ""):
        ours, theirs = (read_weights(f / part / "model_final.pth") for f in (out, run))
        assert same(ours, theirs), part


def test_interrupted_in_the_second_stage(copy, run, flags):
    (copy / "model_final.pth").unlink()
    (copy / "last_checkpoint").write_text("model_0000001.pth")
    before = read_stamps(copy)
    assert train(copy, flags, "--resume") == 0
    assert {p for p, stamp in read_stamps(copy).items() if before.get(p) != stamp} == {
        *("model_0000003.pth", "model_final.pth")
    }
    assert same(read_weights(copy / "model_final.pth"), read_weights(run / "model_final.pth"))


def test_a_new_start_forgets_the_checkpoints_of_an_earlier_run(copy, flags, monkeypatch):
    """Interrupted before its first checkpoint, it has none to resume, least of all the old ones."""
    starts = []

    def interrupted(stage, resume):
        starts.append(stage)
        if len(starts) == 2:
            raise KeyboardInterrupt
        return build(stage, resume)

    build = TrainingStage._build_trainer
    monkeypatch.setattr(TrainingStage, "_build_trainer", interrupted)
    names = ("own_train.pkl", "own_train.json", "own_val.pkl", "own_val.json")
    (copy / "proposals/own_val.pkl").write_bytes(b"somebody's")
    proposals = [(copy / "proposals" / name).read_bytes() for name in names]
    assert train(copy, flags) == 130
    aside = copy / "proposals/earlier_runs/1"
    assert [(aside / name).read_bytes() for name in names] == proposals
    assert (copy / "rpn/last_checkpoint").is_file()  # the new one
    assert not (copy / "last_checkpoint").exists()
    monkeypatch.undo()
    before = read_stamps(copy)
    assert train(copy, flags, "--resume") == 0
    changed = {p for p, stamp in read_stamps(copy).items() if before.get(p) != stamp}
    assert "model_final.pth" in changed
    assert not any(path.startswith("rpn/") for path in changed)


def change_rpn(folder):
    path = folder / "rpn/model_final.pth"
    content = torch.load(path, weights_only=True)
    content["model"]["proposal_generator.rpn_head.objectness_logits.bias"] += 1
    torch.save(content, path)
    (folder / "rpn/results.json").touch()  # still counts as finished


def test_proposals_of_a_changed_rpn_are_written_again(copy, flags):
    change_rpn(copy)
    (copy / "last_checkpoint").unlink()  # the second stage has not begun
    before = (copy / "proposals/own_val.pkl").read_bytes()
    assert train(copy, flags, "--resume") == 0
    assert (copy / "proposals/own_val.pkl").read_bytes() != before


def test_a_second_stage_is_not_resumed_on_other_proposals(copy, flags, capsys):
    change_rpn(copy)
    assert train(copy, flags, "--resume") == 2
    assert "was not trained on the proposals" in capsys.readouterr().err


def test_half_written_proposals_are_written_again(copy, flags):
    (copy / "proposals/own_val.json").unlink()
    before = read_stamps(copy)
    assert train(copy, flags, "--resume") == 0
    changed = {p for p, stamp in read_stamps(copy).items() if before[p] != stamp}
    assert changed == {"proposals/own_val.pkl"}


def test_resuming_with_another_rpn_is_refused(copy, flags, capsys):
    config = (copy / "config.yaml").read_text()
    assert train(copy, flags, "--resume", "--rpn-opts", "MODEL.RPN.NMS_THRESH 0.5") == 2
    assert "MODEL.RPN.NMS_THRESH 0.7, now it is 0.5" in read_error(capsys)
    assert (copy / "config.yaml").read_text() == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--eval-only"], "use train_net.py --eval-only"),
        (["--resume"], "no checkpoint"),
        (["--rpn-opts", "SOLVER.MAXITER 4"], "'SOLVER.MAX_ITER'"),
        (["--rpn-opts", "SOLVER.MAX_ITER"], "KEY VALUE pairs"),
        (["--rpn-opts", "MASK_RCNN_EXT.OPTIMIZER Adam"], "'AdamW'"),
        (["DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST", "50"], "TOPK_TEST 100"),
        (["--rpn-opts", "OUTPUT_DIR elsewhere"], "Leave OUTPUT_DIR out"),
        (["--rpn-opts", "MODEL.RPN.HEAD_NAME NoHead"], "MODEL.RPN.HEAD_NAME"),
        (["--rpn-opts", """DATASETS.TRAIN "('no_set',)" """], "unknown data set 'no_set'"),
        (["MODEL.META_ARCHITECTURE", "ProposalNetwork"], "has no second stage"),
        (["MODEL.LOAD_PROPOSALS", "True"], "reads stored proposals already"),
        (["MODEL.ROI_MASK_HEAD.NAME", "MaskHed"], "MaskHed"),
        (
            ["MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNFCNHead", "MODEL.ROI_MASK_HEAD.LOSS", "tanh"],
            "'tanh'",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_mistakes_are_told_at_once_and_leave_nothing(flags, tmp_path, capsys, arguments, message):
    assert train(tmp_path / "out", flags, *arguments) == 2
    assert message in read_error(capsys)
    assert not (tmp_path / "out").exists()


def test_a_mistake_leaves_an_existing_folder_as_it_was(flags, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert train(tmp_path, flags, "--rpn-opts", "MASK_RCNN_EXT.OPTIMIZER Adam") == 2
    assert not (tmp_path / "rpn").exists()


@pytest.mark.parametrize(
    ("metric", "opts", "of_the_rpn"),
    [
        ("segm/AP", [], ""),
        ("own_val/bbox/AP50", [], ""),
        ("validation_loss/loss_mask", [], ""),
        ("validation_loss/total_loss", [], "validation_loss/total_loss"),
        ("own_val/box_proposals/AR@100", [], "own_val/box_proposals/AR@100"),
        ("segm/AP", ["validation_loss/loss_rpn_cls"], "validation_loss/loss_rpn_cls"),
        ("segm/AP", ["bbox/AP"], "bbox/AP"),  # which is refused later
    ],
)
def test_the_rpn_is_not_chosen_by_a_metric_of_the_whole_model(metric, opts, of_the_rpn):
    key = "MASK_RCNN_EXT.BEST_CHECKPOINT.METRIC"
    cfg = load_config(None, [key, metric, "OUTPUT_DIR", "out"])
    stages = make_first_stage(cfg, [key, *opts] if opts else []), make_second_stage(cfg)
    names = [stage.MASK_RCNN_EXT.BEST_CHECKPOINT.METRIC for stage in stages]
    assert names == [of_the_rpn, metric]


def test_a_stage_that_the_rpn_does_not_read_is_frozen_in_the_second_stage_only():
    parts = ["backbone.res2", "backbone.res5", "proposal_generator.rpn_head"]
    keys = ["MODEL.DEVICE", "cpu", "MASK_RCNN_EXT.FREEZE", str(parts)]
    cfg = load_config(str(REPO / "configs/shapes/fcis_tiny.yaml"), keys)
    first, second = make_first_stage(cfg, []), make_second_stage(cfg)
    assert first.MASK_RCNN_EXT.FREEZE == ["backbone.res2", "proposal_generator.rpn_head"]
    assert second.MASK_RCNN_EXT.FREEZE == ["backbone.res2", "backbone.res5"]
    given = make_first_stage(cfg, ["MASK_RCNN_EXT.FREEZE", "['backbone.res9']"])
    assert given.MASK_RCNN_EXT.FREEZE == ["backbone.res9"]  # is told when the RPN is built


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.RPN.BATCH_SIZE_PER_IMAGE", "0"], "RPN.BATCH_SIZE_PER_IMAGE: expected 1 or more"),
        (["INPUT.RANDOM_FLIP", "both"], "INPUT.RANDOM_FLIP: expected horizontal, vertical or none"),
    ],
)
def test_the_values_of_the_rpns_options_are_checked(opts, message):
    with pytest.raises(UserError, match=message):
        make_first_stage(load_config(TINY_CONFIG, ["MODEL.DEVICE", "cpu"]), opts)


def test_evaluators_of_masks_are_for_the_second_stage():
    name = "FCISComparisonEvaluator"
    keys = ["MODEL.DEVICE", "cpu", "MASK_RCNN_EXT.EVALUATORS", f"['{name}']"]
    cfg = load_config(TINY_CONFIG, keys)
    stages = [make_first_stage(cfg, []), make_first_stage(cfg, keys[2:]), make_second_stage(cfg)]
    assert [stage.MASK_RCNN_EXT.EVALUATORS for stage in stages] == [[], [name], [name]]


def test_a_paper_config_keeps_its_number_of_test_proposals():
    cfg = load_config(None, ["MODEL.RPN.POST_NMS_TOPK_TEST", "300", "OUTPUT_DIR", "out"])
    assert make_second_stage(cfg).DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST == 300  # C4
    rpn = make_first_stage(cfg, ["SOLVER.MAX_ITER", "30000"])
    assert rpn.MODEL.RPN.POST_NMS_TOPK_TEST == 2000  # enough for the training images and AR@1000
    assert rpn.SOLVER.MAX_ITER == 30000
    assert cfg.SOLVER.MAX_ITER == 40000  # detectron2's default, as it was
