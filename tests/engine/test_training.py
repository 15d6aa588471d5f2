"""Training end to end, through the command line's own functions."""

import functools
import json
import multiprocessing
import os
import shutil
import socket

import pytest
import torch
from detectron2.utils.events import EventStorage
from small_runs import (
    evaluate,
    fork_processes,
    read_predictions,
    read_results,
    read_weights,
    same,
    start_fork,
    train_small,
    write_data,
)
from support import REPO, SMALL, TINY_CONFIG, run_python, run_script, run_train_net

from mask_rcnn_ext import load_config
from mask_rcnn_ext.data.own_data import register_own_data
from mask_rcnn_ext.engine.trainer import Trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Twenty iterations on own data, checkpoints at 10 and 20."""
    root = tmp_path_factory.mktemp("run")
    flags = write_data(root, train=12, val=4)
    keys = ["SOLVER.MAX_ITER", "20", "SOLVER.CHECKPOINT_PERIOD", "10"]
    assert train_small(flags, root / "out", *keys) == 0
    return root, flags


def test_a_run_leaves_the_promised_files(run):
    root, _ = run
    out = root / "out"
    for name in ("config.yaml", "log.txt", "metrics.json", "model_final.pth", "results.json"):
        assert (out / name).stat().st_size > 0, name
    assert list(out.glob("events.out.tfevents*"))
    found = read_predictions(out)
    assert found is not None
    assert not list(out.rglob(".mask_rcnn_ext-*"))


def test_results_json(run):
    root, _ = run
    results = read_results(root / "out")
    assert set(results) == {"bbox", "segm", "run"}
    for task in ("bbox", "segm"):
        assert {"AP", "AP50", "AP75", "AP-cat", "AP-dog"} <= set(results[task])
        assert 0 <= results[task]["AP50"] <= 100
    record = results["run"]
    assert record["train_seconds"] > 0
    assert record["eval_seconds"] > 0
    assert record["peak_memory_mb"] > 50
    assert record["device"].startswith("cpu")
    assert record["seed"] == 1
    assert {"torch", "torchvision", "detectron2", "python"} <= set(record["versions"])


def loss_on_train(root, flags, checkpoint) -> float:
    """Return the loss of a checkpoint, or of a new model, over fixed training samples."""
    register_own_data(flags[1], flags[3], "", "", clean_dir=str(root / "clean"))
    cfg = load_config(str(root / "out/config.yaml"))
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).train()
    if checkpoint is not None:
        model.load_state_dict(read_weights(checkpoint))
    torch.manual_seed(0)
    batches = iter(Trainer.build_train_loader(cfg, seed=0))
    with EventStorage(), torch.no_grad():
        return sum(float(sum(model(next(batches)).values())) for _ in range(6))


def test_it_learns(run):
    root, flags = run
    start = loss_on_train(root, flags, None)
    end = loss_on_train(root, flags, root / "out/model_final.pth")
    assert end < 0.9 * start, (start, end)
    lines = [json.loads(line) for line in (root / "out/metrics.json").read_text().splitlines()]
    assert any("total_loss" in line and "lr" in line for line in lines)
    assert "20/20" in (root / "out/log.txt").read_text()
    names = ("model_0000009.pth", "model_final.pth")
    assert not same(*(read_weights(root / "out" / name) for name in names))


def test_the_classes_follow_the_file(run):
    root, _ = run
    config = (root / "out/config.yaml").read_text()
    assert "NUM_CLASSES: 2" in config
    final = read_weights(root / "out/model_final.pth")
    assert final["roi_heads.box_predictor.cls_score.weight"].shape[0] == 3
    results = read_predictions(root / "out")
    assert {r["category_id"] for r in results} <= {3, 10}


def test_resumed_run_has_the_weights_of_the_uninterrupted_one(run, tmp_path):
    root, flags = run
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    shutil.copy(root / "out/model_0000009.pth", resumed)
    (resumed / "last_checkpoint").write_text("model_0000009.pth")
    assert train_small([*flags, "--resume"], resumed, "SOLVER.MAX_ITER", "20") == 0
    assert same(*(read_weights(f / "model_final.pth") for f in (resumed, root / "out")))
    full, again = read_results(root / "out"), read_results(resumed)
    assert again["segm"] == full["segm"]
    assert again["bbox"] == full["bbox"]


def test_eval_only_repeats_the_runs_result(run, tmp_path):
    root, _ = run
    assert evaluate(root / "out", tmp_path / "eval") == 0
    results = read_results(tmp_path / "eval")
    assert results["run"]["train_seconds"] is None
    assert results["segm"] == read_results(root / "out")["segm"]


def test_eval_only_at_another_speed_finds_the_same(run, tmp_path):
    """In float32, which the small config does not evaluate in."""
    root, _ = run
    results = {}
    for speed in ("exact", "fast"):
        keys = ["MASK_RCNN_EXT.SPEED", speed, "MASK_RCNN_EXT.AMP_INFERENCE", "False"]
        assert evaluate(root / "out", tmp_path / speed, *keys) == 0
        results[speed] = read_results(tmp_path / speed)
    for task in ("bbox", "segm"):
        exact, fast = (results[speed][task] for speed in ("exact", "fast"))
        assert fast == pytest.approx(exact, abs=0.05, nan_ok=True)


def test_resume_is_exact_with_workers_and_augmentation(coco_pair, tmp_path):
    """Another loader: two workers, and a seed that the run drew for itself."""
    options = [
        "DATALOADER.NUM_WORKERS", "2", "SEED", "-1", "SOLVER.CHECKPOINT_PERIOD", "3",
        "SOLVER.MAX_ITER", "6",
        "MASK_RCNN_EXT.AUGMENTATION.VERTICAL_FLIP", "True",
        "MASK_RCNN_EXT.AUGMENTATION.ROTATION", "30.0",
        "MASK_RCNN_EXT.AUGMENTATION.SCALE_JITTER", "[0.5, 2.0]",
        "MASK_RCNN_EXT.AUGMENTATION.HUE", "0.1",
        "MASK_RCNN_EXT.AUGMENTATION.COPY_PASTE", "0.5",
    ]  # fmt: skip
    assert train_small(coco_pair, tmp_path / "a", *options) == 0
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a/model_0000002.pth", tmp_path / "b")
    (tmp_path / "b/last_checkpoint").write_text("model_0000002.pth")
    assert train_small([*coco_pair, "--resume"], tmp_path / "b", *options) == 0
    assert same(*(read_weights(tmp_path / name / "model_final.pth") for name in "ab"))


def test_mixed_precision_on_cpu_trains_and_stays_finite(coco_pair, tmp_path):
    outputs = []
    for enabled in ("True", "False"):
        folder = tmp_path / enabled
        keys = ["SOLVER.MAX_ITER", "3", "SOLVER.AMP.ENABLED", enabled]
        keys += ["MASK_RCNN_EXT.CHANNELS_LAST", enabled, "MASK_RCNN_EXT.AMP_INFERENCE", enabled]
        assert train_small(coco_pair, folder, *keys) == 0
        outputs.append(read_weights(folder / "model_final.pth"))
    assert all(torch.isfinite(v).all() for v in outputs[0].values())
    assert not same(*outputs), "autocast changed nothing"


def test_adamw(coco_pair, tmp_path):
    keys = ["SOLVER.MAX_ITER", "2", "MASK_RCNN_EXT.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", "0.001"]
    assert train_small(coco_pair, tmp_path / "out", *keys) == 0
    checkpoint = torch.load(tmp_path / "out/model_final.pth", weights_only=True)
    state = checkpoint["trainer"]["_trainer"]["optimizer"]["state"]
    assert "exp_avg_sq" in next(iter(state.values()))


def start_like_torchrun(*arguments: str) -> list[multiprocessing.Process]:
    """Start the two processes that torchrun would start; the launcher itself takes 2 s to start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}

    def work(rank: str) -> int:
        os.environ.update(shared, RANK=rank, LOCAL_RANK=rank)
        return run_train_net(*arguments)

    return [start_fork(functools.partial(work, rank)) for rank in "01"]


def test_two_processes_on_cpu(coco_pair, tmp_path, monkeypatch, capfd):
    """Gloo: both launchers train, write one result file, and give the same weights."""
    command = ["--config-file", TINY_CONFIG, *coco_pair]
    keys = [*SMALL, "SOLVER.MAX_ITER", "4", "OUTPUT_DIR"]
    spawn = ["--num-gpus", "2", "--dist-url", "auto", *keys, str(tmp_path / "spawn")]
    assert run_script(REPO / "train_net.py", monkeypatch, *command, *spawn) == 0
    assert "FutureWarning" not in capfd.readouterr().err
    fork_processes(monkeypatch)
    for process in start_like_torchrun(*command, *keys, str(tmp_path / "torchrun")):
        process.join(240)
        assert process.exitcode == 0
    for name in ("spawn", "torchrun"):
        assert "segm" in read_results(tmp_path / name)
        assert (tmp_path / name / "log.txt.rank1").exists()
    two = read_weights(tmp_path / "spawn" / "model_final.pth")
    assert same(two, read_weights(tmp_path / "torchrun" / "model_final.pth"))
    # The first process alone, with its half of each batch, learns something else: gradients are
    # shared.
    alone = tmp_path / "alone"
    assert run_train_net(*command, *keys, str(alone), "SOLVER.IMS_PER_BATCH", "2") == 0
    assert not same(two, read_weights(alone / "model_final.pth"))


@pytest.mark.parametrize("launcher", ["launch", "torchrun"])
def test_a_mistake_in_two_processes_is_one_message(
    coco_pair, tmp_path, capfd, monkeypatch, launcher
):
    arguments = ["--config-file", TINY_CONFIG, *coco_pair]
    keys = [*SMALL, "OUTPUT_DIR", str(tmp_path / "sweep/a"), "SOLVER.IMS_PER_BATCH", "3"]
    if launcher == "launch":
        fork_processes(monkeypatch)
        two = ["--num-gpus", "2", "--dist-url", "auto"]
        assert run_train_net(*arguments, *two, *keys) == 2
        errors = capfd.readouterr().err
        assert "Traceback" not in errors  # torchrun reports the failed process in its own way
    else:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        words = [*torchrun, str(REPO / "train_net.py"), *arguments, *keys]
        done = run_python(*words, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=240)
        errors = done.stderr
        assert done.returncode == 1  # torchrun's own code
    assert sum(line.startswith("error: ") for line in errors.splitlines()) == 1
    assert "IMS_PER_BATCH is 3: expected a multiple of the 2 processes" in errors
    assert not (tmp_path / "sweep").exists()


def test_test_time_augmentation_stands_beside_the_plain_result(run, tmp_path):
    """With one view at the test size it is the plain result, but for rounding."""
    root, _ = run
    for views, same_view in (("(64,)", True), ("(48, 64)", False)):
        out = tmp_path / views
        keys = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", views]
        keys += ["TEST.AUG.FLIP", str(not same_view), "SOLVER.AMP.ENABLED", "False"]
        assert evaluate(root / "out", out, *keys) == 0
        results = read_results(out)
        assert set(results) == {"bbox", "segm", "bbox_TTA", "segm_TTA", "run"}
        plain, augmented = (read_predictions(out, part) for part in ("inference", "inference_TTA"))
        assert plain
        assert augmented
        scores = [sorted(r["score"] for r in found)[-20:] for found in (plain, augmented)]
        assert (scores[0] == pytest.approx(scores[1], abs=1e-5)) is same_view
        if same_view:
            assert results["bbox_TTA"]["AP"] == pytest.approx(results["bbox"]["AP"], abs=0.5)


def test_test_time_augmentation_at_the_end_of_training(coco_pair, tmp_path):
    keys = ["SOLVER.MAX_ITER", "2", "TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(48, 64)"]
    assert train_small(coco_pair, tmp_path / "out", *keys) == 0
    results = read_results(tmp_path / "out")
    assert set(results) == {"bbox", "segm", "bbox_TTA", "segm_TTA", "run"}
    log = (tmp_path / "out/log.txt").read_text()
    assert log.count("Evaluating with test-time augmentation") == 1
