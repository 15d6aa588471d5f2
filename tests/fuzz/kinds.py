"""The kinds of files that users give, good ones to begin with, and what reads them.

A kind makes case number i of a seed in a folder, and reads it as the commands do: a file that is
accepted is used for what comes next, too. The reader returns, or raises `UserError`; nothing else.
"""

import contextlib
import io
import json
import math
import pickle
import random
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from detectron2.data import transforms as T
from detectron2.data.detection_utils import transform_proposals
from fuzz.mutators import ODD_VALUES, change_bytes, change_text, change_value
from PIL import Image
from pycocotools import mask as coco_mask
from tiny_model import tiny_cfg
from torch import nn

from mask_rcnn_ext.checkpoint.checkpointer import Checkpointer
from mask_rcnn_ext.checkpoint.description import load_contents, parse_config
from mask_rcnn_ext.config_limits import require_limits
from mask_rcnn_ext.data.bands import read_bands, read_bands_header
from mask_rcnn_ext.data.image_facts import read_image_facts
from mask_rcnn_ext.data.images import read_bgr, read_header
from mask_rcnn_ext.data.own_data import register_own_data
from mask_rcnn_ext.data.pixel_limit import set_pixel_limit
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.modeling.building import build_model
from mask_rcnn_ext.modeling.checks import check_registry_names, require_fitting_parts
from mask_rcnn_ext.overlap.comparison import compute_metrics, load_results, load_truth, measure
from mask_rcnn_ext.prediction.tiles import Tile
from mask_rcnn_ext.prediction.windows import TiffWindows
from mask_rcnn_ext.proposals.file import _add_proposals, load_dicts

__all__ = ["KINDS", "Kind"]

W, H = 16, 12  # pixels of the images of json files


class Kind(ABC):
    """A kind of file."""

    def __init__(self, folder: Path) -> None:
        """Write to `folder` what the files of the cases need."""
        self.folder = folder

    @abstractmethod
    def make(self, rng: random.Random) -> tuple[str, bytes]:
        """Return the end of a file's name and its content."""

    @abstractmethod
    def read(self, path: Path) -> None:
        """Read the file as a command does, and use what it holds.

        Raises:
            UserError: the file is refused.
        """


def make_coco() -> dict[str, Any]:
    """Return a COCO json with every form of mask, for the images that `CocoJson` writes."""
    mask = np.zeros((H, W), np.uint8, order="F")
    mask[2:8, 3:9] = 1
    packed = coco_mask.encode(mask)["counts"].decode("ascii")
    square = [[2, 2, 9, 2, 9, 8, 2, 8]]
    forms = [square, {"size": [H, W], "counts": packed}, {"size": [H, W], "counts": [26, 4, 162]}]
    forms += [[*square, [10, 9, 14, 9, 14, 11]], square, square]
    annotations = [
        {
            "id": i + 1,
            "image_id": 1 + i % 3,
            "category_id": 1 + 2 * (i % 2),
            "bbox": [2, 2, 7, 6],
            "area": 42,
            "iscrowd": int(i == 2),
            "segmentation": form,
        }
        for i, form in enumerate(forms)
    ]
    annotations[4]["keypoints"], annotations[4]["num_keypoints"] = [3, 3, 2, 0, 0, 0], 1
    return {
        "info": {},
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": W, "height": H} for i in range(1, 4)
        ],
        "categories": [
            {"id": 1, "name": "cat", "keypoints": ["eye", "ear"], "skeleton": [[1, 2]]},
            {"id": 3, "name": "dog", "supercategory": "animal"},
        ],
        "annotations": annotations,
    }


def write_json(rng: random.Random, content: Any) -> bytes:
    """Return nested values as json, whose text is changed in every tenth case."""
    try:
        text = json.dumps(content, ensure_ascii=rng.random() < 0.5)
    except ValueError:  # more digits than Python writes
        text = repr(content)
    if rng.random() < 0.1:
        text = change_text(rng, text)
    data = text.encode("utf-8", "surrogatepass")
    return change_bytes(rng, data) if rng.random() < 0.05 else data


class CocoJson(Kind):
    """Annotations to train on, as `--train-json`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.content = make_coco()
        (folder / "images").mkdir()
        for image in self.content["images"]:
            Image.new("RGB", (W, H), "red").save(folder / "images" / image["file_name"])

    def make(self, rng: random.Random) -> tuple[str, bytes]:
        return ".json", write_json(rng, change_value(rng, self.content))

    def read(self, path: Path) -> None:
        images, clean = str(self.folder / "images"), str(self.folder / "clean")
        with contextlib.redirect_stdout(io.StringIO()):
            register_own_data(str(path), images, "", "", clean_dir=clean)
            load_dicts(get_shared_cfg(), "TRAIN", ["own_train"])


class ResultJson(Kind):
    """A model's results, compared with annotations; in every third case these are changed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.truth = make_coco()
        self.results = [
            {
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "score": 0.9 - 0.1 * number,
                "bbox": annotation["bbox"],
                "segmentation": annotation["segmentation"],
            }
            for number, annotation in enumerate(self.truth["annotations"])
        ]
        self.good = {"truth": folder / "good_truth.json", "results": folder / "good_results.json"}
        for name, content in (("truth", self.truth), ("results", self.results)):
            self.good[name].write_text(json.dumps(content))

    def make(self, rng: random.Random) -> tuple[str, bytes]:
        if rng.random() < 0.3:
            return ".truth.json", write_json(rng, change_value(rng, self.truth))
        return ".json", write_json(rng, change_value(rng, self.results))

    def read(self, path: Path) -> None:
        changed_truth = path.name.endswith(".truth.json")
        truth = load_truth(path if changed_truth else self.good["truth"])
        results = self.good["results"] if changed_truth else path
        compute_metrics(measure(truth, load_results(results, truth)))


def get_shared_cfg() -> Any:
    """Return a copy of the config with which the cases begin; building one takes longer."""
    global _cfg
    _cfg = _cfg if _cfg is not None else tiny_cfg()
    return _cfg.clone()


_cfg: Any = None

_YAML = """
VERSION: 2
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  WEIGHTS: ""
  MASK_ON: true
  PIXEL_MEAN: [103.53, 116.28, 123.675]
  BACKBONE: {NAME: build_resnet_fpn_backbone, FREEZE_AT: 2}
  RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64, OUT_FEATURES: [res2, res3, res4, res5], NORM: BN}
  FPN: {IN_FEATURES: [res2, res3, res4, res5], OUT_CHANNELS: 16, NORM: ""}
  ANCHOR_GENERATOR: {SIZES: [[16], [32], [64], [128], [256]], ASPECT_RATIOS: [[0.5, 1.0, 2.0]]}
  RPN: {IN_FEATURES: [p2, p3, p4, p5, p6], PRE_NMS_TOPK_TEST: 100, NMS_THRESH: 0.7}
  ROI_HEADS: {NAME: StandardROIHeads, NUM_CLASSES: 3, IN_FEATURES: [p2, p3], SCORE_THRESH_TEST: 0.0}
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 1, FC_DIM: 32, POOLER_TYPE: ROIAlignV2}
  ROI_MASK_HEAD: {NAME: MaskRCNNConvUpsampleHead, NUM_CONV: 1, CONV_DIM: 16, NORM: GN}
INPUT: {MIN_SIZE_TRAIN: [64], MAX_SIZE_TRAIN: 96, FORMAT: BGR}
SOLVER: {BASE_LR: 0.01, STEPS: [10, 20], MAX_ITER: 30, IMS_PER_BATCH: 2}
DATASETS: {TRAIN: [a_train], TEST: [a_val]}
MASK_RCNN_EXT: {CLASS_NAMES: [cat, dog, cow], LOGGERS: [tensorboard], SPEED: exact}
"""


class YamlConfig(Kind):
    """A config; every tenth accepted one is built, without memory for its weights."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.content = yaml.safe_load(_YAML)
        self.accepted, self.build_every = 0, 10

    def make(self, rng: random.Random) -> tuple[str, bytes]:
        if rng.random() < 0.5:
            odd = [*ODD_VALUES, "a.yaml", "ROIAlign", "BN", ["res9"], "RetinaNet", "FCISROIHeads"]
            content = change_value(rng, self.content, odd)
            if rng.random() < 0.05:
                content = {"_BASE_": rng.choice(odd), "MODEL": content}
            try:
                text = yaml.safe_dump(content)
            except ValueError:
                text = repr(content)
        else:
            text = change_text(rng, _YAML)
        data = text.encode("utf-8", "surrogatepass")
        return ".yaml", change_bytes(rng, data) if rng.random() < 0.1 else data

    def read(self, path: Path) -> None:
        cfg = get_shared_cfg()
        cfg.merge_from_file(str(path))
        require_limits(cfg)
        check_registry_names(cfg)
        require_fitting_parts(cfg)
        self.accepted += 1
        if self.accepted % self.build_every == 0:
            with torch.device("meta"):
                cfg.MODEL.DEVICE = "meta"
                build_model(cfg)


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
            *(value for value in ODD_VALUES if not isinstance(value, int) or abs(value) < 1 << 70),
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
    """Weights, in PyTorch's two formats and in detectron2's."""

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
            *(value for value in ODD_VALUES if not isinstance(value, int) or abs(value) < 1 << 70),
            *(torch.zeros(0), torch.zeros(2, 3, 1, 1), torch.tensor(math.nan), np.zeros(3), b"x"),
            *(torch.zeros(3, dtype=torch.complex64), torch.ones(3, dtype=torch.bool), {1: 2}),
            *(np.zeros((3, 3)), np.array("x"), torch.zeros(3, dtype=torch.int64), OrderedDict(a=1)),
        ]

    def make(self, rng: random.Random) -> tuple[str, bytes]:
        content = self.content
        changed = rng.random() < 0.5
        if changed:
            content = change_value(rng, content, self.odd)
        form = rng.choice(("zip", "zip", "old", "pkl"))
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


class ImageFile(Kind):
    """An image to train on or to predict on, of no more than four megapixels."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        set_pixel_limit(1 << 22)
        pixels = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
        image, exif = Image.fromarray(pixels), Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "text"
        more = {"append_images": [image.rotate(180)], "save_all": True}
        self.files: list[tuple[str, bytes]] = []
        grey, black, deep = (image.convert(mode) for mode in ("L", "1", "I;16"))
        lzw, deflate = ({"compression": f"tiff_{name}"} for name in ("lzw", "adobe_deflate"))
        for end, shown, options in (
            *((".png", image, {}), (".png", image.convert("P"), {"exif": exif})),
            *((".png", black, {}), (".png", image.convert("LA"), {}), (".png", deep, {})),
            *((".jpg", image, {"exif": exif}), (".jpg", image.convert("CMYK"), {})),
            *((".tif", image, {}), (".tif", image, lzw), (".tif", grey, deflate)),
            *((".tif", image, more), (".gif", image, more), (".webp", image, {})),
            *((".bmp", image, {}), (".ppm", image, {})),
        ):
            file = io.BytesIO()
            name = {".jpg": "JPEG", ".tif": "TIFF"}.get(end, end[1:].upper())
            shown.save(file, format=name, **options)
            self.files.append((end, file.getvalue()))
        file = io.BytesIO()
        np.save(file, pixels)
        self.files.append((".npy", file.getvalue()))

    def make(self, rng: random.Random) -> tuple[str, bytes]:
        end, data = rng.choice(self.files)
        data = change_bytes(rng, data)
        if end == ".png" and rng.random() < 0.7:
            data = _mend_checksums(data)
        return end, data

    def read(self, path: Path) -> None:
        failed = None
        for read in (read_header, read_bgr, self._read_bands, self._read_windows):
            try:
                read(path)
            except UserError as error:
                failed = error
        read_image_facts(str(path), (H, W))
        if failed is not None:
            raise failed

    def _read_bands(self, path: Path) -> None:
        read_bands_header(path, 3)
        read_bands(path, 3)

    def _read_windows(self, path: Path) -> None:
        windows = TiffWindows.open(path)
        if windows is not None:
            with contextlib.closing(windows), contextlib.suppress(ValueError):
                windows.read(Tile(0, 0, min(64, windows.size[0]), min(64, windows.size[1])))


def _mend_checksums(data: bytes) -> bytes:
    """Give the chunks of a PNG their right checksums, so that more than they are read."""
    mended, place = bytearray(data), 8
    while place + 12 <= len(mended):
        length = int.from_bytes(mended[place : place + 4], "big")
        end = place + 8 + length
        if end + 4 > len(mended):
            break
        mended[end : end + 4] = zlib.crc32(mended[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(mended)


KINDS: dict[str, type[Kind]] = {
    "annotations": CocoJson,
    "results": ResultJson,
    "configs": YamlConfig,
    "proposals": Proposals,
    "checkpoints": Checkpoint,
    "images": ImageFile,
}
