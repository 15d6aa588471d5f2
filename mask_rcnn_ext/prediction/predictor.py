"""Finds instances in one image or in many, in batches, on the CPU or a GPU."""

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import inference_context
from detectron2.structures import Instances
from PIL import Image

from ..checkpoint.checkpointer import Checkpointer
from ..checkpoint.description import read_config
from ..config import complete_config, load_config
from ..data.bands import order_bands, read_bands, require_bands
from ..data.images import ImageLike, read_bgr
from ..data.pixel_limit import get_pixel_limit, set_pixel_limit
from ..data.pixel_statistics import require_channels, require_colours
from ..errors import UserError, count_noun, require_range
from ..layers.packed_masks import PackedMasks
from ..layers.resizing import ResizeShortestEdge
from ..model_files import is_checkpoint, is_exported
from ..model_zoo import get_config
from ..modeling.building import SkipRandomWeights, build_model
from ..modeling.checks import check_registry_names
from ..modeling.exported import get_exported_speeds, load_exported, read_exported_config
from ..modeling.packed_outputs import run_model
from ..modeling.precision import choose_device, inference_autocast, prepare_model
from ..modeling.speed import prepare_for_inference, resolve_speed
from ..proposals.single_images import ImagePropose, propose_boxes, require_propose

__all__ = ["Predictor", "resolve_config"]

_IMAGES_OF_MASKS = 32  # masks (N, H, W) may have 32 times the largest number of pixels of an image


def resolve_config(cfg_or_name: CfgNode | str | os.PathLike[str]) -> CfgNode:
    """Return a new config that the caller may change.

    Args:
        cfg_or_name: a config (also one from detectron2's `get_cfg()`), the path of a yaml file, the
            name of a config of this package, such as "mask_rcnn_R50_FPN", or the file of a trained
            or exported model, which carries its config and becomes MODEL.WEIGHTS.

    Raises:
        UserError: `cfg_or_name` is neither a file nor a known name, or the file is not a valid
            config, or the model carries none.
    """
    if isinstance(cfg_or_name, CfgNode):
        cfg = complete_config(cfg_or_name).clone()
        cfg.defrost()
        return cfg
    if not isinstance(cfg_or_name, str | os.PathLike):
        raise UserError(
            f"config: expected a CfgNode, a path or a name, got {type(cfg_or_name).__name__}"
        )
    name = os.fspath(cfg_or_name)
    if is_checkpoint(name):
        return read_config(name)
    if is_exported(name):
        return read_exported_config(name)
    if os.path.isfile(name):
        return load_config(name)
    try:
        return get_config(name)
    except UserError as error:
        raise UserError(f"{error}. There is no file {os.path.abspath(name)} either") from error


class Predictor:
    """Finds instances in images, as detectron2's `DefaultPredictor` does, in one image or in many.

    For one image the numbers equal `DefaultPredictor`'s. Images are resized to
    INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST. Images share a forward pass only if the model pads
    them to the same size, so a prediction does not depend on the other images of the batch.

    Example:
        predictor = Predictor("output/run/model_final.pth")
        instances = predictor("photo.jpg")
        print(instances.pred_boxes, instances.scores)

    Args:
        cfg_or_name: the file or URL of a model that was trained with this package, or an exported
            model (.onnx, .xml); both contain their config. Or a config, which is not changed, the
            path of a yaml file, or the name of a config of this package, such as
            "mask_rcnn_R50_FPN".
        weights: file or URL of a trained model, or an exported model; default: MODEL.WEIGHTS of the
            config.
        device: "cpu", "cuda", "cuda:1", ...; default: MODEL.DEVICE of the config. If the config
            says "cuda" and there is no CUDA, the CPU is used, with a warning in the log.
        batch_size: the largest number of images in one forward pass.
        score_threshold: drop instances with a lower score, in [0, 1]; default: the threshold of the
            config.
        propose: a function that proposes boxes, for models without an RPN (MODEL.LOAD_PROPOSALS)
            only. It takes an image, (H, W, 3) uint8 BGR, and returns boxes, (N, 4) XYXY in pixels
            of the image, and logits, (N,). The model gets the best
            DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST boxes.
        speed: "exact", "fast" or "fastest", see `modeling.speed`; default: MASK_RCNN_EXT.SPEED of
            the config.

    Attributes:
        cfg: the config in use. For a PyTorch model it has the keys of the level of speed.
        model: the model, in eval mode. At a level other than "exact" its weights cannot be saved as
            a checkpoint.
        propose: the function that proposes boxes; None for a model with an RPN.
        class_names: names of the K classes of the model: MASK_RCNN_EXT.CLASS_NAMES, or the names of
            the data set of the config if it is registered, or "class 0", "class 1", ...
        category_ids: ids of the K classes in the annotation file of the data set:
            MASK_RCNN_EXT.CATEGORY_IDS, or the ids of the registered data set, or 1, ..., K.

    Raises:
        UserError: the config, the device or the speed is unknown; `propose` is missing for a model
            that needs it, or given for a model that does not; or the weights are missing, refused,
            or belong to another model.
    """

    def __init__(
        self,
        cfg_or_name: CfgNode | str | os.PathLike[str],
        weights: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device | None = None,
        batch_size: int = 8,
        score_threshold: float | None = None,
        propose: ImagePropose | None = None,
        speed: str | None = None,
    ) -> None:
        require_range("batch_size", batch_size, 1)
        cfg = resolve_config(cfg_or_name)
        require_propose(cfg, propose is not None)
        if weights is not None:
            cfg.MODEL.WEIGHTS = os.fspath(weights)
        if score_threshold is not None:
            require_range("score_threshold", score_threshold, 0, 1)
            cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = float(score_threshold)
            cfg.MODEL.RETINANET.SCORE_THRESH_TEST = float(score_threshold)
        require_channels(cfg)
        require_colours(cfg)
        set_pixel_limit(cfg.MASK_RCNN_EXT.DATA.MAX_IMAGE_PIXELS)
        choose_device(cfg, device)
        if speed is not None:
            cfg.MASK_RCNN_EXT.SPEED = speed
        self.cfg = resolve_speed(cfg)
        self.batch_size = batch_size
        self.propose = propose
        self.class_names, self.category_ids = _find_classes(cfg)
        if is_exported(cfg.MODEL.WEIGHTS):
            _require_device_and_speed(cfg.MODEL.WEIGHTS, device, speed)
            self.cfg, self.model = load_exported(cfg)
        else:
            check_registry_names(cfg)
            with SkipRandomWeights():
                model = prepare_model(cfg, build_model(cfg.clone())).eval()
            Checkpointer(model).load(cfg.MODEL.WEIGHTS, strict=True)
            self.model = prepare_for_inference(cfg, model)
        self._resize = ResizeShortestEdge(
            [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST], cfg.INPUT.MAX_SIZE_TEST
        )

    def __call__(self, images: ImageLike | Iterable[ImageLike]) -> Instances | list[Instances]:
        """Return the instances of one image, or a list with the instances of each image.

        Args:
            images: one image or an iterable of images. An image is a (H, W, 3) uint8 array in BGR
                order, as `cv2.imread` returns it, or the path of an image file. With
                `MASK_RCNN_EXT.DATA.IMAGE_CHANNELS` an array has the numbers and the order of
                channels of its file, see `data.bands`.

        Returns:
            For each image `Instances` on the CPU, in pixels of the original image: `pred_boxes`
            (XYXY_ABS), `scores`, `pred_classes` in [0, K), and, from a model with masks,
            `pred_masks` (N, H, W) bool.

        Raises:
            UserError: an image has another type, shape or dtype, or a file cannot be read; or
                `propose` did not return boxes and logits; or all masks of an image have more than
                32 times as many pixels as an image may have.
        """
        if _is_image(images):
            return next(self.stream([images]))  # type: ignore[list-item]
        if isinstance(images, bytes | dict | torch.Tensor) or not isinstance(images, Iterable):
            raise _image_error(images)
        return list(self.stream(images))

    def stream(self, images: Iterable[ImageLike]) -> Iterator[Instances]:
        """Yield the instances of each image in order, with `batch_size` images in memory.

        Use it for more images than fit into memory. Masks exist only for the image that is yielded.
        See `__call__` for the arguments and errors.
        """
        for instances in self.stream_packed(images):
            if instances.has("pred_masks"):
                _require_room(instances.pred_masks)
                instances.pred_masks = instances.pred_masks.unpack()
            yield instances

    def stream_packed(
        self, images: Iterable[ImageLike], *, masks: bool = True
    ) -> Iterator[Instances]:
        """Yield the same as `stream`, but `pred_masks` are `PackedMasks`.

        They need much less memory than masks (N, H, W), which matters for large photos. With
        `masks` False there are none, and Mask R-CNN saves the time to paste them.
        """
        batch: list[dict[str, Any]] = []
        for image in images:
            batch.append(self.prepare(image))
            if len(batch) == self.batch_size:
                yield from self._predict(batch, masks)
                batch = []
        yield from self._predict(batch, masks)

    def read(self, image: ImageLike) -> npt.NDArray[Any]:
        """Return an image as an array that `__call__` takes, read from its file if it is a path.

        Raises:
            UserError: see `__call__`.
        """
        channels = self.cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS
        if not channels:
            return _as_bgr(image)
        if isinstance(image, np.ndarray):
            return require_bands(image, channels, "image")
        return read_bands(image, channels)

    def prepare(self, image: ImageLike) -> dict[str, Any]:
        """Return the input of the model: the resized image, (C, H', W') float32, H and W.

        With `propose` it also has `proposals`.
        """
        bgr = self.read(image)
        image_format = self.cfg.INPUT.FORMAT
        order = order_bands if self.cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS else _order_channels
        array: npt.NDArray[Any] = order(bgr, image_format)
        height, width = array.shape[:2]
        transform = self._resize.get_transform(array)
        resized = transform.apply_image(array)
        tensor = torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))
        inputs = {"image": tensor, "height": height, "width": width}
        if self.propose is not None:
            topk = self.cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST
            inputs["proposals"] = propose_boxes(
                self.propose, bgr, resized.shape[:2], transform, topk
            )
        return inputs

    def _padded_size(self, inputs: dict[str, Any]) -> tuple[int, int]:
        """Return the (H, W) to which the model pads an image that is alone in its batch."""
        multiple = max(1, getattr(getattr(self.model, "backbone", None), "size_divisibility", 1))
        height, width = inputs["image"].shape[-2:]
        return -(-height // multiple) * multiple, -(-width // multiple) * multiple

    def _predict(self, batch: list[dict[str, Any]], masks: bool) -> Iterator[Instances]:
        """Run the model on the whole batch, then paste the masks of one image after the other."""
        groups: dict[tuple[int, int], list[int]] = {}
        for index, inputs in enumerate(batch):
            groups.setdefault(self._padded_size(inputs), []).append(index)
        finishers: dict[int, Callable[[], Instances]] = {}
        for indices in groups.values():
            with self._inference():
                found = run_model(self.model, [batch[index] for index in indices], masks=masks)
            finishers.update(zip(indices, found, strict=True))
        for index in range(len(batch)):
            with self._inference():
                instances = finishers.pop(index)().to("cpu")
            if not masks:
                instances.get_fields().pop("pred_masks", None)
            yield instances

    @contextlib.contextmanager
    def _inference(self) -> Iterator[None]:
        with inference_context(self.model), torch.no_grad(), inference_autocast(self.cfg):
            yield


def _require_room(masks: PackedMasks) -> None:
    """Refuse to unpack too many masks: 100 masks of a photo of 177 megapixels take 18 GB."""
    limit = get_pixel_limit()
    if limit is not None and math.prod(masks.shape) > _IMAGES_OF_MASKS * limit:
        count, height, width = masks.shape
        raise UserError(
            f"{count} masks of {width:,} x {height:,} pixels would take "
            f"{math.prod(masks.shape) / 1e9:.1f} GB. Use Predictor.stream_packed, which keeps them "
            "small, or set MASK_RCNN_EXT.DATA.MAX_IMAGE_PIXELS to more than "
            f"{-(-math.prod(masks.shape) // _IMAGES_OF_MASKS):,}"
        )


def _require_device_and_speed(
    path: str, device: str | torch.device | None, speed: str | None
) -> None:
    """Check the device and the speed that were asked for an exported model."""
    speeds = get_exported_speeds(path)
    for name, value, fits in (("device", device, ("cpu",)), ("speed", speed, speeds)):
        if value is not None and str(value) not in fits:
            raise UserError(
                f"{name} {value}: an exported model runs on the CPU, at the speed that its export "
                f"gave it, and an OpenVINO file also at 'fastest'; leave {name} out"
            )


def _is_image(value: Any) -> bool:
    return isinstance(value, str | os.PathLike) or (
        isinstance(value, np.ndarray) and value.ndim < 4
    )


def _image_error(value: Any) -> UserError:
    got = type(value).__name__
    if isinstance(value, np.ndarray):
        got = f"an array {value.shape} {value.dtype}"
    elif isinstance(value, Image.Image):
        got = 'a Pillow image. Give numpy.array(image.convert("RGB"))[:, :, ::-1]'
    return UserError(f"image: expected a (H, W, 3) uint8 array in BGR order, or a path; got {got}")


def _order_channels(bgr: npt.NDArray[np.uint8], image_format: str) -> npt.NDArray[np.uint8]:
    """Return the channels in the order of `INPUT.FORMAT`; "L" is Pillow's grey, (H, W, 1).

    The grey of a YCbCr TIFF may differ by 1 from that of a training, which takes Y itself.
    """
    if image_format == "BGR":
        return bgr
    rgb = bgr[:, :, ::-1]
    if image_format == "RGB":
        return rgb
    return np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).convert("L"))[:, :, None]


def _as_bgr(image: Any) -> npt.NDArray[Any]:
    if isinstance(image, str | os.PathLike):
        return read_bgr(image)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3:
        raise _image_error(image)
    if image.shape[2] != 3 or 0 in image.shape:
        raise _image_error(image)
    return image


def _find_classes(cfg: CfgNode) -> tuple[list[str], list[int]]:
    """Return the names and the data-set ids of the classes, see `Predictor`."""
    retinanet = cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
    count = cfg.MODEL.RETINANET.NUM_CLASSES if retinanet else cfg.MODEL.ROI_HEADS.NUM_CLASSES
    names, ids = list(cfg.MASK_RCNN_EXT.CLASS_NAMES), list(cfg.MASK_RCNN_EXT.CATEGORY_IDS)
    for key, values in (("CLASS_NAMES", names), ("CATEGORY_IDS", ids)):
        if values and len(values) != count:
            raise UserError(
                f"MASK_RCNN_EXT.{key} has values for {count_noun(len(values), 'class')}, expected "
                f"{count} (MODEL.ROI_HEADS.NUM_CLASSES)"
            )
    if not names:
        names, catalog_ids = _find_catalog_classes(cfg, count)
        ids = ids or catalog_ids
    names = names or [f"class {index}" for index in range(count)]
    return names, ids or list(range(1, count + 1))


def _find_catalog_classes(cfg: CfgNode, count: int) -> tuple[list[str], list[int]]:
    """Return the classes of the first registered data set of the config with `count` classes."""
    for dataset in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        if dataset not in MetadataCatalog:  # `get` would register it
            continue
        metadata = MetadataCatalog.get(dataset)
        names = list(metadata.get("thing_classes", []))
        if len(names) != count:
            continue
        to_index = metadata.get("thing_dataset_id_to_contiguous_id", {})
        complete = sorted(to_index.values()) == list(range(count))
        return names, sorted(to_index, key=to_index.__getitem__) if complete else []
    return [], []
