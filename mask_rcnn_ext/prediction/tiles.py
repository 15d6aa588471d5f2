"""Cuts a large image into tiles that overlap, and merges the instances that are found in them.

Several tiles find parts of an object that lies across their edges: its *pieces*. The zone that two
tiles share decides which pieces belong to the same object:

1. Two pieces of one class belong to the same object if the IoU of their masks in the zone is one
   half or more. Two objects that only touch do not overlap there, so they stay two objects. For
   each pixel of the object, the tile counts in which the pixel lies farthest from an edge that cuts
   the image.
2. A piece that is cut by the edge of its tile and matches no other piece joins a piece that covers
   half of it in the zone. This joins the two arms of a U, whose bottom lies in another tile.
3. A piece that is cut by the edge of its tile, matches no other piece, and lies completely inside
   another tile is dropped: the other tile sees more of the object and found no such object.

A merged object has the highest score of its pieces and the box around their boxes.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances

from ..errors import UserError
from ..layers.packed_masks import MaskCrop, PackedMasks
from ..layers.soft_masks import SoftCrop, SoftMasks

__all__ = ["Tile", "Tiling", "cut_part", "lay_tiles", "merge_tiles"]

_SAME = 0.5  # least IoU, or covered share, of two pieces of the same object
_FAR = np.iinfo(np.int16).max
_WITHOUT_LIMIT = 1024  # side of the tiles if the model resizes no images

Crop = MaskCrop | SoftCrop


class Tile(NamedTuple):
    """A rectangle in an image, in pixels; `bottom` and `right` are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def reach(self) -> int:
        """How far from an edge that cuts an object its mask may end, in pixels."""
        return max(2, (self.bottom - self.top) // 100)

    def intersect(self, other: "Tile") -> "Tile | None":
        """Return the common part, None if there is none."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return Tile(top, left, bottom, right) if top < bottom and left < right else None

    def unite(self, other: "Tile") -> "Tile":
        """Return the smallest rectangle that contains both."""
        low = (min(self.top, other.top), min(self.left, other.left))
        return Tile(*low, max(self.bottom, other.bottom), max(self.right, other.right))


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How images are cut.

    Attributes:
        side: side of the tiles, in pixels; 0 chooses the side that the model does not resize. An
            image with no longer side is not cut.
        overlap: least number of pixels that neighbours share; None: an eighth of the side. Every
            object up to this size lies completely inside some tile.
    """

    side: int = 0
    overlap: int | None = None

    def resolve(self, cfg: CfgNode) -> tuple[int, int]:
        """Return side and overlap for a model.

        Raises:
            UserError: one of them is out of range.
        """
        side = self.side or cfg.INPUT.MIN_SIZE_TEST or _WITHOUT_LIMIT
        overlap = side // 8 if self.overlap is None else self.overlap
        if side < 32:
            raise UserError(f"--tile: expected 32 pixels or more, got {side}")
        if not 0 < overlap <= side // 2:
            raise UserError(
                f"--tile-overlap: expected 1 to {side // 2}, half of the tile, got {overlap}"
            )
        return int(side), int(overlap)


def lay_tiles(size: Sequence[int], side: int, overlap: int) -> list[Tile]:
    """Return tiles of one size that cover an image (H, W), row by row.

    Args:
        size: (H, W).
        side: side of the tiles; a tile is smaller only where the image is smaller.
        overlap: least number of pixels that neighbours share.
    """
    rows, columns = (_place(length, side, overlap) for length in size)
    return [Tile(top, left, bottom, right) for top, bottom in rows for left, right in columns]


def _place(length: int, side: int, overlap: int) -> list[tuple[int, int]]:
    if length <= side:
        return [(0, length)]
    number = -(-(length - overlap) // (side - overlap))
    starts = [round(i * (length - side) / (number - 1)) for i in range(number)]
    return [(start, start + side) for start in starts]


@dataclasses.dataclass
class _Piece:
    """An instance of a tile, with the values to compare it with instances of other tiles."""

    tile: int
    index: int
    label: int
    window: Tile  # around its mask, in pixels of the image
    cut: bool  # whether it reaches an edge of the tile that cuts the image
    masks: PackedMasks | None  # its mask; None: the mask is the whole window
    matched: bool = False  # whether rule 1 has matched it with another piece

    def read(self) -> MaskCrop:
        """Return the mask in the image."""
        if self.masks is not None:
            return next(iter(self.masks))
        shape = (self.window.bottom - self.window.top, self.window.right - self.window.left)
        return MaskCrop(self.window.top, self.window.left, np.broadcast_to(np.True_, shape))

    def read_in(self, zone: Tile) -> npt.NDArray[np.bool_]:
        """Return the mask in a zone, (h, w)."""
        return self.read().cut(slice(zone.top, zone.bottom), slice(zone.left, zone.right))


def _put(target: npt.NDArray[Any], place: Tile, crop: Crop) -> None:
    """Set `target`, which lies at `place`, to the larger of its values and the crop's values."""
    around, values = _surround(crop), crop[2]
    if (common := place.intersect(around)) is not None:
        window = cut_part(target, place, common)
        np.maximum(window, cut_part(values, around, common), out=window)


def cut_part(array: npt.NDArray[Any], place: Tile, part: Tile) -> npt.NDArray[Any]:
    """Return a view of a part of an array (h, w, ...) that lies at `place`."""
    rows = slice(part.top - place.top, part.bottom - place.top)
    return array[rows, part.left - place.left : part.right - place.left]


def merge_tiles(
    size: tuple[int, int],
    tiles: Sequence[Tile],
    found: Sequence[Instances],
    *,
    soft: bool = False,
) -> Instances:
    """Merge the instances of the tiles of an image; return the instances, best score first.

    Args:
        size: (H, W) of the image.
        tiles: the tiles of the image, see `lay_tiles`.
        found: the instances of each tile, on the CPU, in pixels of the tile; `pred_masks`, if
            present, are `PackedMasks`.
        soft: also merge the probabilities of masks; else `pred_masks.soft` is None.

    Returns:
        `pred_boxes`, `scores`, `pred_classes`, and, if the tiles have them, `pred_masks` as
        `PackedMasks`, and `pred_keypoints` of the piece with the highest score.
    """
    moved = [_move(instances, tile, size) for instances, tile in zip(found, tiles, strict=True)]
    pieces = [
        piece
        for number, (instances, tile) in enumerate(zip(moved, tiles, strict=True))
        for piece in _list_pieces(number, instances, tile, size)
    ]
    groups = _group(pieces, tiles)
    merged = [_merge(group, moved, tiles, size, soft) for group in groups]
    everything = _join(merged, size) if merged else _move(found[0][:0], tiles[0], size)
    order = torch.argsort(everything.scores, descending=True, stable=True)
    return everything[order]


def _move(instances: Instances, tile: Tile, size: tuple[int, int]) -> Instances:
    """Return the instances of a tile in pixels of the image."""
    offset = torch.tensor([tile.left, tile.top], dtype=torch.float32)
    moved = Instances(size)
    moved.pred_boxes = Boxes(instances.pred_boxes.tensor + offset.repeat(2))
    moved.scores, moved.pred_classes = instances.scores, instances.pred_classes
    if instances.has("pred_masks"):
        moved.pred_masks = instances.pred_masks.move(tile.top, tile.left, size)
    if instances.has("pred_keypoints"):
        moved.pred_keypoints = instances.pred_keypoints.clone()
        moved.pred_keypoints[:, :, :2] += offset
    return moved


def _list_pieces(
    number: int, instances: Instances, tile: Tile, size: tuple[int, int]
) -> Iterator[_Piece]:
    inner = _find_inner(tile, size, tile.reach)
    boxes = instances.pred_boxes.tensor.round().int().tolist()
    for index, label in enumerate(instances.pred_classes.tolist()):
        x0, y0, x1, y1 = boxes[index]
        window = Tile(y0, x0, max(y1, y0 + 1), max(x1, x0 + 1))
        masks = instances.pred_masks[[index]] if instances.has("pred_masks") else None
        if masks is not None:
            crop = next(iter(masks)).trim()
            window = _surround(crop) if crop.mask.size else window
        cut = not _holds(inner, window)
        yield _Piece(number, index, label, window, cut, masks)


def _surround(crop: Crop) -> Tile:
    """Return the part of the image that a crop covers."""
    top, left, values = crop
    return Tile(top, left, top + values.shape[0], left + values.shape[1])


def _find_inner(tile: Tile, size: Sequence[int], reach: int) -> Tile:
    """Return a tile without a strip at each edge that cuts the image; other edges move far out."""
    return Tile(
        tile.top + reach if tile.top > 0 else -_FAR,
        tile.left + reach if tile.left > 0 else -_FAR,
        tile.bottom - reach if tile.bottom < size[0] else size[0] + _FAR,
        tile.right - reach if tile.right < size[1] else size[1] + _FAR,
    )


def _holds(outer: Tile, inner: Tile) -> bool:
    return outer.unite(inner) == outer


def _group(pieces: list[_Piece], tiles: Sequence[Tile]) -> list[list[_Piece]]:
    """Return the pieces of each object, by the rules of this module."""
    size = (max(tile.bottom for tile in tiles), max(tile.right for tile in tiles))
    by_tile: dict[int, list[_Piece]] = {}
    for piece in pieces:
        by_tile.setdefault(piece.tile, []).append(piece)
    parents = {id(piece): piece for piece in pieces}

    def find_root(piece: _Piece) -> _Piece:
        while parents[id(piece)] is not piece:
            piece = parents[id(piece)]
        return piece

    loose: list[tuple[_Piece, _Piece]] = []  # a piece, and another piece that covers half of it
    for first, second in combinations(sorted(by_tile), 2):
        zone = tiles[first].intersect(tiles[second])
        if zone is None:
            continue
        for one, other, iou, shares in _compare(by_tile[first], by_tile[second], zone):
            if iou >= _SAME:
                one.matched = other.matched = True
                parents[id(find_root(other))] = find_root(one)
            for pair, share in zip(((one, other), (other, one)), shares, strict=True):
                if share >= _SAME:
                    loose.append(pair)
    dropped = {id(piece) for piece in pieces if _is_better_seen(piece, tiles, size)}
    for piece, cover in loose:
        if piece.cut and not piece.matched and not {id(piece), id(cover)} & dropped:
            parents[id(find_root(piece))] = find_root(cover)
    groups: dict[int, list[_Piece]] = {}
    for piece in pieces:
        if id(piece) not in dropped:
            groups.setdefault(id(find_root(piece)), []).append(piece)
    return list(groups.values())


def _compare(
    ones: Iterable[_Piece], others: Sequence[_Piece], zone: Tile
) -> Iterator[tuple[_Piece, _Piece, float, tuple[float, float]]]:
    """Yield pairs of pieces that overlap in a zone, with their IoU and their common shares there.

    Only pieces of the same class are compared.
    """
    near = [piece for piece in others if piece.window.intersect(zone) is not None]
    for one in ones:
        if (part := one.window.intersect(zone)) is None:
            continue
        for other in near:
            if other.label != one.label or other.window.intersect(part) is None:
                continue
            both = part.unite(other.window.intersect(zone) or part)
            first, second = one.read_in(both), other.read_in(both)
            common = int((first & second).sum())
            if common:
                areas = int(first.sum()), int(second.sum())
                yield (
                    one,
                    other,
                    common / (sum(areas) - common),
                    (common / areas[0], common / areas[1]),
                )


def _is_better_seen(piece: _Piece, tiles: Sequence[Tile], size: Sequence[int]) -> bool:
    """Return whether rule 3 drops a piece."""
    if not piece.cut or piece.matched:
        return False
    return any(
        _holds(_find_inner(tile, size, 1), piece.window)
        for number, tile in enumerate(tiles)
        if number != piece.tile
    )


def _merge(
    group: list[_Piece],
    found: Sequence[Instances],
    tiles: Sequence[Tile],
    size: tuple[int, int],
    soft: bool,
) -> Instances:
    """Return the one instance of a group; `found` is in pixels of the image."""
    singles = [found[piece.tile][piece.index] for piece in group]
    best = max(singles, key=lambda single: float(single.scores[0]))
    if len(group) == 1:
        if best.has("pred_masks") and not soft:
            best.pred_masks.soft = None
        return best
    boxes = torch.cat([single.pred_boxes.tensor for single in singles])
    fields = dict(best.get_fields())
    fields["pred_boxes"] = Boxes(torch.cat([boxes[:, :2].amin(0), boxes[:, 2:].amax(0)])[None])
    if best.has("pred_masks"):
        crops = [piece.read() for piece in group]
        mask = MaskCrop(*_blend(group, crops, tiles, size, np.dtype(bool)))
        fields["pred_masks"] = PackedMasks(size, [mask])
        if soft and all(single.pred_masks.soft is not None for single in singles):
            levels = [next(iter(single.pred_masks.soft)) for single in singles]
            blended = SoftCrop(*_blend(group, levels, tiles, size, np.dtype(np.uint8)))
            fields["pred_masks"].soft = SoftMasks.compress([blended])
    return Instances(size, **fields)


def _blend(
    group: list[_Piece],
    crops: Sequence[Crop],
    tiles: Sequence[Tile],
    size: Sequence[int],
    dtype: np.dtype[Any],
) -> tuple[int, int, npt.NDArray[Any]]:
    """Return top, left and values of an object, from the crops of its pieces.

    Where pieces match each other, the tile counts in which a pixel lies deepest. Pieces without a
    match are added.
    """
    place = functools.reduce(Tile.unite, map(_surround, crops))
    values = np.zeros((place.bottom - place.top, place.right - place.left), dtype=dtype)
    deepest = np.full(values.shape, -1, dtype=np.int16)
    for number in sorted({piece.tile for piece in group if piece.matched}):
        part = tiles[number].intersect(place)
        if part is None:
            continue
        seen = np.zeros((part.bottom - part.top, part.right - part.left), dtype=dtype)
        for piece, crop in zip(group, crops, strict=True):
            if piece.tile == number and piece.matched:
                _put(seen, part, crop)
        depth, before = _measure_depth(tiles[number], part, size), cut_part(deepest, place, part)
        deeper = depth > before
        cut_part(values, place, part)[deeper] = seen[deeper]
        before[deeper] = depth[deeper]
    for piece, crop in zip(group, crops, strict=True):
        if not piece.matched:
            _put(values, place, crop)
    return place.top, place.left, values


def _measure_depth(tile: Tile, part: Tile, size: Sequence[int]) -> npt.NDArray[np.int16]:
    """Return how far the pixels of a part lie from the edges of the tile that cut the image."""
    inner = _find_inner(tile, size, 0)
    rows, columns = np.arange(part.top, part.bottom), np.arange(part.left, part.right)
    down = np.minimum(rows - inner.top, inner.bottom - 1 - rows)
    across = np.minimum(columns - inner.left, inner.right - 1 - columns)
    depth = np.minimum(down[:, None], across[None])
    return np.minimum(depth, _FAR).astype(np.int16)


def _join(parts: Sequence[Instances], size: tuple[int, int]) -> Instances:
    fields = [dict(part.get_fields()) for part in parts]
    masks = [each.pop("pred_masks", None) for each in fields]
    joined = Instances.cat([Instances(size, **each) for each in fields])
    if None not in masks:
        joined.pred_masks = PackedMasks.join(size, masks)
    return joined
