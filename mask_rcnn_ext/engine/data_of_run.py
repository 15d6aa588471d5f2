"""Turns the data options of `train_net.py` into registered data sets."""

import argparse
import logging
import os

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..config import ExtCfgNode
from ..data.bad_images import skips_bad_images
from ..data.catalog import require_datasets
from ..data.own_data import OwnData, get_split_paths, register_own_data, split_own_data
from ..data.split import require_split
from ..errors import UserError, count_noun
from ..modeling.checks import is_fcis, is_generalized_rcnn

__all__ = ["prepare_data", "register_data_of", "take_data_options"]

logger = logging.getLogger(__name__)

_DATA_FLAGS = ("train_json", "train_images", "val_json", "val_images")


def take_data_options(cfg: ExtCfgNode, args: argparse.Namespace) -> None:
    """Put the options that name the data, such as `--train-json`, into the config.

    `DATASETS.TRAIN` and `DATASETS.TEST` on the command line decide between own and registered data.

    Raises:
        UserError: own and registered data are both given.
    """
    own = cfg.MASK_RCNN_EXT.DATA
    for flag in _DATA_FLAGS:
        if value := getattr(args, flag, ""):
            own[flag.upper()] = os.path.abspath(value)
    own.STRICT |= getattr(args, "strict_data", False)
    if (split := getattr(args, "split", None)) is not None:
        own.SPLIT = split or -1.0  # 0 is no split, which nobody asks for
    if group_by := getattr(args, "group_by", ""):
        own.GROUP_BY = group_by
    _choose_data(cfg, args)


def _choose_data(cfg: ExtCfgNode, args: argparse.Namespace) -> None:
    """Let `DATASETS.TEST` on the command line decide between own and registered data."""
    own, given = cfg.MASK_RCNN_EXT.DATA, {*args.opts[::2]} & {"DATASETS.TRAIN", "DATASETS.TEST"}
    if not (given and (own.TRAIN_JSON or own.VAL_JSON)):
        return
    by_flag = any(getattr(args, flag, "") for flag in _DATA_FLAGS)
    if given == {"DATASETS.TEST"} and not cfg.DATASETS.TEST and not args.eval_only:
        own.VAL_JSON = own.VAL_IMAGES = ""  # no evaluation
    elif given == {"DATASETS.TEST"} and args.eval_only and not by_flag:
        for flag in _DATA_FLAGS:  # from the config of the run whose weights are evaluated
            own[flag.upper()] = ""
    else:
        raise UserError(
            f"{' and '.join(sorted(given))} and own data (MASK_RCNN_EXT.DATA) are both given. "
            "Leave out one of the two; to train on registered data with the config of a run that "
            'had own data, empty its four keys, such as MASK_RCNN_EXT.DATA.TRAIN_JSON ""'
        )


def prepare_data(cfg: ExtCfgNode, *, eval_only: bool = False, resume: bool = False) -> None:
    """Register the user's own data, check that all data sets exist, and store their classes.

    This changes `cfg`. Own data sets `DATASETS`, `MODEL.ROI_HEADS.NUM_CLASSES` and
    `INPUT.MASK_FORMAT`; every data set sets `MASK_RCNN_EXT.CLASS_NAMES` and `CATEGORY_IDS`.
    With `resume`, data that the run in `OUTPUT_DIR` has split are not split again.

    Raises:
        UserError: a file is missing or malformed, or the data's class count contradicts the config.
    """
    own = cfg.MASK_RCNN_EXT.DATA
    files = (own.TRAIN_JSON, own.TRAIN_IMAGES, own.VAL_JSON, own.VAL_IMAGES)
    if any(files) or own.SPLIT or own.GROUP_BY:
        _register_own_data(cfg, eval_only, resume)
        return
    names = list(cfg.DATASETS.TEST) if eval_only else [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    split = "TEST" if eval_only else "TRAIN"
    if not cfg.DATASETS[split]:
        raise UserError(
            f"no data: DATASETS.{split} is empty. Name a registered data set there, or give your "
            "own with --train-json F --train-images D --val-json F --val-images D"
        )
    require_datasets(names)
    if names and is_generalized_rcnn(cfg):
        _store_classes(cfg, names)


def _register_own_data(cfg: ExtCfgNode, eval_only: bool, resume: bool) -> None:
    own, ext = cfg.MASK_RCNN_EXT.DATA, cfg.MASK_RCNN_EXT
    if own.SPLIT or own.GROUP_BY:
        _split_own_data(cfg, resume)
    if eval_only and not own.VAL_JSON:
        raise UserError("--eval-only needs --val-json and --val-images")
    if not eval_only and not own.TRAIN_JSON:
        raise UserError("training needs --train-json and --train-images (or add --eval-only)")
    folder = os.path.join(cfg.OUTPUT_DIR, "data")
    data = register_data_of(cfg, folder, train=not eval_only, same_classes=eval_only)
    if not data.val_name:
        logger.info(
            "There is no validation data, so nothing is evaluated. Give --val-json and "
            "--val-images, or --split 0.8 to train on 80 % of the images and evaluate on the rest"
        )
    cfg.DATASETS.TRAIN = (data.train_name,) if data.train_name else ()
    cfg.DATASETS.TEST = (data.val_name,) if data.val_name else ()
    if not data.val_name:
        cfg.DATASETS.PROPOSAL_FILES_TEST = ()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(data.class_names)
    # FCIS needs whole masks; detectron2's mapper draws polygons.
    cfg.INPUT.MASK_FORMAT = "bitmask" if is_fcis(cfg) else data.mask_format
    ext.CLASS_NAMES, ext.CATEGORY_IDS = list(data.class_names), list(data.category_ids)


def register_data_of(
    cfg: ExtCfgNode, clean_dir: str, *, train: bool = True, same_classes: bool = False
) -> OwnData:
    """Register the own data of a config, or without `train` only the validation data.

    With `same_classes`, the config is of a run, and the classes are those that its weights know.
    """
    own, ext = cfg.MASK_RCNN_EXT.DATA, cfg.MASK_RCNN_EXT
    known: list[tuple[int, str]] = []
    if same_classes and ext.CATEGORY_IDS:  # without ids, the names alone say nothing of the file
        known = list(zip(ext.CATEGORY_IDS, ext.CLASS_NAMES, strict=True))
    return register_own_data(
        own.TRAIN_JSON if train else "",
        own.TRAIN_IMAGES if train else "",
        own.VAL_JSON,
        own.VAL_IMAGES,
        clean_dir=clean_dir,
        strict=own.STRICT,
        masks=cfg.MODEL.MASK_ON,
        boxes_from_masks=own.BOXES_FROM_MASKS,
        classes=known,
        channels=own.IMAGE_CHANNELS,
        skip_bad_images=skips_bad_images(cfg),
    )


def _split_own_data(cfg: ExtCfgNode, resume: bool) -> None:
    """Replace the training data of the config by its two parts."""
    own, folder = cfg.MASK_RCNN_EXT.DATA, os.path.join(cfg.OUTPUT_DIR, "data")
    require_split(own.SPLIT or None, own.GROUP_BY)
    if given := own.VAL_JSON or own.VAL_IMAGES:
        raise UserError(
            f"--split and validation data ({given}) are both given. Leave out one of the two. A "
            "config.yaml of a run has validation data; to split new data with it, add "
            'MASK_RCNN_EXT.DATA.VAL_JSON "" MASK_RCNN_EXT.DATA.VAL_IMAGES ""'
        )
    if not (own.TRAIN_JSON and own.TRAIN_IMAGES):
        raise UserError("--split needs --train-json and --train-images")
    kept = get_split_paths(folder)
    if resume and all(map(os.path.isfile, kept)):
        logger.info(
            "The split is the run's own: %s and %s. Nothing is split again, and later changes in "
            "%s do not count: an image of the validation part could move into the training part.",
            *(*kept, own.TRAIN_JSON),
        )
        own.TRAIN_JSON, own.VAL_JSON = kept
    else:
        own.TRAIN_JSON, own.VAL_JSON = split_own_data(
            own.TRAIN_JSON,
            own.TRAIN_IMAGES,
            own.SPLIT,
            folder,
            group_by=own.GROUP_BY,
            strict=own.STRICT,
            masks=cfg.MODEL.MASK_ON,
            boxes_from_masks=own.BOXES_FROM_MASKS,
            channels=own.IMAGE_CHANNELS,
            skip_bad_images=skips_bad_images(cfg),
        )
    own.VAL_IMAGES, own.SPLIT, own.GROUP_BY = own.TRAIN_IMAGES, 0.0, ""


def _store_classes(cfg: ExtCfgNode, names: list[str]) -> None:
    first = ""
    for name in names:
        metadata = MetadataCatalog.get(name)
        if not metadata.get("thing_classes"):
            DatasetCatalog.get(name)  # reads the file, which fills them in
        classes = list(metadata.get("thing_classes", []))
        if not classes:
            continue
        expected = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        if len(classes) != expected:
            raise UserError(
                f"MODEL.ROI_HEADS.NUM_CLASSES is {expected}, but data set {name} has "
                f"{count_noun(len(classes), 'class')} ({', '.join(classes[:8])}"
                f"{', ...' if len(classes) > 8 else ''}). "
                f"Set MODEL.ROI_HEADS.NUM_CLASSES {len(classes)}."
            )
        if first and classes != cfg.MASK_RCNN_EXT.CLASS_NAMES:
            raise UserError(
                f"data sets {first} and {name} have different classes: "
                f"{', '.join(cfg.MASK_RCNN_EXT.CLASS_NAMES[:8])} and {', '.join(classes[:8])}"
            )
        first = first or name
        ids = metadata.get("thing_dataset_id_to_contiguous_id", {})
        by_class = sorted(ids, key=lambda category: ids[category])
        cfg.MASK_RCNN_EXT.CLASS_NAMES = classes
        cfg.MASK_RCNN_EXT.CATEGORY_IDS = by_class or list(range(1, len(classes) + 1))
