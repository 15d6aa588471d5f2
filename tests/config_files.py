"""The yaml files in configs/, for tests: their values, their headers, their models."""

import functools

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from support import REPO
from torch import nn

from mask_rcnn_ext import load_config
from mask_rcnn_ext.config import flat_config
from mask_rcnn_ext.paper import Row

ROOT = REPO / "configs"


def load(name: str, *overrides: str) -> CfgNode:
    """Return the config of a file, named without ".yaml"."""
    return load_config(str(ROOT / f"{name}.yaml"), overrides)


def flatten(cfg: CfgNode) -> dict:
    """Return `{"A.B.C": value}` of a config, tuples as lists."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in flat_config(cfg)}


@functools.cache
def build_on_meta(name: str) -> nn.Module:
    """Return the full-size model, without making its weights."""
    with torch.device("meta"):
        return build_model(load(name, "MODEL.DEVICE", "meta"))


def read_header(name: str) -> str:
    """Return the comment before the first line of yaml, as one line of words."""
    lines = (ROOT / f"{name}.yaml").read_text().splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return " ".join(" ".join(line.lstrip("#").split()) for line in lines[:end])


def summarize(row: Row) -> str:
    """Return the line of a header: table, row, split and every published number."""
    place = "Section 4.2" if row.table == "text" else f"Table {row.table}"
    names = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}
    tasks: dict[str, list[str]] = {}
    for key, value in row.published.items():
        task, metric = key.split("/")
        tasks.setdefault(names[task], []).append(f"{metric} {value}")
    numbers = "; ".join(f"{task} {', '.join(found)}" for task, found in tasks.items())
    return f"{place}, {row.name} ({row.split}): {numbers or 'no AP printed'}"
