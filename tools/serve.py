"""Start a local page: drop an image on it to see the objects that the model finds.

    python tools/serve.py output/run/model_final.pth

A model that does not contain its config needs `--config-file CFG --weights MODEL` in place of
MODEL.

Exit code: 0 after Ctrl-C or SIGTERM; 2 if the port is in use or the model cannot be loaded.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from command_line.early import check_server, stop_at_mistakes
from command_line.model import add_model, add_overrides, load_config_of_model


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Start a local page: drop an image on it to see masks, boxes, names and "
        "scores. Ctrl-C ends the command."
    )
    add_model(parser)
    parser.add_argument(
        "--port", type=int, default=7860, help="port of the page; 0: any free port (default: 7860)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at (default: 127.0.0.1, which only this machine reaches). 0.0.0.0: "
        "every machine that reaches this one can use the model and sees the names of its classes; "
        "there is no password, and images travel unencrypted",
    )
    parser.add_argument(
        "--device", help="cpu, cuda, cuda:1 (default: MODEL.DEVICE, or the CPU if there is no CUDA)"
    )
    add_overrides(parser)
    return parser


if __name__ == "__main__":
    # --help and simple mistakes end here, before the imports below, which take seconds.
    stop_at_mistakes(build_parser().parse_args(), check_server)

# The package comes before detectron2: it keeps PyTorch from warning about detectron2's import.
from mask_rcnn_ext import Predictor
from mask_rcnn_ext.engine.interruption import raise_signals
from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.prediction.demo_server import DemoServer


def serve(args: argparse.Namespace) -> int:
    """Serve the page until a signal comes; return the exit code.

    Raises:
        UserError: no model or several are given, the port is in use, or the model cannot be loaded.
    """
    with DemoServer(args.host, args.port) as server:
        try:
            with raise_signals():
                predictor = Predictor(load_config_of_model(args), device=args.device)
                print(f"{server.url} shows the page; Ctrl-C ends it", flush=True)
                if not server.is_local:
                    said = "every machine that reaches this one can use the page"
                    print(f"{said}; there is no password", flush=True)
                server.serve(predictor)
        except KeyboardInterrupt:
            print("ended")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run_as_command(lambda: serve(args))


if __name__ == "__main__":
    sys.exit(main())
