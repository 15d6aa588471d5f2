"""The command lines of `train_net.py` and of the trainings that build on it.

This file imports nothing but the standard library. Importing it as a part of the package imports
detectron2 first, which takes seconds; the scripts of this repository therefore run it by its path,
and answer `--help` at once.
"""

import argparse
import os
import signal
import sys

__all__ = [
    "add_own_data",
    "add_slurm_options",
    "argument_parser",
    "let_ctrl_c_end",
    "make_stage_parser",
    "make_svm_parser",
]


def argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of `train_net.py`: detectron2's arguments, own data and a recipe.

    The arguments are as in `detectron2.engine.default_argument_parser`, repeated here since
    importing detectron2 takes seconds. A test compares the two parsers.

    Args:
        epilog: text at the end of the help; default: detectron2's examples.

    Returns:
        A parser that takes more arguments with `add_argument`. `launch` and `run_job` take what it
        parses.
    """
    parser = argparse.ArgumentParser(
        epilog=epilog or _EXAMPLES.format(script=sys.argv[0]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="path to config file")
    parser.add_argument("--resume", action="store_true", help=_RESUME)
    parser.add_argument("--eval-only", action="store_true", help="perform evaluation only")
    parser.add_argument("--num-gpus", type=int, default=1, help="number of gpus *per machine*")
    parser.add_argument("--num-machines", type=int, default=1, help="total number of machines")
    parser.add_argument(
        "--machine-rank", type=int, default=0, help="the rank of this machine (unique per machine)"
    )
    # One port for each user: processes that an earlier run left behind make the next run fail.
    port = 2**15 + 2**14 + hash(os.getuid() if sys.platform != "win32" else 1) % 2**14
    parser.add_argument("--dist-url", default=f"tcp://127.0.0.1:{port}", help=_DIST_URL)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help=_OPTS)
    own = parser.add_argument_group("own data, in COCO format")
    add_own_data(own)
    own.add_argument(
        "--split",
        type=float,
        metavar="F",
        help="without --val-json: the fraction of the images to train on, such as 0.8",
    )
    own.add_argument(
        "--group-by",
        default="",
        metavar="RULE",
        help="images that stay together in the split: a key of the json's images, or a regular "
        "expression for file names",
    )
    own.add_argument(
        "--strict-data",
        action="store_true",
        help="make a malformed, contradictory or repeated annotation an error, not a warning",
    )
    recipe = parser.add_argument_group("settings from the training data")
    recipe.add_argument(
        "--auto",
        action="store_true",
        help="choose image size, anchors, batch size, learning rate, length and more, and show why",
    )
    recipe.add_argument(
        "--epochs", type=float, metavar="N", help="train until each image was seen N times"
    )
    add_slurm_options(parser)
    return parser


def add_own_data(own: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add `--train-json`, `--train-images`, `--val-json` and `--val-images`."""
    own.add_argument("--train-json", default="", metavar="FILE", help="annotations to train on")
    own.add_argument("--train-images", default="", metavar="DIR", help="folder of their images")
    own.add_argument("--val-json", default="", metavar="FILE", help="annotations to evaluate on")
    own.add_argument("--val-images", default="", metavar="DIR", help="folder of their images")


def add_slurm_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that submit a command to Slurm, see `engine.slurm`."""
    slurm = parser.add_argument_group("Slurm")
    slurm.add_argument("--slurm", action="store_true", help="submit the command as a job")
    slurm.add_argument(
        "--slurm-options",
        default="",
        metavar='"KEY=VALUE ..."',
        help="options of sbatch, with _ in place of -: time in minutes (5 or more), partition, "
        "account, qos, mem such as 64GB, cpus_per_task, nodes, ntasks_per_node, gpus_per_node, ...",
    )


def make_stage_parser(
    epilog: str | None = None, *, rpn: str = "the first stage"
) -> argparse.ArgumentParser:
    """Return the parser of `train_net.py` with `--rpn-opts`, for trainings in stages.

    Args:
        epilog: text at the end of the help.
        rpn: the words of the help for the training of the RPN.
    """
    parser = argument_parser(epilog)
    parser.add_argument(
        "--rpn-opts",
        default="",
        metavar='"KEY VALUE ..."',
        help=f"config keys for {rpn} only, in one pair of quotes",
    )
    return parser


def make_svm_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of `train_net.py` with `--max-images`, for R-CNN's SVMs."""
    parser = argument_parser(epilog)
    parser.add_argument(
        "--max-images", type=int, metavar="N", help="fit to the first N training images only"
    )
    return parser


# detectron2's texts.
_EXAMPLES = """
Examples:

Run on single machine:
    $ {script} --num-gpus 8 --config-file cfg.yaml

Change some config options:
    $ {script} --config-file cfg.yaml MODEL.WEIGHTS /path/to/weight.pth SOLVER.BASE_LR 0.001

Run on multiple machines:
    (machine0)$ {script} --machine-rank 0 --num-machines 2 --dist-url <URL> [--other-flags]
    (machine1)$ {script} --machine-rank 1 --num-machines 2 --dist-url <URL> [--other-flags]
"""
_RESUME = (
    "Whether to attempt to resume from the checkpoint directory. "
    "See documentation of `DefaultTrainer.resume_or_load()` for what it means."
)
_DIST_URL = (
    "initialization URL for pytorch distributed backend. See "
    "https://pytorch.org/docs/stable/distributed.html for details."
)
_OPTS = (
    "Modify config options at the end of the command. For Yacs configs, use\n"
    'space-separated "PATH.KEY VALUE" pairs.\n'
    'For python-based LazyConfig, use "path.key=value".'
)


def let_ctrl_c_end() -> None:
    """Let Ctrl-C end this program at once, without a traceback of the imports that follow.

    `run_as_command` then takes Ctrl-C again. A program that ignores Ctrl-C goes on doing so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
