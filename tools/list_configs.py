"""List the configs that --config-file takes by name, each with a short description.

    python tools/list_configs.py
    python tools/list_configs.py lite0

A file of your own is given by its path. The configs whose names begin with Base- are parts of the
others and are not listed.
"""

import argparse
import re
import signal
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from command_line.light import import_light

_LONGEST = 100  # characters of a description


def describe(path: Path) -> str:
    """Return the first sentence of the comment at the top of a config."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    text = " ".join(line.lstrip("# ") for line in lines[:comment])
    sentence = re.split(r"\.(?= |$)", text, maxsplit=1)[0]
    return sentence.removeprefix("No row of the paper: ")


def list_configs(words: Sequence[str]) -> list[str]:
    """Return a line for each config that has all of the words, those of the top folder first."""
    files = import_light("config_files")
    found = []
    for name in sorted(files.list_config_names(), key=lambda name: (name.count("/"), name)):
        if name.rpartition("/")[2].startswith("Base-"):
            continue
        line = f"{name}: {describe(files.find_config_root() / f'{name}.yaml')}"
        if all(word.lower() in line.lower() for word in words):
            found.append(textwrap.shorten(line, len(name) + _LONGEST, placeholder=" ..."))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        help="list only the configs with all of these words in name or description, such as "
        "cityscapes",
    )
    words = parser.parse_args(argv).words
    found = list_configs(words)
    if not found:
        print(f"error: no config has {' and '.join(map(repr, words))}", file=sys.stderr)
        return 2
    print("\n".join(found))
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it, as other programs
    sys.exit(main())
