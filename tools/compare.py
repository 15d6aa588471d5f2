"""Compare the result files of two models where objects overlap.

    python tools/compare.py --dataset occluded_shapes_val --a mask_rcnn.json --b fcis.json \
        --names "Mask R-CNN" FCIS --output output/compare

It takes any two COCO-format result files with masks; no model is needed. With --parts 7 it also
measures the pixel errors where two boxes read the same one of FCIS's 7 x 7 parts. It writes
comparison.json, comparison.html (one self-contained page) and comparison.png (its first pictures)
to the output folder, and prints the main rows.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Any

from command_line.early import stop_at_mistakes


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", metavar="D", help="a data set in detectron2's catalog")
    parser.add_argument(
        "--gt-json", metavar="F", help="COCO-format annotations, instead of --dataset"
    )
    parser.add_argument(
        "--images",
        metavar="DIR",
        help="folder of the images of --gt-json; without it, there are no pictures",
    )
    parser.add_argument(
        "--a", required=True, metavar="JSON", help="results of the first model, with masks"
    )
    parser.add_argument("--b", required=True, metavar="JSON", help="results of the second model")
    parser.add_argument(
        "--names", nargs=2, default=["A", "B"], metavar=("A", "B"), help="names of the models"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--num-images", type=int, default=12, help="images to draw (default: 12)")
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.5,
        help="unmatched detections with a lower score are not drawn; all are measured "
        "(default: 0.5)",
    )
    parser.add_argument(
        "--parts",
        type=int,
        metavar="K",
        help="also measure same-part errors, for FCIS with K x K parts; both files need the boxes "
        "(bbox) in which the masks were predicted",
    )
    parser.add_argument(
        "--max-detections", type=int, default=100, metavar="N",
        help="detections of a class that count in an image, best first (default: 100, as in COCO)",
    )  # fmt: skip
    parser.add_argument(
        "--draws", type=int, default=1000, help="draws of the bootstrap (default: 1000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="processes that measure (default: 1)"
    )
    return parser


if __name__ == "__main__":
    # --help and simple mistakes end here, before the imports below, which take seconds.
    _args = build_parser().parse_args()
    stop_at_mistakes(_args, folder=_args.output)

from tqdm import tqdm

from mask_rcnn_ext import UserError
from mask_rcnn_ext.data.catalog import find_truth, require_datasets
from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.errors import require_range
from mask_rcnn_ext.files import writable_folder
from mask_rcnn_ext.overlap.comparison import (
    Detections,
    ImageRecord,
    compare,
    compute_metrics,
    load_results,
    load_truth,
    measure,
)
from mask_rcnn_ext.overlap.detections import keep_rois_of_all
from mask_rcnn_ext.overlap.image_instances import MAX_DETECTIONS
from mask_rcnn_ext.overlap.lines import compare_lines, require_rois
from mask_rcnn_ext.report.comparison_gallery import CasePictures, draw_gallery
from mask_rcnn_ext.report.comparison_page import (
    Comparison,
    Difference,
    print_comparison,
    write_comparison,
)


def measure_model(
    detections: Detections, truth: Any, name: str, args: argparse.Namespace
) -> list[ImageRecord]:
    """Return each image's record of a model, with a progress bar."""
    with tqdm(total=len(truth.imgs), desc=name, unit="image", disable=None) as bar:

        def progress(done: int, _: int) -> None:
            bar.update(done - bar.n)

        return measure(
            truth,
            detections,
            progress=progress,
            processes=args.processes,
            max_detections=args.max_detections,
            lines=True,
            parts=args.parts,
        )


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    args = build_parser().parse_args(argv)
    if bool(args.dataset) == bool(args.gt_json):
        raise UserError("expected either --dataset D or --gt-json F (with --images DIR)")
    if args.images and not args.gt_json:
        raise UserError("--images goes with --gt-json; a data set has its own")
    least = {"num-images": 0, "draws": 1, "seed": 0, "processes": 1, "max-detections": 1}
    for option, number in least.items():
        require_range(f"--{option}", getattr(args, option.replace("-", "_")), number)
    if args.parts is not None:
        require_range("--parts", args.parts, 1)
    require_range("--score-threshold", args.score_threshold, 0, 1)
    return args


def run(args: argparse.Namespace) -> None:
    """Do what the command line asks for; a mistake in a file leaves no folder."""
    with writable_folder(args.output):
        compare_files(args)


def compare_files(args: argparse.Namespace) -> None:
    """Compare the two files, and print the main rows and the files written."""
    if args.dataset:
        require_datasets([args.dataset])
        json_file, folder = find_truth(args.dataset)
    else:
        json_file, folder = args.gt_json, args.images
    truth = load_truth(json_file)
    # Both are read before either is measured: a mistake is reported after seconds, not minutes.
    with_boxes = args.parts is not None
    first, second = (load_results(path, truth, with_boxes=with_boxes) for path in (args.a, args.b))
    if with_boxes:
        for found, path in ((first, args.a), (second, args.b)):
            require_rois(found, path)
    first, second = keep_rois_of_all(first, second)
    records = tuple(
        measure_model(found, truth, name, args)
        for found, name in zip((first, second), args.names, strict=True)
    )
    metrics = compare(*records, draws=args.draws, seed=args.seed, threads=args.processes)
    drawn: list[CasePictures] = []
    notes: list[str] = []
    if folder:
        drawn, notes = draw_gallery(
            truth,
            folder,
            (first, second),
            records,
            args.num_images,
            score_threshold=args.score_threshold,
        )
    if args.max_detections != MAX_DETECTIONS:
        limit = f"{args.max_detections} detections of a class count in an image, at most."
        notes.append(f"--max-detections: {limit}")
    comparison = Comparison(
        dataset=args.dataset or args.gt_json,
        names=args.names,
        files=[[args.a], [args.b]],
        counts={k: compute_metrics(r)["counts"] for k, r in zip("ab", records, strict=True)},
        draws=args.draws,
        seed=args.seed,
        method=f"paired bootstrap over the images ({args.draws} draws, seed {args.seed}); it "
        "covers the choice of the images, not the chance in training",
        metrics={name: Difference(**values) for name, values in metrics.items()},
        seeds=[],
        notes=notes,
        lines=compare_lines(
            *([record.lines for record in found] for found in records),
            draws=args.draws,
            seed=args.seed,
        ),
        parts=args.parts,
    )
    written = write_comparison(args.output, comparison, drawn)
    print_comparison(comparison)
    print(*written, sep="\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    return run_as_command(lambda: run(parse_args(argv)))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    sys.exit(main())
