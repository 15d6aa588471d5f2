"""Exports a trained model: network, metadata, the check of parity, and int8 with a check of AP.

The format safetensors holds the weights and the config instead of the network, for PyTorch.
"""

import copy
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances

from ..checkpoint.description import load_contents, remove_places
from ..checkpoint.safetensors_file import (
    has_description,
    load_safetensors,
    save_safetensors,
)
from ..config import ExtCfgNode, complete_config, keys_of
from ..data.images import ImageLike
from ..engine.trainer import Trainer
from ..errors import (
    UserError,
    count_noun,
    import_extra,
    name_some,
    require_choice,
    require_range,
    shorten,
)
from ..files import file_sha256, read_json_or_none, writable_folder, write_json
from ..model_files import is_exported
from ..modeling.exported import read_exported_config
from ..modeling.speed import SPEED_KEYS
from ..prediction.predictor import Predictor
from ..report.run_data import spread_evenly
from ..temporary_files import make_temporary_folder
from .int8 import quantize_onnx
from .network import convert_to_openvino, require_exportable, write_metadata, write_onnx
from .parity import Tolerance, require_parity

__all__ = ["EXPORT_FORMATS", "export_model"]

EXPORT_FORMATS = {"onnx": ".onnx", "openvino": ".xml", "safetensors": ".safetensors"}
RECORD = "export.json"
PARITY_IMAGES = 20
CALIBRATION_IMAGES = 500
# FCIS rounds RoIs to pixels before pooling, in both passes, and before their masks vote. So a
# rounding error of 1e-5 can move a RoI by a pixel, and the detection with it. The boxes of FCIS's
# detections are the boxes of their masks.
TOLERANCES = {"MaskRCNNExtFCIS": Tolerance(box=2.0, score=0.02, mask_iou=0.95, share=0.01)}

logger = logging.getLogger(__name__)


def export_model(
    cfg: CfgNode,
    output: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]],
    *,
    format: str = "onnx",
    int8: bool = False,
    max_ap_loss: float = 0.5,
    calibration_images: int = CALIBRATION_IMAGES,
    tolerance: Tolerance | None = None,
) -> Path:
    """Write a trained model as `model.onnx`, as `model.xml` and `model.bin`, or as safetensors.

    With `int8` the names begin with `model_int8`. The measured numbers go to `export.json` in the
    same folder. If a check fails, no file of this export is kept.

    The format safetensors is for every model of this package: `model.safetensors` contains the
    weights, the config and the origin of the model, as a checkpoint does, but no state of training.
    Its weights are compared to the last bit, without images.

    Args:
        cfg: the config, also one from detectron2's `get_cfg()`, with the trained weights as
            `MODEL.WEIGHTS`. With `int8`, the AP is measured on `DATASETS.TEST`.
        output: a folder.
        images: image files. The model and its export are compared on 20 of them, and `int8` is
            calibrated on `calibration_images`, spaced evenly; "safetensors" uses none.
        format: one of `EXPORT_FORMATS`.
        int8: quantize.
        max_ap_loss: the largest loss of any AP (0 to 100) by `int8`.
        calibration_images: the highest number of images for the calibration.
        tolerance: the allowed differences; default: see `TOLERANCES` and `Tolerance`.

    Raises:
        UserError: a library is missing, the model is of a kind that cannot be exported, the model
            finds nothing in the images, the export finds something else, int8 loses too much AP, or
            a file would be replaced that no export has written.
    """
    require_choice("format", format, EXPORT_FORMATS)
    cfg = complete_config(cfg)
    if not cfg.MODEL.WEIGHTS or is_exported(cfg.MODEL.WEIGHTS):
        raise UserError(
            "expected the weights of a trained model, such as model_final.pth, got "
            f"{cfg.MODEL.WEIGHTS or 'none'}"
        )
    if format == "safetensors":
        return _export_weights(cfg, Path(output), int8)
    require_range("--calibration-images", calibration_images, 1)
    require_range("--max-ap-loss", max_ap_loss, 0)
    require_exportable(cfg)
    _require_libraries(format, int8)
    _require_own(Path(output), f"model{'_int8' * int8}{EXPORT_FORMATS[format]}")
    with writable_folder(output), make_temporary_folder(Path(output)) as folder:
        predictor = _load(cfg)
        chosen = [images[index] for index in spread_evenly(len(images), PARITY_IMAGES)]
        example = _find_example(predictor, chosen)
        stem = str(folder / "model")
        path = stem + EXPORT_FORMATS[format]
        write_onnx(predictor.model, example, f"{stem}.onnx")
        if format == "openvino":
            convert_to_openvino(f"{stem}.onnx", path)
        metadata = _describe(predictor)
        write_metadata(path, metadata)
        metadata["parity"] = _check_parity(predictor, path, chosen, tolerance)
        if int8:
            float_path, path = path, f"{stem}_int8{EXPORT_FORMATS[format]}"
            openvino = format == "openvino"
            used = _calibrate(predictor, stem, images, calibration_images, openvino=openvino)
            if openvino:
                convert_to_openvino(f"{stem}_int8.onnx", path)
            write_metadata(path, metadata)
            metadata["int8"] = _check_int8(cfg, float_path, path, used, max_ap_loss)
        write_metadata(path, metadata)
        return _keep(path, Path(output), metadata)


def _calibrate(
    predictor: Predictor,
    stem: str,
    images: Sequence[str | os.PathLike[str]],
    limit: int,
    *,
    openvino: bool,
) -> int:
    """Write `STEM_int8.onnx`, calibrated on the images or on some of them; return their number."""
    used = [images[index] for index in spread_evenly(len(images), limit)]
    of_all = f"of {count_noun(len(images), 'image')} (--calibration-images)"
    logger.info("int8 is calibrated on %d %s", len(used), of_all)
    prepared = (predictor.prepare(image)["image"].numpy() for image in used)
    target = f"{stem}_int8.onnx"
    quantize_onnx(f"{stem}.onnx", target, prepared, len(used), openvino=openvino)
    return len(used)


def _export_weights(cfg: CfgNode, output: Path, int8: bool) -> Path:
    if int8:
        raise UserError("int8 needs the format onnx or openvino")
    _require_own(output, "model.safetensors")
    predictor, source = _load(cfg), load_contents(cfg.MODEL.WEIGHTS)  # the weights fit the config
    kept = ("keypoint_names", "provenance", "iteration", "best")
    contents = {
        "model": predictor.model.state_dict(),
        "class_names": list(predictor.class_names),
        "config": _name_classes(cfg, predictor).dump_text(),
        **{key: source[key] for key in kept if key in source},
    }
    with writable_folder(output), make_temporary_folder(output) as folder:
        path = str(folder / "model.safetensors")
        save_safetensors(contents, path)
        written = load_safetensors(path)["model"]
        for name, value in contents["model"].items():
            if not torch.equal(_view_bytes(value), _view_bytes(written[name])):
                raise UserError(f"{name} is not the same in the written file: is the disk faulty?")
        os.replace(path, output / "model.safetensors")
    return output / "model.safetensors"


def _view_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a tensor, so that NaN equals itself and -0 does not equal 0."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _name_classes(cfg: CfgNode, predictor: Predictor) -> ExtCfgNode:
    """Return the config with the classes of the model, and without files of this machine."""
    cfg = remove_places(cfg)
    cfg.MASK_RCNN_EXT.CLASS_NAMES = list(predictor.class_names)
    cfg.MASK_RCNN_EXT.CATEGORY_IDS = list(predictor.category_ids)
    return cfg


def _require_libraries(format: str, int8: bool) -> None:
    """Import the libraries that an export needs; PyTorch's exporter itself needs onnx."""
    wanted = {"onnx": format, "onnxruntime" if format == "onnx" else "openvino": format}
    if int8:
        wanted["onnxruntime"] = "onnx"
    title = {"onnx": "ONNX", "openvino": "OpenVINO"}[format]
    for module, extra in wanted.items():
        import_extra(module, extra, f"export to {title}")


def _load(cfg: CfgNode) -> Predictor:
    """Return a predictor that computes in float32 on the CPU, as detectron2 does."""
    cfg = cfg.clone()
    cfg.defrost()
    for key in SPEED_KEYS:
        cfg.MASK_RCNN_EXT[key] = False  # a trace of gathered layers holds for one image only
    return Predictor(cfg, device="cpu", speed="exact", batch_size=1)


def _find_example(predictor: Predictor, images: Sequence[ImageLike]) -> torch.Tensor:
    """Return the first of the images, resized, in which the model finds something."""
    for image in images:
        if len(_find(predictor, image)):
            tensor: torch.Tensor = predictor.prepare(image)["image"]
            return tensor
    raise UserError(
        f"the model finds nothing in {count_noun(len(images), 'image')}, so its export could not "
        "be compared with it. Give images with objects by --images, or lower the score threshold: "
        "--opts MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.05"
    )


def _find(predictor: Predictor, image: ImageLike) -> Instances:
    return next(predictor.stream_packed([image]))


def _try_to_find(exported: Predictor, image: ImageLike) -> Instances:
    try:
        return _find(exported, image)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # of types of the libraries
        reason = str(error).strip().splitlines() or [repr(error)]  # OpenVINO's begin with its code
        name = image if isinstance(image, str | os.PathLike) else "an image of one colour"
        raise UserError(
            f"the exported model was not kept, since it cannot run on {name}: "
            f"{shorten(reason[-1], 300)}. Try another --format; safetensors takes every model"
        ) from error


def _describe(predictor: Predictor) -> dict[str, Any]:
    """Return the metadata of the file, see `modeling.exported.METADATA`."""
    cfg, weights = _name_classes(predictor.cfg, predictor), predictor.cfg.MODEL.WEIGHTS
    channels = cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS
    return {
        "class_names": list(predictor.class_names),
        "category_ids": list(predictor.category_ids),
        "config": cfg.dump_text(),
        "preprocessing": {
            "input": "float32 (C, H, W), values as in the file",
            "channels": channels or cfg.INPUT.FORMAT,
            "shorter_side": cfg.INPUT.MIN_SIZE_TEST,
            "longest_side": cfg.INPUT.MAX_SIZE_TEST,
            "resize": "bilinear, Pillow's",
            "normalisation": "in the network",
        },
        "score_threshold": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
        "made_with": {
            "torch": torch.__version__,
            "weights_sha256": file_sha256(weights) if os.path.isfile(weights) else None,
        },
    }


def _check_parity(
    predictor: Predictor,
    path: str,
    images: Sequence[str | os.PathLike[str]],
    tolerance: Tolerance | None,
) -> dict[str, Any]:
    cfg = predictor.cfg
    exported = Predictor(read_exported_config(path, add_keys=keys_of(cfg)))
    first = predictor.read(images[0])
    blank = np.full_like(first, first.mean())
    named: list[tuple[str, ImageLike]] = [(os.fspath(image), image) for image in images]
    return require_parity(
        lambda image: _find(predictor, image),
        lambda image: _try_to_find(exported, image),
        [*named, ("an image of one colour", blank)],
        tolerance or TOLERANCES.get(cfg.MODEL.META_ARCHITECTURE, Tolerance()),
        threshold=cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
        limit=cfg.TEST.DETECTIONS_PER_IMAGE,
    )


def _check_int8(
    cfg: CfgNode, float_path: str, path: str, num_images: int, max_ap_loss: float
) -> dict[str, Any]:
    """Measure the AP of both files on `DATASETS.TEST`; raise if int8 loses too much."""
    before, after = (_measure_ap(cfg, file) for file in (float_path, path))
    loss = {name: before[name] - after.get(name, 0.0) for name in before}
    said = ", ".join(f"{name} {before[name]:.2f} -> {after[name]:.2f}" for name in before)
    if not before:
        raise UserError("int8: the evaluators of the data set give no AP, so it cannot be compared")
    if not max(loss.values()) <= max_ap_loss:  # also if one is not a number
        raise UserError(
            f"int8 loses more AP than {max_ap_loss} (--max-ap-loss), so it was not kept: {said}. "
            "Calibrate on more images of the kind that will be predicted, or use the float export"
        )
    logger.info("AP of float32 -> int8: %s", said)
    record = {"calibration_images": num_images, "ap_float": before, "ap_int8": after}
    return {**record, "max_ap_loss": max_ap_loss}


def _measure_ap(cfg: CfgNode, path: str) -> dict[str, float]:
    """Return the APs of an exported file on `DATASETS.TEST`, "segm" -> 0 to 100."""
    exported = Predictor(read_exported_config(path, add_keys=keys_of(cfg)))
    settings = copy.deepcopy(exported.cfg)
    settings.DATASETS = cfg.DATASETS.clone()
    settings.DATALOADER = cfg.DATALOADER.clone()
    settings.MASK_RCNN_EXT.EVALUATORS = list(cfg.MASK_RCNN_EXT.EVALUATORS)
    with tempfile.TemporaryDirectory() as folder:
        settings.OUTPUT_DIR = folder
        return _find_aps(Trainer.test(settings, exported.model))


def _find_aps(results: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    found = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            found.update(_find_aps(value, f"{prefix} {name}".strip()))
        elif name == "AP":
            found[prefix] = float(value)
    return found


def _require_own(output: Path, name: str) -> None:
    """Check that only exports have written the files that this export replaces.

    Args:
        output: the folder of the export.
        name: the file to write; OpenVINO's weights and the record are next to it.

    Raises:
        UserError: another program has written one of them.
    """
    record = read_json_or_none(output / RECORD)
    known = isinstance(record, dict) and all(
        isinstance(entry, dict) and "made_with" in entry for entry in record.values()
    )
    if name.endswith(".safetensors"):
        own = {name: has_description(output / name)}
    else:
        files = (name, f"{Path(name).stem}.bin") if name.endswith(".xml") else (name,)
        own = {RECORD: known, **dict.fromkeys(files, known and name in record)}
    foreign = [file for file, ours in own.items() if os.path.lexists(output / file) and not ours]
    if foreign:
        raise UserError(
            f"{output}: the export would replace files that no export has written: "
            f"{name_some(foreign)}. Move them away, or give another --output"
        )


def _keep(path: str, output: Path, metadata: Mapping[str, Any]) -> Path:
    """Move the files of the export to the folder, and add the measured numbers to its record."""
    target = output / os.path.basename(path)
    if path.endswith(".xml"):
        shutil.move(f"{os.path.splitext(path)[0]}.bin", target.with_suffix(".bin"))
    os.replace(path, target)
    record = read_json_or_none(output / RECORD)
    record = record if isinstance(record, dict) else {}
    kept = {key: value for key, value in metadata.items() if key != "config"}
    write_json(output / RECORD, {**record, target.name: kept})
    return target
