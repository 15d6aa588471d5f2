"""Compare the pinned versions with the public lists of known faults, by pip-audit.

    python tools/environment/audit.py constraints.txt

The exit code is 1 if a version has a known fault, 2 if pip-audit is missing, else 0. Without access
to a list the versions are not checked: the last line says so, and the exit code is 0.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_NO_CONNECTION = ("ConnectionError", "Timeout", "ProxyError", "ServiceError")


def run_pip_audit(constraints: Path) -> list[dict[str, Any]] | None:
    """Return pip-audit's findings for each package; None if it reaches no list.

    Raises:
        RuntimeError: it failed for another reason, which is the message.
    """
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", "10"]
    command = [sys.executable, "-m", "pip_audit", "-r", str(constraints), "-f", "json", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        content = json.loads(done.stdout)
    except json.JSONDecodeError:
        if any(word in done.stderr for word in _NO_CONNECTION):
            return None
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise RuntimeError(lines[-1]) from None
    return list(content["dependencies"])


def describe(packages: Sequence[dict[str, Any]] | None) -> tuple[list[str], int]:
    """Return the lines to print, and the exit code.

    Args:
        packages: see `run_pip_audit`. A package that the list does not have has a "skip_reason".
    """
    checked = [package for package in packages or () if "skip_reason" not in package]
    if packages is None or (packages and not checked):
        return ["The versions were not checked: no list of known faults can be reached"], 0
    lines = [
        f"{package['name']} {package['version']}: {fault['id']}, fixed in "
        f"{', '.join(fault['fix_versions']) or 'no version yet'}"
        for package in checked
        for fault in package["vulns"]
    ]
    skipped = len(packages) - len(checked)
    lines.append(
        f"packages checked: {len(checked)}, known faults: {len(lines)}"
        + (f", packages that are not in the list: {skipped}" if skipped else "")
    )
    return lines, int(len(lines) > 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("constraints", type=Path, help="file of pinned versions")
    args = parser.parse_args(argv)
    if not args.constraints.is_file():
        parser.error(f"{args.constraints} is not a file")
    if importlib.util.find_spec("pip_audit") is None:
        parser.error("pip-audit is not installed. Run: pip install pip-audit")
    try:
        found = run_pip_audit(args.constraints)
    except RuntimeError as error:
        parser.error(f"pip-audit cannot read {args.constraints}: {error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    lines, code = describe(found)
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
