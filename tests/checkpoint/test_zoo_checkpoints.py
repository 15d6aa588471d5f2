"""Checkpoints of detectron2's zoo and of Caffe2's Detectron load into our classes, whole.

The files are written here: in the zoo's pickle layout, and in Detectron's, whose blob names come
from a writer of its own below, not from detectron2's renaming rules. Detectron put the background
first, in the class scores and, as a slice nobody reads, in the box deltas and the masks.
"""

import logging
import pickle
import re

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from faithful import (
    MODELS,
    NARROW,
    assert_same_detections,
    assert_same_tensors,
    build,
    our_config,
    stock_config,
)
from torch import nn

from mask_rcnn_ext import UserError
from mask_rcnn_ext.checkpoint.checkpointer import Checkpointer

FPN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
LAST_BLOCK = {2: 2, 3: 3, 4: 5, 5: 2}  # of each ResNet-50 stage: Detectron names its sum


def trained_model(name: str) -> nn.Module:
    """Return detectron2's model with random weights that no other seed gives, norms too."""
    model = build(stock_config(name, *NARROW), seed=1)
    generator = torch.Generator().manual_seed(2)
    for key, buffer in model.named_buffers():
        if re.search(r"norm\.(weight|bias)$", key):
            buffer += 0.05 * torch.randn(buffer.shape, generator=generator)
        elif key.endswith("norm.running_var"):
            buffer.fill_(1.0)  # what detectron2 takes when a file has no variances
    for key, parameter in model.named_parameters():
        if key.endswith("bias"):
            parameter.data.normal_(std=0.01, generator=generator)
    model.roi_heads.box_predictor.cls_score.weight.data.normal_(std=0.1, generator=generator)
    return model


def write_zoo_pickle(model: nn.Module, path) -> None:
    """Write the layout of detectron2's zoo, with what its older files also hold."""
    weights = {k: v.numpy() for k, v in model.state_dict().items()}
    weights["pixel_mean"] = np.zeros((3, 1, 1), np.float32)
    weights["proposal_generator.anchor_generator.cell_anchors.0"] = np.zeros((3, 4), np.float32)
    content = {"model": weights, "__author__": "Detectron2 Model Zoo"}
    path.write_bytes(pickle.dumps(content, protocol=2))


def blob_name(key: str) -> str:
    """Return Detectron's name for the weight `key` of a detectron2 model."""
    layer, _, kind = key.rpartition(".")
    end = "_w" if kind == "weight" else "_b"
    if match := re.search(r"stem\.conv1(\.norm)?$", layer):
        return ("res_conv1_bn" + ("_s" if kind == "weight" else "_b")) if match[1] else "conv1_w"
    if match := re.search(r"res(\d)\.(\d+)\.(shortcut|conv[123])(\.norm)?$", layer):
        stage, block, which, norm = match.groups()
        branch = {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}[which]
        kind_of_norm = "_s" if kind == "weight" else "_b"
        return f"res{stage}_{block}_branch{branch}" + (f"_bn{kind_of_norm}" if norm else end)
    if match := re.search(r"fpn_(lateral|output)(\d)$", layer):
        stage = int(match[2])
        stem = f"res{stage}_{LAST_BLOCK[stage]}_sum"
        if match[1] == "output":
            return f"fpn_{stem}{end}"
        return f"fpn_inner_{stem}" + ("" if stage == 5 else "_lateral") + end
    if match := re.search(r"(mask_fcn|conv_fcn)(\d)$", layer):
        return ("_[mask]_fcn" if match[1] == "mask_fcn" else "conv_fcn") + match[2] + end
    return {
        "box_head.fc1": "fc6",
        "box_head.fc2": "fc7",
        "box_predictor.cls_score": "cls_score",
        "box_predictor.bbox_pred": "bbox_pred",
        "mask_head.deconv": "conv5_mask",
        "mask_head.predictor": "mask_fcn_logits",
        "keypoint_head.score_lowres": "kps_score_lowres",
    }[layer.removeprefix("roi_heads.")] + end


RPN_BLOBS = {
    "conv": "conv_rpn",
    "objectness_logits": "rpn_cls_logits",
    "anchor_deltas": "rpn_bbox_pred",
}


def write_detectron_pickle(model: nn.Module, path) -> None:
    """Write the layout of Detectron's `model_final.pkl`."""
    has_fpn = any("fpn_output" in key for key, _ in model.named_parameters())
    rng = np.random.default_rng(0)
    blobs = {}
    for key, tensor in model.state_dict().items():
        value = tensor.numpy()
        if "running_" in key:
            continue  # Detectron folded them into scale and bias
        if key.startswith("proposal_generator."):
            layer, kind = key.split(".")[-2:]
            blobs[f"{RPN_BLOBS[layer]}{'_fpn2' if has_fpn else ''}_{kind[0]}"] = value
            continue
        name = blob_name(key)
        if name.startswith("cls_score"):
            value = np.concatenate([value[-1:], value[:-1]])
        elif name.startswith(("bbox_pred", "mask_fcn_logits")):
            rows = 4 if name.startswith("bbox_pred") else 1
            unread = rng.standard_normal((rows, *value.shape[1:])).astype(np.float32)
            value = np.concatenate([unread, value])
        assert name not in blobs
        blobs[name] = value
        blobs[f"{name}_momentum"] = np.zeros_like(value)
    if any(name.startswith("kps_score_lowres") for name in blobs):
        # The fixed filter by which Detectron doubled the heatmaps.
        blobs["kps_score_w"] = np.ones((17, 17, 4, 4), np.float32)
        blobs["kps_score_b"] = np.zeros(17, np.float32)
    path.write_bytes(pickle.dumps({"blobs": blobs, "cfg": "MODEL: {}\n"}, protocol=2))


WRITERS = {"zoo": write_zoo_pickle, "detectron": write_detectron_pickle}


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("name", MODELS)
def test_a_checkpoint_loads_whole(name, layout, tmp_path, caplog):
    """Nothing missing, nothing unexpected, no warning; the same weights and detections."""
    trained = trained_model(name)
    path = tmp_path / "model_final.pkl"
    WRITERS[layout](trained, path)
    ours = build(our_config(name, *MODELS[name], *NARROW))
    with caplog.at_level(logging.WARNING):
        Checkpointer(ours).load(str(path), strict=True)
    assert not [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert_same_tensors(ours.state_dict(), trained.state_dict())
    assert_same_detections(ours, trained)


def test_detectron2_reads_the_same_from_detectrons_layout(tmp_path):
    """The writer against detectron2's own checkpointer and model."""
    trained = trained_model(FPN)
    write_detectron_pickle(trained, tmp_path / "model_final.pkl")
    stock = build(stock_config(FPN, *NARROW))
    DetectionCheckpointer(stock).load(str(tmp_path / "model_final.pkl"))
    assert_same_tensors(stock.state_dict(), trained.state_dict())


@pytest.fixture
def load_changed(tmp_path):
    """Return a function that loads the changed file of a model; it returns ours and this model."""

    def load(change):
        trained, path = trained_model(FPN), tmp_path / "model_final.pkl"
        write_detectron_pickle(trained, path)
        content = pickle.loads(path.read_bytes())
        change(content["blobs"])
        path.write_bytes(pickle.dumps(content))
        ours = build(our_config(FPN, *MODELS[FPN], *NARROW))
        Checkpointer(ours).load(str(path))
        return ours, trained

    return load


def test_a_missing_blob_is_an_error(load_changed):
    with pytest.raises(UserError, match=r"no weights for backbone\.fpn_lateral4"):
        load_changed(lambda blobs: blobs.pop("fpn_inner_res4_5_sum_lateral_w"))


def test_an_unexpected_blob_is_reported(load_changed, caplog):
    more = {"head_conv1_w": np.zeros((1, 1, 3, 3), np.float32)}
    load_changed(lambda blobs: blobs.update(more))
    assert "box_head.conv1" in caplog.text


def test_background_first_would_be_seen(load_changed):
    """The comparison fails for a file whose class scores have the background last."""

    def rotate(blobs):
        for name in ("cls_score_w", "cls_score_b"):
            blobs[name] = np.roll(blobs[name], -1, axis=0)

    ours, trained = load_changed(rotate)
    with pytest.raises(AssertionError):
        assert_same_detections(ours, trained)


def test_a_stock_c4_checkpoint_fits_the_papers_head(tmp_path):
    """The 7 x 7 head with stride 1 has the weights of detectron2's, but was not trained with it."""
    name = "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml"
    trained = trained_model(name)
    write_zoo_pickle(trained, tmp_path / "model_final.pkl")
    papers_head = ["MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "7"]
    ours = build(our_config(name, *MODELS[name], *NARROW, *papers_head))
    Checkpointer(ours).load(str(tmp_path / "model_final.pkl"), strict=True)
    assert_same_tensors(ours.state_dict(), trained.state_dict())
