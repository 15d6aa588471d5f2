"""Find instances in images: COCO-json results, pictures, polygons, label images, GeoJSON.

    python tools/predict.py output/run/model_final.pth photos --output predictions

A model that does not contain its config needs `--config-file CFG --weights MODEL` in place of
MODEL.

Exit code: 0 if all images are done; 1 if some images failed, for example could not be read, and the
others are done; 2 for wrong usage or an output folder that cannot be written; 130 after Ctrl-C and
143 after SIGTERM, which leave the results of the images that are done.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from command_line.early import check_prediction, stop_at_mistakes
from command_line.light import import_light
from command_line.model import add_config_options, add_overrides

MODES = ("fast", "quality", "single")  # proposals.selective_search.MODES
MEASURES = ("iou", "containment")  # prediction.filters.MEASURES
SPEEDS = ("exact", "fast", "fastest")  # modeling.speed.SPEEDS


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
        "images, folders, quoted glob patterns, videos, or the number of a camera",
    )
    add_config_options(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--batch-size", type=int, default=8, help="images at a time (default: 8)")
    parser.add_argument(
        "--device", help="cpu, cuda, cuda:1 (default: MODEL.DEVICE, or the CPU if there is no CUDA)"
    )
    parser.add_argument(
        "--speed",
        choices=SPEEDS,
        help="exact; fast: equal up to rounding; fastest: mixed precision; an OpenVINO file takes "
        "exact or fastest (default: MASK_RCNN_EXT.SPEED)",
    )
    parser.add_argument("--recursive", action="store_true", help="also look in subfolders")
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="split the images over N processes, one for each GPU (default: 1)",
    )
    add_output_options(parser)
    add_filter_options(parser)
    add_tile_options(parser)
    parser.add_argument(
        "--every", type=int, metavar="N", help="in a video, predict every N-th frame (default: 1)"
    )
    add_search_options(parser)
    import_light("engine.arguments").add_slurm_options(parser)
    add_overrides(parser)
    return parser


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of selective search."""
    search = parser.add_argument_group(
        "models without an RPN (R-CNN, Fast R-CNN)",
        "Use the settings with which mask-rcnn-ext proposals searched the training data.",
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
        help="search the image at this width (default: its own width, slow for large photos)",
    )
    search.add_argument(
        "--search-min-size",
        type=int,
        metavar="PX",
        help="drop boxes with a side shorter than this in the searched image (default: 5)",
    )


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the files to write."""
    group = parser.add_argument_group("what is written")
    group.add_argument(
        "--write",
        default="coco,pictures",
        metavar="NAMES",
        help="separated by commas: coco (always written), pictures, polygons (a COCO data set), "
        "labels (16-bit PNG, one number per object), soft (npz with probabilities), geojson "
        "(default: coco,pictures)",
    )
    group.add_argument("--no-pictures", action="store_true", help="leave out the pictures")


def add_tile_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that cut large images."""
    group = parser.add_argument_group("large images")
    group.add_argument(
        "--tile",
        metavar="PX",
        help="cut images into tiles of this side, and merge the objects at the seams; auto: the "
        "side that the model does not resize",
    )
    group.add_argument(
        "--tile-overlap",
        type=int,
        metavar="PX",
        help="pixels that neighbouring tiles share (default: an eighth of the side)",
    )


def add_filter_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which instances are kept."""
    group = parser.add_argument_group("which instances are kept")
    group.add_argument(
        "--score-threshold",
        default="0.5",
        metavar="S",
        help="drop instances with a lower score: 0.4; or by class, cat=0.4,dog=0.6; or a json with "
        "`thresholds`, a score for each name (default: 0.5)",
    )
    group.add_argument("--classes", metavar="NAMES", help="keep these classes only: cat,dog")
    group.add_argument(
        "--mask-overlap",
        type=float,
        metavar="SHARE",
        help="drop a mask if a mask of its class with a higher score overlaps it by this share, "
        "such as 0.7",
    )
    group.add_argument(
        "--overlap-measure",
        choices=MEASURES,
        help="iou, or containment: the common share of the smaller mask (default: iou)",
    )
    group.add_argument(
        "--overlap-all-classes", action="store_true", help="compare masks of different classes, too"
    )


if __name__ == "__main__":
    # --help and simple mistakes end here, before the imports below, which take seconds.
    _args = build_parser().parse_intermixed_args()
    stop_at_mistakes(_args, check_prediction, folder=_args.output)

# The package comes before detectron2: it keeps PyTorch from warning about detectron2's import.
from mask_rcnn_ext import Predictor, UserError
from mask_rcnn_ext.engine.interruption import Interrupted, raise_signals
from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.engine.slurm import is_submission, submit
from mask_rcnn_ext.errors import count_noun
from mask_rcnn_ext.model_files import is_exported
from mask_rcnn_ext.prediction.arguments import (
    check_numbers,
    choose_model,
    choose_outputs,
    parse_thresholds,
    read_filters,
    read_tiling,
)
from mask_rcnn_ext.prediction.earlier import find_own_files
from mask_rcnn_ext.prediction.filters import find_lowest
from mask_rcnn_ext.prediction.folder import FolderJob, Summary
from mask_rcnn_ext.prediction.image_files import find_images
from mask_rcnn_ext.prediction.image_outputs import LARGEST_PICTURE, OUTPUT_FOLDERS
from mask_rcnn_ext.prediction.predictor import resolve_config
from mask_rcnn_ext.prediction.processes import PredictionStopped, run_folder_job
from mask_rcnn_ext.prediction.video_inputs import require_free_video_files, split_inputs
from mask_rcnn_ext.proposals.single_images import ImagePropose, make_search, require_propose
from mask_rcnn_ext.run_files import EARLIER

# isort: split
import torch
from command_line.results_folder import results_folder
from command_line.videos import predict_videos
from detectron2.config import CfgNode

MakePredictor = Callable[[], Predictor]


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


def build_predictor(
    args: argparse.Namespace, cfg: CfgNode, rank: int, *, lowest: bool = False
) -> Predictor:
    """Return the predictor of the process with number `rank`; each has a GPU of its own.

    With `lowest` it finds everything that the model can find, whatever the score.
    """
    device = args.device or cfg.MODEL.DEVICE
    if device == "cuda" and torch.cuda.device_count() > 1:
        device = f"cuda:{rank % torch.cuda.device_count()}"
    threshold = find_lowest(parse_thresholds(args.score_threshold))
    if lowest:
        exported = is_exported(args.weights or cfg.MODEL.WEIGHTS)
        threshold = cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST if exported else 0.0
    return Predictor(
        cfg,
        args.weights,
        device=device if args.device or ":" in device else None,
        batch_size=args.batch_size,
        score_threshold=threshold,
        propose=build_propose(args, cfg),
        speed=args.speed,
    )


def predict(args: argparse.Namespace) -> int:
    """Predict on the inputs of the command line; return the exit code.

    Raises:
        UserError: wrong usage, or the output cannot be written; earlier results stay as they are.
    """
    cfg = resolve_config(choose_model(args))
    cfg.merge_from_list(args.opts)
    videos, others = split_inputs(args.inputs)
    files = []
    if others:
        earlier = (*find_own_files(args.output), EARLIER)
        files = find_images(
            others,
            recursive=args.recursive,
            exclude=[os.path.join(args.output, path) for path in earlier],
            arrays=bool(cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS),
        )
    build_propose(args, cfg)
    check_numbers(args, videos=bool(videos))
    outputs, filters, tiling = choose_outputs(args), read_filters(args), read_tiling(args)
    if tiling is not None:
        tiling.resolve(cfg)
    require_free_video_files(videos, Path(args.output, "videos"), draw="pictures" in outputs)
    make_predictor = partial(build_predictor, args, cfg)
    job = FolderJob(make_predictor, files, args.output, outputs, filters, tiling)
    lowest = partial(build_predictor, args, cfg, 0, lowest=True)
    with results_folder(Path(args.output)), raise_signals():
        code = predict_images(args, job, lowest) if files else 0
        if videos and code < 128:  # not interrupted
            code = max(code, predict_videos(args, job, videos, lowest))
        return code


def predict_images(args: argparse.Namespace, job: FolderJob, lowest: MakePredictor) -> int:
    """Predict on the images; return the exit code."""
    try:
        summary = run_folder_job(job, args.processes)
    except PredictionStopped as stopped:
        return report_stop(stopped)
    if summary is None:
        return 0
    code = report_end(args, summary)
    if summary.num_images and not summary.num_instances:
        from mask_rcnn_ext.prediction import highest_score

        describe = partial(highest_score.describe_highest_in_images, job)
        print(highest_score.explain_nothing(args.score_threshold, lowest, describe))
    return code


def report_stop(stopped: PredictionStopped) -> int:
    """Print how far the prediction came before a signal; return the exit code."""
    summary = stopped.summary
    said = f"interrupted; {stopped}"
    if summary.num_images:
        said += f": {summary.results_path}\nThe same command does the others"
    print(said, file=sys.stderr)
    cause = stopped.__cause__
    return cause.exit_code if isinstance(cause, Interrupted) else 130


def report_end(args: argparse.Namespace, summary: Summary) -> int:
    """Print the counts and the files written; return the exit code."""
    images = count_noun(summary.num_images, "image")
    instances = count_noun(summary.num_instances, "instance")
    print(f"{images}, {instances}: {summary.results_path}")
    print(f"ids of images and categories: {summary.images_path}")
    for name in choose_outputs(args):
        folder = Path(args.output, name)
        if name in OUTPUT_FOLDERS and folder.is_dir():
            print(f"{name}: {folder}{os.sep}")
        elif name == "polygons":
            print(f"{name}: {summary.annotations_path}")
    if summary.num_shrunk:
        what = f"{summary.num_shrunk} of the pictures, not the results, are scaled down"
        print(f"{what}: {LARGEST_PICTURE} pixels on the longer side")
    if summary.failures:
        failed = f"{len(summary.failures)} of {count_noun(summary.num_files, 'image')} failed:"
        print(failed, file=sys.stderr)
        print("\n".join(f"  {reason}" for reason in summary.failures), file=sys.stderr)
    return 1 if summary.failures else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    args = build_parser().parse_intermixed_args(argv)
    return run_as_command(lambda: submit_prediction(args) if is_submission(args) else run(args))


def run(args: argparse.Namespace) -> int:
    """Predict here, or in a task of Slurm; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run_as_command(lambda: predict(args))


def submit_prediction(args: argparse.Namespace) -> None:
    """Submit the command to Slurm.

    Raises:
        UserError: see `engine.slurm.submit`; or `--processes` is given.
    """
    if args.processes > 1:
        raise UserError(
            "--slurm starts the processes: leave out --processes, and give --slurm-options "
            '"nodes=2 ntasks_per_node=8 gpus_per_node=8 ..."'
        )
    submit(run, args, args.output, job_name="mask_rcnn_ext")


if __name__ == "__main__":
    sys.exit(main())
