"""Pickled files: proposals, and the weights of models."""

import io
import json
import math
import pickle
import random
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.data.detection_utils import transform_proposals
from fuzz.kinds.kind import Kind
from fuzz.mutators import ODD_VALUES, change_bytes, change_value
from safetensors.torch import save as save_safetensors
from torch import nn

from mask_rcnn_ext.checkpoint.checkpointer import Checkpointer
from mask_rcnn_ext.checkpoint.description import load_contents, parse_config
from mask_rcnn_ext.proposals.file import _add_proposals

__all__ = ["Checkpoint", "Proposals"]

W, H = 16, 12  # pixels of the images that have proposals
_SMALL_ODD = [v for v in ODD_VALUES if not isinstance(v, int) or abs(v) < 1 << 70]


class Proposals(Kind):
    """A proposal file, pickled."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        rng = np.random.default_rng(0)
        corners = rng.uniform(0, 8, (3, 5, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(1, 8, (3, 5, 2))], axis=2)
        self.content = {
            "ids": [1, 2, 3],
            "boxes": list(boxes.astype(np.float32)),
            "objectness_logits": list(rng.normal(size=(3, 5)).astype(np.float32)),
            "bbox_mode": 0,
        }
        self.odd = [
            *_SMALL_ODD,
            *(np.float32(math.nan), np.zeros((0, 4)), np.zeros(0), np.zeros((2, 5)), np.array(1)),
            *(np.full((5, 4), math.nan), np.full((5, 4), math.inf), np.array(["a"]), np.int64(3)),
            *(np.zeros((5, 4), complex), np.zeros((5, 4), np.int8), np.full((5, 4), 1e300), b"x"),
            *(torch.zeros(5, 4), OrderedDict(a=1), np.zeros((5, 4), bool), {1, 2}, 2, 4, "XYWH"),
        ]

    def make(self, rng: random.Random) -> tuple[str, bytes]:
        content = self.content
        if rng.random() < 0.6:
            content = change_value(rng, content, self.odd)
        data = pickle.dumps(content, protocol=rng.choice((2, 4, 5)))
        return ".pkl", data if content is not self.content else change_bytes(rng, data)

    def read(self, path: Path) -> None:
        images = [{"image_id": i, "height": H, "width": W} for i in (1, 2, 3)]
        _add_proposals(images, str(path))
        for image in images:
            # As `DatasetMapper` does.
            transforms = T.TransformList([T.ResizeTransform(H, W, 2 * H, 2 * W)])
            transform_proposals(image, (2 * H, 2 * W), transforms, proposal_topk=3)


class Checkpoint(Kind):
    """Weights, in PyTorch's two formats, in detectron2's and in safetensors."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        torch.manual_seed(0)
        self.model = make_small_model()
        self.content = {
            "model": dict(self.model.state_dict()),
            "class_names": ["cat", "dog"],
            "iteration": 7,
            "config": "VERSION: 2\nMODEL: {WEIGHTS: x, MASK_ON: true, RPN: {NMS_THRESH: 0.5}}\n",
            "provenance": {"versions": {"torch": "2"}, "seed": 1},
            "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]},
        }
        self.odd = [
            *_SMALL_ODD,
            *(torch.zeros(0), torch.zeros(2, 3, 1, 1), torch.tensor(math.nan), np.zeros(3), b"x"),
            *(torch.zeros(3, dtype=torch.complex64), torch.ones(3, dtype=torch.bool), {1: 2}),
            *(np.zeros((3, 3)), np.array("x"), torch.zeros(3, dtype=torch.int64), OrderedDict(a=1)),
        ]

    def make(self, rng: random.Random) -> tuple[str, bytes]:
        content = self.content
        changed = rng.random() < 0.5
        if changed:
            content = change_value(rng, content, self.odd)
        form = rng.choice(("zip", "zip", "old", "pkl", "safetensors"))
        if form == "safetensors":
            return ".safetensors", _change_safetensors(rng, self.content, self.odd)
        file = io.BytesIO()
        if form == "pkl":
            content = _to_numpy(content)
            if isinstance(content, dict) and rng.random() < 0.8:
                content = {**content, "__author__": "fuzz"}
            data = pickle.dumps(content, protocol=rng.choice((2, 4, 5)))
            return ".pkl", data if changed else change_bytes(rng, data)
        torch.save(content, file, _use_new_zipfile_serialization=form == "zip")
        data = file.getvalue()
        if changed:
            return ".pth", data
        if form == "zip" and rng.random() < 0.5:  # the content alone; else the checksums tell
            return ".pth", _change_member(rng, data)
        return ".pth", change_bytes(rng, data)

    def read(self, path: Path) -> None:
        contents = load_contents(path)
        if "config" in contents:
            parse_config(contents, path)
        Checkpointer(make_small_model(), class_names=["cat", "dog"]).load(str(path), [])


def make_small_model() -> nn.Module:
    """Return a model of a convolution and a norm."""
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 2, 1), bn=nn.BatchNorm2d(2)))


def _to_numpy(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _to_numpy(value) for key, value in content.items()}
    return content.numpy() if isinstance(content, torch.Tensor) else content


def _change_safetensors(rng: random.Random, content: dict[str, Any], odd: list[Any]) -> bytes:
    """Return a file with an odd value in its metadata, or with changed bytes in its header."""
    values = {k: v for k, v in content.items() if k not in ("model", "optimizer")}
    changed = rng.random() < 0.5
    if changed:
        values = change_value(rng, values, odd)
    try:
        text = json.dumps(values)
    except (TypeError, ValueError, RecursionError):  # json cannot hold this value
        text = "[" * 10000
    tensors = {name: value.contiguous() for name, value in content["model"].items()}
    data = save_safetensors(tensors, {"mask_rcnn_ext": text})
    if changed:
        return data
    size = 8 + int.from_bytes(data[:8], "little")
    return change_bytes(rng, data[:size]) + data[size:]


def _change_member(rng: random.Random, data: bytes) -> bytes:
    """Change the content of a file in a zip archive, which gets its right checksum."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(changed, "w") as new:
        names = old.namelist()
        chosen = next(n for n in names if n.endswith("data.pkl"))
        chosen = chosen if rng.random() < 0.7 else rng.choice(names)
        for name in names:
            content = old.read(name)
            new.writestr(name, change_bytes(rng, content) if name == chosen else content)
    return changed.getvalue()
