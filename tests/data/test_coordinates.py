"""Coordinates that are fractions of the image become pixels, if all of the file are."""

import copy

import pytest

from mask_rcnn_ext.data.coordinates import scale_fractions
from mask_rcnn_ext.errors import UserError

SIZES = {1: (30, 40), 2: (100, 200)}  # (H, W)
PIXELS = [
    {"id": 4, "image_id": 1, "bbox": [10, 15, 20, 6], "segmentation": [[10, 15, 30, 15, 30, 21]]},
    {"id": 5, "image_id": 2, "bbox": [0, 0, 200, 100], "segmentation": [0, 0, 200, 0, 200, 100]},
    {"id": 6, "image_id": 2, "bbox": [20, 10, 100, 50], "segmentation": []},
]
RLE = {"size": [100, 200], "counts": [20000]}


def halves(numbers, image_id):
    height, width = SIZES[image_id]
    return [v / (height if i % 2 else width) for i, v in enumerate(numbers)]


def fractions():
    """Return the annotations with every coordinate as a fraction."""
    made = copy.deepcopy(PIXELS)
    for a in made:
        a["bbox"] = halves(a["bbox"], a["image_id"])
        a["segmentation"] = (
            halves(a["segmentation"], a["image_id"])
            if a["id"] == 5
            else [halves(part, a["image_id"]) for part in a["segmentation"]]
        )
    return made


def test_all_fractions_become_pixels():
    made = fractions()
    made[0]["area"], made[1]["area"] = 0.05, 10000.0
    assert scale_fractions(made, SIZES) == [4, 5, 6]
    assert "area" not in made[0]  # a fraction, to be computed again
    assert made[1].pop("area") == 10000.0
    for a, pixels in zip(made, PIXELS, strict=True):
        assert a["bbox"] == pytest.approx(pixels["bbox"])
    assert made[0]["segmentation"][0] == pytest.approx(PIXELS[0]["segmentation"][0])
    assert made[1]["segmentation"] == pytest.approx(PIXELS[1]["segmentation"])
    assert scale_fractions(made, SIZES) == []


def test_polygons_next_to_boxes_in_pixels():
    made = fractions()
    for a, pixels in zip(made, PIXELS, strict=True):
        a["bbox"] = list(pixels["bbox"])
    assert scale_fractions(made, SIZES) == [4, 5]
    assert [a["bbox"] for a in made] == [a["bbox"] for a in PIXELS]
    assert made[0]["segmentation"][0] == pytest.approx(PIXELS[0]["segmentation"][0])


IN_PIXELS = {  # what is not a fraction, next to fractions
    "a polygon": {"segmentation": [[10, 15, 30, 15, 30, 21]]},
    "RLE": {"segmentation": RLE, "bbox": ...},
    "a bitmap": {"segmentation": [[0, 1], [1, 1]], "bbox": ...},
    "a mask file": {"segmentation": "mask.png", "bbox": ...},
}


@pytest.mark.parametrize("change", IN_PIXELS.values(), ids=IN_PIXELS)
def test_most_boxes_next_to_masks_in_pixels_are_refused(change):
    made = [{k: v for k, v in a.items() if k != "segmentation"} for a in fractions()]
    made[1] = {k: v for k, v in {**made[1], **copy.deepcopy(change)}.items() if v is not ...}
    before = copy.deepcopy(made)
    expected = r"2 of [23] boxes have only numbers up to 1, .*\(first: annotation 4\).* in pixels"
    with pytest.raises(UserError, match=expected):
        scale_fractions(made, SIZES)
    assert made == before


ODD = {  # one annotation that differs from the others -> whether its box is scaled
    "a box in pixels": ({"bbox": [10, 15, 20, 6]}, False),
    "RLE": ({"segmentation": RLE}, True),
    "polygons and box in pixels": ({k: PIXELS[0][k] for k in ("bbox", "segmentation")}, False),
    "polygons in pixels": ({"segmentation": PIXELS[0]["segmentation"]}, False),
}


@pytest.mark.parametrize(("change", "scaled"), ODD.values(), ids=ODD)
def test_one_odd_annotation_does_not_keep_the_others_from_pixels(change, scaled):
    made = fractions()
    made += [{**a, "id": a["id"] + 10} for a in fractions()]
    made[0].update(copy.deepcopy(change))
    box = PIXELS[0]["bbox"] if scaled else list(made[0]["bbox"])
    assert set(scale_fractions(made, SIZES)) >= {5, 6, 14, 15, 16}
    assert made[0]["bbox"] == pytest.approx(box)
    for a, pixels in zip(made[1:], [*PIXELS, *PIXELS][1:], strict=True):
        assert a["bbox"] == pytest.approx(pixels["bbox"])
    assert made[3]["segmentation"][0] == pytest.approx(PIXELS[0]["segmentation"][0])


def test_a_few_tiny_boxes_in_a_file_in_pixels_are_no_fractions():
    made = [*copy.deepcopy(PIXELS), {**fractions()[0], "id": 9}, {**fractions()[2], "id": 10}]
    before = copy.deepcopy(made)
    assert scale_fractions(made, SIZES) == []
    assert made == before


def test_malformed_entries_neither_count_nor_change():
    made = fractions()
    made[0]["segmentation"].append(["0.1", 0.1, 0.2, float("nan"), 0.3, 0.3])
    made[2]["bbox"] = "text"
    before = copy.deepcopy(made)
    assert scale_fractions(made, SIZES) == [4, 5]
    assert made[0]["segmentation"][1][:3] == before[0]["segmentation"][1][:3]
    assert made[2]["bbox"] == "text"
