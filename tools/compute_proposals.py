"""Compute object proposals for data sets and store them in detectron2's format.

R-CNN and Fast R-CNN need proposals of selective search; any model can be trained and tested on
stored proposals.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from command_line.early import stop_at_mistakes
from command_line.light import import_light

MODES = ("fast", "quality", "single")  # proposals.selective_search.MODES
_EPILOG = r"""
For each data set the output folder gets DATASET.pkl, the proposals, and DATASET.json: settings,
number, recall against the annotations, seconds. To continue an interrupted command, run it again.
For your own data, give --val-json and --val-images too: `--dataset own_val` then names it.

Examples:

  mask-rcnn-ext proposals selective-search --output output/proposals \
      --dataset occluded_shapes_train occluded_shapes_val --processes 2

  mask-rcnn-ext proposals rpn --config-file output/demo/config.yaml \
      --dataset occluded_shapes_val --output output/rpn_proposals \
      MODEL.WEIGHTS output/demo/model_final.pth

Training on them:

  mask-rcnn-ext train --config-file CONFIG MODEL.LOAD_PROPOSALS True \
      MODEL.PROPOSAL_GENERATOR.NAME PrecomputedProposals \
      DATASETS.PROPOSAL_FILES_TRAIN '("output/proposals/occluded_shapes_train.pkl",)' \
      DATASETS.PROPOSAL_FILES_TEST '("output/proposals/occluded_shapes_val.pkl",)'
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], epilog=_EPILOG, formatter_class=raw
    )
    methods = parser.add_subparsers(dest="method", required=True, metavar="METHOD")
    search = methods.add_parser(
        "selective-search",
        help="OpenCV's selective search, which needs no training",
        description="Selective search. R-CNN's code ran it with --width 500 --min-size 20.",
    )
    rpn = methods.add_parser("rpn", help="the RPN of a trained model")
    for method in (search, rpn):
        _add_data_options(method)
    search.add_argument(
        "--mode",
        choices=MODES,
        default="fast",
        help="mode of the search (default: fast, as in R-CNN)",
    )
    search.add_argument(
        "--width",
        type=int,
        default=0,
        metavar="PIXELS",
        help="resize the image to this width for the search (default: do not resize)",
    )
    search.add_argument(
        "--min-size",
        type=int,
        default=5,
        metavar="PIXELS",
        help="drop boxes with a shorter side in the searched image (default: 5)",
    )
    search.add_argument(
        "--seed", type=int, default=0, help="seed of the order, which is partly random (default: 0)"
    )
    rpn.add_argument(
        "--config-file",
        required=True,
        metavar="FILE",
        help="config of the trained model: a yaml file, or a name",
    )
    rpn.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="config keys, after all options: MODEL.WEIGHTS FILE, and others",
    )
    return parser


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset", nargs="+", default=[], metavar="NAME", help="data sets in detectron2's catalog"
    )
    import_light("engine.arguments").add_own_data(data)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--topk",
        type=int,
        default=2000,
        metavar="N",
        help="highest number of proposals per image (default: 2000)",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="processes, each on one CPU core or GPU (default: 1); results do not depend on it",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace proposals that were made with other settings",
    )


if __name__ == "__main__":
    # --help and simple mistakes end here, before the imports below, which take seconds.
    _args = build_parser().parse_args()
    stop_at_mistakes(_args, folder=_args.output)

from mask_rcnn_ext import UserError
from mask_rcnn_ext.config import load_config
from mask_rcnn_ext.config_files import find_config_file
from mask_rcnn_ext.data.own_data import register_own_data
from mask_rcnn_ext.engine.interruption import raise_signals
from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.proposals.compute import ProposalMethod, compute_proposals, format_summary
from mask_rcnn_ext.proposals.rpn import RPNMethod
from mask_rcnn_ext.proposals.selective_search import SelectiveSearchMethod


def build_method(args: argparse.Namespace) -> ProposalMethod:
    """Return the method that the command line asks for."""
    if args.method == "rpn":
        return RPNMethod(load_config(find_config_file(args.config_file), args.opts), args.topk)
    return SelectiveSearchMethod(
        mode=args.mode, width=args.width, min_size=args.min_size, topk=args.topk, seed=args.seed
    )


def run(args: argparse.Namespace) -> None:
    """Compute the proposals; print a line and the file of each data set."""
    own = (args.train_json, args.train_images, args.val_json, args.val_images)
    if not any(own) and not args.dataset:
        raise UserError(
            "no data: expected --dataset NAME, or your own COCO-format data as --train-json F "
            "--train-images D, --val-json F --val-images D"
        )
    if keys := [name for name in args.dataset if name.isupper() and "." in name]:
        raise UserError(f"--dataset: {keys[0]} is a config key; KEY VALUE come after --output DIR")
    names = list(args.dataset)
    method = build_method(args)
    with raise_signals(), tempfile.TemporaryDirectory() as cleaned:
        if any(own):
            data = register_own_data(*own, clean_dir=cleaned, masks=False)  # boxes are enough
            names += [name for name in (data.train_name, data.val_name) if name]
        summaries = compute_proposals(
            method, names, args.output, processes=args.processes, overwrite=args.overwrite
        )
    for name, summary in summaries.items():
        print(format_summary(name, summary))
        print(Path(args.output, f"{name}.pkl"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    return run_as_command(lambda: run(build_parser().parse_args(argv)))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("mask_rcnn_ext.steps").setLevel(logging.INFO)  # what is skipped or resumed
    sys.exit(main())
