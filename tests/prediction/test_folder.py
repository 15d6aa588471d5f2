"""A folder of images by several processes, or after a kill, gives the files of one process."""

import json
import os
import random
import signal
import time
from dataclasses import replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_model import picture, tiny_cfg, tiny_model

from mask_rcnn_ext import Predictor, UserError
from mask_rcnn_ext.prediction import processes
from mask_rcnn_ext.prediction.folder import FolderJob, merge_shares, predict_share
from mask_rcnn_ext.prediction.image_files import find_images
from mask_rcnn_ext.prediction.parts import PartReader, PartWriter
from mask_rcnn_ext.prediction.processes import PredictionStopped, run_folder_job
from mask_rcnn_ext.proposals.single_images import Search
from mask_rcnn_ext.run_files import EARLIER

NUMBER = 13
OUTPUTS = ("coco", "polygons", "labels", "geojson")


def load_predictor(weights: str, rank: int, batch_size: int = 2) -> Predictor:
    return Predictor(tiny_cfg(2), weights, batch_size=batch_size, score_threshold=0.3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Images of several sizes, one of which cannot be read, and weights."""
    folder = tmp_path_factory.mktemp("job")
    torch.save({"model": tiny_model(2, seed=1).state_dict()}, folder / "model.pth")
    (folder / "in").mkdir()
    for number in range(NUMBER):
        size = (40, 60) if number % 3 else (50, 40)
        Image.fromarray(picture(*size, seed=number)).save(folder / "in" / f"{number:02d}.png")
    (folder / "in" / "03.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def make_job(folder, tmp_path):
    def make(output="out", **options) -> FolderJob:
        make_predictor = partial(load_predictor, str(folder / "model.pth"))
        files = find_images([str(folder / "in")])
        return FolderJob(make_predictor, files, tmp_path / output, OUTPUTS, **options)

    return make


def contents(output) -> dict[str, bytes]:
    return {str(p.relative_to(output)): p.read_bytes() for p in output.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def expected(folder, tmp_path_factory):
    """What one uninterrupted process writes."""
    output = tmp_path_factory.mktemp("whole")
    make_predictor = partial(load_predictor, str(folder / "model.pth"))
    job = FolderJob(make_predictor, find_images([str(folder / "in")]), output, OUTPUTS)
    summary = run_folder_job(job)
    assert (summary.num_files, summary.num_images) == (NUMBER, NUMBER - 1)
    assert summary.num_instances > NUMBER
    assert len(summary.failures) == 1
    found = contents(output)
    assert {name.partition("/")[0] for name in found} == {
        *("coco_instances_results.json", "coco_annotations.json", "images.json"),
        *("labels", "geojson"),
    }
    assert len(json.loads(found["images.json"])["images"]) == NUMBER - 1
    return found


@pytest.mark.parametrize("world", [2, 3])
def test_shares_of_several_processes_give_the_files_of_one(make_job, expected, world):
    job = make_job()
    predictor, counted = job.make_predictor(0), []
    for rank in random.Random(world).sample(range(world), world):
        settings = predict_share(job, predictor, rank, world, counted.append)
    assert sum(counted) == NUMBER
    summary = merge_shares(job, settings, complete=True)
    assert len(summary.failures) == 1
    assert contents(job.output) == expected


def test_a_line_that_a_kill_has_cut_costs_one_image(make_job, expected):
    """Also if the next run continues the same file."""
    job = make_job()
    predictor = job.make_predictor(0)
    settings = predict_share(job, predictor, 0, 2)
    (part,) = job.output.glob("parts/*")
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(lines[:-1]) + lines[-1][:-20])
    missing = len(PartReader(job.output, job.files, settings).find_missing(range(NUMBER)))
    predict_share(job, predictor, 1, 2)
    predict_share(job, predictor, 0, 2)
    again = PartReader(job.output, job.files, settings).find_missing(range(NUMBER))
    assert (missing, again) == (NUMBER - 6, [3])  # the one that cannot be read
    merge_shares(job, settings, complete=True)
    assert contents(job.output) == expected


def test_a_line_that_a_kill_has_cut_does_not_hide_the_next_settings(make_job):
    job, head = make_job(), {"names": ["a"], "ids": [1]}
    job.output.mkdir()
    with PartWriter(job.output, 0, {"settings_sha256": "one", **head}) as part:
        part.add(job.files[0], {"results": []})
        part._write(b'{"name": "half')
    with PartWriter(job.output, 0, {"settings_sha256": "two", **head}) as part:
        part.add(job.files[1], {"results": []})
    for settings, missing in (("one", [1]), ("two", [0])):
        assert PartReader(job.output, job.files, settings).find_missing([0, 1]) == missing


def wait_for_lines(process: BaseProcess, output: Path, number: int) -> None:
    end = time.monotonic() + 120
    while sum(p.read_bytes().count(b'"at"') for p in output.glob("parts/*")) < number:
        assert process.is_alive()
        assert time.monotonic() < end
        time.sleep(0.005)


def load_endless(weights: str, rank: int) -> Predictor:
    """Return a predictor that never comes to the last image."""
    predictor = load_predictor(weights, rank)
    read = predictor.read

    def read_or_wait(image):
        if isinstance(image, Path) and image.name == f"{NUMBER - 1:02d}.png":
            time.sleep(300)
        return read(image)

    predictor.read = read_or_wait
    return predictor


def test_a_run_that_is_killed_again_and_again_loses_and_doubles_nothing(
    make_job, expected, folder, forkserver
):
    """Real processes, killed at random places."""
    job, chance = make_job(), random.Random(0)
    endless = replace(job, make_predictor=partial(load_endless, str(folder / "model.pth")))
    job.output.mkdir()
    killed = 0
    for lines in (1, 5, 8):
        process = forkserver.Process(target=run_folder_job, args=(endless,))
        process.start()
        try:
            wait_for_lines(process, job.output, lines)
            time.sleep(chance.random() * 0.03)
        finally:
            process.kill()
            process.join()
        killed += process.exitcode == -signal.SIGKILL
        assert not (job.output / "images.json").exists()
    assert killed == 3
    predicted = []
    predictor = job.make_predictor(0)
    read = predictor.read
    predictor.read = lambda path: predicted.append(path) or read(path)
    settings = predict_share(job, predictor)
    assert len({path for path in predicted if isinstance(path, Path)}) <= 10  # not all again
    merge_shares(job, settings, complete=True)
    assert contents(job.output) == expected


def test_processes_are_started_and_their_results_merged(make_job, expected):
    """Started as a user's are, which the other tests avoid, since it takes seconds."""
    job = make_job()
    summary = run_folder_job(job, processes=2)
    assert summary.num_images == NUMBER - 1
    assert contents(job.output) == expected


def die(weights: str, rank: int) -> Predictor:
    predictor = load_predictor(weights, rank)
    if rank == 1:
        read = predictor.read

        def read_or_die(path):
            if path.name == "07.png":
                os.kill(os.getpid(), signal.SIGKILL)
            return read(path)

        predictor.read = read_or_die
    return predictor


def test_a_process_that_dies_is_reported_and_the_same_job_continues(
    make_job, expected, folder, fast_start
):
    job = make_job()
    dying = FolderJob(partial(die, str(folder / "model.pth")), job.files, job.output, OUTPUTS)
    job.output.mkdir()
    # Image 7 is in the fourth batch of two, which is of the second process.
    with pytest.raises(UserError, match=r"process 1 of 2 was ended by signal 9; \d+ of the images"):
        run_folder_job(dying, processes=2)
    assert not (job.output / "images.json").exists()
    assert run_folder_job(job).num_images == NUMBER - 1
    assert contents(job.output) == expected


def test_no_more_processes_than_files(make_job, monkeypatch):
    job, started = make_job(), []

    class Counted:
        def __init__(self, job, number):
            started.append(number)

        def run(self, bar):
            return None

    monkeypatch.setattr(processes, "_Processes", Counted)
    run_folder_job(job, processes=10**9)
    assert started == [len(job.files)]


def fail(rank: int) -> Predictor:
    raise UserError("no such weights")


def test_a_mistake_that_a_process_finds_is_the_job_s(make_job, fast_start):
    job = make_job()
    with pytest.raises(UserError, match="no such weights"):
        run_folder_job(FolderJob(fail, job.files, job.output), processes=2)
    with pytest.raises(UserError, match="--processes: expected 1 or more, got 0"):
        run_folder_job(job, processes=0)


def test_an_interruption_writes_what_is_done_and_another_setting_begins_anew(
    make_job, expected, caplog, monkeypatch
):
    job, add, seen = make_job(), PartWriter.add, []

    def interrupt(self, file, record):
        if len(seen) == 6:
            raise KeyboardInterrupt
        seen.append(file.name)
        add(self, file, record)

    monkeypatch.setattr(PartWriter, "add", interrupt)
    with pytest.raises(PredictionStopped) as stopped:
        run_folder_job(job)
    monkeypatch.undo()
    assert str(stopped.value) == "5 of 13 images are done"  # one of six failed
    images = json.loads((job.output / "images.json").read_text())["images"]
    assert [image["file_name"] for image in images] == [n for n in seen if n != "03.png"]

    other = make_job(filters={"classes": ["class 1"]})
    reader = PartReader(
        job.output, job.files, other.describe(job.make_predictor(0))["settings_sha256"]
    )
    assert (reader.head, reader.is_empty) == (None, False)
    summary = run_folder_job(other)
    assert (
        "an unfinished prediction has other settings, so this one starts from the beginning"
        in caplog.text
    )
    assert summary.num_images == NUMBER - 1
    assert contents(job.output) != expected
    assert run_folder_job(job).num_images == NUMBER - 1
    assert contents(job.output) == expected


def test_an_image_that_was_changed_in_between_is_predicted_again(make_job, folder, tmp_path):
    job = make_job()
    source = tmp_path / "in"
    source.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(picture(40, 60, seed=1)).save(source / name)
    job = FolderJob(job.make_predictor, find_images([str(source)]), job.output, ("coco",))
    settings = predict_share(job, job.make_predictor(0))
    Image.fromarray(picture(50, 30, seed=2)).save(source / "b.png")
    again = PartReader(job.output, job.files, settings)
    assert again.find_missing([0, 1]) == [1]
    run_folder_job(job)
    sizes = json.loads((job.output / "images.json").read_text())["images"]
    assert [(i["width"], i["height"]) for i in sizes] == [(60, 40), (30, 50)]
    results = json.loads((job.output / "coco_instances_results.json").read_text())
    assert {r["image_id"]: r["segmentation"]["size"] for r in results} == {1: [40, 60], 2: [50, 30]}


def test_images_that_a_continued_job_no_longer_has_leave_nothing(make_job):
    job, few = make_job(), make_job()
    few = FolderJob(few.make_predictor, few.files[:2], few.output, OUTPUTS)
    predict_share(job, job.make_predictor(0))
    run_folder_job(few)
    names = {file.name for file in few.files}
    now = {path.name.removesuffix(".png") for path in (job.output / "labels").iterdir()}
    assert now == names
    moved = {p.name.removesuffix(".png") for p in (job.output / EARLIER / "1/labels").iterdir()}
    assert moved == {file.name for file in job.files} - names - {"03.png"}
    assert not (job.output / "parts").exists()


def test_files_stay_where_results_cannot_be_written(make_job, monkeypatch):
    job = make_job()
    few = FolderJob(job.make_predictor, job.files[:2], job.output, OUTPUTS)
    run_folder_job(job)
    before, replace = contents(job.output), os.replace

    def full(source, target):
        if Path(target).name == "images.json":
            raise OSError(28, "No space left on device", str(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        run_folder_job(few)
    after = contents(job.output)
    assert not (job.output / EARLIER).exists()
    assert {name for name in after if not name.startswith("parts")} == {*before}
    monkeypatch.undo()
    run_folder_job(few)
    assert len([*(job.output / "labels").iterdir()]) == 2


def test_lines_of_a_part_that_are_not_ours_are_skipped(make_job, expected):
    job = make_job()
    predict_share(job, job.make_predictor(0), 0, 2)
    (part,) = job.output.glob("parts/*")
    odd = [[1], {"name": ["a"]}, {"name": 3, "at": 1, "stat": None}, {"x": 1}, {"name": "00.png"}]
    with open(part, "a") as file:
        file.writelines(json.dumps(line) + "\n" for line in odd)
    run_folder_job(job)
    assert contents(job.output) == expected


def test_results_of_another_search_are_not_continued(make_job):
    job = make_job()
    predictor, hashes = job.make_predictor(0), set()
    searches = [
        Search("fast", 64, 5, 2000),
        Search("fast", 64, 40, 2000),
        Search("single", 64, 5, 9),
    ]
    for predictor.propose in [*searches, *searches, None]:
        hashes.add(job.describe(predictor)["settings_sha256"])
    assert len(hashes) == 4
