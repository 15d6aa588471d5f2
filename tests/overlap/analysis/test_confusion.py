"""The confusion matrix of hand-made boxes."""

import numpy as np
from analysis_cases import pairs_of

from mask_rcnn_ext.overlap.analysis.confusion import count_confusions
from mask_rcnn_ext.overlap.analysis.image_quality import rank_images

A, B, C, D = (0, 0, 40, 40), (100, 0, 40, 40), (200, 0, 40, 40), (0, 200, 40, 40)
NEAR_A, HALF_A = (4, 0, 40, 40), (10, 0, 40, 40)  # IoU 36 / 44 and 30 / 50
SCENE = (
    [(0, A), (0, B), (1, C), (2, D)],
    [
        (0, 0.9, A),  # right
        (0, 0.8, NEAR_A),  # a duplicate: detects nothing
        (1, 0.7, B),  # class 0 as class 1
        (2, 0.6, (300, 300, 20, 20)),  # nothing there
        (1, 0.3, C),  # right, with a low score
    ],
)


def test_each_object_and_detection_is_counted_once():
    counts = count_confusions(*pairs_of(SCENE), 3, 0.0)
    assert counts.tolist() == [
        [1, 1, 0, 0],  # class 0: one right, one as class 1
        [0, 1, 0, 0],
        [0, 0, 0, 1],  # class 2: missed
        [1, 0, 1, 0],  # nothing: the duplicate, and one of class 2
    ]


def test_detections_below_the_threshold_do_not_count():
    counts = count_confusions(*pairs_of(SCENE), 3, 0.7)
    assert counts.tolist() == [[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1], [1, 0, 0, 0]]


def test_an_object_goes_to_its_own_class_before_a_better_score_of_another():
    scene = ([(0, A)], [(1, 0.9, A), (0, 0.5, HALF_A)])
    assert count_confusions(*pairs_of(scene), 3, 0.0)[:2].tolist() == [[1, 0, 0, 0], [0] * 4]
    assert count_confusions(*pairs_of(scene), 3, 0.0)[3].tolist() == [0, 1, 0, 0]


def test_of_two_objects_a_confused_detection_takes_the_nearer_one():
    scene = ([(0, NEAR_A), (2, A)], [(1, 0.9, A)])
    counts = count_confusions(*pairs_of(scene), 3, 0.0)
    assert counts.tolist() == [[0, 0, 0, 1], [0] * 4, [0, 1, 0, 0], [0] * 4]


def test_crowds_and_what_lies_in_them_do_not_count():
    scene = ([(0, A, "crowd")], [(0, 0.9, (0, 0, 20, 20)), (0, 0.8, (5, 5, 20, 20))])
    assert count_confusions(*pairs_of(scene), 3, 0.0).sum() == 0


def test_no_detections_no_objects_no_images():
    missed = count_confusions(*pairs_of(([(1, A)], [])), 3, 0.5)
    assert missed[1, 3] == missed.sum() == 1
    invented = count_confusions(*pairs_of(([], [(1, 0.9, A)])), 3, 0.5)
    assert invented[3, 1] == invented.sum() == 1
    assert count_confusions([], [], 3, 0.5).shape == (4, 4)


def test_the_quality_of_an_image_is_iou_times_f1():
    (quality,) = rank_images(*pairs_of(SCENE), 0.5)
    assert (quality.objects, quality.right, quality.wrong, quality.missed) == (4, 1, 3, 3)
    assert quality.quality == 1 / (1 + 3 / 2 + 3 / 2)
    (half,) = rank_images(*pairs_of(([(0, A)], [(0, 0.9, HALF_A)])), 0.5)
    assert half.quality == np.float64(30 / 50)


def test_the_worst_image_comes_first_and_an_empty_one_last():
    images, matches = pairs_of(
        ([(0, A)], [(0, 0.9, A)]),
        ([], []),
        ([(0, A)], []),
        ([(0, A), (0, B)], []),
        ([(0, A), (0, B)], [(0, 0.9, A), (0, 0.9, B)]),
        ([(0, A, "crowd")], [(0, 0.9, A)]),
    )
    ranked = rank_images(images, matches, 0.5)
    assert [each.image_id for each in ranked] == [4, 3, 1, 5, 2, 6]
    assert [each.quality for each in ranked] == [0, 0, 1, 1, None, None]
