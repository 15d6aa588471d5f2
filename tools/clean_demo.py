#!/usr/bin/env python
"""Remove the demo's files from its folder, and the folder if nothing else is in it.

python tools/clean_demo.py output/demo
"""

import argparse
import runpy
import sys
from pathlib import Path

# Run by their paths: importing them would import detectron2, which may not be installed any more.
_PACKAGE = Path(__file__).parents[1] / "mask_rcnn_ext"
_RUN_FILES = runpy.run_path(str(_PACKAGE / "run_files.py"))
_TEMPORARY_FILES = runpy.run_path(str(_PACKAGE / "temporary_files.py"))

_RECORD = "made_from.json"  # which tools/run_demo.py writes before anything else


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="the --output of tools/run_demo.py"
    )
    folder = parser.parse_args().folder
    _TEMPORARY_FILES["remove_left_behind"](folder, _RUN_FILES["FOLDERS"])
    if not (folder / _RECORD).is_file() and _RUN_FILES["find_run_files"](folder):
        print(
            f"error: {folder} holds a run that is not the demo's (no {_RECORD} in it); nothing was "
            "removed. Give the --output of tools/run_demo.py, or remove the folder yourself",
            file=sys.stderr,
        )
        return 2
    if not (folder / _RECORD).is_file():
        _RUN_FILES["remove_empty"]([folder])
    elif left := _RUN_FILES["remove_run"](folder, [_RECORD]):
        print(f"{folder} stays: {len(left)} file(s) in it are not the demo's, such as {left[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
