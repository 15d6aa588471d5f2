"""The pictures of nested pairs: chosen by boxes alone, drawn at their place."""

from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from overlap_cases import rectangle
from PIL import Image
from reference.overlap import coco_of, dataset_of
from reproduction.fcis import nested_pairs
from reproduction.fcis.nested_pairs import COLUMNS, choose_pairs, draw_pairs, make_pairs_sheet

from mask_rcnn_ext.overlap.image_instances import read_image_instances

RIM = 14  # pixels of white around a tile


def pair(size, category=1, other=None):
    """Return two objects: a box of 60 pixels and one of `size` in its middle, in front."""
    low, high = 50 - size // 2, 50 - size // 2 + size
    inner = rectangle(low, low, high, high)
    return [
        {"mask": rectangle(20, 20, 80, 80) & ~inner, "category_id": category,
         "bbox": [20, 20, 60, 60]},
        {"mask": inner, "category_id": other or category},
    ]  # fmt: skip


def test_pairs_are_the_best_of_each_class():
    images = [pair(30), pair(40), pair(20), pair(50, 2), pair(56, 1, 2), [pair(58)[0]]]
    pairs = choose_pairs(coco_of(dataset_of(images)), 2)
    assert [(p.image_id, p.category) for p in pairs] == [(2, 0), (4, 1), (1, 0)]
    assert all((p.outer, p.inner) == (0, 1) for p in pairs)
    assert pairs[0].share > pairs[2].share
    ranked = choose_pairs(coco_of(dataset_of([[*reversed(pair(30))]])), 1)
    assert (ranked[0].outer, ranked[0].inner) == (1, 0)


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Return the pictures of a pair whose models predict the truth, and the images looked at."""
    truth = coco_of(dataset_of([pair(30), pair(40)]))
    name, looked_at = "nested_for_pictures", []
    for image in truth.imgs.values():
        noise = np.random.default_rng(image["id"]).integers(0, 90, (100, 100, 3))
        Image.fromarray(noise.astype(np.uint8)).save(tmp_path / image["file_name"])

    def predict(cfg, model, truth, dataset, images):
        looked_at.append(set(images))
        for image_id in images:
            instances = read_image_instances(truth, image_id, {})
            predictions = {i: (crop, None) for i, crop in enumerate(instances.object_crops)}
            yield SimpleNamespace(instances=instances, predictions=predictions)

    MetadataCatalog.get(name).set(image_root=str(tmp_path))
    monkeypatch.setattr(nested_pairs, "load_dataset", lambda _: truth)
    monkeypatch.setattr(nested_pairs, "load_trained", lambda _: (None, None))
    monkeypatch.setattr(nested_pairs, "predict_in_true_boxes", predict)
    runs = [SimpleNamespace(variant=variant, folder=tmp_path) for variant in COLUMNS]
    yield draw_pairs(runs, name, 1), looked_at
    MetadataCatalog.remove(name)


def test_tiles_show_masks_and_lattice_at_their_place(drawn):
    (picture,), looked_at = drawn
    assert looked_at == [{2}] * 3
    image, truth, seven, three, rival = picture.tiles
    assert (rival == truth).all(), "no lattice, and the same masks"
    inside = (slice(RIM, -RIM),) * 2
    assert (seven[inside] == truth[inside]).all()
    assert (image[inside] != truth[inside]).any()
    for tile, k in ((seven, 7), (three, 3)):
        for strip in (tile[RIM - 1], tile[-RIM], tile[:, RIM - 1].copy(), tile[:, -RIM]):
            assert np.count_nonzero((strip != 255).any(axis=1)) == k + 1
    # The outer box has 60 of the 68 pixels of the window: its ends, and its middle part between.
    scale = (len(truth) - 2 * RIM) / 68
    ticks = np.flatnonzero((three[RIM - 1] != 255).any(axis=1))
    assert ticks == pytest.approx(RIM + scale * np.array([4, 24, 44, 64]), abs=1)
    ticks = np.flatnonzero((three[-RIM] != 255).any(axis=1))
    assert ticks == pytest.approx(RIM + scale * (14 + np.arange(4) * 40 / 3), abs=1)


def test_the_sheet_has_a_row_for_each_pair(drawn):
    pictures, _ = drawn
    one, two = (make_pairs_sheet(pictures * n, ["a", "b", "c"], "Title") for n in (1, 2))
    assert len(two) - len(one) == len(pictures[0].tiles[0]) + 10
