"""Compare the speed and the outputs of this package with the code that it replaces, in one run.

    python tools/benchmark.py layers
    python tools/benchmark.py evaluation --output results/benchmark.json

The contenders of a benchmark take turns, so that load on the machine slows all of them down. A
ratio is the median of the ratios of the rounds. There is no verdict when the rounds differ too
much. `--output` replaces the part of this benchmark in a json file and keeps the other parts.
docs/performance.md has more tables of `inference`: `--name inference_amx` is for a processor with
AMX, and `--name inference_one_thread` for OMP_NUM_THREADS=1.
"""

import importlib
import logging
import os
import sys
from collections.abc import Sequence

from benchmarking.arguments import build_parser
from command_line.light import import_light


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: `sys.argv`) and return the exit code."""
    parser = build_parser((__doc__ or "").splitlines()[0])
    args = parser.parse_args(argv)  # --help ends here, before the imports below, which take seconds
    import_light("engine.arguments").let_ctrl_c_end()

    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # PyTorch's profiler writes to stderr otherwise
    from benchmarking.parts import print_part, read_parts, save_part

    from mask_rcnn_ext.engine.launch import run_as_command
    from mask_rcnn_ext.errors import require_range

    def command() -> None:
        require_range("--rounds", args.rounds, 1)
        require_range("--seed", args.seed, 0)
        if args.output:
            read_parts(args.output)  # a mistake is told before the minutes that the benchmark takes
        part = importlib.import_module(f"benchmarking.{args.benchmark}").run(args)
        print_part(part)
        if args.output:
            save_part(args.output, args.name, part)

    return run_as_command(command)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main())
