"""Our names and the names of detectron2's zoo give configs, URLs and models, or an error."""

import ast
import contextlib
import importlib
import logging
import pickle
import sys
from pathlib import Path

import detectron2
import pytest
import torch
from config_files import flatten
from detectron2 import model_zoo as stock_zoo
from detectron2.modeling import build_model
from faithful import FEW, NARROW, assert_same_detections, assert_same_tensors, build, stock_config
from support import REPO, SMALL

from mask_rcnn_ext import UserError, get_cfg, load_config, model_zoo, paper
from mask_rcnn_ext.checkpoint.checkpointer import Checkpointer
from mask_rcnn_ext.config import ExtCfgNode
from mask_rcnn_ext.config_limits import require_limits
from mask_rcnn_ext.data.pixel_statistics import require_colours
from mask_rcnn_ext.engine.optimizer import require_fitting_schedule
from mask_rcnn_ext.modeling.checks import check_registry_names
from mask_rcnn_ext.modeling.read_keys import require_read_keys

OURS = sorted(
    path.relative_to(REPO / "configs").with_suffix("").as_posix()
    for path in (REPO / "configs").rglob("*.yaml")
)
FPN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x"
TINY = "shapes/mask_rcnn_tiny_FPN"


def fitting(name: str) -> list[paper.Checkpoint]:
    found = [c for row in paper.get_rows(name) for c in row.checkpoints if c.fit != "different"]
    return list(dict.fromkeys(found))


TRAINED = [name for name in OURS if fitting(name)]


# Names


def test_no_config_of_detectron2_is_refused():
    folder = Path(stock_zoo.get_config_file(f"{FPN}.yaml")).parents[1]
    names = [str(path.relative_to(folder)) for path in sorted(folder.glob("*/*.yaml"))]
    assert len(names) > 50
    for name in names:
        cfg = model_zoo.get_config(name)
        require_limits(cfg)
        require_fitting_schedule(cfg)
        require_colours(cfg)
        check_registry_names(cfg)
        require_read_keys(cfg)


@pytest.mark.parametrize("name", OURS)
def test_our_names_with_and_without_suffix(name):
    expected = str(REPO / "configs" / f"{name}.yaml")
    assert model_zoo.get_config_file(name) == expected
    assert model_zoo.get_config_file(f"{name}.yaml") == expected


@pytest.mark.parametrize("name", [FPN, f"{FPN}.yaml", "COCO-Detection/retinanet_R_50_FPN_1x"])
def test_stock_names_give_detectron2s_config_with_our_keys(name):
    """RetinaNet's base holds a python tag, which our own strict loading refuses."""
    full = f"{name.removesuffix('.yaml')}.yaml"
    assert model_zoo.get_config_file(name) == stock_zoo.get_config_file(full)
    cfg, stock = model_zoo.get_config(name), stock_zoo.get_config(full)
    assert isinstance(cfg, ExtCfgNode)
    expected = get_cfg()
    expected.merge_from_other_cfg(stock)
    assert cfg.dump() == expected.dump()
    url = stock_zoo.get_checkpoint_url(full)
    assert model_zoo.get_checkpoint_url(name) == url
    assert url == model_zoo.get_config(name, trained=True).MODEL.WEIGHTS


def test_a_lazy_config_of_detectron2_stays_one():
    name = "new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ"
    cfg = model_zoo.get_config(name, trained=True)
    assert cfg.train.init_checkpoint == stock_zoo.get_checkpoint_url(f"{name}.py")
    assert model_zoo.get_config(f"{FPN}.py").train.init_checkpoint.endswith("R-50.pkl")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mask_rcnn_R50_FPM", "did you mean 'mask_rcnn_R50_FPN'"),
        ("shapes/mask_rcnn_tiny_FPN.yml", "did you mean 'shapes/mask_rcnn_tiny_FPN'"),
        ("COCO-InstanceSegmentation/mask_rcnn_R50_FPN_1x.yaml", f"did you mean '{FPN}."),
        ("zzz", "'zzz'; mask-rcnn-ext configs lists the names, and detectron2's model zoo has mo"),
        ("../configs/mask_rcnn_R50_FPN", "no config"),
        (str(REPO / "configs/mask_rcnn_R50_FPN"), "no config"),
    ],
    ids=["typo", "suffix", "theirs", "nothing near", "parent", "absolute"],
)
def test_an_unknown_name_is_one_error(name, message):
    for function in (model_zoo.get_config_file, model_zoo.get_checkpoint_url, model_zoo.get):
        with pytest.raises(UserError, match=message):
            function(name)


def test_detectron2s_own_functions_do_not_find_our_configs():
    """As the module's docstring says."""
    with pytest.raises(RuntimeError):
        stock_zoo.get_config_file("mask_rcnn_ext/mask_rcnn_R50_FPN.yaml")


def test_without_pkg_resources_ours_work_and_theirs_are_one_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "pkg_resources", None)
    for module in ("detectron2.model_zoo", "detectron2.model_zoo.model_zoo"):
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr(detectron2, "model_zoo")
    assert model_zoo.get_config(TRAINED[0], trained=True).MODEL.WEIGHTS.startswith("https://")
    with pytest.raises(UserError, match="did you mean"):
        model_zoo.get_config("mask_rcnn_R50_FPM")
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("detectron2.model_zoo")
        pytest.skip("this detectron2's model_zoo does without pkg_resources")
    for function in (model_zoo.get_config, model_zoo.get_checkpoint_url, model_zoo.get):
        with pytest.raises(UserError, match=r"pkg_resources.*setuptools<81"):
            function(FPN)


def test_importing_the_package_does_not_import_detectron2s_zoo():
    """It would fail where pkg_resources is missing; functions import it when they are called."""
    for path in (REPO / "mask_rcnn_ext").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = getattr(node, "module", None) or ""
                names = {f"{module}.{alias.name}".lstrip(".") for alias in node.names}
                assert not any(name.startswith("detectron2.model_zoo") for name in names), path


# Which checkpoint


@pytest.mark.parametrize("name", OURS)
def test_every_config_of_ours_resolves_or_says_why_not(name):
    if name in TRAINED:
        url = model_zoo.get_checkpoint_url(name)
        assert url == model_zoo.get_config(name, trained=True).MODEL.WEIGHTS
        assert url == stock_zoo.get_checkpoint_url(fitting(name)[0].config)
        return
    for function in (model_zoo.get_checkpoint_url, lambda n: model_zoo.get(n, trained=True)):
        with pytest.raises(UserError, match="no trained model") as caught:
            function(name)
        message = str(caught.value)
        assert f"--config-file {name}" in message
        for row in paper.get_rows(name):
            place = "the paper's text" if row.table == "text" else f"Table {row.table}"
            assert message.count(f"{place}, {row.name!r}") == 1
            for checkpoint in row.checkpoints[:1]:
                assert checkpoint.config in message
                assert checkpoint.note in message


def test_the_root_configs_that_the_zoo_can_serve_are_served():
    assert {"mask_rcnn_R50_FPN", "mask_rcnn_R101_FPN", "mask_rcnn_R50_C4"} <= set(TRAINED)
    assert "mask_rcnn_X101_FPN" not in TRAINED


def test_every_listed_checkpoint_is_in_detectron2s_zoo():
    checkpoints = {c for row in paper.ROWS for c in row.checkpoints}
    assert len(checkpoints) > 10
    for checkpoint in checkpoints:
        assert model_zoo._make_url(checkpoint) == stock_zoo.get_checkpoint_url(checkpoint.config)


# Settings that change the predictions of a checkpoint, in addition to the model's layers.
TEST_TIME = [
    "INPUT.FORMAT", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST",
    "MODEL.RPN.PRE_NMS_TOPK_TEST", "MODEL.RPN.POST_NMS_TOPK_TEST", "MODEL.RPN.NMS_THRESH",
    "MODEL.ROI_HEADS.NMS_THRESH_TEST", "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "TEST.DETECTIONS_PER_IMAGE",
]  # fmt: skip


@pytest.mark.parametrize("name", TRAINED)
def test_with_trained_the_model_is_the_checkpoints_own(name):
    """Same keys and shapes, so it loads; same detections, so it runs as it was trained."""
    checkpoint = fitting(name)[0]
    cfg = model_zoo.get_config(name, trained=True)
    values, stock_values = flatten(cfg), flatten(stock_zoo.get_config(checkpoint.config))
    assert {k: values[k] for k in TEST_TIME} == {k: stock_values[k] for k in TEST_TIME}
    cfg.merge_from_list([*FEW, *NARROW])
    ours, stock = build(cfg), build(stock_config(checkpoint.config, *NARROW))
    generator = torch.Generator().manual_seed(4)
    for parameter in stock.roi_heads.box_predictor.parameters():
        parameter.data.normal_(std=0.05, generator=generator)
    assert list(ours.state_dict()) == list(stock.state_dict())
    ours.load_state_dict(stock.state_dict())
    assert_same_detections(ours, stock)


def test_the_other_checkpoints_that_are_called_identical_have_our_keys_and_shapes():
    for name in TRAINED:
        for checkpoint in fitting(name)[1:]:
            cfg = load_config(model_zoo.get_config_file(name), checkpoint.overrides)
            cfg.merge_from_list([*FEW, *NARROW])
            ours, stock = build(cfg), build(stock_config(checkpoint.config, *NARROW))
            shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (ours, stock)]
            assert shapes[0] == shapes[1], (name, checkpoint.config)


def stand_in(monkeypatch, *checkpoints: paper.Checkpoint, note: str = "") -> None:
    """Make TINY the config of a row with these checkpoints."""
    row = paper.Row("2a", "stand-in", {}, "minival", TINY, checkpoints, (), note)
    monkeypatch.setattr(paper, "get_rows", lambda name: (row,) if name == TINY else ())


def checkpoint(name: str, fit: paper.Fit, *overrides: str, note: str = "") -> paper.Checkpoint:
    return paper.Checkpoint(f"X/{name}.yaml", "1/m.pkl", 40.0, 35.5, None, fit, overrides, note)


def test_the_first_that_fits_is_used_and_its_settings_are_merged_and_logged(monkeypatch, caplog):
    stand_in(
        monkeypatch,
        checkpoint("a", "different"),
        checkpoint("b", "nearest", "MODEL.ROI_HEADS.NMS_THRESH_TEST", "0.45", note="longer"),
        checkpoint("c", "identical"),
    )
    with caplog.at_level(logging.INFO):
        cfg = model_zoo.get_config(TINY, trained=True)
    assert cfg.MODEL.WEIGHTS == "https://dl.fbaipublicfiles.com/detectron2/X/b/1/m.pkl"
    assert cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST == 0.45
    lines = [r.getMessage() for r in caplog.records if r.name == "mask_rcnn_ext.model_zoo"]
    assert len(lines) == 1
    for word in (
        "X/b.yaml", "box AP 40", "mask AP 35.5", "nearest", "longer", "NMS_THRESH_TEST 0.45"
    ):  # fmt: skip
        assert word in lines[0]
    assert model_zoo.get_config(TINY).MODEL.ROI_HEADS.NMS_THRESH_TEST != 0.45


def test_a_refusal_names_the_row_the_nearest_and_the_remedy(monkeypatch):
    stand_in(monkeypatch, checkpoint("a", "different", note="twice as wide"))
    with pytest.raises(UserError) as caught:
        model_zoo.get_config(TINY, trained=True)
    for word in (
        "Table 2a", "'stand-in'", "X/a.yaml", "twice as wide", "model_zoo.get('X/a.yaml'",
        f"mask-rcnn-ext train --num-gpus 8 --config-file {TINY}",
    ):  # fmt: skip
        assert word in str(caught.value)
    stand_in(monkeypatch, note="its data are not public")
    with pytest.raises(UserError, match=r"has none for it \(its data are not public\)"):
        model_zoo.get_checkpoint_url(TINY)


# The model


def small(monkeypatch) -> None:
    """Make `get_config` give the smallest model for TINY."""
    original = load_config
    monkeypatch.setattr(model_zoo, "load_config", lambda path: original(path, SMALL))


def test_get_loads_the_checkpoint_whole_and_returns_a_model_in_training_mode(tmp_path, monkeypatch):
    small(monkeypatch)
    stand_in(monkeypatch, checkpoint("b", "identical"))
    cfg = model_zoo.get_config(TINY)
    cfg.MODEL.DEVICE = "cpu"
    trained = build_model(cfg)
    path = tmp_path / "X/b/1/m.pkl"
    path.parent.mkdir(parents=True)
    weights = {k: v.numpy() for k, v in trained.state_dict().items()}
    path.write_bytes(pickle.dumps({"model": weights, "__author__": "Detectron2 Model Zoo"}))
    monkeypatch.setattr(model_zoo, "_URL_PREFIX", f"{tmp_path}/")
    model = model_zoo.get(TINY, trained=True, device="cpu")
    assert model.training
    assert_same_tensors(model.state_dict(), trained.state_dict())
    assert not torch.equal(
        model_zoo.get(TINY, device="cpu").backbone.fpn_lateral2.weight,
        trained.backbone.fpn_lateral2.weight,
    )
    weights.pop("backbone.fpn_lateral2.weight")
    path.write_bytes(pickle.dumps({"model": weights, "__author__": "Detectron2 Model Zoo"}))
    with pytest.raises(UserError, match=r"no weights for backbone\.fpn_lateral2"):
        model_zoo.get(TINY, trained=True, device="cpu")


def test_get_takes_the_device_that_there_is(monkeypatch):
    small(monkeypatch)
    assert model_zoo.get_config(TINY).MODEL.DEVICE == "cuda"
    if not torch.cuda.is_available():
        assert model_zoo.get(TINY).device.type == "cpu"
        with pytest.raises(UserError, match="no CUDA device"):
            model_zoo.get(TINY, device="cuda")
    with pytest.raises(UserError, match="expected 'cpu'"):
        model_zoo.get(TINY, device="gpu")


@pytest.mark.parametrize("suffix", [".yaml", ".py"])
def test_get_loads_what_detectron2s_config_names(monkeypatch, suffix):
    """Without `trained`, as detectron2: the backbone's ImageNet weights, the rest random."""
    loads = []
    monkeypatch.setattr(
        Checkpointer, "load", lambda self, path, *, strict: loads.append((path, strict))
    )
    model = model_zoo.get(f"{FPN}{suffix}", device="cpu")
    assert model.training
    assert model.device.type == "cpu"
    assert loads == [("detectron2://ImageNetPretrained/MSRA/R-50.pkl", False)]
    for builder in ("build_model", "instantiate"):
        monkeypatch.setattr(model_zoo, builder, lambda cfg: torch.nn.Linear(1, 1))
    model_zoo.get(f"{FPN}{suffix}", trained=True, device="cpu")
    assert loads[1:] == [(stock_zoo.get_checkpoint_url(f"{FPN}{suffix}"), True)]
