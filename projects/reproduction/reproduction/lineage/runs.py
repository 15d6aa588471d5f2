"""The training runs of the lineage: their methods, inputs and commands."""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.files import file_sha256
from mask_rcnn_ext.model_zoo import get_config_file

from ..training_runs import TrainingRun, find_differences

__all__ = ["METHODS", "LineageRun", "Method", "compare_configs", "methods", "proposal_sets"]

_FILES = ("DATASETS.PROPOSAL_FILES_TRAIN", "DATASETS.PROPOSAL_FILES_TEST")
# Beginnings of the keys in which the methods must not differ: backbone, data, image size.
_SHARED = (
    *("MODEL.BACKBONE.", "MASK_RCNN_EXT.TINY_RESNET.", "MODEL.RESNETS.", "MODEL.WEIGHTS"),
    "MODEL.PIXEL_",
    *("DATASETS.TRAIN", "DATASETS.TEST", "INPUT.", "MASK_RCNN_EXT.OPTIMIZER"),
)


@dataclass(frozen=True)
class Method:
    """A method of the lineage.

    A method with a `base` is fitted to the trained network of that variant, and is left out if its
    yaml does not exist. `train_net.py` trains the other methods. A `variation` has no paper: it
    shows one of the additions of the next method alone.
    """

    variant: str  # the stem of its yaml in configs/shapes/lineage
    name: str  # in its paper
    added: str  # its addition to the method before it
    base: str | None = None
    variation: bool = False


METHODS = (
    Method("rcnn_tiny", "R-CNN", "a network on every proposal, warped to one size"),
    Method(
        "rcnn_tiny_svm",
        "R-CNN, SVMs and ridge regression",
        "the second step of the paper: a linear SVM per class, and ridge regression of the boxes, "
        "on the features of the trained network",
        base="rcnn_tiny",
    ),
    Method(
        "fast_rcnn_tiny",
        "Fast R-CNN",
        "one shared map of the image, and RoIPool; classes and boxes are learned together",
    ),
    Method("faster_rcnn_tiny", "Faster R-CNN", "proposals from the network itself (RPN)"),
    Method(
        "faster_rcnn_tiny_RoIAlign",
        "Faster R-CNN, RoIAlign",
        "RoIAlign instead of RoIPool, the first half of Mask R-CNN",
        variation=True,
    ),
    Method("mask_rcnn_tiny", "Mask R-CNN", "a mask branch, in addition to RoIAlign"),
)


def methods() -> tuple[Method, ...]:
    """Return the methods that have a config, in the order of their papers."""

    def exists(method: Method) -> bool:
        try:
            return os.path.isfile(get_config_file(f"shapes/lineage/{method.variant}"))
        except UserError:
            return False

    return tuple(m for m in METHODS if m.base is None or exists(m))


class LineageRun(TrainingRun):
    """One run: trained by `train_net.py`, or fitted to the network of another run.

    Its inputs are the checksums of the proposals that it reads, and of the run that it is fitted
    to. A run that reads proposals and was started by hand has no record of them, so it is stale.
    """

    yaml_folder = "shapes/lineage"

    @property
    def method(self) -> Method:
        """The method of the variant."""
        return next(method for method in METHODS if method.variant == self.variant)

    @property
    def root(self) -> Path:
        """The folder of all runs."""
        return self.folder.parent.parent

    @property
    def base(self) -> "LineageRun | None":
        """The run whose network this one is fitted to."""
        variant = self.method.base
        return None if variant is None else LineageRun.under(self.root, variant, self.seed)

    @property
    def weights(self) -> Path:
        """The file of the trained model."""
        return self.folder / "model_final.pth"

    @property
    def measured_files(self) -> list[Path]:
        """See `TrainingRun`."""
        return [*super().measured_files, self.weights]

    @property
    def filled_in(self) -> tuple[str, ...]:
        """See `TrainingRun`; the paths of proposals and of a base's weights: see `inputs`."""
        return (*super().filled_in, *_FILES, *(["MODEL.WEIGHTS"] if self.base else []))

    def config(self) -> CfgNode:
        """Return the variant's config, which reads the proposals below `root`."""
        cfg = super().config()
        cfg.merge_from_list(_get_proposal_options(cfg, self.root))
        return cfg

    def find_other_inputs(self) -> dict[str, Any]:
        """See `TrainingRun`; the checksum of a file that is not there is ""."""
        cfg = self.config()
        files = [*cfg.DATASETS.PROPOSAL_FILES_TRAIN, *cfg.DATASETS.PROPOSAL_FILES_TEST]
        found: dict[str, Any] = {}
        if cfg.MODEL.LOAD_PROPOSALS:
            found["proposals"] = {Path(file).stem: _hash_if_there(Path(file)) for file in files}
        if self.base:
            found["base"] = {
                "run": self.base.sha256(),
                "weights": _hash_if_there(self.base.weights),
            }
        return found

    def is_complete(self) -> bool:
        """See `Step`; results, result file and weights are there."""
        return super().is_complete() and self.predictions.is_file() and self.weights.is_file()

    def command(self, resume: bool) -> list[str]:
        """See `TrainingRun`."""
        files = _get_proposal_options(self.config(), self.root)
        if self.base is None:
            return [*super().command(resume), *files]
        _, *options = super().command(False)
        weights = ["MODEL.WEIGHTS", str(self.base.weights)]
        return ["tools/train_rcnn_svm.py", *options, *weights, *files]


def _get_proposal_options(cfg: CfgNode, root: Path) -> list[str]:
    """Return keys and values that name the proposal files under `root`; none without proposals."""
    if not cfg.MODEL.LOAD_PROPOSALS:
        return []
    return [
        word
        for key, names in zip(_FILES, (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST), strict=True)
        for word in (key, repr(tuple(str(root / "proposals" / f"{name}.pkl") for name in names)))
    ]


def _hash_if_there(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""
    return _hash_file(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=16)
def _hash_file(path: Path, mtime: int, size: int) -> str:
    """Return the SHA-256 of a file that was last written at `mtime`."""
    del mtime, size  # for the cache: the file has changed if they have
    return file_sha256(str(path))


def proposal_sets(runs: Sequence[LineageRun]) -> list[str]:
    """Return the data sets whose stored proposals the runs read, each one once."""
    configs = [run.config() for run in runs]
    return list(
        dict.fromkeys(
            name
            for cfg in configs
            if cfg.MODEL.LOAD_PROPOSALS
            for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
        )
    )


def compare_configs() -> dict[str, dict[str, Any]]:
    """Return the settings that the methods share, and each key in which they differ.

    Returns:
        "shared": name -> value, to print; "differing": key -> {variant: value}.

    Raises:
        UserError: the methods differ in backbone, data, or image size.
    """
    configs = {m.variant: LineageRun.under("", m.variant, 1).config() for m in methods()}
    for method in methods():
        if method.base is not None:  # its network was trained from the weights of the base
            configs[method.variant].MODEL.WEIGHTS = configs[method.base].MODEL.WEIGHTS
    base = "the base of configs/shapes/lineage"
    differing = find_differences(configs, same=_SHARED, ignored=_FILES, base=base)
    cfg = next(iter(configs.values()))
    shared = {
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "channels": list(cfg.MASK_RCNN_EXT.TINY_RESNET.CHANNELS),
        "blocks": list(cfg.MASK_RCNN_EXT.TINY_RESNET.BLOCKS),
        "train": ", ".join(cfg.DATASETS.TRAIN),
        "val": ", ".join(cfg.DATASETS.TEST),
        "image_size": cfg.INPUT.MIN_SIZE_TEST,
    }
    return {"shared": shared, "differing": differing}
