#!/usr/bin/env python
"""Remove what the demo has written to its folder, and the folder if nothing else is in it.

python tools/clean_demo.py output/demo
"""

import argparse
import runpy
from pathlib import Path

# Run by its path: importing it imports detectron2 first, which need not be installed any more.
_RUN_FILES = runpy.run_path(str(Path(__file__).parents[1] / "mask_rcnn_ext/run_files.py"))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="the --output of tools/run_demo.py"
    )
    folder = parser.parse_args().folder
    if left := _RUN_FILES["remove_run"](folder, ["made_from.json"]):
        print(f"{folder} stays: {len(left)} file(s) in it are not the demo's, such as {left[0]}")


if __name__ == "__main__":
    main()
