"""The lineage's training runs: of which methods, from what, in what order, by what commands."""

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from mask_rcnn_ext.config import flat_config, load_config
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.files import atomic_open, file_sha256, read_json_or_none
from mask_rcnn_ext.model_zoo import get_config_file

from ..config_runs import ConfigRun
from ..training_runs import training_options

__all__ = [
    "METHODS",
    "LineageRun",
    "Method",
    "compare_configs",
    "methods",
    "plan",
    "proposal_sets",
    "require_complete",
]

_FILES = ("DATASETS.PROPOSAL_FILES_TRAIN", "DATASETS.PROPOSAL_FILES_TEST")
# Keys, by their beginning, in which the methods must not differ: backbone, data, image size. How
# long each trains, and on what of an image, is its own.
_SHARED = (
    *("MODEL.BACKBONE.", "MODEL.TINY_RESNET.", "MODEL.RESNETS.", "MODEL.WEIGHTS", "MODEL.PIXEL_"),
    *("DATASETS.TRAIN", "DATASETS.TEST", "INPUT.", "MASK_RCNN_EXT.OPTIMIZER"),
)
_INPUTS = "inputs.json"  # in a run's folder: checksums of what it was made from


@dataclass(frozen=True)
class Method:
    """A method of the lineage.

    Attributes:
        variant: stem of its yaml in configs/shapes/lineage.
        name: as its paper calls it.
        added: what it added to the method before it.
        base: variant whose trained network it is fitted to, instead of training one; None: trained
            by `train_net.py`. It is left out where its yaml does not exist.
        variation: whether it is no method of a paper's own, but one between two, which tells apart
            what the later one added.
    """

    variant: str
    name: str
    added: str
    base: str | None = None
    variation: bool = False


METHODS = (
    Method("rcnn_tiny", "R-CNN", "a network on every proposal, warped to one size"),
    Method(
        "rcnn_tiny_svm",
        "R-CNN, SVMs and ridge regression",
        "the paper's second step: a linear SVM per class and ridge regression of the boxes on the "
        "trained network's features",
        base="rcnn_tiny",
    ),
    Method(
        "fast_rcnn_tiny",
        "Fast R-CNN",
        "one shared map of the image, RoIPool; classes and boxes learned together",
    ),
    Method("faster_rcnn_tiny", "Faster R-CNN", "proposals from the network itself (RPN)"),
    Method(
        "faster_rcnn_tiny_RoIAlign",
        "Faster R-CNN, RoIAlign",
        "RoIAlign in place of RoIPool, the first half of Mask R-CNN",
        variation=True,
    ),
    Method("mask_rcnn_tiny", "Mask R-CNN", "a mask branch beside RoIAlign"),
)


def _stem(variant: str) -> str:
    return f"shapes/lineage/{variant}"


def methods() -> tuple[Method, ...]:
    """Return the methods that there are configs of, in the order of their papers."""

    def exists(method: Method) -> bool:
        try:
            return os.path.isfile(get_config_file(_stem(method.variant)))
        except UserError:
            return False

    return tuple(m for m in METHODS if m.base is None or exists(m))


class LineageRun(ConfigRun):
    """One run: by `train_net.py`, or fitted to another run's network.

    `inputs.json` in its folder holds the checksums of the proposals that it read, and those of the
    run that it is based on and of its weights; when these change, it is stale. A run that reads
    proposals and was trained by hand has no such file: it is stale, too, and trained anew.
    """

    starts_with = ConfigRun.starts_with | {_INPUTS}

    @property
    def method(self) -> Method:
        """What it is a run of."""
        return next(method for method in METHODS if method.variant == self.variant)

    @property
    def root(self) -> Path:
        """The folder of all runs."""
        return self.folder.parent.parent

    @property
    def base(self) -> "LineageRun | None":
        """The run that it is fitted to."""
        variant = self.method.base
        return None if variant is None else LineageRun.under(self.root, variant, self.seed)

    @property
    def weights(self) -> Path:
        """The file of the trained model."""
        return self.folder / "model_final.pth"

    @property
    def config_file(self) -> str:
        """Where the variant's yaml is."""
        return get_config_file(_stem(self.variant))

    @property
    def filled_in(self) -> tuple[str, ...]:
        """Keys that do not count: where proposals and a base's weights lie; see `inputs`."""
        return (*super().filled_in, *_FILES, *(["MODEL.WEIGHTS"] if self.base else []))

    def config(self) -> CfgNode:
        """Return the variant's config, which reads the proposals below `root`."""
        cfg = load_config(self.config_file)
        cfg.merge_from_list(_proposal_options(cfg, self.root))
        return cfg

    def inputs(self) -> dict[str, Any]:
        """Return the checksums of what it is made from: "" for a file that is not there."""
        cfg = self.config()
        files = [*cfg.DATASETS.PROPOSAL_FILES_TRAIN, *cfg.DATASETS.PROPOSAL_FILES_TEST]
        found: dict[str, Any] = {}
        if cfg.MODEL.LOAD_PROPOSALS:
            found["proposals"] = {Path(file).stem: _checksum(Path(file)) for file in files}
        if self.base:
            found["base"] = {"run": self.base.sha256(), "weights": _checksum(self.base.weights)}
        return found

    def sha256(self) -> str:
        """Return the hash of config, seed and inputs as they are now."""
        return _with_inputs(super().sha256(), self.inputs())

    def written_hash(self) -> str | None:
        """Return the hash of the run's own config and inputs; see the base class."""
        written = super().written_hash()
        return written and _with_inputs(
            written, read_json_or_none(str(self.folder / _INPUTS)) or {}
        )

    def is_complete(self) -> bool:
        """Tell whether results, result file and weights are there."""
        return super().is_complete() and self.predictions.is_file() and self.weights.is_file()

    def prepare(self) -> bool:
        """Note the inputs, too; see the base class."""
        if super().prepare():
            return True
        if inputs := self.inputs():
            with atomic_open(self.folder / _INPUTS, "w") as file:
                json.dump(inputs, file, indent=2)
        return False

    def command(self, resume: bool) -> list[str]:
        """Return the script, seen from the checkout, that makes the run, and its arguments."""
        files = _proposal_options(self.config(), self.root)
        if self.base is None:
            return ["train_net.py", *training_options(self, resume), *files]
        options = ["MODEL.WEIGHTS", str(self.base.weights), *files]
        return ["tools/train_rcnn_svm.py", *training_options(self, False), *options]


def _proposal_options(cfg: CfgNode, root: Path) -> list[str]:
    """Return keys and values that name the proposal files under `root`; none without proposals."""
    if not cfg.MODEL.LOAD_PROPOSALS:
        return []
    return [
        word
        for key, names in zip(_FILES, (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST), strict=True)
        for word in (key, repr(tuple(str(root / "proposals" / f"{name}.pkl") for name in names)))
    ]


def _checksum(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""
    return _sha256(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=16)
def _sha256(path: Path, mtime: int, size: int) -> str:
    """Return the SHA-256 of a file that was last written at `mtime`."""
    del mtime, size  # tell the cache that the file has changed
    return file_sha256(str(path))


def _with_inputs(sha256: str, inputs: dict[str, Any]) -> str:
    if not inputs:
        return sha256
    return hashlib.sha256(json.dumps([sha256, inputs], sort_keys=True).encode()).hexdigest()


def plan(root: str | Path, seeds: int = 1) -> list[LineageRun]:
    """Return the runs in the order of work: all methods with seed 1, then with seed 2, ...

    Raises:
        UserError: `seeds` is not positive.
    """
    if seeds < 1:
        raise UserError(f"--seeds: expected 1 or more, got {seeds}")
    return [
        LineageRun.under(root, method.variant, seed)
        for seed in range(1, seeds + 1)
        for method in methods()
    ]


def proposal_sets(runs: Sequence[LineageRun]) -> list[str]:
    """Return the data sets whose stored proposals the runs read, once each."""
    configs = [run.config() for run in runs]
    return list(
        dict.fromkeys(
            name
            for cfg in configs
            if cfg.MODEL.LOAD_PROPOSALS
            for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
        )
    )


def require_complete(runs: Sequence[LineageRun]) -> None:
    """Raise unless every run is done.

    Raises:
        UserError: what is missing.
    """
    states = {run: run.state() for run in runs}
    missing = [f"{run.title} ({state})" for run, state in states.items() if state != "done"]
    if missing:
        raise UserError(
            f"the lineage needs runs that are not there: {', '.join(missing)}. Leave out "
            "--only-report to make them, or give the --output and --seeds of those that are there"
        )


def compare_configs() -> dict[str, dict[str, Any]]:
    """Return what the methods' configs share, and each key in which they differ.

    Returns:
        "shared": name -> value, to print; "differing": key -> {variant: value}.

    Raises:
        UserError: they differ in backbone, data, or image size.
    """
    configs = {m.variant: LineageRun.under("", m.variant, 1).config() for m in methods()}
    flat = {variant: dict(flat_config(cfg)) for variant, cfg in configs.items()}
    for method in methods():
        if method.base is not None:  # it starts from what the base learned, and so from its start
            flat[method.variant]["MODEL.WEIGHTS"] = flat[method.base]["MODEL.WEIGHTS"]
    cfg = next(iter(configs.values()))
    differing = {}
    for key, first in flat_config(cfg):
        values = {variant: values[key] for variant, values in flat.items()}
        if key not in ("OUTPUT_DIR", *_FILES) and any(v != first for v in values.values()):
            differing[key] = values
    unfair = [key for key in differing if key.startswith(_SHARED)]
    if unfair:
        raise UserError(
            f"the methods have the same backbone, data and image size, but {unfair[0]} is "
            + ", ".join(f"{value!r} in {name}" for name, value in differing[unfair[0]].items())
            + ". Set it in the base of configs/shapes/lineage"
        )
    shared = {
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "channels": list(cfg.MODEL.TINY_RESNET.CHANNELS),
        "blocks": list(cfg.MODEL.TINY_RESNET.BLOCKS),
        "train": ", ".join(cfg.DATASETS.TRAIN),
        "val": ", ".join(cfg.DATASETS.TEST),
        "image_size": cfg.INPUT.MIN_SIZE_TEST,
    }
    return {"shared": shared, "differing": differing}
