"""COCO weights become a start for Cityscapes: copied, drawn and untouched where they should be."""

import pickle

import convert_coco_to_cityscapes
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from faithful import MODELS, NARROW, assert_same_tensors, build, our_config, stock_config
from small_runs import read_weights

from mask_rcnn_ext.checkpoint.checkpointer import Checkpointer
from mask_rcnn_ext.checkpoint.convert_classes import convert_checkpoint, convert_weights
from mask_rcnn_ext.errors import UserError

FPN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
# Places among COCO's 80 classes (person, bicycle, car, motorcycle, airplane, bus, train, truck) of
# Cityscapes' eight, in detectron2's order: person, rider, car, truck, bus, train, motorcycle,
# bicycle. Written out, not looked up: the converter looks them up.
COCO_PLACES = [0, None, 2, 7, 5, 6, 3, 1]
BACKGROUND = 80
PREDICTOR = "roi_heads.box_predictor."
MASKS = "roi_heads.mask_head.predictor."


@pytest.fixture(scope="module")
def coco():
    """The weights of detectron2's COCO model, every output row different from the others."""
    model = build(stock_config(FPN, *NARROW))
    generator = torch.Generator().manual_seed(5)
    for layer in (
        model.roi_heads.box_predictor.cls_score,
        model.roi_heads.box_predictor.bbox_pred,
        model.roi_heads.mask_head.predictor,
    ):
        for parameter in layer.parameters():
            parameter.data.normal_(0.5, 2.0, generator=generator)
    return model.state_dict()


@pytest.fixture
def zoo_pkl(tmp_path, coco):
    path = tmp_path / "model_final.pkl"
    weights = {key: value.numpy() for key, value in coco.items()}
    path.write_bytes(pickle.dumps({"model": weights, "__author__": "Detectron2 Model Zoo"}))
    return path


def run(*arguments) -> int:
    return convert_coco_to_cityscapes.main([str(argument) for argument in arguments])


def test_rows_are_copied_by_class_name(tmp_path, zoo_pkl, coco, capsys):
    output = tmp_path / "new" / "cityscapes.pth"
    assert run("--weights", zoo_pkl, "--output", output) == 0
    assert "drawn at random: rider;" in capsys.readouterr().out
    new = read_weights(output)
    assert list(new) == list(coco)
    for kind in ("weight", "bias"):
        scores, deltas, masks = (
            (new[key + kind], coco[key + kind])
            for key in (f"{PREDICTOR}cls_score.", f"{PREDICTOR}bbox_pred.", MASKS)
        )
        assert (len(scores[0]), len(deltas[0]), len(masks[0])) == (9, 32, 8)
        assert torch.equal(scores[0][8], scores[1][BACKGROUND])
        for index, place in enumerate(COCO_PLACES):
            if place is None:
                continue
            assert torch.equal(scores[0][index], scores[1][place])
            assert torch.equal(masks[0][index], masks[1][place])
            rows = slice(4 * place, 4 * place + 4)
            assert torch.equal(deltas[0][4 * index : 4 * index + 4], deltas[1][rows])
    others = [key for key in coco if not key.startswith((PREDICTOR, MASKS))]
    assert len(others) == len(coco) - 6
    assert_same_tensors({k: new[k] for k in others}, {k: coco[k] for k in others})


def test_a_new_class_is_drawn_from_the_layers_distribution(coco):
    """Mean and deviation of each tensor, whatever they are: checked on layers made for it."""
    generator = torch.Generator().manual_seed(0)
    wide = dict(coco)
    for key, mean, std in (
        (f"{PREDICTOR}cls_score.weight", 3.0, 0.5),
        (f"{PREDICTOR}bbox_pred.weight", -2.0, 0.1),
    ):
        rows = len(coco[key])
        wide[key] = mean + std * torch.randn((rows, 5000), generator=generator)
    new = convert_weights(wide, [str(i) for i in range(80)], ["7", "rider"])
    rider = new[f"{PREDICTOR}cls_score.weight"][1]
    assert rider.mean() == pytest.approx(3.0, abs=0.03)
    assert rider.std() == pytest.approx(0.5, abs=0.03)
    rider = new[f"{PREDICTOR}bbox_pred.weight"][4:8]
    assert rider.mean() == pytest.approx(-2.0, abs=0.01)
    assert rider.std() == pytest.approx(0.1, abs=0.01)


def test_the_seed_decides_what_is_drawn(tmp_path, zoo_pkl):
    files = [tmp_path / f"{name}.pth" for name in ("a", "b", "c")]
    for path, seed in zip(files, (1, 1, 2), strict=True):
        assert run("--weights", zoo_pkl, "--output", path, "--seed", seed) == 0
    first, same, other = (read_weights(path) for path in files)
    assert_same_tensors(first, same)
    key = f"{PREDICTOR}cls_score.weight"
    assert not torch.equal(first[key][1], other[key][1])
    assert torch.equal(first[key][2], other[key][2])


def test_the_result_loads_whole_into_a_cityscapes_model(tmp_path, zoo_pkl):
    output = tmp_path / "cityscapes.pth"
    assert convert_checkpoint(zoo_pkl, output) == ["rider"]
    cfg = our_config(FPN, *MODELS[FPN], *NARROW, "MODEL.ROI_HEADS.NUM_CLASSES", "8")
    model = build_model(cfg)
    Checkpointer(model).load(str(output), strict=True)
    assert_same_tensors(model.state_dict(), read_weights(output))


def test_a_checkpoint_of_a_run_converts_to_its_weights_and_their_names(tmp_path, coco):
    run_file = tmp_path / "model_0000009.pth"
    torch.save({"model": coco, "optimizer": {"state": {}}, "iteration": 9}, run_file)
    convert_checkpoint(run_file, tmp_path / "out.pth")
    content = torch.load(tmp_path / "out.pth", weights_only=True)
    assert set(content) == {"model", "class_names"}
    assert content["class_names"][:2] == ["person", "rider"]


def test_the_names_in_the_file_are_those_of_its_rows(tmp_path, coco):
    names = [f"class {place}" for place in range(79)] + ["car"]
    torch.save({"model": coco, "class_names": names}, tmp_path / "model.pth")
    assert (
        convert_checkpoint(tmp_path / "model.pth", tmp_path / "out.pth", new_classes=["car"]) == []
    )
    bias = torch.load(tmp_path / "out.pth", weights_only=True)["model"][
        f"{PREDICTOR}cls_score.bias"
    ]
    assert torch.equal(bias, coco[f"{PREDICTOR}cls_score.bias"][[79, BACKGROUND]])


def test_class_agnostic_layers_stay_and_softmax_masks_keep_their_background(coco):
    other = dict(coco)
    other[f"{PREDICTOR}bbox_pred.weight"] = coco[f"{PREDICTOR}bbox_pred.weight"][:4]
    other[f"{MASKS}bias"] = torch.arange(81.0)
    other[f"{MASKS}weight"] = coco[f"{MASKS}weight"][:1]
    new = convert_weights(other, [str(i) for i in range(80)], ["4", "2"])
    assert new[f"{PREDICTOR}bbox_pred.weight"] is other[f"{PREDICTOR}bbox_pred.weight"]
    assert new[f"{MASKS}weight"] is other[f"{MASKS}weight"]
    assert new[f"{MASKS}bias"].tolist() == [4.0, 2.0, 80.0]


@pytest.mark.parametrize(
    ("classes", "deltas", "masks", "expected"),
    [
        (1, 4, 1, (12, 3)),  # the deltas and the mask of the class
        (1, 4, 2, (12, 4)),  # softmax: a channel of the background too
        (2, 4, 1, (4, 1)),  # class-agnostic, though 4 deltas could be divided among 2 classes,
        (3, 4, 1, (4, 1)),  # or among 3 and the background
        (4, 4, 1, (4, 1)),
        (7, 28, 8 * 28**2, (12, 4 * 28**2)),  # an MLP's softmax masks; 8 * 28^2 is a multiple of 7
    ],
    ids=str,
)
def test_few_classes(classes, deltas, masks, expected):
    """Which class a row is of follows from the layer, not from what its rows are a multiple of."""
    scores = torch.arange(classes + 1.0)
    weights = {f"{PREDICTOR}cls_score.{kind}": scores for kind in ("weight", "bias")}
    weights |= {f"{PREDICTOR}bbox_pred.bias": torch.arange(float(deltas))}
    weights |= {f"{MASKS}bias": torch.arange(float(masks))}
    new = convert_weights(weights, [f"c{i}" for i in range(classes)], ["c0", "x", "y"])
    for kind in ("weight", "bias"):
        values = new[f"{PREDICTOR}cls_score.{kind}"]
        assert (len(values), values[0], values[-1]) == (4, 0, classes)
    assert (len(new[f"{PREDICTOR}bbox_pred.bias"]), len(new[f"{MASKS}bias"])) == expected
    for key in (f"{PREDICTOR}bbox_pred.bias", f"{MASKS}bias"):
        same = len(new[key]) == len(weights[key])
        assert same == torch.equal(new[key], weights[key])


def test_an_mlp_mask_head_has_many_rows_of_each_class(coco):
    other = dict(coco)
    rows = torch.arange(80 * 9.0)[:, None]
    other[f"{MASKS}weight"] = rows
    new = convert_weights(other, [str(i) for i in range(80)], ["3", "0"])[f"{MASKS}weight"]
    assert torch.equal(new, torch.cat([rows[27:36], rows[:9]]))


def write(path, content):
    path.write_bytes(pickle.dumps(content))
    return path


def test_mistakes_are_one_error_and_write_nothing(tmp_path, zoo_pkl, coco, capsys):
    eight = convert_checkpoint(zoo_pkl, tmp_path / "eight.pth") and tmp_path / "eight.pth"
    backbone = {"model": {"stem.conv1.weight": np.zeros(3, np.float32)}, "__author__": "x"}
    cases = [
        (tmp_path / "model_finale.pkl", "out.pth", "did you mean 'model_final.pkl'"),
        (eight, "out.pth", "expected weights for 80 classes (person, bicycle, car, ...), got"),
        (write(tmp_path / "b.pkl", backbone), "out.pth", "expected the weights of a detector"),
        (write(tmp_path / "d.pkl", {"blobs": {}}), "out.pth", "layout of Caffe2's Detectron"),
        (write(tmp_path / "l.pkl", [1, 2]), "out.pth", "expected a checkpoint"),
        (zoo_pkl, "out.pkl", "ends in .pth"),
    ]
    for weights, output, message in cases:
        assert run("--weights", weights, "--output", tmp_path / output) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1
        assert not (tmp_path / output).exists()


def test_the_checkpoint_itself_is_not_replaced(tmp_path, zoo_pkl):
    eight = tmp_path / "eight.pth"
    convert_checkpoint(zoo_pkl, eight)
    before = eight.read_bytes()
    (tmp_path / "link.pth").symlink_to(eight)
    for output in (eight, tmp_path / "link.pth"):
        with pytest.raises(UserError, match="is the checkpoint itself"):
            convert_checkpoint(eight, output, new_classes=["car"])
    assert eight.read_bytes() == before
