"""Export a trained model to ONNX, OpenVINO or safetensors, and check that it stays the same.

    python tools/export_model.py output/run/model_final.pth --output output/run/export

A model that does not contain its config needs `--config-file CFG --weights MODEL` in place of
MODEL.

Exit code: 0 if the file is written, 2 if the export is refused; then it leaves no file.
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from command_line.early import stop_at_mistakes
from command_line.model import add_model, add_overrides, load_config_of_model

EXPORT_FORMATS = ("onnx", "openvino", "safetensors")  # export.export_model.EXPORT_FORMATS


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_model(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
    help_format = (
        "onnx and openvino run without PyTorch; safetensors shares any model (default: onnx)"
    )
    parser.add_argument("--format", choices=EXPORT_FORMATS, default="onnx", help=help_format)
    parser.add_argument(
        "--images",
        nargs="+",
        default=[],
        metavar="INPUT",
        help="images, folders or quoted globs to compare on, and to calibrate on with --int8 "
        "(default: the images of DATASETS.TEST)",
    )
    parser.add_argument(
        "--int8", action="store_true", help="8-bit integers, calibrated on --images; checks the AP"
    )
    parser.add_argument(
        "--max-ap-loss",
        type=float,
        default=0.5,
        metavar="AP",
        help="refuse int8 if it loses more points of AP (default: 0.5)",
    )
    parser.add_argument(
        "--calibration-images",
        type=int,
        default=500,
        metavar="N",
        help="calibrate int8 on N of the images at most, spaced evenly (default: 500)",
    )
    add_overrides(parser)
    return parser


if __name__ == "__main__":
    # --help and simple mistakes end here, before the imports below, which take seconds.
    _args = build_parser().parse_args()
    stop_at_mistakes(_args, folder=_args.output)

from mask_rcnn_ext import UserError
from mask_rcnn_ext.engine.data_of_run import prepare_data
from mask_rcnn_ext.engine.interruption import raise_signals
from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.export.export_model import export_model
from mask_rcnn_ext.files import read_json
from mask_rcnn_ext.prediction.image_files import find_images
from mask_rcnn_ext.proposals.file import load_dicts

# isort: split
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog


def list_images(args: argparse.Namespace, cfg: CfgNode) -> list[str]:
    """Return the images of `--images`, else of the evaluation data set, which is registered.

    Raises:
        UserError: there are none, the data set is not known, or `--int8` is given without
            `--images`.
    """
    if args.int8 and not args.images:
        raise UserError("--int8 needs --images: a folder of the kind of images to predict later")
    own = cfg.MASK_RCNN_EXT.DATA
    unknown = [name for name in cfg.DATASETS.TEST if name not in DatasetCatalog]
    if args.int8 or not args.images:
        if unknown and not own.VAL_JSON:
            fix = (
                "--images DIR, some images of the kind to predict later; or --config-file with the "
                "run's config.yaml, to take its validation images"
            )
            if args.int8:
                fix = "--opts MASK_RCNN_EXT.DATA.VAL_JSON F MASK_RCNN_EXT.DATA.VAL_IMAGES DIR"
            raise UserError(f"the data set {unknown[0]!r} is not known here: give {fix}")
        prepare_data(cfg, eval_only=True)
    if args.images:
        arrays = bool(cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS)
        return [str(file.path) for file in find_images(args.images, arrays=arrays)]
    return [
        record["file_name"]
        for name in cfg.DATASETS.TEST
        for record in load_dicts(cfg, "TEST", [name], filter_empty=False)
    ]


def describe_check(metadata: Mapping[str, Any]) -> str:
    """Return the differences that the check has measured, as a phrase."""
    parity = metadata["parity"]
    before = " before int8" if "int8" in metadata else ""  # int8 is checked by its AP
    return (
        f"checked{before} on {parity['images']} images, {parity['detections']} objects: boxes "
        f"differ by {parity['largest_box_difference']:.2g} pixels at most, scores by "
        f"{parity['largest_score_difference']:.2g}; the least IoU of masks is "
        f"{parity['least_mask_iou']:.4f}"
    )


def export(args: argparse.Namespace) -> None:
    """Export the model that the command line names.

    Raises:
        UserError: wrong usage, or the export is refused.
    """
    cfg = load_config_of_model(args)
    images = [] if args.format == "safetensors" else list_images(args, cfg)
    with raise_signals():
        path = export_model(
            cfg,
            args.output,
            images,
            format=args.format,
            int8=args.int8,
            max_ap_loss=args.max_ap_loss,
            calibration_images=args.calibration_images,
        )
    print(f"exported model: {path}")
    if args.format == "safetensors":
        print("checked: all weights are equal to the last bit")
        return
    print(describe_check(read_json(path.with_name("export.json"))[path.name]))
    print(f"measurements: {path.with_name('export.json')}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run_as_command(lambda: export(args))


if __name__ == "__main__":
    sys.exit(main())
