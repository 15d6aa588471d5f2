"""Label Studio's run-length code of brush masks.

It is the rle-pack of thi.ng, applied to the H * W * 4 bytes of an image; every fourth byte is the
mask. The code is a row of bits, the highest bit of a number first:

- 32 bits: the number of values; 5 bits: the number of bits of a value, minus 1; 4 times 4 bits: the
  number of bits of each of the four lengths, minus 1;
- then blocks: 1 bit: 1 if a single value is repeated; 2 bits: which of the four lengths follows;
  the length minus 1; then the repeated value, or as many values as the length says.
"""

import numpy as np
import numpy.typing as npt

__all__ = ["decode_brush", "encode_brush"]

_LENGTHS = (3, 4, 8, 16)  # bits, as Label Studio writes them
_SHOWN = 255


class _Bits:
    """Reads numbers from bytes, highest bit first."""

    def __init__(self, values: object) -> None:
        if not isinstance(values, list) or not all(
            isinstance(v, int) and 0 <= v <= 255 for v in values
        ):
            raise ValueError("expected a list of bytes")
        self._bits, self._at = "".join(f"{v:08b}" for v in values), 0

    def read(self, count: int) -> int:
        """Return the number of the next `count` bits."""
        bits = self._bits[self._at : self._at + count]
        if len(bits) < count:
            raise ValueError("ends too early")
        self._at += count
        return int(bits, 2)


def decode_brush(values: object, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Return the mask (H, W) of a brush region.

    Raises:
        ValueError: the code is malformed, or belongs to an image of another size.
    """
    bits = _Bits(values)
    total, word = bits.read(32), bits.read(5) + 1
    lengths = [bits.read(4) + 1 for _ in range(4)]
    if total != height * width * 4:
        raise ValueError(f"holds {total} values; an image of {width} x {height} has 4 for a pixel")
    decoded = np.zeros(total, dtype=np.uint32)
    at = 0
    while at < total:
        repeated = bits.read(1)
        end = at + bits.read(lengths[bits.read(2)]) + 1
        if end > total:
            raise ValueError("runs over its end")
        decoded[at:end] = (
            bits.read(word) if repeated else [bits.read(word) for _ in range(end - at)]
        )
        at = end
    return decoded.reshape(height, width, 4)[..., 3] != 0


def encode_brush(mask: npt.NDArray[np.bool_]) -> list[int]:
    """Return the code of a mask (H, W), as Label Studio's own importer writes it."""
    total = mask.size * 4
    words = [f"{total:032b}", f"{7:05b}", *(f"{bits - 1:04b}" for bits in _LENGTHS)]
    flat = mask.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1])).tolist()
    for start, end in zip(starts, [*starts[1:], mask.size], strict=True):
        shown, left = bool(flat[start]), 4 * (end - start)
        while left:
            length = min(left, 1 << _LENGTHS[-1])
            kind = next(i for i, bits in enumerate(_LENGTHS) if length <= 1 << bits)
            words.append(f"1{kind:02b}{length - 1:0{_LENGTHS[kind]}b}{_SHOWN * shown:08b}")
            left -= length
    bits = "".join(words)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
