"""A small FCIS, trained end to end through the command line's own functions."""

import pytest
from small_runs import evaluate, fork_processes, read_predictions, read_results, read_weights, same
from support import SMALL, name_files, run_train_net, write_coco
from tiny_fcis import FCIS_CONFIG

BACKBONE = SMALL[:6]  # channels and blocks
RECIPE = [
    "MODEL.FCIS.CONV_DIM", "64",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN", "50",
    "MODEL.RPN.POST_NMS_TOPK_TEST", "50",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "40",
    "INPUT.MIN_SIZE_TRAIN", "(96,)",
    "INPUT.MIN_SIZE_TEST", "96",
    "INPUT.RANDOM_FLIP", "none",
    "SOLVER.IMS_PER_BATCH", "4",
    "SOLVER.BASE_LR", "0.004",
    "SOLVER.WARMUP_ITERS", "5",
    "SEED", "3",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """FCIS on four images of rectangles, evaluated on the same ones; its folder and the flags."""
    root = tmp_path_factory.mktemp("fcis")
    data = write_coco(root / "data", images=4, size=(96, 96))
    flags = [*name_files("train", *data), *name_files("val", *data)]
    code = run_train_net(
        "--config-file", FCIS_CONFIG, *flags, "OUTPUT_DIR", str(root / "out"),
        *BACKBONE, *RECIPE, "SOLVER.MAX_ITER", "240",
        "MASK_RCNN_EXT.EVALUATORS", "['FCISComparisonEvaluator']",
    )  # fmt: skip
    assert code == 0
    return root, flags


def test_it_overfits_four_images(trained):
    root, _ = trained
    assert read_results(root / "out")["segm"]["AP"] >= 80


def test_evaluation_alone_repeats_the_result_and_prints_the_overlap_metrics(
    trained, tmp_path, capfd
):
    out = trained[0] / "out"
    assert evaluate(out, tmp_path) == 0
    first, again = read_results(out), read_results(tmp_path)
    for task in ("segm", "bbox", "boundary", "overlap", "errors"):
        assert again[task] == first[task], task
    printed = capfd.readouterr()
    assert "double claim" in printed.out + printed.err


def test_two_processes_evaluate_as_one(trained, tmp_path, monkeypatch):
    fork_processes(monkeypatch)
    out = trained[0] / "out"
    assert evaluate(out, tmp_path, "--num-gpus", "2") == 0
    first, again = read_results(out), read_results(tmp_path)
    for task in ("segm", "overlap", "errors"):
        assert again[task] == pytest.approx(first[task], nan_ok=True), task


def test_without_voting_boxes_are_rois(trained, tmp_path):
    out = trained[0] / "out"
    assert evaluate(out, tmp_path, "MODEL.FCIS.MASK_VOTING", "False") == 0
    voted, own = map(read_predictions, (out, tmp_path))
    assert all(float(v).is_integer() for found in voted for v in found["bbox"])
    assert not all(float(v).is_integer() for found in own for v in found["bbox"])
    assert read_results(tmp_path)["segm"]["AP"] > 50


def test_training_resumes(trained, tmp_path):
    """A step of FCIS draws no random number of its own, so a resumed run is the same run."""
    _, flags = trained
    common = [*flags, *BACKBONE, *RECIPE, "SOLVER.WARMUP_ITERS", "1"]
    whole, halves = tmp_path / "whole", tmp_path / "halves"

    def train(folder, iterations, *options):
        return run_train_net(
            "--config-file", FCIS_CONFIG, *options, *common,
            "OUTPUT_DIR", str(folder), "SOLVER.MAX_ITER", str(iterations),
            "SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR",
        )  # fmt: skip

    assert train(whole, 4) == 0
    assert train(halves, 2) == 0
    assert train(halves, 4, "--resume") == 0
    assert same(*(read_weights(folder / "model_final.pth") for folder in (whole, halves)))
