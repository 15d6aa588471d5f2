"""Small changes of good input, drawn from a seed: of nested values, of text, of bytes."""

import math
import random
from collections.abc import Sequence
from typing import Any

# What programs and people write in the place of a number, a list or a text.
ODD_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e-320, 1e308, -1e308, 2**31, 2**63, -(2**63)),
    *(10**30, 10**400, math.nan, math.inf, -math.inf, "", " ", "0", "1", "nan", "None", "[]", "\0"),
    *("../../x", "/", "C:\\x.png", "http://h/x.png", "\ud800", "ä", "x" * 5000, [], {}, [[]], [{}]),
    *([0], [0, 0, 0, 0], [1] * 50, {"a": 1}, {"size": [1, 1], "counts": [1]}, [[0, 0, 1, 1, 0, 1]]),
]
_PIECES = (
    *("", '"', "\n", "\t", ":", "- ", "-", "[", "}", "'", "#", ",", "1", "0", "-9", "%", "null"),
    *("&a ", "*a", "<<: *a", "!!python/name:os.system ", "1e999", "9" * 5000, "[" * 3000),
    *("{a: " * 300, "\ufeff", "\ud800", "\u2028"),
)
_BYTES = (b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\0")


def change_value(rng: random.Random, value: Any, odd: Sequence[Any] = ODD_VALUES) -> Any:
    """Return a copy of nested lists, tuples and dicts with one to four changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        value = _change_once(rng, value, odd)
    return value


def _change_once(rng: random.Random, value: Any, odd: Sequence[Any]) -> Any:
    """Go down to a random place, the deeper the likelier, and change what is there."""
    inner = isinstance(value, dict | list | tuple) and len(value) > 0
    if not inner or rng.random() < 0.12:
        return _replace(rng, value, odd)
    if isinstance(value, dict):
        key = rng.choice(list(value))
        fate = rng.random()
        if fate < 0.05:
            return {k: v for k, v in value.items() if k != key}
        if fate < 0.08:
            return {(f"{k}_" if k == key else k): v for k, v in value.items()}
        if fate < 0.1:
            other = rng.choice(list(value))
            return {**value, key: value[other], other: value[key]}
        return {**value, key: _change_once(rng, value[key], odd)}
    items = list(value)
    place = rng.randrange(len(items))
    fate = rng.random()
    if fate < 0.05:
        del items[place]
    elif fate < 0.1:
        items.insert(place, rng.choice(items))
    elif fate < 0.12:
        items = items * rng.choice((2, 10))
    elif fate < 0.14:
        rng.shuffle(items)
    else:
        items[place] = _change_once(rng, items[place], odd)
    return type(value)(items)


def _replace(rng: random.Random, value: Any, odd: Sequence[Any]) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    number = number and abs(value) < 1e100  # or it is none that Python can count on with
    fate = rng.random()
    if number and fate < 0.3:
        return value + rng.choice((-1, 1, 0.5, -1000, 1000))
    if number and fate < 0.5:
        return value * rng.choice((-1, 0, 10, 0.01, 1e6))
    if number and fate < 0.6:
        return str(value)
    if isinstance(value, str) and fate < 0.4:
        return change_text(rng, value)
    if fate < 0.65:
        return [value]
    return rng.choice(odd)


def change_text(rng: random.Random, text: str) -> str:
    """Return a text with one to four pieces cut out, repeated, moved or replaced."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.choice((0, 1, 2, 8, 40)))
        piece = text[start:end]
        new = rng.choice((piece * 2, piece[::-1], piece * 50, *_PIECES))
        text = text[:start] + new + text[end:]
    return text


def change_bytes(rng: random.Random, data: bytes) -> bytes:
    """Return bytes with one to four changes: bits, numbers, cuts, repetitions."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        fate = rng.random()
        # Headers are at the begin, indices at the end.
        near = rng.choice((32, 128, len(data), len(data)))
        start = min(len(data), rng.randrange(near + 1))
        start = len(data) - start if rng.random() < 0.2 else start
        if fate < 0.35 and start < len(data):
            flipped = data[start] ^ (1 << rng.randrange(8))
            data = data[:start] + bytes([flipped]) + data[start + 1 :]
        elif fate < 0.65:
            new = rng.choice((*_BYTES, rng.randbytes(rng.choice((1, 2, 4, 8)))))
            data = data[:start] + new + data[start + len(new) :]
        elif fate < 0.75:
            data = data[:start]
        elif fate < 0.85:
            data = data[:start] + data[start + rng.choice((1, 2, 4, 16, 200)) :]
        elif fate < 0.95:
            end = start + rng.choice((1, 4, 16, 200))
            data = data[:end] + data[start:end] * rng.choice((1, 2, 20)) + data[end:]
        else:
            data = data[:start] + rng.randbytes(rng.choice((1, 4, 64))) + data[start:]
    return data
