"""Objects that tiles cut are merged: hand-made cases, and what is found without tiles."""

import functools
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image
from scipy import ndimage
from support import REPO
from tiny_model import picture, tiny_cfg, tiny_model

from mask_rcnn_ext import Predictor, UserError
from mask_rcnn_ext.layers.packed_masks import PackedMasks
from mask_rcnn_ext.prediction.tiled import cut_image, predict_tiled
from mask_rcnn_ext.prediction.tiles import Tile, Tiling, lay_tiles, merge_tiles
from mask_rcnn_ext.prediction.windows import TiffWindows

SIDE, OVERLAP, SIZE = 64, 16, (160, 208)


def make_instances(size, masks, labels, scores) -> Instances:
    found = Instances(size)
    tops = [np.argwhere(mask) for mask in masks]
    boxes = [[*p.min(0)[::-1], *(p.max(0)[::-1] + 1)] for p in tops]
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.scores = torch.tensor(scores, dtype=torch.float32)
    found.pred_classes = torch.tensor(labels, dtype=torch.int64)
    found.pred_masks = PackedMasks.pack(np.array(masks, dtype=bool).reshape(-1, *size))
    return found


def find_colors(image) -> Instances:
    """Stands for a model: each colour is an object; blue is its class, red and green its number."""
    numbers = image[:, :, 0].astype(int) << 16 | image[:, :, 1].astype(int) << 8 | image[:, :, 2]
    masks, labels, scores = [], [], []
    for number in np.unique(numbers[numbers > 0]).tolist():
        masks.append(numbers == number)
        labels.append(number & 255)
        scores.append((number >> 8) / 1000)
    return make_instances(image.shape[:2], masks, labels, scores)


class ColorPredictor:
    cfg = tiny_cfg()

    def read(self, image):
        return image

    def stream_packed(self, images):
        return map(find_colors, images)


def disc(y, x, radius, hole=0):
    rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
    distance = np.hypot(rows - y, columns - x)
    return (distance <= radius) & (distance >= hole)


def bar(top, bottom, left, right, size=SIZE):
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def draw(objects):
    """Return an image in which (mask, class) are drawn as `find_colors` reads them."""
    image = np.zeros((*SIZE, 3), dtype=np.uint8)
    for number, (mask, label) in enumerate(objects, start=1):
        image[mask] = (number >> 8, number & 255, label)
    return image


# Tiles begin at 0, 48, 96 and 144 in x, and at 0, 48 and 96 in y; neighbours share 16 pixels.
CASES = {
    "over two tiles": [(disc(30, 56, 12), 1)],
    "over four tiles": [(disc(56, 104, 14), 1)],
    "within the part that two tiles share": [(disc(30, 56, 5), 1)],
    "within the part that four tiles share": [(disc(56, 56, 5), 1)],
    "ends just inside of the next tile": [(bar(20, 30, 20, 51), 1)],
    "begins where a tile ends": [(bar(20, 30, 62, 90), 1)],
    "two of one class touch at a seam": [(bar(10, 40, 40, 56), 1), (bar(10, 40, 56, 80), 1)],
    "two of one class touch along a seam": [(bar(10, 26, 30, 90), 1), (bar(26, 44, 30, 90), 1)],
    "a corner of four tiles, four objects": [
        *((bar(y, y + 20, x, x + 20), 1) for y in (36, 56) for x in (36, 56)),
    ],
    "one of each class": [(bar(10, 40, 40, 80), 1), (bar(40, 60, 40, 80), 2)],
    "larger than a tile": [(disc(75, 100, 70), 1)],
    "a ring larger than a tile, and a disc in it": [
        (disc(75, 100, 70, hole=60), 1),
        (disc(75, 100, 30), 1),
    ],
    "the whole image": [(bar(0, *SIZE[:1], 0, SIZE[1]), 1)],
    "nothing": [],
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_found_in_tiles_is_what_is_found_in_the_image(name):
    image = draw(CASES[name])
    whole = find_colors(image)
    order = torch.argsort(whole.scores, descending=True)
    found = predict_tiled(ColorPredictor(), image, Tiling(SIDE, OVERLAP))
    assert len(found) == len(CASES[name])
    for field in ("scores", "pred_classes"):
        assert torch.equal(found.get(field), whole.get(field)[order])
    assert torch.equal(found.pred_boxes.tensor, whole.pred_boxes.tensor[order])
    assert found.pred_masks.shape == whole.pred_masks.shape
    assert torch.equal(found.pred_masks.unpack(), whole.pred_masks.unpack()[order])
    assert found.image_size == SIZE


def test_many_random_objects_are_those_of_the_image():
    """Voronoi cells of 60 points: every object touches others, of its class too."""
    rng = np.random.default_rng(0)
    points = np.zeros(SIZE, dtype=int)
    points[tuple(rng.integers(0, SIZE, (60, 2)).T)] = np.arange(1, 61)
    nearest = ndimage.distance_transform_edt(points == 0, return_distances=False, return_indices=1)
    cells = points[tuple(nearest)]
    image = draw([(cells == number, 1 + number % 2) for number in range(1, 61)])
    whole = find_colors(image)
    found = predict_tiled(ColorPredictor(), image, Tiling(SIDE, OVERLAP))
    assert sorted(found.scores.tolist()) == sorted(whole.scores.tolist())
    order = torch.argsort(whole.scores, descending=True)
    assert torch.equal(found.pred_masks.unpack(), whole.pred_masks.unpack()[order])


TILES = [Tile(0, 0, 64, 64), Tile(0, 48, 64, 112)]
PAIR = (64, 112)


def merge_pair(left, right, **options):
    """Merge the instances of two tiles; an object is a mask of the image (64, 112), and a class."""
    found = []
    for tile, objects in zip(TILES, (left, right), strict=True):
        masks = [mask[:, tile.left : tile.right] for mask, _, _ in objects]
        labels, scores = [label for _, label, _ in objects], [score for _, _, score in objects]
        found.append(make_instances((64, 64), masks, labels, scores))
    return merge_tiles(PAIR, TILES, found, **options)


pair_bar = functools.partial(bar, size=PAIR)


def test_a_pixel_is_decided_by_the_tile_that_sees_more_around_it():
    """Near its edge a tile sees less of an object, and draws it worse."""
    whole = pair_bar(20, 40, 30, 90)
    left, right = whole.copy(), whole.copy()
    left[20:24, 58:64] = False  # the left tile loses a corner and adds one
    left[40:43, 57:64] = True
    right[36:40, 48:54] = False
    merged = merge_pair([(left, 0, 0.6)], [(right, 0, 0.8)])
    assert len(merged) == 1
    assert (merged.pred_masks.unpack().numpy() == whole).all()
    assert merged.scores.tolist() == pytest.approx([0.8])
    assert merged.pred_boxes.tensor.tolist() == [[30, 20, 90, 43]]  # around both boxes


def test_two_classes_stay_two_objects():
    mask = pair_bar(20, 40, 30, 90)
    assert merge_pair([(mask, 0, 0.6)], [(mask, 1, 0.8)]).pred_classes.tolist() == [1, 0]


def test_two_objects_of_a_class_whose_masks_overlap_a_little_stay_two():
    upper, lower = pair_bar(10, 32, 30, 90), pair_bar(28, 50, 30, 90)
    merged = merge_pair(
        [(upper, 0, 0.9), (lower, 0, 0.8)],
        [(lower, 0, 0.7), (upper, 0, 0.6)],
    )
    assert merged.scores.tolist() == pytest.approx([0.9, 0.8])
    assert (merged.pred_masks.unpack().numpy() == [upper, lower]).all()


def test_the_arms_of_a_u_become_one_object():
    whole = pair_bar(10, 50, 50, 56)  # seen by both; its arms reach out to the right
    arms = [pair_bar(10, 16, 48, 100), pair_bar(44, 50, 48, 100)]
    left = whole | pair_bar(10, 16, 30, 64) | pair_bar(44, 50, 30, 64)
    right = [(arms[0], 0, 0.9), (arms[1], 0, 0.7)]
    merged = merge_pair([(left, 0, 0.8)], right)
    assert len(merged) == 1
    assert (merged.pred_masks.unpack().numpy() == (left | arms[0] | arms[1])).all()


def test_a_fragment_that_the_other_tile_sees_whole_and_does_not_find_is_dropped():
    fragment = pair_bar(20, 40, 48, 58)
    kept = (pair_bar(20, 40, 80, 100), 1, 0.9)
    assert len(merge_pair([], [(fragment, 0, 0.9), kept])) == 1
    whole = (pair_bar(20, 40, 10, 58), 1, 0.9)  # the left tile knows better what it is
    merged = merge_pair([whole], [(fragment, 0, 0.9), kept])
    assert merged.pred_classes.tolist() == [1, 1]
    # It is no fragment where it does not reach the edge, or goes on beyond what the other sees.
    assert len(merge_pair([], [(pair_bar(20, 40, 52, 60), 0, 0.9)])) == 1
    assert len(merge_pair([], [(pair_bar(20, 40, 48, 70), 0, 0.9)])) == 1


def test_soft_masks_are_merged_like_masks():
    generator, found = torch.Generator().manual_seed(0), []
    for tile, (x0, x1) in zip(TILES, ((30, 64), (0, 42)), strict=True):
        one = make_instances((64, 64), [np.ones((64, 64))], [0], [0.5])
        one.pred_boxes = Boxes(torch.tensor([[x0, 20.0, x1, 40]]))
        probs = 0.35 + 0.6 * torch.rand(1, 14, 14, generator=generator)
        one.pred_masks = PackedMasks.paste(probs, one.pred_boxes.tensor, (64, 64), 0.5)
        found.append(one)
        assert tile.right <= PAIR[1]
    merged = merge_tiles(PAIR, TILES, found, soft=True)
    assert len(merged) == 1
    levels = np.zeros(PAIR, dtype=np.uint8)
    ((top, left, crop),) = merged.pred_masks.soft
    levels[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    assert ((levels >= 128) == merged.pred_masks.unpack()[0].numpy()).all()
    assert 0.2 < (levels >= 128).sum() / (60 * 20) < 1
    assert merge_tiles(PAIR, TILES, found).pred_masks.soft is None


def test_boxes_and_keypoints_without_masks():
    found = []
    for tile, score in zip(TILES, (0.4, 0.7), strict=True):
        box = torch.tensor([[30.0, 20, 90, 40]]) - torch.tensor([tile.left, 0.0] * 2)
        one = Instances((64, 64))
        one.pred_boxes = Boxes(box.clamp(0, 64))
        one.scores, one.pred_classes = torch.tensor([score]), torch.tensor([1])
        one.pred_keypoints = torch.tensor([[[10.0, 20.0, score]]])
        found.append(one)
    merged = merge_tiles(PAIR, TILES, found)
    assert merged.pred_boxes.tensor.tolist() == [[30, 20, 90, 40]]
    assert merged.pred_keypoints.tolist() == [[[58.0, 20.0, pytest.approx(0.7)]]]
    assert not merged.has("pred_masks")


@pytest.mark.parametrize(
    ("length", "side", "overlap"), [(1000, 100, 1), (999, 64, 32), (65, 64, 8)]
)
def test_tiles_cover_the_image_and_share_what_was_asked_for(length, side, overlap):
    columns = [(tile.left, tile.right) for tile in lay_tiles((10, length), side, overlap)]
    assert (columns[0][0], columns[-1][1]) == (0, length)
    assert {right - left for left, right in columns} == {side}
    shared = [one[1] - other[0] for one, other in pairwise(columns)]
    assert overlap <= min(shared)
    assert len(columns) == 1 or (len(columns) - 1) * (side - overlap) < length - overlap  # no more


@pytest.mark.parametrize(
    ("tiling", "says"),
    [(Tiling(16), "--tile: expected 32"), (Tiling(64, 33), "expected 1 to 32, half of the tile")],
)
def test_tilings_out_of_range(tiling, says):
    with pytest.raises(UserError, match=says):
        tiling.resolve(tiny_cfg())
    assert Tiling().resolve(tiny_cfg()) == (64, 8)


def test_a_real_model_sees_the_tiles_of_a_file(tmp_path):
    """An image that fits in one tile is predicted as without tiles, a larger one tile by tile."""
    torch.save({"model": tiny_model(2, seed=1).state_dict()}, tmp_path / "model.pth")
    predictor = Predictor(tiny_cfg(2), tmp_path / "model.pth", score_threshold=0.3)
    image = picture(90, 100, seed=3)
    Image.fromarray(image[:, :, ::-1]).save(tmp_path / "x.png")
    alone = predictor(image)
    tiled = predict_tiled(predictor, tmp_path / "x.png", Tiling(100))
    assert torch.equal(tiled.scores, alone.scores)
    assert torch.equal(tiled.pred_masks.unpack(), alone.pred_masks)
    found = predict_tiled(predictor, tmp_path / "x.png", Tiling(64, 20), soft=True)
    tiles = lay_tiles((90, 100), 64, 20)
    parts = [predictor(cut_image(image)(tile)) for tile in tiles]
    assert len(alone) < len(found) < sum(map(len, parts))
    assert float(found.scores[0]) == max(float(part.scores.max()) for part in parts)
    assert len(found.pred_masks.soft) == len(found)


def write_tiff(path, image, **options):
    tifffile = pytest.importorskip("tifffile")
    kind = "rgb" if image.ndim == 3 else "minisblack"
    tifffile.imwrite(path, image, photometric=kind, **options)


@pytest.mark.parametrize(
    "options",
    [{"tile": (32, 48)}, {"tile": (32, 48), "compression": "zlib"}, {"rowsperstrip": 7}, {}],
    ids=str,
)
@pytest.mark.parametrize("shape", [(100, 130, 3), (100, 130), (100, 130, 4)], ids=str)
def test_parts_of_a_tiff_are_those_of_the_image(tmp_path, options, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    if shape[-1] == 4:
        options = {**options, "extrasamples": ["unassalpha"]}
    write_tiff(tmp_path / "x.tif", image, **options)
    windows = TiffWindows.open(tmp_path / "x.tif")
    assert windows.size == (100, 130)
    expected = Predictor.read(ColorPredictor, tmp_path / "x.tif")
    for part in (Tile(0, 0, 100, 130), Tile(3, 40, 50, 100), Tile(95, 120, 100, 130)):
        assert (windows.read(part) == cut_image(expected)(part)).all()
    windows.close()


def test_other_files_are_read_as_a_whole(tmp_path):
    write_tiff(tmp_path / "deep.tif", np.zeros((40, 50), dtype=np.uint16))
    write_tiff(tmp_path / "whole.tif", np.zeros((4200, 4200), dtype=np.uint8))  # one strip
    Image.new("RGB", (40, 30)).save(tmp_path / "x.png")
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    for name in ("deep.tif", "whole.tif", "x.png", "broken.tif", "missing.tif"):
        assert TiffWindows.open(tmp_path / name) is None, name


_LARGE = """
import resource, sys
import numpy as np, torch
from detectron2.structures import Boxes, Instances
from mask_rcnn_ext.layers.packed_masks import PackedMasks
from mask_rcnn_ext.prediction.coco_results import describe_instances
from mask_rcnn_ext.prediction.tiles import lay_tiles, merge_tiles

size, rng = (6000, 8000), np.random.default_rng(0)
rows, columns = (g.ravel() for g in np.mgrid[60:6000:150, 60:8000:160])  # 2,000 centres
boxes = np.stack([columns - 55, rows - 55, columns + 55, rows + 55], 1).astype(np.float32)
boxes = np.concatenate([boxes, [[0, 0, 8000, 6000]]]).astype(np.float32)  # and the whole image
mask = np.hypot(*np.ogrid[-14:14, -14:14]) < 14
tiles = lay_tiles(size, 1024, 128)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def find(tile):
    low, high = np.array([tile.left, tile.top] * 2), np.array([tile.right, tile.bottom] * 2)
    seen = np.clip(boxes, low, high)
    near = np.flatnonzero((seen[:, 2:] - seen[:, :2] > 4).all(1))
    local = torch.from_numpy(seen[near] - low).float()
    probs = torch.ones(len(near), 28, 28)
    found = Instances((1024, 1024), pred_boxes=Boxes(local))
    found.scores = torch.from_numpy(near / 1e4).float()
    found.pred_classes = torch.from_numpy((near == len(boxes) - 1).astype(int))
    found.pred_masks = PackedMasks.paste(probs, local, (1024, 1024), 0.5)
    return found

merged = merge_tiles(size, tiles, [find(tile) for tile in tiles])
results = describe_instances(merged, [1, 2])
assert len(results) == len(boxes), len(results)
assert results[0]["segmentation"]["size"] == list(size)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no module resource")
def test_2000_objects_of_a_very_large_image_take_little_memory():
    """As images of 8000 x 6000 they take 96 GB; one of them covers the image."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _LARGE],
        capture_output=True, text=True, cwd=REPO, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < (600 if sys.platform != "darwin" else 600 * 1024)
