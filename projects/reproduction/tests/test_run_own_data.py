"""The experiment on own data: its runs, one that is trained and scored, and the report."""

import json
import math
from dataclasses import replace

import pytest
import run_own_data as tool
import torch
from reproduction.own_data import runs as runs_module
from reproduction.own_data.choice import choose_weights
from reproduction.own_data.markdown import own_data_doc
from reproduction.own_data.picture import draw_curves
from reproduction.own_data.predictions import (
    PREDICTIONS,
    collect_contrasts,
    judge_own_data_predictions,
)
from reproduction.own_data.results import find_recorded, write_own_data_results
from reproduction.own_data.results_file import (
    CheckpointEvaluation,
    OwnDataEntry,
    OwnDataResults,
    PhotoCounts,
    PhotosFacts,
)
from reproduction.own_data.runs import DATA, EVALUATIONS, OwnDataRun, plan_own_data
from reproduction.own_data.scoring import score_checkpoints
from reproduction.own_data.timing import describe_timings, time_variants
from reproduction.training_runs import TrainingRun
from support import SMALL, TINY_CONFIG, run_train_net, write_coco

from mask_rcnn_ext.engine.best_model import BestModel
from mask_rcnn_ext.files import read_json
from mask_rcnn_ext.report.json_records import from_json, to_json

AUTO_NEAR = "`--auto` is within 2 mask AP of the hand-made settings"
RUN, AUTO = "dsb2018_lite0_hand", "dsb2018_lite0_auto"


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Write both data sets, small, in the layout of the options; return the options."""
    found = []
    monkeypatch.setitem(DATA, "sixty", replace(DATA["sixty"], most=2))
    for name, category in (("dsb2018", "nucleus"), ("coco", "person")):
        for split in ("train", "val"):
            path, _ = write_coco(tmp_path / name, images=8, classes=(category, "other"))
            content = read_json(path)
            for image in content["images"][:6]:
                image["kind"] = "fluorescence"
            path.with_name(f"annotations_{split}.json").write_text(json.dumps(content))
            path.unlink()
        found += [f"--{name}", str(tmp_path / name)]
    return found


@pytest.fixture
def small(monkeypatch):
    """Train the tiny model for four iterations, in this process."""
    options = OwnDataRun.options
    tiny = dict(zip(SMALL[::2], SMALL[1::2], strict=True))
    monkeypatch.setattr(OwnDataRun, "options", lambda run: {**options(run), **tiny})
    monkeypatch.setattr(OwnDataRun, "config_file", TINY_CONFIG)
    monkeypatch.setitem(runs_module.STARTS, "lite0", {"MODEL.WEIGHTS": ""})
    monkeypatch.setattr(runs_module, "EVALUATIONS", 2)
    for name, photos in DATA.items():
        four = dict.fromkeys(photos.iterations, 4)
        monkeypatch.setitem(DATA, name, replace(photos, iterations=four))


def plan(folders, tmp_path, seeds=1):
    return plan_own_data(tmp_path / "out", {"dsb2018": folders[1], "coco": folders[3]}, seeds)


def test_the_runs_differ_in_start_and_settings_only(folders, tmp_path):
    runs = plan(folders, tmp_path, 2)
    assert len(runs) == 18
    assert len({run.folder for run in runs}) == 18
    assert len({run.files for run in runs}) == 3
    for photos in DATA.values():
        assert all(count % EVALUATIONS == 0 for count in photos.iterations.values())
    run = next(run for run in runs if run.variant == RUN)
    val, scoring = (read_json(path)["images"] for path in (run.val_json, run.files[2]))
    assert len(scoring) == len(val) // 2 > 0
    assert all(image in val for image in scoring)
    again = next(run for run in plan(folders, tmp_path) if run.variant == RUN)
    assert again.find_other_inputs() == run.find_other_inputs()
    by_variant = {run.variant: run for run in runs if run.seed == 1}
    scratch, auto = by_variant["dsb2018_scratch_hand"], by_variant[AUTO]
    assert scratch.config().MODEL.WEIGHTS == ""
    assert run.config().MODEL.WEIGHTS.endswith("efficientnet_lite0.pth")
    assert "--auto" in auto.command(False)
    assert "--auto" not in run.command(False)
    assert "INPUT.MIN_SIZE_TRAIN" in auto.filled_in
    assert not {"INPUT.MIN_SIZE_TRAIN", "SOLVER.MAX_ITER"} & {*run.filled_in}
    assert "SOLVER.MAX_ITER" not in auto.filled_in
    sixty = by_variant["sixty_lite0_auto"]
    images = [read_json(path)["images"] for path in (sixty.files[0], sixty.val_json)]
    kept = [image for image in val if image.get("kind") == "fluorescence"]
    assert 2 < len(kept) < len(val)
    assert (len(images[0]), images[1]) == (2, kept)
    assert all(image["kind"] == "fluorescence" for each in images for image in each)
    assert {a["image_id"] for a in read_json(sixty.files[0])["annotations"]} == {
        image["id"] for image in images[0]
    }


def test_a_run_is_trained_scored_and_reported(folders, tmp_path, small, monkeypatch, capsys):
    def train(run, resume):
        if run.variant != AUTO:
            return 1
        assert run_train_net(*run.command(resume)[1:]) == 0
        checkpoint = torch.load(run.folder / "model_0000001.pth")
        interrupted = {**checkpoint, "iteration": 2}
        torch.save(interrupted, run.folder / "model_0000002.pth")
        score_checkpoints(run.folder, run.val_json)
        return 0

    run = next(run for run in plan(folders, tmp_path) if run.variant == AUTO)
    path, picture = tmp_path / "results.json", tmp_path / "curves.png"
    command = [*folders, "--seeds", "1", "--output", str(tmp_path / "out")]
    command += ["--results", str(path), "--picture", str(picture)]
    with monkeypatch.context() as patch:
        patch.setattr(OwnDataRun, "train", train)
        assert tool.main(command) == 2
    assert "8 of the runs failed" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(OwnDataRun, "train", lambda *_: 1)
        assert tool.main([*command, "--data", "persons"]) == 2
    assert "4 of the runs failed: persons_" in capsys.readouterr().err
    assert run.state() == "done"
    content = json.loads(path.read_text())
    (entry,) = content["runs"]
    assert [each["iteration"] for each in entry["evaluations"]] == [2, 4]
    for each in entry["evaluations"]:
        assert {*each} == {"iteration", "selection", "scoring", "all"}
        assert {*each["all"]} == {"segm", "bbox"}
    assert {*entry["average"]["segm"]} == {"AP", "AP50", "AP75"}
    assert entry["chosen"]["INPUT.MIN_SIZE_TRAIN"] == [64]
    assert picture.read_bytes().startswith(b"\x89PNG")
    told = "**1 of 9 trainings are done; the others have not been run yet.**"
    assert told in own_data_doc(from_json(OwnDataResults, content))
    # A recorded run is not trained again, even if its folder is gone, until its config changes.
    assert [run.variant for run in find_recorded(path, plan(folders, tmp_path))] == [AUTO]
    folder = run.folder.rename(tmp_path / "elsewhere")
    tool.main([*command, "--list"])
    assert f"1 of 9 runs are in {path}" in capsys.readouterr().out
    assert to_json(write_own_data_results(path, plan(folders, tmp_path))) == content
    with monkeypatch.context() as patch:
        patch.setitem(DATA, "dsb2018", replace(DATA["dsb2018"], iterations={"hand": 8, "auto": 8}))
        assert write_own_data_results(path, plan(folders, tmp_path)).runs == []
    folder.rename(run.folder)
    # A scoring that was interrupted is done again, without training.
    run.scores_file.unlink()
    (run.folder / "model_0000000.pth").write_bytes(b"")
    assert run.state() == "interrupted"
    called = []
    monkeypatch.setattr(runs_module, "run_command", lambda command, _: called.append(command) or 0)
    monkeypatch.setattr(TrainingRun, "train", lambda *_: pytest.fail("trains again"))
    assert run.train(True) == 0
    assert called[0][1].endswith("score_checkpoints.py")


def test_the_timing_trains_each_form_in_turn(folders, tmp_path, small):
    timings = time_variants(plan(folders, tmp_path), rounds=1)
    assert [t.run.form for t in timings] == [
        "dsb2018_auto", "dsb2018_hand", "persons_auto", "persons_hand", "sixty_auto",
    ]  # fmt: skip
    assert all(t.wall > 0 and t.cpu > 0 for t in timings)
    slow = replace(timings[1], wall=10.0)
    assert slow.fitting == 30  # 5 minutes
    assert "dsb2018_hand" in describe_timings([slow])
    path, runs = tmp_path / "results.json", plan(folders, tmp_path)
    written = write_own_data_results(path, runs, [slow.describe()])
    assert written.timings[0].fitting_iterations == 30
    entry = make_entry("dsb2018", "lite0", "hand", 1, [1.0], 1.0)
    doc = own_data_doc(replace(written, runs=[entry]))
    assert "10.0 s per iteration with 1 threads, so 30 fit into 5" in doc
    assert write_own_data_results(path, runs) == written


@pytest.mark.parametrize(
    ("values", "chosen"),
    [
        ([1.0, 2.0, 3.0, 4.0], (3, 3, 3, 3)),
        ([1.0, 3.0, 2.0, 2.5, 9.0], (4, 4, 3, 1)),
        ([1.0, 3.0, 3.0, 4.0], (3, 3, 3, 3)),
        ([5.0, 1.0, None, 2.0, 6.0], (4, 4, 3, 0)),
        ([None, None], (1, 1, 1, 1)),
        ([2.0, 1.0, 3.0, 1.0, 1.0], (4, 2, 4, 2)),
    ],
)
def test_the_choice_is_the_hooks(values, chosen):
    choice = choose_weights(values, 2)
    assert (choice.last, choice.best, choice.stop, choice.early) == chosen

    class Unsaved:
        save_dir = ""

        def save_weights(self, *_, **__):
            pass

    hook = BestModel(OwnDataRun(RUN, 1, None).config(), Unsaved())
    early = None
    for index, value in enumerate(values):
        hook.take({"segm": {"AP": math.nan if value is None else value}}, index)
        if early is None and hook.state_dict()["waited"] == 2:
            early = (index, hook.record["iteration"])
    best = hook.record.get("iteration", len(values) - 1)
    assert best == choice.best
    assert (early or (len(values) - 1, best)) == (choice.stop, choice.early)


def make_entry(data, start, settings, seed, values, average):
    """Return the entry of a run with these mask APs, which are reversed on the selection half."""

    def part(value):
        return {task: {"AP": value, "AP50": 2 * value, "AP75": value} for task in ("segm", "bbox")}

    evaluations = [
        CheckpointEvaluation(i + 1, part(values[-1 - i]), part(value), part(value + 1))
        for i, value in enumerate(values)
    ]
    return OwnDataEntry(
        data=data, start=start, settings=settings, model=None, variant="", seed=seed,
        config_sha256="", inputs=None, train_seconds=60.0, eval_seconds=None, peak_memory_mb=None,
        device="cpu", versions=None, iterations=len(values),
        chosen={"SOLVER.WARMUP_ITERS": {"hand": 50, "auto": 18}[settings], "SOLVER.STEPS": []},
        evaluations=evaluations, choice=choose_weights(values[::-1], 2), average=part(average),
    )  # fmt: skip


def make_results(entries):
    """Return results with these runs, planned with three seeds."""
    counts, contrasts = PhotoCounts(4, 8), collect_contrasts(entries)
    facts = PhotosFacts("", 5, counts, counts, counts)
    predictions = judge_own_data_predictions(contrasts)
    return OwnDataResults(
        "", 3, 2, 2, dict.fromkeys(DATA, facts), [], contrasts, predictions, entries
    )


def test_contrasts_are_of_one_seed_and_decide_the_predictions():
    entries = []
    for seed in (1, 2):
        entries += [
            make_entry("persons", "scratch", "hand", seed, [1.0, 2.0, 3.0, 4.0], 4.5),
            make_entry("persons", "lite0", "hand", seed, [1.0, 9.0, 20.0, 30.0 + seed], 30.0),
        ]
    entries.append(make_entry("persons", "lite0", "auto", 1, [1.0, 2.0, 3.0, 20.0], 20.0))
    found = {(c.data, c.name): c for c in collect_contrasts(entries)}
    gain = found["persons", "lite0 - scratch"]
    # 27 and 28: the mean is 27.5, its standard error 0.5; t with one degree of freedom is 12.706.
    assert (gain.values, gain.mean) == ([27, 28], 27.5)
    assert gain.low == pytest.approx(27.5 - 12.706 / 2, abs=1e-3)
    assert found["persons", "auto - hand"].values == [-11]
    assert found["persons", "auto - hand"].low is None
    # The selection half falls, so the first one is the best, and the run stops after the third.
    assert found["persons", "best - last"].values == [-3, -3, -30, -31, -19]
    assert found["persons", "best - last, selection half"].values == [3, 3, 30, 31, 19]
    assert found["persons", "saved"].values == [25] * 5
    assert found["persons", "average - last"].values == [0.5, 0.5, -1, -2, 0]
    assert found["persons", "AP"].values == [32, 33]
    verdicts = {
        (p.data, p.name): p.verdict for p in judge_own_data_predictions(list(found.values()))
    }
    assert verdicts["persons", "lite0 - scratch"] == "came true"
    assert verdicts["persons", "saved"] == "refuted"
    assert verdicts["persons", "auto - hand"] == "open"
    assert verdicts["dsb2018", "AP50"] == "open"
    assert len(verdicts) == len(PREDICTIONS)


def test_the_page_says_what_was_run():
    assert own_data_doc(None) == "The experiment has not been run yet.\n"
    entries = [
        make_entry("dsb2018", "lite0", "hand", 1, [10.0, 30.0], 31.0),
        make_entry("dsb2018", "lite0", "hand", 2, [10.0, 32.0], 31.0),
        make_entry("dsb2018", "lite0", "auto", 1, [9.0, 30.0], 30.0),
    ]
    text = own_data_doc(make_results(entries))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert "**3 of 27 trainings are done; the others have not been run yet.**" in text
    mean = ["31.0 (30.0 to 32.0)", "62.0 (60.0 to 64.0)"]
    start = ["Nuclei", "ImageNet weights", "hand-made", "2"]
    assert next(row[:6] for row in rows if row[:4] == start) == [*start, *mean]
    missing = ["Persons", "from scratch", "`--auto`", "0", "not run"]
    assert any(row[:5] == missing for row in rows)
    assert ["Nuclei", "`SOLVER.WARMUP_ITERS`", "`50`", "`18`"] in rows
    assert not any("SOLVER.STEPS" in line for line in text.splitlines())
    gain = next(row for row in rows if row[:2] == ["Nuclei", AUTO_NEAR])
    assert gain[2:] == ["\u22122 to 2", "+0.0 (one run)", "open"]


def test_a_panel_is_drawn_for_each_data_set():
    entries = [make_entry("persons", "scratch", "auto", s, [1.0, 2.0 + s], 2.0) for s in (1, 2)]
    assert draw_curves(make_results(entries)).startswith(b"\x89PNG")
