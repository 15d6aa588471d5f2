"""Exported tiny models find what the models find; what differs is refused and leaves no file."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from support import REPO, run_script, run_train_net, write_coco
from tiny_fcis import fcis_cfg, fcis_model
from tiny_model import picture

from mask_rcnn_ext import Predictor
from mask_rcnn_ext.checkpoint.description import describe_run
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.export import export_model as exporting
from mask_rcnn_ext.export.export_model import export_model
from mask_rcnn_ext.export.int8 import LAYERS
from mask_rcnn_ext.modeling import exported as exported_module
from mask_rcnn_ext.modeling.exported import (
    Network,
    load_exported,
    read_exported_config,
)

onnx = pytest.importorskip("onnx", reason='needs pip install "mask_rcnn_ext[onnx]"')
pytest.importorskip("onnxruntime", reason='needs pip install "mask_rcnn_ext[onnx]"')
calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the libraries

NAMES = ["Zelle", "細胞", "c"]


def test_the_file_alone_finds_what_the_model_finds_at_other_sizes(path, cfg):
    model, exported = Predictor(cfg), Predictor(path)
    for image in (picture(50, 90, 5), picture(97, 61, 6)):
        expected, found = model(image), exported(image)
        assert len(expected)
        assert expected.pred_masks.any()
        assert torch.equal(found.pred_classes, expected.pred_classes)
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-3)
        torch.testing.assert_close(
            found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=0, atol=1e-2
        )
        assert (found.pred_masks != expected.pred_masks).float().mean() < 1e-3
    (raw,) = exported.model.inference([{"image": torch.zeros(3, 8, 8)}], do_postprocess=False)
    assert (len(raw), raw.pred_masks.shape[0]) == (0, 0)
    (output,) = exported.model([{"image": torch.zeros(3, 8, 8), "height": 20, "width": 30}])
    assert output["instances"].pred_masks.shape == (0, 20, 30)
    none = Predictor(path, score_threshold=1.0)
    none.model.network = exported.model.network  # is open
    assert none(picture(50, 90, 5)).pred_masks.shape == (0, 50, 90)


def test_openvino_has_one_core(openvino_path, images, cfg, tmp_path, monkeypatch):
    """With two, the first signal after both have gone would crash the process."""
    monkeypatch.setattr("openvino.Core", None)
    for _ in range(2):
        assert len(Predictor(openvino_path)(picture(50, 90, 5)))
    assert export_model(cfg, tmp_path, images, format="openvino").exists()


def test_inspect_prints_an_exported_file(path, cfg, monkeypatch, capsys):
    assert run_script(REPO / "tools/inspect_model.py", monkeypatch, str(path)) == 0
    said = capsys.readouterr().out
    assert "classes: Zelle, 細胞, c (3)" in said
    assert "score threshold: 0.1" in said
    assert "MODEL.ROI_MASK_HEAD.PASTE_THRESH: 0.4" in said


def test_metadata(path, cfg):
    found = Network(path).metadata
    assert (found["class_names"], found["category_ids"]) == (NAMES, [3, 10, 17])
    assert found["score_threshold"] == 0.1
    assert found["preprocessing"]["shorter_side"] == 64
    assert found["preprocessing"]["channels"] == "BGR"
    parity = found["parity"]
    assert parity["images"] == 4  # three, and one of one colour
    assert parity["detections"] > 0
    again = read_exported_config(path)
    assert str(path) == again.MODEL.WEIGHTS
    assert again.MODEL.ROI_MASK_HEAD.PASTE_THRESH == 0.4
    assert json.loads(path.with_name("export.json").read_text())[path.name]["parity"] == parity
    predictor = Predictor(path)
    assert (predictor.class_names, predictor.category_ids) == (NAMES, [3, 10, 17])
    assert sorted(p.name for p in path.parent.iterdir()) == sorted(
        {"export.json", path.name, *(["model.bin"] if path.suffix == ".xml" else [])}
    )


def test_a_changed_weight_is_noticed_and_nothing_stays(
    cfg, images, onnx_path, tmp_path, monkeypatch
):
    def write_other(model, image, path):
        proto = onnx.load(str(onnx_path))
        name = "model.roi_heads.mask_head.predictor.weight"
        (weight,) = [part for part in proto.graph.initializer if part.name == name]
        values = -onnx.numpy_helper.to_array(weight)
        weight.CopyFrom(onnx.numpy_helper.from_array(values, name))
        onnx.save(proto, path)
        return []

    monkeypatch.setattr(exporting, "write_onnx", write_other)
    said = (
        r"in 4 of 4 images.*detections are different, 0 allowed. "
        r"Most in .*: .*mask IoU 0\.\d+ \(limit"
    )
    with pytest.raises(UserError, match=said):
        export_model(cfg, tmp_path / "out", images)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("library", ["onnxruntime", "onnx"])
def test_an_absent_library_is_named(library, cfg, images, onnx_path, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf'{library}, .*pip install "mask_rcnn_ext\[onnx\]"'):
        export_model(cfg, tmp_path / "out", images)
    if library == "onnxruntime":
        with pytest.raises(UserError, match=r'pip install "mask_rcnn_ext\[onnx\]"'):
            Predictor(onnx_path)
    monkeypatch.setitem(sys.modules, "openvino", None)  # PyTorch's exporter needs onnx, too
    with pytest.raises(UserError, match=r'pip install "mask_rcnn_ext\[openvino\]"'):
        export_model(cfg, tmp_path / "out", images, format="openvino")


def test_a_full_disk_is_no_fault_of_the_model(cfg, images, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(UserError, match=r"^cannot write: No space left on device\. Make room"):
        export_model(cfg, tmp_path / "out", images)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.LOAD_PROPOSALS", True, "only models with an RPN"),
        ("MODEL.KEYPOINT_ON", True, "keypoints"),
        ("MODEL.META_ARCHITECTURE", "MaskRCNNExtRCNN", "only models with an RPN"),
        ("MODEL.META_ARCHITECTURE", "RetinaNet", "RetinaNet cannot be exported"),
        ("TEST.AUG.ENABLED", True, "no test-time augmentation: set TEST.AUG.ENABLED False"),
    ],
)
def test_other_models_are_refused(key, value, message, cfg, images, tmp_path, monkeypatch):
    cfg = cfg.clone()
    cfg.merge_from_list([key, value])
    monkeypatch.setattr(exporting, "write_onnx", None)  # they are refused before it
    with pytest.raises(UserError, match=message):
        export_model(cfg, tmp_path / "out", images)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.RPN.NMS_THRESH", 0.5, r"MODEL.RPN.NMS_THRESH \(exported with 0.7, now 0.5\)"),
        ("INPUT.FORMAT", "RGB", "INPUT.FORMAT"),
        ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.05, "finds nothing below"),
        ("MASK_RCNN_EXT.CLASS_NAMES", ["c", *NAMES[:2]], "was exported with the classes"),
        ("TEST.AUG.ENABLED", True, "no test-time augmentation"),
    ],
)
def test_what_is_part_of_the_file_cannot_be_changed(key, value, message, onnx_path):
    cfg = read_exported_config(onnx_path)
    cfg.merge_from_list([key, value])
    with pytest.raises(UserError, match=message):
        load_exported(cfg)


def test_memory_is_kept_for_the_next_image(onnx_path, monkeypatch):
    kept = []
    monkeypatch.setattr(
        exported_module, "prepare_memory", lambda cfg: kept.append(cfg.MODEL.DEVICE)
    )
    load_exported(read_exported_config(onnx_path))
    assert kept == ["cpu"]


def test_wrong_files_and_options(onnx_path, tmp_path, cfg, images):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(UserError, match="onnxruntime cannot open it"):
        Predictor(broken)
    with pytest.raises(UserError, match="not found"):
        Predictor(tmp_path / "absent.onnx")
    with pytest.raises(UserError, match="speed fast: an exported model"):
        Predictor(onnx_path, speed="fast")
    with pytest.raises(UserError, match="speed fastest: an exported model"):
        Predictor(onnx_path, speed="fastest")
    for weights in ("", str(onnx_path)):
        other = cfg.clone()
        other.MODEL.WEIGHTS = weights
        with pytest.raises(UserError, match="expected the weights of a trained model"):
            export_model(other, tmp_path / "out", images)
    with pytest.raises(UserError, match="--calibration-images: expected 1 or more, got 0"):
        export_model(cfg, tmp_path / "out", images, int8=True, calibration_images=0)
    with pytest.raises(UserError, match="--max-ap-loss: expected 0 or more, got nan"):
        export_model(cfg, tmp_path / "out", images, int8=True, max_ap_loss=float("nan"))
    with pytest.raises(UserError, match="expected onnx, openvino or safetensors, got 'pdf'"):
        export_model(cfg, tmp_path / "out", images, format="pdf")
    blind = cfg.clone()
    blind.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 1.0
    with pytest.raises(UserError, match="finds nothing in 3 images"):
        export_model(blind, tmp_path / "out", images)
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"no photo")
    with pytest.raises(UserError, match=r"photo\.jpg"):
        export_model(cfg, tmp_path / "out", [photo, *images])
    assert not (tmp_path / "out").exists()


def test_fcis(images, tmp_path):
    cfg = fcis_cfg()
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    torch.save({"model": fcis_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
    path = export_model(cfg, tmp_path / "out", images[:1])
    image = picture(70, 110, 9)
    expected, found = Predictor(cfg)(image), Predictor(path)(image)
    assert len(expected)
    assert len(found) == len(expected)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-4)
    assert (found.pred_masks != expected.pred_masks).float().mean() < 1e-3


def test_the_commands_with_int8(cfg, tmp_path, monkeypatch, capsys):
    path, images = write_coco(tmp_path / "val", images=3, seed=1, classes=NAMES)
    data = ["MASK_RCNN_EXT.DATA.VAL_JSON", str(path), "MASK_RCNN_EXT.DATA.VAL_IMAGES", str(images)]
    config, out = tmp_path / "config.yaml", tmp_path / "out"
    config.write_text(cfg.dump())
    tool = REPO / "tools/export_model.py"
    command = ["--config-file", str(config), "--output", str(out), "--int8"]
    assert run_script(tool, monkeypatch, *command) == 2
    assert "--int8 needs --images" in capsys.readouterr().err
    command += ["--calibration-images", "2"]
    command += ["--images", str(images), "--max-ap-loss", "100", "--opts", *data]
    assert run_script(tool, monkeypatch, *command) == 0
    said = capsys.readouterr().out
    assert f"exported model: {out / 'model_int8.onnx'}" in said
    assert "checked before int8 on 4 images, " in said
    assert "pixels at most, scores by" in said
    record = json.loads((out / "export.json").read_text())["model_int8.onnx"]
    assert record["parity"]["images"] == 4
    assert record["int8"]["calibration_images"] == 2
    arguments = ["MODEL.WEIGHTS", str(out / "model_int8.onnx"), "OUTPUT_DIR", str(tmp_path / "ap")]
    assert run_train_net("--config-file", str(config), "--eval-only", *data, *arguments) == 0
    results = json.loads((tmp_path / "ap/results.json").read_text())
    assert {task: results[task]["AP"] for task in ("bbox", "segm")} == record["int8"]["ap_int8"]
    nodes = onnx.load(str(out / "model_int8.onnx")).graph.node
    makers = {name: node.op_type for node in nodes for name in node.output}
    products = [node for node in nodes if node.op_type in LAYERS]
    floats = [n.name for n in products if makers.get(n.input[1]) != "DequantizeLinear"]
    ints = [node for node in products if node.name not in floats]
    assert all(makers[node.input[0]] == "DequantizeLinear" for node in ints)
    names = ["anchor_deltas", "objectness_logits", "bbox_pred", "cls_score", "predictor/Conv"]
    assert len(floats) < len(products) / 2
    assert all(any(name in float_name for name in names) for float_name in floats)
    assert all(any(name in float_name for float_name in floats) for name in names)


def test_a_model_that_carries_its_config_needs_images(cfg, tmp_path, monkeypatch, capsys):
    images = write_coco(tmp_path / "val", images=2, seed=1, classes=NAMES)[1]
    model, out, tool = tmp_path / "model.pth", tmp_path / "out", REPO / "tools/export_model.py"
    cfg = cfg.clone()
    cfg.DATASETS.TEST = ("elsewhere_val",)
    weights = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)
    torch.save({**weights, **describe_run(cfg, 0)}, model)
    command = [str(model), "--output", str(out)]
    assert run_script(tool, monkeypatch, *command) == 2
    assert "'elsewhere_val' is not known here: give --images DIR" in capsys.readouterr().err
    assert run_script(tool, monkeypatch, *command, "--int8", "--images", str(images)) == 2
    assert "give --opts MASK_RCNN_EXT.DATA.VAL_JSON F" in capsys.readouterr().err
    assert run_script(tool, monkeypatch, *command, "--weights", str(model)) == 2
    assert "expected one model" in capsys.readouterr().err
    photo = images / "000.png"
    assert run_script(tool, monkeypatch, str(photo), "--output", str(out)) == 2
    assert "000.png is not a model: expected a file such as" in capsys.readouterr().err
    assert not out.exists()
    assert run_script(tool, monkeypatch, *command, "--images", str(images)) == 0
    assert (out / "model.onnx").exists()


def test_int8_that_loses_too_much_is_refused(cfg, monkeypatch):
    aps = {"float": {"segm": 40.0, "bbox": 41.0}, "int8": {"segm": 39.4, "bbox": 42.0}}
    monkeypatch.setattr(exporting, "_measure_ap", lambda _, path: aps[path])
    with pytest.raises(
        UserError, match=r"than 0\.5 .*segm 40\.00 -> 39\.40, bbox 41\.00 -> 42\.00"
    ):
        exporting._check_int8(cfg, "float", "int8", 9, 0.5)
    assert exporting._check_int8(cfg, "float", "int8", 9, 0.7)["ap_int8"] == aps["int8"]
    aps["int8"]["segm"] = float("nan")
    with pytest.raises(UserError, match="nan"):
        exporting._check_int8(cfg, "float", "int8", 9, 100)


def test_the_memory_of_a_calibration_does_not_grow_with_the_images(
    cfg, images, onnx_path, tmp_path, monkeypatch, caplog
):
    held = []
    calibrater = calibrate.MinMaxCalibrater
    compute = calibrater.compute_data

    def spy(self):
        held.append(len(self.intermediate_outputs))
        return compute(self)

    monkeypatch.setattr(calibrater, "compute_data", spy)
    shutil.copy(onnx_path, tmp_path)
    with caplog.at_level("INFO"):
        used = exporting._calibrate(
            Predictor(cfg), str(tmp_path / "model"), images * 2, 5, openvino=False
        )
    assert used == 5
    assert "calibrated on 5 of 6 images (--calibration-images)" in caplog.text
    assert max(held) == 1
    assert (tmp_path / "model_int8.onnx").stat().st_size


def test_results_of_several_data_sets():
    results = {"a": {"bbox": {"AP": 1.0, "AP50": 2.0}}, "b": {"segm": {"AP": np.float64(3)}}}
    assert exporting._find_aps(results) == {"a bbox": 1.0, "b segm": 3.0}
