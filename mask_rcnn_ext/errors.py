"""The exception for mistakes of users, and helpers for its messages."""

import difflib
import errno
import importlib
import math
from collections.abc import Iterable, Sequence, Sized
from typing import Any, NoReturn

__all__ = [
    "InputFailure",
    "UserError",
    "count_noun",
    "explain_path_error",
    "import_extra",
    "name_some",
    "nearest",
    "refuse_no_folder",
    "require_choice",
    "require_range",
    "say_have",
    "shorten",
]


class UserError(ValueError):
    """A mistake in the user's input: a file, a config key, a name, a folder.

    The message says what was expected, what was given, and how to fix it. The command-line scripts
    print the message without a traceback and exit with code 2.

    When a worker process raises an error, the `DataLoader` raises it again in the main process with
    the traceback in the message. Only the message itself is kept.
    """

    def __init__(self, message: object = "") -> None:
        """Build the error with its message."""
        text = str(message)
        if text.startswith("Caught ") and "\nOriginal Traceback" in text:
            kind = type(self)  # a subclass, perhaps
            text = text.rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2].strip()
        super().__init__(text)


class InputFailure(UserError):
    """One of many inputs, such as an image, cannot be used; a command goes on with the others."""


def import_extra(module: str, extra: str, purpose: str) -> Any:
    """Import a module of an optional library.

    Raises:
        UserError: it is not installed, or is broken.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{purpose} needs {module.partition('.')[0]}, which cannot be imported ({error}): pip "
            f'install "mask_rcnn_ext[{extra}]"'
        ) from error


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the known name closest to `name`, else `""`."""
    name, known = str(name), list(known)
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not match:  # perhaps another case or separator
        plain = {k.lower().replace("-", "_"): k for k in known}
        match = [plain[k] for k in difflib.get_close_matches(name.lower(), plain, n=1, cutoff=0.6)]
    return f"; did you mean {shorten(repr(match[0]))}?" if match else ""


def require_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Check that a value is one of several names.

    Args:
        name: the option or key that holds the value; the message begins with it.
        value: the value.
        choices: the names that are allowed, at least two.

    Raises:
        UserError: the value is none of them.
    """
    known = list(choices)
    if value not in known:
        expected = f"{', '.join(known[:-1])} or {known[-1]}"
        raise UserError(f"{name}: expected {expected}, got {value!r}{nearest(str(value), known)}")


def refuse_no_folder(name: str, what: str = "a folder") -> NoReturn:
    """Raise a `UserError` about an option or key, such as "--output", whose folder is ""."""
    raise UserError(
        f"{name}: expected {what}, got ''. Is a variable of the shell empty? The current folder is "
        "."
    )


def require_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Check that a number lies within limits.

    Args:
        name: the option or key that holds the number, such as "--every"; the message begins with
            it.
        value: the number.
        low: the lowest number that is allowed.
        high: the highest number that is allowed.

    Raises:
        UserError: the number is below `low` or above `high`, or is NaN.
    """
    if not low <= value <= high:
        expected = f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"
        shown = int(value) if isinstance(value, float) and value.is_integer() else value
        raise UserError(f"{name}: expected {expected}, got {shown}")


def count_noun(count: int, noun: str) -> str:
    """Return a count and its noun: "1 object", "2 objects", "2 classes"."""
    end = "es" if noun.endswith(("s", "x")) else "s"
    return f"{count:,} {noun}{end * (count != 1)}"


def say_are(count: int, noun: str) -> str:
    """Return "1 object is" or "2 objects are"."""
    return f"{count_noun(count, noun)} {'is' if count == 1 else 'are'}"


def explain_path_error(error: BaseException) -> str | None:
    """Return the message for a path that cannot be used; None if `error` is another one."""
    known = {
        errno.ENAMETOOLONG: "is too long for a file. Give another name",
        errno.ELOOP: "is a link in a circle. Give another name",
        errno.EACCES: "cannot be opened: Permission denied. Fix its permissions",
    }
    if not isinstance(error, OSError) or error.errno not in known or not error.filename:
        return None
    return f"{shorten(error.filename, 200)} {known[error.errno]}"


def say_have(some: Sized, total: Sized, noun: str) -> str:
    """Return "1 of 18 annotations has" or "2 of 18 annotations have", by the length of `some`."""
    return f"{len(some)} of {len(total)} {noun} {'has' if len(some) == 1 else 'have'}"


def shorten(text: object, limit: int = 60) -> str:
    """Return a value as text for a message; only the beginning and the end if it is long."""
    text = str(text)
    end = limit // 3
    return text if len(text) <= limit else f"{text[: limit - end - 3]}...{text[-end:]}"


def name_some(items: Sequence[str], limit: int = 5) -> str:
    """Return the first `limit` of `items`, each shortened, and the number of the others."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(shorten(item, 300) for item in items[:limit]) + more  # may be sentences
