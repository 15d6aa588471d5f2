"""Axis runs of soft masks: jumps between parts are found where they are."""

import numpy as np
import pytest
from reproduction.fcis.axis_records import draw_axis_runs, measure_axis_runs, render_soft_mask
from scipy import ndimage

from mask_rcnn_ext.overlap.axis_runs import find_axis_runs


def test_a_jump_between_two_parts_of_a_soft_mask_is_found_at_its_place():
    """The right part of 3 is sure to be outside: a line at 2/3 of the side, 14 of 21 cells."""
    y, x = np.mgrid[:21, :21] - 10.0
    soft = 1 / (1 + np.exp(np.hypot(x, y) - 9))
    whole = find_axis_runs(render_soft_mask(soft))
    soft[:, 14:] = 0.02
    cut = find_axis_runs(render_soft_mask(soft))
    near = np.abs(cut.vertical / 168 - 2 / 3) < 0.02
    assert np.count_nonzero(near) > 0.5 * 168
    assert not (np.abs(whole.vertical / 168 - 2 / 3) < 0.02).any()


def test_rendering_keeps_the_values_of_the_cells():
    grid = np.random.default_rng(0).random((7, 7))
    rendered = render_soft_mask(grid)
    assert rendered.shape == (56, 56)
    centres = rendered.reshape(7, 8, 7, 8)[:, 3:5, :, 3:5].mean(axis=(1, 3))
    assert np.abs(centres - grid).max() < 0.1


def soft_masks(rng, count, k, spread):
    """Return soft masks of smooth random shapes whose k x k parts differ by random offsets."""
    masks = []
    for _ in range(count):
        field = ndimage.gaussian_filter(rng.normal(size=(63, 63)), 2)[21:42, 21:42]
        y, x = (np.mgrid[:21, :21] - 10.0) / 10
        logits = 4 * (0.75 - np.hypot(x, y)) + field / field.std()
        logits += np.kron(rng.normal(size=(k, k)) * spread, np.ones((21 // k, 21 // k)))
        masks.append(1 / (1 + np.exp(-logits)))
    return np.stack(masks)


@pytest.mark.parametrize(
    ("k", "spread", "excess", "lines_7", "lines_3"),
    [
        (7, 0.0, (0.7, 1.3), (0.3, 3), (0.3, 2)),
        (7, 1.5, (2, 20), (9, 999), (0, 2)),
        (3, 1.5, (1.4, 20), (0.3, 3), (9, 999)),
    ],
)
def test_jumps_between_parts_are_found_where_they_are(k, spread, excess, lines_7, lines_3):
    rng = np.random.default_rng(1)
    records = [
        measure_axis_runs(image, soft_masks(rng, 3, k, spread), threshold=0.5)
        for image in range(10)
    ]
    found = {name: values[0] for name, values in draw_axis_runs([records], draws=1).items()}
    expected = {"excess": excess, "lines_7": lines_7, "lines_3": lines_3}
    assert all(low <= found[name] <= high for name, (low, high) in expected.items()), found
