"""An image that breaks while a run is at work, and a worker that is killed while it reads one."""

import logging
import os
import re
import shutil
import signal

import pytest
import torch
from small_runs import fork_processes, read_error, read_results, read_weights, same, write_data
from support import SMALL, TINY_CONFIG, change_json, run_train_net
from torch.utils.data import dataloader

from mask_rcnn_ext.config import get_cfg
from mask_rcnn_ext.data import bad_images
from mask_rcnn_ext.data.loader import TrainLoader
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.report.run_page import write_report

SKIP = ["MASK_RCNN_EXT.DATA.ON_BAD_IMAGE", "skip"]


def run(flags, folder, *keys: str) -> int:
    return run_train_net(
        "--config-file", TINY_CONFIG, *flags, *SMALL, "OUTPUT_DIR", str(folder),
        "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "3", *keys,
    )  # fmt: skip


def cut(path) -> None:
    """Cut a PNG in its middle; the last bytes stay, so that only reading the pixels tells it."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + content[-12:])


@pytest.fixture
def data(tmp_path):
    """Flags of data of which one image for training and one for validation is damaged."""
    flags = write_data(tmp_path / "data", train=3, val=3)
    for split in ("train", "val"):
        cut(tmp_path / "data" / split / "images/001.png")
    return flags


def test_it_ends_the_run_with_its_name_or_is_skipped_and_listed(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(data, tmp_path / "error") == 2
    assert "train/images/001.png: cannot be read as an image" in read_error(capsys)
    assert run(data, out, *SKIP) == 0
    results = read_results(out)
    assert [os.path.relpath(name, tmp_path) for name in results["run"]["skipped_images"]] == [
        "data/train/images/001.png", "data/val/images/001.png",
    ]  # fmt: skip
    assert "2 image(s) could not be used and were skipped: " in capsys.readouterr().out
    page = write_report(out, num_images=0)[0].read_text()
    note = page.partition("Images that could not be used and were skipped")[2].partition("</ul>")[0]
    assert note.count("001.png: cannot be read as an image") == 2
    # The evaluation is the one of the data set without the image.
    with change_json(tmp_path / "data/val/annotations.json") as coco:
        coco["images"] = [image for image in coco["images"] if image["file_name"] != "001.png"]
        kept = {image["id"] for image in coco["images"]}
        coco["annotations"] = [one for one in coco["annotations"] if one["image_id"] in kept]
    weights = ["MODEL.WEIGHTS", str(out / "model_final.pth")]
    assert run([*data, "--eval-only"], tmp_path / "eval", *weights) == 0
    evaluated = read_results(tmp_path / "eval")
    assert evaluated["segm"] == results["segm"]
    assert "skipped_images" not in evaluated["run"]
    saved = torch.load(out / "model_final.pth", weights_only=True)["trainer"]["hooks"]["RunRecord"]
    assert len(saved["skipped_images"]) == 1  # before the evaluation


def test_an_evaluation_without_any_image_is_an_error(data, tmp_path, capsys):
    weights = ["MODEL.WEIGHTS", str(tmp_path / "out/model_final.pth")]
    assert run(data, tmp_path / "out", *SKIP) == 0
    capsys.readouterr()
    for path in (tmp_path / "data/val/images").iterdir():
        cut(path) if path.name != "001.png" else None
    assert run([*data, "--eval-only"], tmp_path / "eval", *SKIP, *weights) == 2
    assert "own_val: not one of its 3 image(s) could be used" in read_error(capsys)


def test_two_workers_skip_as_none_does(data, tmp_path):
    skip = [*SKIP, "DATASETS.TEST", "()"]
    for workers in ("0", "2"):
        assert run(data, tmp_path / workers, *skip, "DATALOADER.NUM_WORKERS", workers) == 0
        results = read_results(tmp_path / workers)
        (skipped,) = results["run"]["skipped_images"]
        assert skipped.endswith("train/images/001.png")
    weights = [read_weights(tmp_path / workers / "model_final.pth") for workers in ("0", "2")]
    assert same(*weights)


def test_a_checkpoint_lists_what_every_process_has_skipped(tmp_path, monkeypatch):
    fork_processes(monkeypatch)
    data = write_data(tmp_path / "data", train=8, val=1)
    images = tmp_path / "data/train/images"
    names = ("000.png", "002.png", "004.png", "006.png")
    for name in names:
        cut(images / name)
    skip = [*SKIP, "DATASETS.TEST", "()", "SEED", "1"]
    two = [*data, "--num-gpus", "2", "--dist-url", "auto"]
    assert run(two, tmp_path / "out", *skip, "SOLVER.MAX_ITER", "4") == 0  # each image once
    path = tmp_path / "out/model_final.pth"
    saved = torch.load(path, weights_only=True)["trainer"]["hooks"]["RunRecord"]["skipped_images"]
    assert {*saved} == {str(images / name) for name in names}


def test_every_image_bad_is_an_error(data, tmp_path, capsys):
    for path in (tmp_path / "data/train/images").iterdir():
        cut(path) if path.name != "001.png" else None
    assert run(data, tmp_path / "out", *SKIP) == 2
    assert re.search(r"rejected every image, .*\.png: cannot be read", read_error(capsys))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["MASK_RCNN_EXT.DATA.ON_BAD_IMAGE", "ignore"], "expected error or skip, got 'ignore'"),
        (
            [*SKIP, "MASK_RCNN_EXT.EVALUATORS", "['FCISComparisonEvaluator']"],
            "only COCO's evaluation can leave images out",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_reported_before_training(data, tmp_path, capsys, keys, message):
    assert run(data, tmp_path / "out", *keys) == 2
    assert message in read_error(capsys)
    assert not (tmp_path / "out").exists()


def _kill_at_b(record: dict) -> dict:
    if record["file_name"] == "b.png":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"image": torch.zeros(1)}


def test_a_worker_that_is_killed_names_the_image_that_it_had():
    dicts = [{"file_name": f"{name}.png", "width": 1, "height": 1} for name in "abc"]
    loader = TrainLoader(
        dicts, _kill_at_b, [0, 2, 0, 2, 1, 2, 0, 0], batch_size=1, num_workers=2, seed=0
    )
    with pytest.raises(RuntimeError, match="DataLoader worker") as raised:
        for _ in loader:
            pass
    error = bad_images.explain_dead_worker(raised.value)
    assert isinstance(error, UserError)
    assert re.match(r"a process that loads images .*, while it read b\.png\. ", str(error))
    assert bad_images.explain_dead_worker(RuntimeError("another")) is None


def _fail_at_b(record: dict) -> dict:
    return {"image": torch.zeros(1)} if record["file_name"] == "a.png" else record["missing"]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_defect_of_a_mapper_names_the_image_in_the_log(num_workers, tmp_path):
    dicts = [{"file_name": f"{name}.png", "width": 1, "height": 1} for name in "ab"]
    loader = TrainLoader(
        dicts, _fail_at_b, [0, 1, 0], batch_size=1, num_workers=num_workers, seed=0
    )
    log = logging.FileHandler(tmp_path / "log.txt")
    bad_images.logger.addHandler(log)
    try:
        with pytest.raises(KeyError, match="missing"):
            list(loader)
    finally:
        bad_images.logger.removeHandler(log)
        log.close()
    assert (tmp_path / "log.txt").read_text() == "The mapper failed on the image b.png:\n"


def _cannot_be_handed_over(record: dict) -> dict:
    return {"image": lambda: None}  # a function without a name cannot be pickled


@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_a_batch_that_cannot_be_handed_over_is_no_wait_without_end(kind, capfd):
    """Nor is one for which the shared memory has no room. A queue only prints the error."""
    dicts = [{"file_name": "a.png", "width": 1, "height": 1}]
    cfg = get_cfg()
    cfg.DATALOADER.NUM_WORKERS = 1
    if kind == "training":
        loader = TrainLoader(
            dicts, _cannot_be_handed_over, [0], batch_size=1, num_workers=1, seed=0
        )
    else:
        loader = bad_images.build_checked_loader(cfg, dicts, _cannot_be_handed_over)
    with pytest.raises(RuntimeError, match="DataLoader worker") as raised:
        list(loader)
    assert "/dev/shm" in str(bad_images.explain_dead_worker(raised.value))
    assert "Can't pickle" in capfd.readouterr().err


def test_a_worker_that_dies_at_the_end_hides_no_error(monkeypatch):
    kind = dataloader._MultiProcessingDataLoaderIter
    end = kind._shutdown_workers

    def end_with_an_error(iterator):
        if not iterator._shutdown:
            end(iterator)
            raise RuntimeError("DataLoader worker (pid 5) exited unexpectedly")

    def refuse(record):
        raise UserError("a.png: broken")

    monkeypatch.setattr(kind, "_shutdown_workers", end_with_an_error)
    dicts = [{"file_name": "a.png", "width": 1, "height": 1}]
    loader = TrainLoader(dicts, refuse, [0], batch_size=1, num_workers=1, seed=0)
    with pytest.raises(UserError, match=r"a\.png: broken"):
        list(loader)


def test_a_worker_that_dies_while_it_hands_over_a_batch_is_reported(monkeypatch):
    """The connection breaks before SIGCHLD comes, in whose handler PyTorch raises."""

    def break_off():
        yield ["batch"]
        raise ConnectionResetError

    def tell(*_):
        raise RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed.")

    former = signal.signal(signal.SIGALRM, tell)
    try:
        batches = bad_images.iterate_batches(break_off())
        assert next(batches) == ["batch"]
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(RuntimeError, match="DataLoader worker"):
            next(batches)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    monkeypatch.setattr(bad_images, "_PATIENCE", 0)
    with pytest.raises(ConnectionResetError):
        list(bad_images.iterate_batches(break_off()))


def test_a_training_tells_that_its_worker_is_killed(data, tmp_path, monkeypatch, capsys):
    from mask_rcnn_ext.data.mapper import ImageMapper

    def kill(self, record):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(ImageMapper, "__call__", kill)
    assert run(data, tmp_path / "out", "DATALOADER.NUM_WORKERS", "1") == 2
    assert re.search(r"while it read .*train/images/00\d\.png", read_error(capsys))


def test_images_that_are_bad_before_the_run_are_skipped_too(tmp_path, capsys):
    """Files that do not open, are missing, or have no size in the json either."""
    flags = write_data(tmp_path / "data", train=5, val=2)
    for path in ("train/images/001.png", "train/images/003.png", "val/images/001.png"):
        (tmp_path / "data" / path).write_bytes(b"")
    (tmp_path / "data/train/images/002.png").unlink()
    with change_json(tmp_path / "data/train/annotations.json") as coco:
        del coco["images"][3]["width"]
    out = tmp_path / "out"
    assert run(flags, out, *SKIP, "SOLVER.MAX_ITER", "4") == 0
    skipped = read_results(out)["run"]["skipped_images"]
    assert [os.path.relpath(name, tmp_path / "data") for name in skipped] == [
        "train/images/001.png", "train/images/002.png", "train/images/003.png",
        "val/images/001.png",
    ]  # fmt: skip
    assert "annotations.json: 1 of 5 image files are missing: 002.png." in capsys.readouterr().out
    shutil.rmtree(tmp_path / "data/train/images")
    (tmp_path / "data/train/images").mkdir()
    assert run(flags, tmp_path / "none", *SKIP) == 2
    assert "5 of 5 image files are missing" in read_error(capsys)
    assert not (tmp_path / "none").exists()
