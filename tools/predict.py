"""Find instances in images: COCO-json results and pictures.

    python tools/predict.py output/run/model_final.pth photos --output predictions

A model that does not carry its config needs `--config-file CFG --weights MODEL` in place of MODEL.

Exit code: 0 if all images are done; 1 if some failed, for example could not be read, and the others
are done; 2 for wrong usage or an output folder that cannot be written; 130 after Ctrl-C and 143
after SIGTERM, which leave the results of the images that are done.
"""

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

MODES = ("fast", "quality", "single")  # proposals.selective_search.MODES
SPEEDS = ("exact", "fast", "fastest")  # modeling.speed.SPEEDS
SMALLEST_PICTURE = 480  # pixels of the longer side; smaller images are enlarged, for the labels
LARGEST_PICTURE = 4096  # pixels of the longer side; larger images are drawn smaller, which is quick


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Find instances in images; write COCO-json results and pictures."
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="without --config-file and --weights: first the model, such as model_final.pth. Then "
        "images, folders, or quoted glob patterns",
    )
    parser.add_argument(
        "--config-file",
        metavar="CFG",
        help="a yaml file, such as the config.yaml of a run, or the name of one of our configs "
        "(default: the config that the model carries)",
    )
    parser.add_argument(
        "--weights", metavar="W", help="the model with --config-file (default: its MODEL.WEIGHTS)"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--score-threshold", type=float, default=0.5, help="drop lower scores (default: 0.5)"
    )
    parser.add_argument("--batch-size", type=int, default=8, help="images at a time (default: 8)")
    parser.add_argument(
        "--device", help="cpu, cuda, cuda:1 (default: MODEL.DEVICE, or the CPU if there is no CUDA)"
    )
    parser.add_argument(
        "--speed",
        choices=SPEEDS,
        help="exact; fast: equal up to rounding; fastest: mixed precision (default: "
        "MASK_RCNN_EXT.SPEED)",
    )
    parser.add_argument("--recursive", action="store_true", help="also look in subfolders")
    parser.add_argument("--no-pictures", action="store_true", help="write the json files only")
    search = parser.add_argument_group(
        "models without an RPN (R-CNN, Fast R-CNN)",
        "Use the settings with which tools/compute_proposals.py searched the training data.",
    )
    search.add_argument(
        "--selective-search",
        choices=MODES,
        metavar="MODE",
        help=f"propose boxes with selective search: {', '.join(MODES)}",
    )
    search.add_argument(
        "--search-width",
        type=int,
        metavar="PX",
        help="search the image at this width (default: its own, which is slow for large photos)",
    )
    search.add_argument(
        "--search-min-size",
        type=int,
        metavar="PX",
        help="drop boxes with a side shorter than this in the searched image (default: 5)",
    )
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config overrides; last on the line",
    )
    return parser


if __name__ == "__main__":
    build_parser().parse_args()  # --help ends here, before the imports below, which take seconds

# The package comes before detectron2: it keeps PyTorch from warning about detectron2's import.
from mask_rcnn_ext import Predictor, UserError
from mask_rcnn_ext.checkpoint.description import is_checkpoint
from mask_rcnn_ext.data.images import BGRArray
from mask_rcnn_ext.engine.interruption import Interrupted, raise_signals
from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.files import atomic_open, require_writable
from mask_rcnn_ext.prediction.coco_results import CocoResultsWriter
from mask_rcnn_ext.prediction.image_files import (
    ImageFile,
    describe_failure,
    find_images,
    predict_files,
)
from mask_rcnn_ext.prediction.predictor import resolve_config
from mask_rcnn_ext.proposals.single_images import ImagePropose, make_search, require_propose
from mask_rcnn_ext.report.drawing.pictures import draw_instances

# isort: split
from detectron2.config import CfgNode
from detectron2.structures import Instances
from PIL import Image
from tqdm import tqdm


def save_picture(path: Path, image: BGRArray, instances: Instances, names: Sequence[str]) -> None:
    """Draw the instances of one image and write the picture, as JPEG or PNG by the extension."""
    longer = max(image.shape[:2])
    picture = draw_instances(
        image[:, :, ::-1],
        instances.pred_masks if instances.has("pred_masks") else None,
        instances.pred_boxes.tensor.numpy(),
        [
            f"{names[label]} {score:.2f}"
            for label, score in zip(
                instances.pred_classes.tolist(), instances.scores.tolist(), strict=True
            )
        ],
        scale=min(max(1.0, SMALLEST_PICTURE / longer), LARGEST_PICTURE / longer),
    )
    encoded = io.BytesIO()
    if path.suffix.lower() == ".png":
        Image.fromarray(picture).save(encoded, format="PNG")
    else:
        Image.fromarray(picture).save(encoded, format="JPEG", quality=92)
    with atomic_open(path, durable=False) as file:
        file.write(encoded.getvalue())


def picture_name(name: str) -> str:
    """Return the file name, in `pictures/`, of the picture of the image `name`; it is unique."""
    return name if name.lower().endswith((".jpg", ".jpeg", ".png")) else f"{name}.png"


def choose_model(args: argparse.Namespace) -> str:
    """Return the config, or the model that carries it; a model is taken out of `args.inputs`.

    Raises:
        UserError: no model is given, or more than one, or no image.
    """
    named = args.config_file or args.weights
    model = named or args.inputs.pop(0)
    if not (named or is_checkpoint(model)):
        raise UserError(
            f"no model given: expected a file such as model_final.pth before {model}, or "
            "--config-file and --weights"
        )
    if not args.inputs:
        raise UserError(f"no images given: name images or folders after {model}")
    for path in filter(is_checkpoint, args.inputs):
        raise UserError(
            f"{path} is a model, not an image. Give one model: first, without --config-file and "
            "--weights, or as --weights"
        )
    return model


def build_propose(args: argparse.Namespace, cfg: CfgNode) -> ImagePropose | None:
    """Return the function that proposes boxes to a model without an RPN; None for other models.

    Raises:
        UserError: the model needs the search options and they are missing, it does not need them
            and they are given, or one is out of range.
    """
    given = {"width": args.search_width, "min_size": args.search_min_size}
    given = {name: value for name, value in given.items() if value is not None}
    if given and not args.selective_search:
        raise UserError("--search-width and --search-min-size need --selective-search MODE")
    require_propose(cfg, args.selective_search is not None)
    return make_search(cfg, mode=args.selective_search, **given) if args.selective_search else None


def write_all(
    args: argparse.Namespace,
    predictor: Predictor,
    files: Sequence[ImageFile],
    writer: CocoResultsWriter,
    failures: list[str],
) -> int:
    """Predict on the files and write results and pictures; add a line to `failures` for each fault.

    Returns:
        The number of pictures that are smaller than their images.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; the results of the images that are done are written.
        UserError: the output cannot be written; earlier results stay as they are.
    """
    pictures, shrunk = Path(args.output, "pictures"), 0
    with raise_signals(), writer, tqdm(total=len(files), unit="image", desc="predict") as bar:

        def on_failure(file: ImageFile, reason: str) -> None:
            failures.append(reason)
            bar.update()

        for file, image, instances in predict_files(predictor, files, on_failure):
            try:
                writer.add(file.name, instances)
                if not args.no_pictures:
                    target = pictures / picture_name(file.name)
                    save_picture(target, image, instances, predictor.class_names)
                    shrunk += max(image.shape[:2]) > LARGEST_PICTURE
            except UserError:  # such as a full disk
                raise
            except Exception as error:  # for example no memory, or too large a picture for a JPEG
                on_failure(file, describe_failure(file.path, error))
                continue
            bar.update()
    return shrunk


def predict(args: argparse.Namespace) -> int:
    """Do what the command line asks; return the exit code.

    Raises:
        UserError: wrong usage, or the output cannot be written; earlier results stay as they are.
    """
    pictures = Path(args.output, "pictures")
    cfg = resolve_config(choose_model(args))
    cfg.merge_from_list(args.opts)
    files = find_images(
        args.inputs,
        recursive=args.recursive,
        exclude=str(pictures),
        arrays=bool(cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS),
    )
    propose = build_propose(args, cfg)
    require_writable(args.output)
    predictor = Predictor(
        cfg,
        args.weights,
        device=args.device,
        batch_size=args.batch_size,
        score_threshold=args.score_threshold,
        propose=propose,
        speed=args.speed,
    )
    failures: list[str] = []
    writer = CocoResultsWriter(args.output, predictor.class_names, predictor.category_ids)
    try:
        shrunk = write_all(args, predictor, files, writer, failures)
    except KeyboardInterrupt as error:
        said = f"interrupted; {writer.num_images} of {len(files)} images are done"
        print(f"{said}: {writer.results_path}" if writer.num_images else said, file=sys.stderr)
        return error.exit_code if isinstance(error, Interrupted) else 130
    done = len(files) - len(failures)
    print(f"{done} images, {writer.num_instances} instances: {writer.results_path}")
    print(f"ids of images and categories: {writer.images_path}")
    if done and not args.no_pictures:
        print(f"pictures: {pictures}{os.sep}")
    if shrunk:
        what = f"{shrunk} of the pictures, not the results, are scaled down"
        print(f"{what}: {LARGEST_PICTURE} pixels on the longer side")
    if failures:
        print(f"{len(failures)} of {len(files)} images failed:", file=sys.stderr)
        print("\n".join(f"  {reason}" for reason in failures), file=sys.stderr)
    return 1 if failures else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run_as_command(lambda: predict(args))


if __name__ == "__main__":
    sys.exit(main())
