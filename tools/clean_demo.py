#!/usr/bin/env python
"""Remove the demo's files from its folder, and the folder if nothing else is in it.

python tools/clean_demo.py output/demo
"""

import argparse
import os
import stat
import sys
from pathlib import Path

from command_line.light import import_light  # without detectron2, which may be gone by now

_RECORD = "made_from.json"  # which tools/run_demo.py writes before anything else


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="the --output of tools/run_demo.py"
    )
    folder = parser.parse_args().folder
    try:
        if not stat.S_ISDIR(os.stat(folder).st_mode):
            print(f"error: {folder} is a file, expected the folder of the demo", file=sys.stderr)
            return 2
        return clean(folder)
    except FileNotFoundError:  # it is clean
        return 0
    except OSError as error:
        told = import_light("errors").explain_path_error(error)
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        return 2


def clean(folder: Path) -> int:
    """Remove the files of the demo in a folder; return the exit code of the command."""
    run_files = import_light("run_files")
    import_light("temporary_files").remove_left_behind(folder, run_files.FOLDERS)
    if not (folder / _RECORD).is_file() and run_files.find_run_files(folder):
        print(
            f"error: {folder} holds a run that is not the demo's (no {_RECORD} in it); nothing was "
            "removed. Give the --output of tools/run_demo.py, or remove the folder yourself",
            file=sys.stderr,
        )
        return 2
    if not (folder / _RECORD).is_file():
        run_files.remove_empty([folder])
    elif left := run_files.remove_run(folder, [_RECORD]):
        print(f"{folder} stays: {len(left)} file(s) in it are not the demo's, such as {left[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
