"""The one exception that a command-line user may see without a traceback."""

import difflib
from collections.abc import Iterable, Sequence

__all__ = ["UserError", "name_some", "nearest"]


class UserError(ValueError):
    """A mistake in what the user gave: a file, a key, a name, a folder.

    The message says what was expected, what came, and how to mend it. The command-line scripts
    print it as one line and end with exit code 2; in Python it is a `ValueError`.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the known name closest to `name`, else `""`."""
    known = list(known)
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not match:  # spelled with another case or separator
        plain = {k.lower().replace("-", "_"): k for k in known}
        match = [plain[k] for k in difflib.get_close_matches(name.lower(), plain, n=1, cutoff=0.6)]
    return f"; did you mean {match[0]!r}?" if match else ""


def name_some(items: Sequence[str]) -> str:
    """Return the first five of `items`, and how many more there are."""
    more = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return ", ".join(items[:5]) + more
