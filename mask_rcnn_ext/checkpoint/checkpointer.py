"""Saves checkpoints atomically, loads them safely, and reports weights that do not fit."""

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from fvcore.common.checkpoint import _filter_reused_missing_keys, _IncompatibleKeys
from torch import nn

from ..errors import UserError, count_noun, name_some
from ..files import atomic_open
from ..log_filter import filter_log
from ..modeling.building import unwrap
from ..modeling.fcis import FCISROIHeads
from .class_layers import CLASS_LAYERS, ShapeMismatch, count_classes, count_groups
from .fetching import fetch_file
from .input_channels import fit_first_convolutions
from .lite0_weights import convert_lite0_weights
from .safe_load import load_pickle, load_torch, require_dict, require_names
from .safetensors_file import load_safetensors
from .torchvision_weights import convert_torchvision_weights

__all__ = ["Checkpointer"]

logger = logging.getLogger(__name__)

# A buffer of BatchNorm that prediction does not use; older files lack it.
_COUNTER = "num_batches_tracked"
# Blobs in Detectron's files that are not weights here: the state of the solver, and the filter that
# doubled the keypoint heatmaps. detectron2 replaces this filter with an interpolation.
_NOT_WEIGHTS = re.compile(r"_momentum$|^kps_score_[wb]$")


class _AtomicWrites:
    """detectron2's path manager, which writes local files atomically."""

    def __init__(self, path_manager: Any) -> None:
        self._path_manager = path_manager

    def __getattr__(self, name: str) -> Any:
        return getattr(self._path_manager, name)

    def open(self, path: str, mode: str = "r", **kwargs: Any) -> Any:
        """Open a file; if it is local and opened for writing, it is replaced at the end."""
        if "w" in mode and "://" not in path:
            return atomic_open(path, mode)
        return self._path_manager.open(path, mode, **kwargs)


class Checkpointer(DetectionCheckpointer):
    """detectron2's `DetectionCheckpointer` with five differences.

    - `save` is atomic: if a run is killed while it writes, the previous checkpoint stays intact.
    - Loading runs no code from a file (`.pth`, `.pkl`), see `safe_load`. It also reads safetensors.
    - A file that does not fit the model is an error or, when fine-tuning, one line in the log.
    - A checkpoint also holds the names of the classes, and the result of `describe_run`. When
      fine-tuning, weights of other classes are left out, even if the number of classes is the same.
    - When fine-tuning with images of other channels, the first convolution of weights for colour
      images is adapted, see `input_channels`.

    Args:
        model: the model whose weights are saved and loaded, see `unwrap`.
        save_dir: folder that `save` writes to and `resume_or_load` resumes from.
        save_to_disk: whether this process writes; by default, only the main process writes.
        class_names: names of the model's classes, in the model's order; empty if they have none.
        description: plain values for every saved file, see `description.describe_run`.
        **checkpointables: more objects with `state_dict` and `load_state_dict`.

    Attributes:
        saved_model: the model whose weights are saved: `model`, or a moving average of its weights.
        description: see above; it may be changed.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        class_names: Sequence[str] = (),
        description: Mapping[str, Any] | None = None,
        **checkpointables: Any,
    ) -> None:
        super().__init__(unwrap(model), save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager: Any = _AtomicWrites(PathManager)
        self.saved_model: nn.Module = self.model
        self.class_names = list(class_names)
        self.description = dict(description or {})
        self._strict = True
        self._source = ""

    def save(self, name: str, **kwargs: Any) -> None:
        """See :meth:`DetectionCheckpointer.save`; this also saves class names and description."""
        super().save(name, **self._get_weights(), **kwargs)

    def save_weights(self, name: str, **kwargs: Any) -> None:
        """Save the weights, class names and description, in a file that no run resumes from.

        Args:
            name: name of the file, without `.pth`.
            kwargs: more to save, as in `save`.
        """
        path = os.path.join(self.save_dir, f"{name}.pth")
        if self.save_dir and self.save_to_disk:
            with self.path_manager.open(path, "wb") as file:
                torch.save({**self._get_weights(), **kwargs}, file)

    def _get_weights(self) -> dict[str, Any]:
        names = {"class_names": self.class_names} if self.class_names else {}
        return {"model": unwrap(self.saved_model).state_dict(), **names, **self.description}

    def load(
        self, path: str, checkpointables: list[str] | None = None, *, strict: bool = True
    ) -> dict[str, Any]:
        """Load weights, and the state of `checkpointables`, from a file or URL.

        Args:
            path: a local file, or a URL that detectron2's PathManager knows (`https://`,
                `detectron2://`). If `strict` is off, it may be empty: then the model is not
                changed.
            checkpointables: names of the objects to load; by default, all objects in the file.
            strict: require that the file has every weight of the model, for prediction, evaluation
                and resuming. Turn it off for fine-tuning: layers that are missing in the file, have
                another shape there, or belong to other classes start from scratch, and the log
                names them.

        Returns:
            The other contents of the file, such as `iteration`.

        Raises:
            UserError: the file is missing, unreadable or unsafe, or cannot be fetched; or its
                weights do not fit the model.
        """
        path = os.fspath(path) if path else ""
        if path:
            fetch_file(
                path, 'Give MODEL.WEIGHTS a local file, or, to train from scratch, MODEL.WEIGHTS ""'
            )
        elif strict:
            raise UserError(
                "no weights given: MODEL.WEIGHTS is empty, so the model would be random. Give "
                "MODEL.WEIGHTS the file of a trained model"
            )
        self._source, self._strict = path, strict
        try:
            # fvcore logs the same line about loading a file.
            with filter_log(
                DetectionCheckpointer.__module__, lambda r: "Loading from" not in str(r.msg)
            ):
                return super().load(path, checkpointables)
        except UserError:
            raise
        except ValueError as error:  # from detectron2's name matching, or an optimizer's state
            raise UserError(f"{path}: {error}") from error
        finally:
            # detectron2 does not reset it when loading fails; then the next call would fail.
            self._parsed_url_during_load = None

    def resume_or_load(
        self, path: str, *, resume: bool = True, strict: bool = False
    ) -> dict[str, Any]:
        """Load the last checkpoint in `save_dir` if `resume` is set and it exists, else `path`.

        Args:
            path: weights to start from, usually MODEL.WEIGHTS; may be empty unless `strict`.
            resume: load the last checkpoint with all checkpointables; it must fit the model.
            strict: see `load`; it concerns `path`. The default allows fine-tuning.

        Returns:
            See `load`.

        Raises:
            UserError: see `load`; or `last_checkpoint` names a file that does not exist.
        """
        if not (resume and self.has_checkpoint()):
            return self.load(path, checkpointables=[], strict=strict)
        latest = self.get_checkpoint_file()
        if not self.path_manager.isfile(latest):
            raise UserError(
                f"cannot resume: {os.path.join(self.save_dir, 'last_checkpoint')} names "
                f"{os.path.basename(latest)!r}, which is not there. Restore this checkpoint, write "
                "the name of another one into last_checkpoint, or start again without --resume"
            )
        return self.load(latest)

    def get_checkpoint_file(self) -> str:
        """See :meth:`DetectionCheckpointer.get_checkpoint_file`.

        Raises:
            UserError: the content of `last_checkpoint` is not text.
        """
        try:
            path: str = super().get_checkpoint_file()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{os.path.join(self.save_dir, 'last_checkpoint')}: expected the name of a "
                f"checkpoint, got bytes that are not text ({error}). Write the name into the file"
            ) from error
        return path

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".pkl"):
            loaded = require_dict(load_pickle(filename), filename)
            if not ("model" in loaded and "__author__" in loaded):
                # Caffe2 and Detectron: detection models keep their weights under "blobs".
                blobs = require_dict(loaded.get("blobs", loaded), filename)
                weights = {k: v for k, v in blobs.items() if not _NOT_WEIGHTS.search(str(k))}
                loaded = {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
        elif filename.endswith(".pyth"):  # pycls
            weights = require_dict(self._torch_load(filename).get("model_state"), filename)
            weights = {k: v for k, v in weights.items() if not str(k).endswith(_COUNTER)}
            loaded = {"model": weights, "__author__": "pycls", "matching_heuristics": True}
        else:
            shared = filename.endswith(".safetensors")
            loaded = load_safetensors(filename) if shared else super()._load_file(filename)
            weights = require_names(loaded["model"], filename)
            loaded["model"] = (
                convert_torchvision_weights(weights)
                or convert_lite0_weights(weights, self.model)
                or weights
            )
        loaded["model"] = require_names(loaded["model"], filename, self.model.state_dict())
        if not loaded["model"]:
            raise UserError(f"{filename}: expected a checkpoint with tensors, got none")
        for name, value in loaded["model"].items():
            if not isinstance(value, torch.Tensor | np.ndarray):
                raise UserError(
                    f"{filename}: expected a checkpoint with tensors under 'model', got {name!r}: "
                    f"{type(value).__name__}. Is the file from another library?"
                )
            kinds = ("is_quantized", "is_sparse", "is_sparse_csr", "is_meta")
            if odd := [kind[3:] for kind in kinds if getattr(value, kind, False)]:
                raise UserError(
                    f"{filename}: {name!r} is a {odd[0]} tensor, expected one of plain numbers. "
                    "Save the float weights of the model"
                )
        return loaded

    def _torch_load(self, f: str) -> dict[str, Any]:
        return require_dict(load_torch(f), f)

    def _load_model(self, checkpoint: dict[str, Any]) -> _IncompatibleKeys:
        left_out = self._compare_classes(checkpoint)
        if not self._strict:
            fit_first_convolutions(self.model, checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        shapes: list[ShapeMismatch] = incompatible.incorrect_shapes
        skipped = {name for name, _, _ in shapes}
        missing = [
            name
            for name in _filter_reused_missing_keys(self.model, incompatible.missing_keys)
            if name not in skipped.union(left_out) and not name.endswith(_COUNTER)
        ]
        # Without buffers: FrozenBatchNorm2d fills in some buffers that a file lacks.
        parameters = {name for name, _ in self.model.named_parameters()}
        if parameters and parameters <= skipped.union(missing):
            absent, others = parameters.intersection(missing), incompatible.unexpected_keys
            if absent and (others or not shapes):
                got = others[0] if others else "only buffers"
                told = f"Expected names such as {min(absent)}, got {got}"
            else:
                told = "{} is {} in the file, {} in the model".format(*shapes[0])
            raise UserError(
                f"{self._source}: none of its weights fits the model. {told}. Use weights of this "
                "model"
            )
        if self._strict:
            self._require_match(shapes, sorted(missing))
        else:
            self._log_new_layers(shapes, sorted(missing))
        unexpected = [
            name
            for name in incompatible.unexpected_keys
            # The config sets these; older files still contain them.
            if name not in ("pixel_mean", "pixel_std")
        ]
        return incompatible._replace(
            missing_keys=[], incorrect_shapes=[], unexpected_keys=unexpected
        )

    def _compare_classes(self, checkpoint: dict[str, Any]) -> list[str]:
        """When fine-tuning, remove class layers that fit in shape but belong to other classes.

        Returns:
            The names of the removed weights. The log says which layers are kept or left out, and
            why.
        """
        known, ours = checkpoint.pop("class_names", []), self.class_names
        weights = checkpoint["model"]
        layers = [
            name
            for name, parameter in self.model.state_dict().items()
            if ours
            and CLASS_LAYERS.search(name)
            and name in weights
            and weights[name].shape == parameter.shape
            and count_groups(name, len(parameter), len(ours))
        ]
        if not layers:  # they are missing, or of another number of classes
            return []
        named = isinstance(known, list) and all(isinstance(name, str) for name in known)
        if not named or len(known) != len(ours):
            if not self._strict:
                logger.info(
                    "The class layers (%s) are kept: the weights have as many classes as the data "
                    "(%d), but do not tell their names. Are they the same classes, in the same "
                    "order?",
                    *(_name_layers(layers), len(ours)),
                )
            return []
        other = [
            f"{theirs!r} in place of {name!r}"
            for theirs, name in zip(known, ours, strict=True)
            if theirs.strip().lower() != name.strip().lower()
        ]
        if not other:
            return []
        if self._strict:
            logger.warning(
                "%s has other classes (%s). Its detections get the names of the config.",
                *(self._source, name_some(other)),
            )
            return []
        logger.info(
            "The class layers (%s) start from scratch, because the weights have other classes (%s)."
            " To keep the weights of common classes, convert the file first: "
            "mask_rcnn_ext.convert_checkpoint",
            *(_name_layers(layers), name_some(other)),
        )
        for name in layers:
            del weights[name]
        return layers

    def _fcis_bins(self) -> int:
        """Return k * k of an FCIS model, 0 of other models."""
        heads = getattr(self.model, "roi_heads", None)
        return heads.pooler.num_bins**2 if isinstance(heads, FCISROIHeads) else 0

    def _require_match(self, shapes: list[ShapeMismatch], missing: list[str]) -> None:
        counts = count_classes(shapes, self._fcis_bins())
        if counts:
            raise UserError(
                f"{self._source} has {count_noun(counts[0], 'class')}, the config says {counts[1]} "
                "(MODEL.ROI_HEADS.NUM_CLASSES). Use the config of these weights, or set "
                f"MODEL.ROI_HEADS.NUM_CLASSES {counts[0]}; for {count_noun(counts[1], 'class')}, "
                "train first"
            )
        if shapes:
            wrong = [
                f"{name} is {file} in the file, {ours} in the model" for name, file, ours in shapes
            ]
            raise UserError(
                f"{self._source} does not fit the model: {name_some(wrong, 1)}. Use the config of "
                "these weights"
            )
        if missing:
            raise UserError(
                f"{self._source} has no weights for {_name_layers(missing)}; these layers would be "
                "random. Use the weights of a model trained with this config"
            )

    def _log_new_layers(self, shapes: list[ShapeMismatch], missing: list[str]) -> None:
        counts = count_classes(shapes, self._fcis_bins())
        if counts:
            class_layers = [name for name, _, _ in shapes if CLASS_LAYERS.search(name)]
            shapes = [mismatch for mismatch in shapes if mismatch[0] not in class_layers]
            logger.info(
                "The class layers (%s) start from scratch, because the weights have %s and "
                "the data has %d. This is expected when fine-tuning.",
                _name_layers(class_layers),
                count_noun(counts[0], "class"),
                counts[1],
            )
        if shapes:
            logger.warning(
                "These layers start from scratch, because they have another shape in %s: %s",
                self._source,
                ", ".join(f"{name} ({file} there, {model} here)" for name, file, model in shapes),
            )
        if missing:
            logger.info(
                "These layers start from scratch, because %s has no weights for them: %s. This is "
                "expected when training starts from a pre-trained backbone.",
                self._source,
                _name_layers(missing),
            )


def _name_layers(parameters: Iterable[str]) -> str:
    """Return the names of the modules of `parameters`, for a message."""
    modules = dict.fromkeys(name.rpartition(".")[0] or name for name in parameters)
    return name_some(list(modules), limit=6)
