"""The command line of `tools/benchmark.py`, without slow imports."""

import argparse
from collections.abc import Callable, Sequence

__all__ = ["build_parser"]


def build_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser; the name of the subcommand becomes `args.benchmark`."""
    parser = argparse.ArgumentParser(description=description)
    found = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    for name, (help_text, add_options) in BENCHMARKS.items():
        one = found.add_parser(name, help=help_text, description=help_text)
        add_options(one)
        one.add_argument("--rounds", type=int, default=5, help="timed rounds (default: 5)")
        one.add_argument("--seed", type=int, default=0, help="seed of the inputs (default: 0)")
        one.add_argument("--output", metavar="FILE", help="json file that gets this part")
        one.add_argument(
            "--name", default=name, help="name of this part in the file (default: %(default)s)"
        )
    return parser


def add_layers(parser: argparse.ArgumentParser) -> None:
    """Add the options of `layers`."""
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    """Add the options of `evaluation`."""
    parser.add_argument(
        "--images", type=int, default=5000,
        help="images, each with 7 objects and 36 detections (default: 5000, as COCO's val2017)",
    )  # fmt: skip
    tasks = ["bbox", "segm", "keypoints"]
    parser.add_argument(
        "--tasks", nargs="+", choices=tasks, default=tasks, help="tasks to evaluate (default: all)"
    )


def add_paste(_: argparse.ArgumentParser) -> None:
    """Add the options of `paste`: there are none of its own."""


def add_inference(parser: argparse.ArgumentParser) -> None:
    """Add the options of `inference`."""
    _add_image_options(parser)
    parser.add_argument(
        "--detections", type=int, default=40, help="instances in the image (default: 40)"
    )
    parser.add_argument("--classes", type=int, default=80, help="classes (default: 80)")
    parser.add_argument(
        "--engine",
        nargs="+",
        choices=["onnx", "openvino"],
        default=[],
        help="also the exported model, in ONNX Runtime or OpenVINO on the CPU",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="with --engine: also its int8 form, whatever AP it loses",
    )


def add_trained(parser: argparse.ArgumentParser) -> None:
    """Add the options of `trained`."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a trained model")


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add the options of `training`."""
    _add_image_options(parser)
    parser.add_argument("--objects", type=int, default=10, help="objects in an image (default: 10)")
    parser.add_argument("--classes", type=int, default=80, help="classes (default: 80)")
    parser.add_argument("--images", type=int, default=1, help="images in a batch (default: 1)")


def add_memory(parser: argparse.ArgumentParser) -> None:
    """Add the options of `memory`."""
    parser.add_argument(
        "--images", type=int, default=12, help="images of a prediction or training (default: 12)"
    )


def add_busy(parser: argparse.ArgumentParser) -> None:
    """Add the options of `busy`."""
    parser.add_argument(
        "--steps", type=int, default=120, help="steps next to the other programs (default: 120)"
    )
    parser.add_argument(
        "--programs", type=int, help="other programs, each on one core (default: one per core)"
    )


def add_growth(parser: argparse.ArgumentParser) -> None:
    """Add the options of `growth`."""
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    axes = ["images", "detections", "size", "classes"]
    parser.add_argument(
        "--axes",
        nargs="+",
        choices=axes,
        default=axes,
        help="numbers that grow (default: each in turn)",
    )
    levels = ["exact", "fast", "fastest"]
    parser.add_argument(
        "--levels", nargs="+", choices=levels, default=levels, help="levels of speed (default: all)"
    )


def add_fcis(parser: argparse.ArgumentParser) -> None:
    """Add the options of `fcis`."""
    _add_image_options(parser, [600, 1000])
    parser.add_argument(
        "--backbone", choices=["R50", "R101"], default="R50", help="the ResNet (default: R50)"
    )


def add_startup(_: argparse.ArgumentParser) -> None:
    """Add the options of `startup`: there are none of its own."""


def _add_image_options(parser: argparse.ArgumentParser, size: Sequence[int] = (800, 1088)) -> None:
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=list(size),
        metavar=("H", "W"),
        help=f"height and width of the image in pixels (default: {size[0]} {size[1]})",
    )


BENCHMARKS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "inference": ("Mask R-CNN on one image: detectron2 and the levels of speed", add_inference),
    "trained": ("time and AP of trained models at each level of speed", add_trained),
    "training": ("a step of training, against detectron2's", add_training),
    "memory": ("time and memory with images of many sizes, against detectron2", add_memory),
    "busy": ("a step of training while other programs use the cores", add_busy),
    "growth": ("how time grows with images, detections, image size, classes", add_growth),
    "fcis": ("FCIS on one image, at each level of speed", add_fcis),
    "startup": ("help texts, imports and one photo, from start to end", add_startup),
    "layers": ("position-sensitive RoI layers of FCIS, against torchvision's", add_layers),
    "evaluation": ("COCO evaluation, against detectron2's with pycocotools", add_evaluation),
    "paste": ("masks into their image and to RLE, against detectron2 and pycocotools", add_paste),
}
