import logging
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from small_runs import same
from tiny_model import tiny_cfg, tiny_model
from torch import nn

from mask_rcnn_ext.checkpoint.checkpointer import Checkpointer
from mask_rcnn_ext.errors import UserError


@pytest.fixture(scope="module")
def three_classes() -> nn.Module:
    return tiny_model(3, seed=1)


@pytest.fixture
def zoo_pkl(tmp_path, three_classes) -> Path:
    weights = OrderedDict((k, v.numpy()) for k, v in three_classes.state_dict().items())
    path = tmp_path / "zoo.pkl"
    path.write_bytes(pickle.dumps({"model": weights, "__author__": "Detectron2 Model Zoo"}))
    return path


def test_save_and_load_give_the_same_weights(tmp_path, three_classes):
    Checkpointer(three_classes, str(tmp_path)).save("model_final", iteration=7)
    other = tiny_model(3, seed=2)
    assert not same(three_classes.state_dict(), other.state_dict())
    extra = Checkpointer(other).load(str(tmp_path / "model_final.pth"))
    assert same(three_classes.state_dict(), other.state_dict())
    assert extra["iteration"] == 7
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_detectron2_reads_our_checkpoint(tmp_path, three_classes):
    Checkpointer(three_classes, str(tmp_path)).save("model_final")
    other = tiny_model(3, seed=2)
    DetectionCheckpointer(other).load(str(tmp_path / "model_final.pth"))
    assert same(three_classes.state_dict(), other.state_dict())


@pytest.mark.parametrize("dies_in", ["save", "fsync"])
def test_a_save_that_dies_midway_leaves_the_former_checkpoint_whole(tmp_path, monkeypatch, dies_in):
    model = nn.Linear(2, 2)
    checkpointer = Checkpointer(model, str(tmp_path))
    checkpointer.save("model_final")
    before = (tmp_path / "model_final.pth").read_bytes()

    def dies(*args):
        if dies_in == "save":
            args[1].write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("torch.save" if dies_in == "save" else "os.fsync", dies)
    nn.init.zeros_(model.weight)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save("model_final")
    assert (tmp_path / "model_final.pth").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_final.pth"]


def test_a_killed_new_checkpoint_is_not_tagged_as_the_last(tmp_path, monkeypatch):
    checkpointer = Checkpointer(nn.Linear(2, 2), str(tmp_path))
    checkpointer.save("model_0000009")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(UserError, match=r"cannot write .*model_0000019\.pth: No space left"):
        checkpointer.save("model_0000019")
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000009.pth")
    assert checkpointer.get_all_checkpoint_files() == [str(tmp_path / "model_0000009.pth")]


def test_training_state_with_numpy_values_round_trips(tmp_path):
    """Optimizer, scheduler and a hook's NumPy values load with weights_only."""
    cfg, model = tiny_cfg(), tiny_model()
    optimizer = build_optimizer(cfg, model)
    sum(p.sum() for p in model.parameters() if p.requires_grad).backward()
    optimizer.step()
    scheduler = build_lr_scheduler(cfg, optimizer)
    state = {"best": np.float64(41.5), "step": np.int64(3), "curve": np.arange(3, dtype=np.float32)}
    Checkpointer(model, str(tmp_path), optimizer=optimizer, scheduler=scheduler).save(
        "model_0000003", iteration=3, hooks=state
    )
    other = build_optimizer(cfg, model)
    checkpointer = Checkpointer(model, str(tmp_path), optimizer=other, scheduler=scheduler)
    extra = checkpointer.resume_or_load("")
    assert extra["iteration"] == 3
    assert extra["hooks"]["best"] == 41.5
    assert extra["hooks"]["curve"].tolist() == [0, 1, 2]
    momenta = [s["momentum_buffer"] for s in optimizer.state_dict()["state"].values()]
    loaded = [s["momentum_buffer"] for s in other.state_dict()["state"].values()]
    assert all(torch.equal(a, b) for a, b in zip(momenta, loaded, strict=True))


def test_zoo_pickle_loads(zoo_pkl, three_classes):
    model = tiny_model(3, seed=2)
    Checkpointer(model).load(str(zoo_pkl))
    assert same(three_classes.state_dict(), model.state_dict())


def test_caffe2_pickle_loads_through_detectron2s_name_matching(tmp_path):
    weight = np.random.default_rng(0).standard_normal((64, 3, 7, 7)).astype(np.float32)
    blobs = {"conv1_w": weight, "conv1_w_momentum": weight * 0}
    (tmp_path / "R-18.pkl").write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    model = tiny_model()
    Checkpointer(model).load(str(tmp_path / "R-18.pkl"), strict=False)
    assert np.array_equal(model.backbone.bottom_up.stem.conv1.weight.detach(), weight)


def test_truncated_checkpoint_is_an_error(tmp_path, three_classes):
    Checkpointer(three_classes, str(tmp_path)).save("model_final")
    path = tmp_path / "model_final.pth"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"model_final\.pth: not a readable checkpoint"):
        Checkpointer(three_classes).load(str(path))


def test_missing_file_is_named_with_its_neighbour_and_a_remedy(tmp_path):
    (tmp_path / "model_final.pth").touch()
    with pytest.raises(UserError, match=r"not found.*model_fina\.pth.*did you mean") as caught:
        Checkpointer(nn.Linear(2, 2)).load(str(tmp_path / "model_fina.pth"))
    assert "MODEL.WEIGHTS" in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/R-50.pkl", "catalog://nonsense", "detectron2://x.pkl"]
)
def test_url_that_cannot_be_fetched_is_one_error(tmp_path, monkeypatch, url):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    # Port 9 of this machine refuses at once; nothing here reaches out to a network.
    monkeypatch.setattr(
        "detectron2.utils.file_io.Detectron2Handler.S3_DETECTRON2_PREFIX", "http://127.0.0.1:9/"
    )
    model = nn.Linear(2, 2)
    checkpointer = Checkpointer(model)
    for _ in range(2):  # the second try gives the same error: the first left no state behind
        with pytest.raises(UserError, match=r"could not be fetched.*MODEL.WEIGHTS") as caught:
            checkpointer.load(url, strict=False)
        assert url in str(caught.value)


def test_a_failed_load_does_not_break_the_next(tmp_path, three_classes):
    checkpointer = Checkpointer(three_classes, str(tmp_path))
    checkpointer.save("good")
    (tmp_path / "bad.pth").write_bytes(b"bad")
    with pytest.raises(UserError):
        checkpointer.load(str(tmp_path / "bad.pth"))
    checkpointer.load(str(tmp_path / "good.pth"))


def test_other_class_count_is_an_error_that_names_both(zoo_pkl):
    with pytest.raises(UserError, match=r"has 3 classes, the config says 5.*NUM_CLASSES 3"):
        Checkpointer(tiny_model(5)).load(str(zoo_pkl))


def test_fine_tuning_skips_the_class_layers_with_one_line(zoo_pkl, three_classes, caplog):
    model = tiny_model(5, seed=2)
    fresh = model.roi_heads.box_predictor.cls_score.weight.clone()
    with caplog.at_level(logging.INFO):
        Checkpointer(model).resume_or_load(str(zoo_pkl), resume=False)
    lines = [r for r in caplog.records if "from scratch" in r.message or r.levelno > logging.INFO]
    assert len(lines) == 1
    assert lines[0].levelno == logging.INFO
    for word in ("3 classes", "5", "cls_score", "bbox_pred", "mask_head.predictor", "expected"):
        assert word in lines[0].getMessage()
    assert torch.equal(model.roi_heads.box_predictor.cls_score.weight, fresh)
    assert torch.equal(
        model.backbone.fpn_lateral2.weight, three_classes.backbone.fpn_lateral2.weight
    )


CLASS_LAYERS = ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_head.predictor")


def is_class_layer(name: str) -> bool:
    return any(part in name for part in CLASS_LAYERS)


@pytest.mark.parametrize(
    ("names", "log"),
    [
        (["bolt", "nut", "ring"], "other classes ('cat' in place of 'bolt', 'dog' in place of"),
        (["dog", "cat", "cow"], "('cat' in place of 'dog', 'dog' in place of 'cat')"),
        (["cat", "dog", "Ox"], "('cow' in place of 'Ox')"),
    ],
    ids=["other", "another order", "one other"],
)
def test_as_many_other_classes_start_from_scratch(tmp_path, three_classes, caplog, names, log):
    Checkpointer(three_classes, str(tmp_path), class_names=["cat", "dog", "cow"]).save("first")
    model, fresh = tiny_model(3, seed=2), tiny_model(3, seed=2).state_dict()
    caplog.set_level(logging.INFO)
    Checkpointer(model, class_names=names).load(str(tmp_path / "first.pth"), strict=False)
    for name, value in model.state_dict().items():
        expected = fresh[name] if is_class_layer(name) else three_classes.state_dict()[name]
        assert torch.equal(value, expected), name
    (message,) = [r.getMessage() for r in caplog.records if "class layers" in r.getMessage()]
    assert log in message
    assert "roi_heads.mask_head.predictor) start from scratch" in message
    assert "no weights for" not in caplog.text


@pytest.mark.parametrize(
    ("known", "ours", "log"),
    [
        (["cat", "dog", "cow"], ["Cat", "dog ", "cow"], None),
        ([], ["cat", "dog", "cow"], "are kept: the weights have as many classes as the data (3)"),
        (["cat", "dog", "cow"], [], None),
        (["cat", "dog"], ["cat", "dog", "cow"], "but do not tell their names"),
    ],
    ids=["the same", "weights without names", "data without names", "names that do not fit"],
)
def test_classes_that_may_be_the_same_are_kept(tmp_path, three_classes, caplog, known, ours, log):
    Checkpointer(three_classes, str(tmp_path), class_names=known).save("first")
    model = tiny_model(3, seed=2)
    caplog.set_level(logging.INFO)
    extra = Checkpointer(model, class_names=ours).load(str(tmp_path / "first.pth"), strict=False)
    assert same(model.state_dict(), three_classes.state_dict())
    assert "class_names" not in extra
    messages = [r.getMessage() for r in caplog.records if "class layers" in r.getMessage()]
    assert [str(log) in message for message in messages] == ([True] if log else [])


def test_class_agnostic_layers_are_of_no_class(tmp_path):
    models = []
    for seed in (1, 2):
        cfg = tiny_cfg(3)
        cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
        cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = True
        torch.manual_seed(seed)
        models.append(build_model(cfg))
    Checkpointer(models[0], str(tmp_path), class_names=["a", "b", "c"]).save("first")
    fresh = models[1].roi_heads.box_predictor.cls_score.weight.clone()
    checkpointer = Checkpointer(models[1], class_names=["d", "e", "f"])
    checkpointer.load(str(tmp_path / "first.pth"), strict=False)
    for name, value in models[1].state_dict().items():
        if "cls_score" not in name:
            assert torch.equal(value, models[0].state_dict()[name]), name
    assert torch.equal(models[1].roi_heads.box_predictor.cls_score.weight, fresh)


def test_an_evaluation_of_as_many_other_classes_is_a_warning(tmp_path, three_classes, caplog):
    Checkpointer(three_classes, str(tmp_path), class_names=["cat", "dog", "cow"]).save("first")
    model = tiny_model(3, seed=2)
    Checkpointer(model, class_names=["Katze", "dog", "cow"]).load(str(tmp_path / "first.pth"))
    assert same(model.state_dict(), three_classes.state_dict())
    assert "first.pth has other classes ('cat' in place of 'Katze')" in caplog.text


def test_other_shapes_of_other_layers_are_an_error(zoo_pkl):
    cfg = tiny_cfg(3)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = True
    model = DefaultTrainer.build_model(cfg)
    with pytest.raises(UserError, match=r"does not fit.*mask_head\.predictor.*\(3, .*\(1, "):
        Checkpointer(model).load(str(zoo_pkl))


def test_missing_layers_are_an_error_unless_fine_tuning(tmp_path, three_classes, caplog):
    state = three_classes.state_dict()
    backbone = {k: v for k, v in state.items() if k.startswith("backbone.bottom_up")}
    path = str(tmp_path / "backbone.pth")
    torch.save({"model": backbone}, path)
    model = tiny_model(3, seed=2)
    with pytest.raises(UserError, match=r"no weights for backbone\.fpn_lateral2.*random"):
        Checkpointer(model).load(path)
    with caplog.at_level(logging.INFO):
        Checkpointer(model).resume_or_load(path, resume=False)
    assert "has no weights for them: backbone.fpn" in caplog.text
    assert not [r for r in caplog.records if r.levelno > logging.INFO]


def test_a_batchnorm_counter_is_not_missed(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    state = model.state_dict()  # says that it is of a version that has the counter
    del state["1.num_batches_tracked"]
    torch.save({"model": state}, tmp_path / "m.pth")
    nn.init.zeros_(model[0].weight)
    Checkpointer(model).load(str(tmp_path / "m.pth"))
    assert model[0].weight.abs().sum() > 0, "the other weights were loaded"


def test_weights_of_another_model_are_an_error_even_when_fine_tuning(tmp_path, three_classes):
    torch.save({"model": {"encoder.weight": torch.ones(2)}}, tmp_path / "other.pth")
    says = r"other\.pth: none of its weights fits .*names such as backbone\..*, got encoder\.weight"
    with pytest.raises(UserError, match=says):
        Checkpointer(three_classes).load(str(tmp_path / "other.pth"), strict=False)


@pytest.mark.parametrize("more", [{}, {"bias": torch.ones(5)}])
def test_weights_of_other_shapes_are_told_with_both(tmp_path, more):
    torch.save({"model": {"weight": torch.ones(2, 5), **more}}, tmp_path / "m.pth")
    says = (
        r"m\.pth: none of its weights fits the model\. weight is \(2, 5\) in the file, \(2, 2\) in"
    )
    with pytest.raises(UserError, match=says):
        Checkpointer(nn.Linear(2, 2)).load(str(tmp_path / "m.pth"), strict=False)


@pytest.mark.parametrize(
    ("prefix", "compiled"),
    [
        ("_orig_mod.0.", False),
        ("module._orig_mod.0.", False),
        ("0._orig_mod.", False),
        ("_orig_mod.0.", True),
        ("0._orig_mod.", True),
        ("0.", True),
    ],
)
def test_names_of_compiled_parts_fit(tmp_path, prefix, compiled):
    """A whole model, also in DistributedDataParallel, or a part of it may be compiled."""
    model, weight = nn.Sequential(nn.Linear(2, 2, bias=False)), torch.ones(2, 2)
    if compiled:
        model[0] = torch.compile(model[0])
    torch.save({"model": {f"{prefix}weight": weight}}, tmp_path / "m.pth")
    Checkpointer(model).load(str(tmp_path / "m.pth"))
    assert torch.equal(model[0].weight.detach(), weight)


def test_no_weights_is_an_error_only_when_strict():
    model = nn.Linear(2, 2)
    assert Checkpointer(model).resume_or_load("", resume=False) == {}
    with pytest.raises(UserError, match=r"MODEL\.WEIGHTS is empty"):
        Checkpointer(model).resume_or_load("", resume=False, strict=True)


def test_resume_takes_the_last_checkpoint_and_demands_a_match(tmp_path, three_classes):
    Checkpointer(three_classes, str(tmp_path)).save("model_0000009", iteration=9)
    model = tiny_model(3, seed=2)
    assert Checkpointer(model, str(tmp_path)).has_checkpoint()
    extra = Checkpointer(model, str(tmp_path)).resume_or_load("nowhere.pth", resume=True)
    assert extra["iteration"] == 9
    assert same(model.state_dict(), three_classes.state_dict())
    with pytest.raises(UserError, match="has 3 classes, the config says 4"):
        Checkpointer(tiny_model(4), str(tmp_path)).resume_or_load("", resume=True)


def test_last_checkpoint_that_names_a_missing_file_is_an_error(tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    checkpointer = Checkpointer(nn.Linear(2, 2), str(tmp_path))
    with pytest.raises(UserError, match=r"cannot resume.*last_checkpoint.*model_0000009\.pth"):
        checkpointer.resume_or_load("", resume=True)
