"""The RPN of a model: the config, and the proposals for images and for whole data sets."""

import functools
import hashlib
import json
import logging
import os
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import ProposalNetwork

from ..arrays import Floats32
from ..checkpoint.checkpointer import Checkpointer
from ..checkpoint.fetching import fetch_file
from ..config import complete_config, flat_config
from ..data.bad_images import NamedErrors
from ..data.mapper import ImageMapper
from ..errors import UserError, require_range
from ..files import file_sha256
from ..log_filter import filter_log
from ..modeling.building import SkipRandomWeights, build_model
from ..modeling.checks import check_registry_names, is_generalized_rcnn
from ..modeling.precision import choose_device, inference_autocast, prepare_model
from ..steps import Step
from .compute import Propose
from .file import ProposalFileWriter, keep_best, load_dicts

__all__ = [
    "RPNMethod",
    "RPNProposals",
    "get_rpn_keys",
    "make_proposal_network",
    "make_rpn_config",
    "plan_proposals",
]


# The beginnings of keys under MODEL that do not change the RPN.
_NOT_OF_THE_RPN = (
    *("DEVICE", "WEIGHTS", "META_ARCHITECTURE", "LOAD_PROPOSALS", "MASK_ON", "KEYPOINT_ON"),
    *("ROI_", "FCIS", "RCNN.", "SEM_SEG_HEAD", "PANOPTIC_FPN", "RETINANET"),
)


def make_proposal_network(cfg: CfgNode) -> None:
    """Reduce a model's config, in place, to the RPN and its backbone."""
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    cfg.MODEL.MASK_ON = False  # so that no masks are drawn
    # A stage that only the heads read, such as FCIS's res5, costs time; in training, several
    # processes would wait for its gradients.
    if set(cfg.MODEL.RPN.IN_FEATURES) <= set(cfg.MODEL.RESNETS.OUT_FEATURES):
        cfg.MODEL.RESNETS.OUT_FEATURES = list(cfg.MODEL.RPN.IN_FEATURES)


def make_rpn_config(cfg: CfgNode, topk: int) -> CfgNode:
    """Return the config of a trained model's RPN, as a `ProposalNetwork` for inference.

    Args:
        cfg: the config of a `GeneralizedRCNN`, a subclass such as FCIS, or a `ProposalNetwork`.
        topk: the highest number of proposals per image after NMS.

    Raises:
        UserError: the model has no RPN, or an RPN of rotated boxes; a part of the model is not
            registered; or no weights are given.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    known = META_ARCH_REGISTRY.get(name) if name in META_ARCH_REGISTRY else None
    alone = isinstance(known, type) and issubclass(known, ProposalNetwork)
    generator = cfg.MODEL.PROPOSAL_GENERATOR.NAME
    if not (alone or is_generalized_rcnn(cfg)) or generator in ("PrecomputedProposals", "RRPN"):
        raise UserError(
            "expected the config of a model with an RPN (Faster or Mask R-CNN, FCIS, a "
            f"ProposalNetwork), got MODEL.META_ARCHITECTURE {name} with "
            f"MODEL.PROPOSAL_GENERATOR.NAME {generator}"
        )
    if not cfg.MODEL.WEIGHTS:
        raise UserError("no weights: add MODEL.WEIGHTS FILE, the weights of the trained model")
    rpn = complete_config(cfg).clone()
    rpn.defrost()
    make_proposal_network(rpn)
    rpn.MODEL.KEYPOINT_ON = rpn.MODEL.LOAD_PROPOSALS = False
    rpn.MODEL.RPN.POST_NMS_TOPK_TEST = topk
    choose_device(rpn)
    rpn.freeze()
    check_registry_names(rpn)
    return rpn


def get_rpn_keys(cfg: CfgNode) -> dict[str, str]:
    """Return the keys that decide the proposals of an RPN, with their values as json."""
    model = {
        key: json.dumps(value)
        for key, value in flat_config(cfg.MODEL, "MODEL.")
        if not key.removeprefix("MODEL.").startswith(_NOT_OF_THE_RPN)
    }
    keys = ("FORMAT", "MIN_SIZE_TEST", "MAX_SIZE_TEST")
    return {**model, **{f"INPUT.{key}": json.dumps(cfg.INPUT[key]) for key in keys}}


def _describe_rpn(cfg: CfgNode, weights: str) -> dict[str, Any]:
    """Return the inputs that identify an RPN, without the folder of its files."""
    keys = json.dumps(get_rpn_keys(cfg), sort_keys=True).encode()
    return {
        "rpn_weights_sha256": file_sha256(weights),
        "rpn_config_sha256": hashlib.sha256(keys).hexdigest(),
    }


class RPNMethod:
    """A `ProposalMethod`: the RPN of a trained model, on images at test size, one at a time.

    Args:
        cfg: the model's config, also one of detectron2; see `make_rpn_config`.
        topk: the highest number of boxes per image.

    Raises:
        UserError: see `make_rpn_config`.
    """

    def __init__(self, cfg: CfgNode, topk: int) -> None:
        require_range("--topk", topk, 1)
        self.cfg, self.topk = make_rpn_config(cfg, topk), topk

    def settings(self) -> dict[str, Any]:
        """See `ProposalMethod`.

        Raises:
            UserError: the weights are not there.
        """
        weights = fetch_file(self.cfg.MODEL.WEIGHTS, "Give the weights of the trained model")
        return {"method": "rpn", "topk": self.topk, **_describe_rpn(self.cfg, weights)}

    def start(self, rank: int) -> Propose:
        """See `ProposalMethod`; if there are several GPUs, each process takes another one.

        Raises:
            UserError: the weights do not fit the model.
        """
        cfg, device = self.cfg.clone(), torch.device(self.cfg.MODEL.DEVICE)
        if device.type == "cuda" and device.index is None:
            cfg.defrost()
            cfg.MODEL.DEVICE = f"cuda:{rank % torch.cuda.device_count()}"
        with SkipRandomWeights():
            model = prepare_model(cfg, build_model(cfg)).eval()
        # fvcore would list the weights of the heads, which are left out on purpose.
        with filter_log("fvcore.common.checkpoint", lambda record: record.levelno >= logging.ERROR):
            Checkpointer(model).load(cfg.MODEL.WEIGHTS, checkpointables=[])
        mapper = ImageMapper(cfg, is_train=False)

        def propose(record: dict[str, Any]) -> tuple[Floats32, Floats32]:
            image = mapper(record)
            with torch.no_grad(), inference_autocast(cfg):
                proposals = model([image])[0]["proposals"]
            return keep_best(proposals, self.topk)

        return propose


class RPNProposals(Step):
    """The proposals of an RPN for a data set: a file, and its inputs as json next to it.

    The RPN runs at test size and without flips.

    Args:
        cfg: the config of a `ProposalNetwork`. `MODEL.WEIGHTS` holds the RPN, and
            `MODEL.RPN.POST_NMS_TOPK_TEST` is at least `topk`.
        dataset_name: a registered name.
        topk: the highest number of proposals per image.
        path: the file, see `ProposalFileWriter`.
    """

    def __init__(self, cfg: CfgNode, dataset_name: str, topk: int, path: str) -> None:
        record = os.path.splitext(path)[0] + ".json"
        super().__init__(f"Proposals for {dataset_name}, in {path}", record, [path])
        self.cfg, self.dataset_name, self.topk, self.path = cfg, dataset_name, topk, path

    @functools.cached_property
    def _inputs(self) -> dict[str, Any]:
        rpn = _describe_rpn(self.cfg, self.cfg.MODEL.WEIGHTS)
        return {"data_set": self.dataset_name, "topk": self.topk, **rpn}

    def find_inputs(self) -> dict[str, Any]:
        """See `Step`; the file of weights is read at the first call."""
        return self._inputs

    def make(self, resume: bool) -> None:
        """See `Step`.

        Raises:
            UserError: the weights do not fit, or the file cannot be written.
        """
        model = prepare_model(self.cfg, build_model(self.cfg))
        Checkpointer(model).load(self.cfg.MODEL.WEIGHTS, checkpointables=[])
        cfg = self.cfg.clone()
        cfg.defrost()
        workers = cfg.DATALOADER.NUM_WORKERS
        cfg.MODEL.LOAD_PROPOSALS = False  # this model makes them
        loader = build_detection_test_loader(
            load_dicts(cfg, "TEST", [self.dataset_name], filter_empty=False),
            mapper=NamedErrors(ImageMapper(self.cfg, is_train=False), workers),
            num_workers=workers,
        )
        with inference_autocast(self.cfg):
            inference_on_dataset(model, loader, ProposalFileWriter(self.path, self.topk))


def plan_proposals(rpn_cfg: CfgNode, cfg: CfgNode) -> list[RPNProposals]:
    """Return the steps that write the proposals for a second stage.

    Args:
        rpn_cfg: the config of the first stage, which writes `model_final.pth` into `OUTPUT_DIR`.
        cfg: the config of the second stage: data sets, files, and number of proposals.
    """
    steps: dict[str, RPNProposals] = {}
    for split in ("TRAIN", "TEST"):
        job = rpn_cfg.clone()
        job.defrost()
        job.MODEL.WEIGHTS = os.path.join(rpn_cfg.OUTPUT_DIR, "model_final.pth")
        if split == "TRAIN":
            job.MODEL.RPN.PRE_NMS_TOPK_TEST = job.MODEL.RPN.PRE_NMS_TOPK_TRAIN
        topk = cfg.DATASETS[f"PRECOMPUTED_PROPOSAL_TOPK_{split}"]
        files = cfg.DATASETS[f"PROPOSAL_FILES_{split}"]
        for name, path in zip(cfg.DATASETS[split], files, strict=True):
            # A data set for both training and testing needs only one file.
            steps.setdefault(name, RPNProposals(job, name, topk, path))
    return list(steps.values())
