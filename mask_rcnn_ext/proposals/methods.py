"""The ways to propose boxes for an image: selective search, and the RPN of a trained model."""

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.modeling.meta_arch import ProposalNetwork

from ..checkpoint.checkpointer import Checkpointer, fetch_weights
from ..data.images import read_record_bgr
from ..errors import UserError
from ..files import file_sha256
from ..modeling.checks import check_registry_names, is_generalized_rcnn
from ..modeling.precision import choose_device, inference_autocast, prepare_model
from .file import best_proposals
from .selective_search import MODES, require_selective_search, selective_search
from .stored import make_proposal_network, rpn_keys

__all__ = ["Method", "Propose", "RPNMethod", "SelectiveSearchMethod", "rpn_only"]

Floats = npt.NDArray[np.float32]

# A record of a data set (`file_name`, `image_id`, `height`, `width`) -> boxes, (N, 4) XYXY in
# pixels of the image, and their scores, (N,), descending.
Propose = Callable[[dict[str, Any]], tuple[Floats, Floats]]


class Method(Protocol):
    """A way to propose boxes. It is handed to other processes, so it can be pickled."""

    def settings(self) -> dict[str, Any]:
        """Return everything, the images aside, that decides the boxes, as json can hold it."""

    def start(self, rank: int) -> Propose:
        """Return the function that proposes; called once in each of the processes.

        Args:
            rank: number of the process, from 0.
        """


@dataclass(frozen=True, kw_only=True)
class SelectiveSearchMethod:
    """Selective search, see `data.selective_search`.

    It gives the boxes an order but no scores: the best has 0, the next -1, and so on.
    """

    mode: str = "fast"
    width: int = 0
    min_size: int = 0
    topk: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: one cannot be; or the installed OpenCV has no selective search.
        """
        if self.mode not in MODES:
            raise UserError(f"--mode: expected {', '.join(MODES)}, got {self.mode!r}")
        for name, least in (("width", 0), ("min_size", 0), ("topk", 1), ("seed", 0)):
            if getattr(self, name) < least:
                option = name.replace("_", "-")
                raise UserError(f"--{option}: expected {least} or more, got {getattr(self, name)}")
        require_selective_search()

    def settings(self) -> dict[str, Any]:
        """See `Method`; other releases of OpenCV may give other boxes."""
        return {"method": "selective-search", **asdict(self), "opencv": cv2.__version__}

    def start(self, rank: int) -> Propose:
        """See `Method`."""
        del rank
        return self._propose

    def _propose(self, record: dict[str, Any]) -> tuple[Floats, Floats]:
        image = read_record_bgr(record)
        boxes = selective_search(image, image_id=record["image_id"], **asdict(self))
        return boxes, -np.arange(len(boxes), dtype=np.float32)


def rpn_only(cfg: CfgNode, topk: int) -> CfgNode:
    """Return the config of a model's RPN and the backbone below it, as a `ProposalNetwork`.

    Args:
        cfg: of a `GeneralizedRCNN`, a subclass of it such as FCIS, or a `ProposalNetwork`.
        topk: proposals per image that are left after NMS.

    Raises:
        UserError: the model has no RPN, or one of rotated boxes; a part of it is not registered; or
            no weights are given.
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
        raise UserError("no weights: add MODEL.WEIGHTS FILE, those of the trained model")
    rpn = cfg.clone()
    rpn.defrost()
    make_proposal_network(rpn)
    rpn.MODEL.KEYPOINT_ON = rpn.MODEL.LOAD_PROPOSALS = False
    rpn.MODEL.RPN.POST_NMS_TOPK_TEST = topk
    choose_device(rpn)
    rpn.freeze()
    check_registry_names(rpn)
    return rpn


@contextlib.contextmanager
def _no_word_of_unused_weights() -> Iterator[None]:
    """Have fvcore not list the weights of the heads, which are left out on purpose."""
    log = logging.getLogger("fvcore.common.checkpoint")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


class RPNMethod:
    """The RPN of a trained model: images at test size, not flipped, one at a time.

    Args:
        cfg: see `rpn_only`; `MODEL.RPN.PRE_NMS_TOPK_TEST` and `NMS_THRESH` apply.
        topk: the most boxes of an image.

    Raises:
        UserError: see `rpn_only`.
    """

    def __init__(self, cfg: CfgNode, topk: int) -> None:
        if topk < 1:
            raise UserError(f"--topk: expected 1 or more, got {topk}")
        self.cfg, self.topk = rpn_only(cfg, topk), topk

    @property
    def gpus(self) -> int:
        """The number of GPUs that processes can share out among them; 0: they use the CPU."""
        device = torch.device(self.cfg.MODEL.DEVICE)
        if device.type != "cuda":
            return 0
        return 1 if device.index is not None else torch.cuda.device_count()

    def settings(self) -> dict[str, Any]:
        """See `Method`; weights and config are hashes, so that it does not matter where they lie.

        Raises:
            UserError: the weights are not there.
        """
        keys = json.dumps(rpn_keys(self.cfg), sort_keys=True).encode()
        weights = fetch_weights(self.cfg.MODEL.WEIGHTS, "Give those of the trained model")
        return {
            "method": "rpn",
            "topk": self.topk,
            "rpn_weights_sha256": file_sha256(weights),
            "rpn_config_sha256": hashlib.sha256(keys).hexdigest(),
        }

    def start(self, rank: int) -> Propose:
        """See `Method`.

        Raises:
            UserError: the weights do not fit the model.
        """
        cfg = self.cfg.clone()
        if self.gpus > 1:
            cfg.defrost()
            cfg.MODEL.DEVICE = f"cuda:{rank % self.gpus}"
        model = prepare_model(cfg, build_model(cfg)).eval()
        with _no_word_of_unused_weights():
            Checkpointer(model).load(cfg.MODEL.WEIGHTS, checkpointables=[])
        mapper = DatasetMapper(cfg, is_train=False)

        def propose(record: dict[str, Any]) -> tuple[Floats, Floats]:
            try:
                image = mapper(record)
            except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
                reason = str(error).strip() or type(error).__name__
                path = record["file_name"]
                raise UserError(f"{path}: cannot be read as an image ({reason})") from error
            with torch.no_grad(), inference_autocast(cfg):
                proposals = model([image])[0]["proposals"]
            return best_proposals(proposals, self.topk)

        return propose
