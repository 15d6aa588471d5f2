"""An evaluation changes nothing in the run whose weights it takes, and says what it is made of."""

import json
import shlex
import shutil
from pathlib import Path

import make_report as report
import pytest
from detectron2.data.datasets import register_coco_instances
from small_runs import evaluate, read_error, train_small, tree, write_data
from support import change_json, write_coco

from mask_rcnn_ext import load_config
from mask_rcnn_ext.engine.output_folder import choose_evaluation_folder
from mask_rcnn_ext.files import file_sha256
from mask_rcnn_ext.report.run_data import read_predictions, read_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a short run, and the flags of another val set with the same image ids."""
    root = tmp_path_factory.mktemp("trained")
    flags = write_data(root, train=2, val=2)
    keys = ["SOLVER.IMS_PER_BATCH", "1", "SOLVER.MAX_ITER", "2", "MODEL.DEVICE", "cpu"]
    keys += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    assert train_small(flags, root / "out", *keys) == 0
    path, images = write_coco(root / "other", images=2, seed=7)
    path = path.rename(path.with_name("other val.json"))
    return root / "out", ["--val-json", str(path), "--val-images", str(images)]


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained[0], tmp_path / "out")


def test_another_data_set_gets_a_folder_of_its_own(trained, folder):
    before, (_, other) = tree(folder), trained
    own = folder / "evaluations/annotations-model_final"
    theirs = folder / "evaluations/other_val-model_final"
    assert evaluate(folder, folder, *other) == 0
    assert evaluate(folder, folder) == 0
    assert {k: v for k, v in tree(folder).items() if not k.startswith("evaluations")} == before
    run = read_run(folder)
    assert read_run(own).results == run.results
    assert read_predictions(read_run(own), "own_val") == read_predictions(run, "own_val")
    assert read_predictions(read_run(theirs), "own_val") != read_predictions(run, "own_val")
    assert other[1] == read_run(theirs).config.MASK_RCNN_EXT.DATA.VAL_JSON
    facts = [read_run(evaluation).info for evaluation in (own, theirs)]
    weights = file_sha256(str(folder / "model_final.pth"))
    assert [info["weights_sha256"] for info in facts] == [weights] * 2
    assert facts[1]["data_sha256"] == {"own_val": file_sha256(other[1])}
    assert [info["train_seconds"] for info in facts] == [None, None]
    assert run.info["train_seconds"] > 0
    assert report.main([str(theirs), "--score-threshold", "0"]) == 0
    page = (theirs / "report.html").read_text()
    assert f"--config-file &#39;{theirs}" in page or f"--config-file {theirs}" in page
    assert "mask-rcnn-ext evaluate " in page
    assert (theirs / "predictions.png").exists()
    analysis = json.loads((theirs / "analysis.json").read_text())
    ap = read_run(theirs).results["own_val"]["segm"]["AP"]
    assert analysis["ap"]["AP"]["value"] == pytest.approx(ap)


@pytest.mark.usefixtures("forget_data_sets")
def test_a_registered_data_set_on_the_command_line_replaces_the_runs_own_data(folder):
    own = read_run(folder).config.MASK_RCNN_EXT.DATA
    register_coco_instances("two_rectangles", {}, own.VAL_JSON, own.VAL_IMAGES)
    assert evaluate(folder, folder, "DATASETS.TEST", "('two_rectangles',)") == 0
    found = read_run(folder / "evaluations/two_rectangles-model_final")
    assert set(found.info["data_sha256"]) == {"two_rectangles"}
    assert found.results["two_rectangles"] == read_run(folder).results["own_val"]


def test_resume_takes_the_last_checkpoint(folder):
    (folder / "model_final.pth").rename(folder / "model_0000001.pth")
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    assert evaluate(folder, folder, "--resume") == 0
    run = read_run(folder / "evaluations/annotations-model_0000001")
    assert str(folder / "model_0000001.pth") == run.config.MODEL.WEIGHTS
    (folder / "model_0000001.pth").unlink()
    assert evaluate(folder, folder, "--resume") == 2


def test_a_folder_without_a_training_holds_the_last_evaluation(trained, tmp_path):
    out, other = trained
    for flags in ([], other):
        assert evaluate(out, tmp_path, *flags) == 0
    first, second = (read_run(folder) for folder in (tmp_path / "earlier_runs/1", tmp_path))
    assert first.results == read_run(out).results
    assert second.info["data_sha256"] != first.info["data_sha256"]


def test_the_report_refuses_annotations_that_have_changed(folder, capsys, tmp_path):
    run = read_run(folder)
    path = tmp_path / "val.json"
    shutil.copy(run.config.MASK_RCNN_EXT.DATA.VAL_JSON, path)
    run.config.MASK_RCNN_EXT.DATA.VAL_JSON = str(path)
    (folder / "config.yaml").write_text(run.config.dump())
    assert report.main([str(folder)]) == 0
    with change_json(path) as coco:
        coco["annotations"].pop()
    assert report.main([str(folder)]) == 2
    said = read_error(capsys)
    assert f"was evaluated on another version of {path}" in said
    assert f"--config-file {shlex.quote(str(folder / 'config.yaml'))})" in said


def test_the_formats_of_an_exported_model_have_folders_of_their_own(folder):
    cfg = load_config(None, ["OUTPUT_DIR", str(folder), "DATASETS.TEST", "('val',)"])
    found = []
    for name in ("model_final.pth", "model.onnx", "model.xml", "model.safetensors"):
        cfg.MODEL.WEIGHTS = f"/exports/{name}"
        found.append(Path(choose_evaluation_folder(cfg)).name)
    assert found == ["val-model_final", "val-model", "val-model.xml", "val-model.safetensors"]
