"""A model as a safetensors file, for sharing: equal weights, no paths, used like a checkpoint."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_runs import read_results
from support import REPO, SMALL, TINY_CONFIG, run_script, run_train_net, write_coco
from tiny_fcis import fcis_cfg, fcis_model
from tiny_model import picture, tiny_cfg, tiny_model

from mask_rcnn_ext import Predictor, UserError, load_config
from mask_rcnn_ext.checkpoint.checkpointer import Checkpointer
from mask_rcnn_ext.checkpoint.description import describe_run, load_contents
from mask_rcnn_ext.export import export_model as exporting
from mask_rcnn_ext.export.export_model import export_model

NAMES = ["Zelle", "細胞"]


@pytest.fixture
def trained(tmp_path):
    """The checkpoint of a small model of own data, with a state of training."""
    cfg = tiny_cfg(2)
    cfg.MASK_RCNN_EXT.CLASS_NAMES, cfg.MASK_RCNN_EXT.CATEGORY_IDS = NAMES, [3, 10]
    cfg.MASK_RCNN_EXT.CHANNELS_LAST = cfg.MASK_RCNN_EXT.GATHERED_MASK_PREDICTOR = True
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = str(tmp_path / "secret"), ""
    model = tiny_model(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.5)
    Checkpointer(
        model,
        str(tmp_path),
        class_names=NAMES,
        description=describe_run(cfg, 7),
        optimizer=optimizer,
    ).save("model_final", iteration=4)
    return tmp_path / "model_final.pth"


def test_a_shared_file_is_the_model_without_its_training(trained, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    command = [str(trained), "--format", "safetensors", "--output", str(out)]
    assert run_script(REPO / "tools/export_model.py", monkeypatch, *command) == 0
    assert "checked: all weights are equal to the last bit" in capsys.readouterr().out
    path = out / "model.safetensors"
    assert [each.name for each in out.iterdir()] == ["model.safetensors"]
    assert b"secret" not in path.read_bytes()
    before, after = load_contents(trained), load_contents(path)
    assert {*before} - {*after} == {"optimizer"}
    assert before["model"].keys() == after["model"].keys() == load_file(path).keys()
    assert all(torch.equal(before["model"][name], after["model"][name]) for name in after["model"])
    for name in ("class_names", "provenance", "iteration"):
        assert before[name] == after[name]
    image = picture(70, 90, 3)
    found, expected = Predictor(path)(image), Predictor(trained)(image)
    assert len(found) > 0
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.pred_masks, expected.pred_masks)
    assert Predictor(path).class_names == NAMES
    assert Predictor(path).category_ids == [3, 10]
    assert run_script(REPO / "tools/inspect_model.py", monkeypatch, str(path)) == 0
    assert "classes: Zelle, 細胞 (2)" in capsys.readouterr().out


def test_a_training_starts_from_a_shared_file_and_evaluates_one(tmp_path):
    path, images = write_coco(tmp_path / "val", images=2, seed=1, classes=NAMES)
    data = ["--val-json", str(path), "--val-images", str(images)]
    train = ["--train-json", str(path), "--train-images", str(images), *data]
    keys = [*SMALL, "SOLVER.MAX_ITER", "1"]
    first, second = (["OUTPUT_DIR", str(tmp_path / name)] for name in ("first", "second"))
    assert run_train_net("--config-file", str(TINY_CONFIG), *train, *keys, *first) == 0
    cfg = load_config(str(tmp_path / "first/config.yaml"))
    cfg.MODEL.WEIGHTS = str(tmp_path / "first/model_final.pth")
    shared = str(export_model(cfg, tmp_path / "shared", [], format="safetensors"))
    rest = ["MODEL.WEIGHTS", shared, "OUTPUT_DIR", str(tmp_path / "ap")]
    assert run_train_net("--eval-only", *data, *rest) == 0
    results = [read_results(tmp_path / name) for name in ("first", "ap")]
    assert results[0]["segm"] == results[1]["segm"]
    start = ["MODEL.WEIGHTS", shared, "SOLVER.BASE_LR", "1e-9", "SOLVER.BASE_LR_END", "0.0"]
    assert run_train_net("--config-file", str(TINY_CONFIG), *train, *keys, *start, *second) == 0
    weights = load_contents(tmp_path / "second/model_final.pth")["model"]
    for name, value in load_file(shared).items():
        if name.endswith((".weight", ".bias")):
            torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-6, msg=name)


def test_models_that_no_other_format_takes(tmp_path):
    cfg = fcis_cfg()
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    torch.save({"model": fcis_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
    path = export_model(cfg, tmp_path / "out", [], format="safetensors")
    assert Predictor(path).cfg.MODEL.META_ARCHITECTURE == cfg.MODEL.META_ARCHITECTURE
    with pytest.raises(UserError, match="int8 needs the format onnx or openvino"):
        export_model(cfg, tmp_path / "out", [], format="safetensors", int8=True)


def test_a_file_that_was_written_wrongly_does_not_stay(trained, tmp_path, monkeypatch):
    save = exporting.save_safetensors

    def spoil(contents, path):
        name = "roi_heads.mask_head.predictor.bias"
        spoilt = {**contents["model"], name: contents["model"][name] + 1}
        save({**contents, "model": spoilt}, path)

    monkeypatch.setattr(exporting, "save_safetensors", spoil)
    cfg = Predictor(trained).cfg
    with pytest.raises(UserError, match=r"predictor\.bias is not the same"):
        export_model(cfg, tmp_path / "out", [], format="safetensors")
    assert not (tmp_path / "out").exists()


def test_tensors_that_share_memory_and_other_types_are_kept(tmp_path):
    shared, path = torch.arange(4.0), tmp_path / "a.safetensors"
    model = {"a": shared, "b": shared, "c": torch.ones(2, 3).T, "d": torch.ones(2).bfloat16()}
    exporting.save_safetensors({"model": model, "class_names": ["x"]}, path)
    found = load_contents(path)
    assert found["class_names"] == ["x"]
    assert all(torch.equal(found["model"][name], value) for name, value in model.items())
    assert all(found["model"][name].dtype == value.dtype for name, value in model.items())
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["format"] == "pt"  # other programs ask for it


@pytest.mark.parametrize(
    "metadata", ["{", "[]", "[" * 100_000, "9" * 5000, '{"model": 3, "class_names": "x"}']
)
def test_broken_files_are_refused_and_odd_values_cannot_harm(metadata, tmp_path):
    path = tmp_path / "odd.safetensors"
    save_file({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}, path,
              {"mask_rcnn_ext": metadata})  # fmt: skip
    model = torch.nn.Linear(2, 2)
    if "model" in metadata:
        Checkpointer(model).load(str(path))
        assert not model.weight.any()
        return
    for load in (load_contents, Checkpointer(model).load):
        with pytest.raises(
            UserError, match=r"odd\.safetensors: not a readable checkpoint"
        ) as error:
            load(str(path))
        assert len(str(error.value)) < 400
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match=r"odd\.safetensors: not a readable checkpoint"):
        load_contents(path)
