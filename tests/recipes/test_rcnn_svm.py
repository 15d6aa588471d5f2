"""R-CNN's second stage: what is a negative, what is fitted, and to what."""

import numpy as np
import pytest
import torch
from reference.rcnn_svm import iou, role_loop, svm_dual, target_loop
from tiny_rcnn import record, small_model
from torchvision.ops import box_iou

from mask_rcnn_ext import UserError

pytest.importorskip("sklearn", reason="scikit-learn, of the extra svm, is not installed")

from mask_rcnn_ext.recipes import rcnn_svm
from mask_rcnn_ext.recipes.rcnn_svm import fit_layers
from mask_rcnn_ext.recipes.svm_fitting import (
    ABSENT_MARGIN,
    ClassSVM,
    fit_ridge,
    fit_svm,
    label_proposals,
)


def clouds(count, *, gap=4.0, seed=0, dims=6):
    """Return positives and `count` negatives around two centres, of a mean norm of 20."""
    rng = np.random.default_rng(seed)
    positives, negatives = rng.normal(size=(30, dims)), rng.normal(size=(count, dims))
    positives[:, 0] += gap
    scale = 20 / np.linalg.norm(np.concatenate([positives, negatives]), axis=1).mean()
    return (positives * scale).astype(np.float32), (negatives * scale).astype(np.float32)


def mined(positives, negatives, *, images=30, retrain_after=40) -> ClassSVM:
    svm = ClassSVM(positives, seed=0, retrain_after=retrain_after)
    for rows in np.array_split(negatives, images):
        svm.offer(rows, np.ones(len(rows), dtype=bool))
    svm.finish()
    return svm


def test_separable_features_get_the_right_margins():
    positives, negatives = clouds(400, gap=9)
    svm = mined(positives, negatives)
    assert svm.compute_margins(positives).min() > 0 > svm.compute_margins(negatives).max()


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_an_svm_is_that_of_its_dual_problem(weight):
    positives, negatives = clouds(60, gap=1)  # not separable, so that C matters
    weights, bias = fit_svm(positives, negatives, seed=0, positive_weight=weight)
    expected, constant = svm_dual(
        positives, negatives, c=1e-3, positive_weight=weight, bias_feature=10
    )
    np.testing.assert_allclose(weights, expected, atol=1e-3 * np.abs(expected).max())
    assert bias == pytest.approx(constant, rel=1e-3)


def test_hard_negatives_alone_give_the_svm_of_all_negatives():
    positives, negatives = clouds(3000, gap=5)
    svm = mined(positives, negatives)
    assert svm.offered == 3000
    assert svm.cached < svm.taken < 1500
    assert svm.fits > 2
    weights, bias = fit_svm(positives, negatives, seed=0, positive_weight=2)
    np.testing.assert_allclose(svm.weights, weights, atol=0.02 * np.abs(weights).max())
    assert svm.bias == pytest.approx(bias, abs=0.02 * abs(bias))


def test_the_cache_holds_what_is_hard():
    """After one more fit nothing below -1.2 is left, and nothing from -1.0001 down is taken."""
    positives, negatives = clouds(500, gap=6)
    svm = mined(positives, negatives, images=1)
    assert (svm.fits, svm.taken) == (1, 500)
    assert svm.cached == (svm.compute_margins(negatives) >= -1.2).sum() < 500
    before, hard = svm.cached, svm.compute_margins(negatives) > -1.0001
    svm.offer(negatives, np.arange(500) < 250)
    assert svm.cached - before == hard[:250].sum() < 40  # too few to fit again
    assert svm.fits == 1
    svm.finish()
    assert svm.fits == 2


def test_a_class_without_positives_keeps_nothing():
    svm = mined(np.zeros((0, 6), np.float32), clouds(50)[1])
    assert (svm.fits, svm.cached, svm.offered) == (0, 0, 50)
    assert not svm.weights.any()
    assert svm.bias == ABSENT_MARGIN


def test_roles_of_proposals_are_those_of_the_loop():
    rng = np.random.default_rng(0)
    objects = np.array([[5, 5, 35, 35], [8, 9, 40, 38], [50, 10, 80, 50], [52, 8, 84, 47]], float)
    classes = np.array([0, 0, 0, 2])
    corners = objects[rng.integers(4, size=200)] + rng.uniform(-12, 12, (200, 4))
    proposals = np.concatenate([corners, objects, [[90, 60, 95, 63]]])
    overlaps = box_iou(torch.tensor(proposals), torch.tensor(objects)).numpy()
    assert overlaps[3, 1] == pytest.approx(iou(proposals[3], objects[1]))
    negative, matched = label_proposals(overlaps, classes, 3)
    seen = set()
    for label in range(3):
        for index, proposal in enumerate(proposals):
            role, target = role_loop(proposal, objects, classes, label)
            assert negative[label, index] == (role == "negative")
            assert matched[label, index] == target
            seen.add((label, role, target))
    assert {target for _, _, target in seen} == {-1, 0, 1, 2, 3}
    assert {role for label, role, _ in seen if label == 1} == {"negative"}
    assert (0, "ignored", -1) in seen


def test_an_image_without_objects_is_negative_for_every_class():
    negative, matched = label_proposals(np.zeros((3, 0)), np.zeros(0, int), 2)
    assert negative.all()
    assert (matched == -1).all()


@pytest.mark.parametrize("count", [5, 200], ids=["wide", "tall"])
def test_ridge_solves_the_normal_equations(count):
    rng = np.random.default_rng(0)
    rows, targets = 5 * rng.normal(size=(count, 12)) + 1, rng.normal(size=(count, 4)) + 0.3
    weights, bias = fit_ridge(rows.copy(), targets)
    x, y = rows - rows.mean(0), targets - targets.mean(0)  # the bias is not penalised
    expected = np.linalg.solve(x.T @ x + 1000 * np.eye(12), x.T @ y).T
    np.testing.assert_allclose(weights, expected, atol=1e-10)
    np.testing.assert_allclose(bias, targets.mean(0) - expected @ rows.mean(0), atol=1e-10)


def near(box, *shifts):
    return [tuple(side + shift * sign for side, sign in zip(box, (1, -1, 1, 1), strict=True))
            for shift in shifts]  # fmt: skip


FIRST, SECOND = (8, 8, 40, 40), (50, 10, 90, 52)
RECORDS = [
    record([*near(FIRST, 1, 2, 3), (60, 4, 95, 30), (0, 40, 20, 60)], targets=(FIRST,)),
    record([*near(SECOND, 1, -2), (20, 10, 45, 40), (1, 1, 30, 20)], seed=1, targets=(SECOND,)),
    record([(5, 5, 30, 30), (40, 40, 60, 60)], seed=2, targets=()),
    record([], seed=3, targets=(SECOND,)),
]


# More proposals than the mean norms are measured on.
MANY = [record([*near(FIRST, *range(4)), *[(60, y, 90, y + 20) for y in range(20)]])]


@pytest.fixture(scope="module")
def fitted():
    """Return a model fitted to `RECORDS`, whose objects are of class 1, and the final SVM."""
    model = small_model("MODEL.RCNN.SCORER", "svm", "MODEL.RCNN.CROPS_PER_BATCH", "3")
    models = []

    class Kept(ClassSVM):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            models.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rcnn_svm, "ClassSVM", Kept)
        fit_layers(model, [[each] for each in RECORDS], seed=0)
    return model, models


def features(model, each, boxes):
    image = model.preprocess_image([each])[0]
    maps = model.map_crops(image, [torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)])
    with torch.no_grad():
        return [part.numpy().astype(np.float64) for part in model.roi_heads.describe(maps)]


@pytest.fixture(scope="module")
def of_proposals(fitted):
    """Return fc7 and pool5 of all proposals of `RECORDS`, and their scales."""
    model = fitted[0].eval()
    parts = [features(model, each, each["proposals"].proposal_boxes.tensor) for each in RECORDS]
    whole = [np.concatenate(part) for part in zip(*parts, strict=True)]
    return whole, [20 / np.linalg.norm(part, axis=1).mean() for part in whole]


def test_scale_and_bias_are_part_of_the_layer(fitted, of_proposals):
    (model, svms), ((hidden, _), (scale, _)) = fitted, of_proposals
    rows = torch.from_numpy(hidden).float()
    with torch.no_grad():
        margins = model.roi_heads.box_predictor.svm(rows)[:, 1].numpy()
    expected = hidden * scale @ svms[1].weights + svms[1].bias
    np.testing.assert_allclose(margins, expected, atol=1e-4)
    assert len(svms[1].positives) == 3  # with the object of the image without proposals
    norms = np.linalg.norm(svms[1].positives, axis=1)
    objects = [features(model, each, each["instances"].gt_boxes.tensor)[0] for each in RECORDS]
    np.testing.assert_allclose(
        norms, scale * np.linalg.norm(np.concatenate(objects), axis=1), rtol=1e-4
    )


def test_the_ridge_layer_is_fitted_to_the_samples_of_the_loop(fitted, of_proposals):
    """Samples, targets, scale and the units of the layer, all at once."""
    model, ((_, flat), (_, scale)) = fitted[0], of_proposals
    rows, targets, index = [], [], 0
    for each in RECORDS:
        objects = each["instances"].gt_boxes.tensor.tolist()
        for box in each["proposals"].proposal_boxes.tensor.tolist():
            target = role_loop(box, objects, [1] * len(objects), 1)[1]
            if target >= 0:
                rows.append(flat[index] * scale)
                unit = model.roi_heads.box_predictor.box2box_transform.weights
                targets.append(np.multiply(target_loop(box, objects[target]), unit))
            index += 1
    assert len(rows) == 5
    x, y = np.array(rows), np.array(targets)
    kernel = (x - x.mean(0)) @ (x - x.mean(0)).T
    alpha = np.linalg.solve(kernel + 1000 * np.eye(5), y - y.mean(0))  # the dual solution
    expected = (flat * scale - x.mean(0)) @ (x - x.mean(0)).T @ alpha + y.mean(0)
    with torch.no_grad():
        deltas = model.roi_heads.box_predictor.ridge(torch.from_numpy(flat).float())[:, 4:8]
    np.testing.assert_allclose(deltas.numpy(), expected, atol=2e-4)


def test_classes_without_examples_are_never_detected(fitted):
    model = fitted[0].eval()
    layers = model.roi_heads.box_predictor
    for label in (0, 2, 3, 4):
        assert not layers.svm.weight[label].any()
        assert layers.svm.bias[label] == ABSENT_MARGIN
        assert not layers.ridge.weight[4 * label : 4 * label + 4].any()
        assert not layers.ridge.bias[4 * label : 4 * label + 4].any()
    with torch.no_grad():
        found = model([RECORDS[0]])[0]["instances"]
    assert set(found.pred_classes.tolist()) == {1}


def test_no_negatives_no_samples_no_objects(caplog):
    model = small_model("MODEL.RCNN.SCORER", "svm")
    half = (8, 8, 40, 24)  # an IoU of 0.5: neither negative nor regressed
    fit_layers(model, [[record([half], targets=(FIRST,))]], seed=0)
    assert (model.roi_heads.box_predictor.svm.bias == ABSENT_MARGIN).all()
    assert "class 1: no proposal is a negative" in caplog.text
    assert "class 0: the class has no object" in caplog.text
    for boxes, targets in (([], (FIRST,)), ([half], ())):
        with pytest.raises(UserError, match="expected training images with objects and proposals"):
            fit_layers(model, [[record(boxes, targets=targets)]], seed=0)


def test_an_svm_that_recognises_none_of_its_objects_is_told(caplog):
    model = small_model("MODEL.RCNN.SCORER", "svm")
    for weight, told in ((1e-4, True), (1e4, False)):
        caplog.clear()
        fit_layers(model, [[each] for each in MANY], seed=0, positive_weight=weight)
        assert ("Raise MODEL.RCNN.SVM_POSITIVE_WEIGHT" in caplog.text) == told


def test_a_seed_gives_the_same_layers_again():
    found = []
    for seed in (0, 0, 1):
        model = small_model("MODEL.RCNN.SCORER", "svm")
        fit_layers(model, [[each] for each in MANY], seed=seed)
        found.append(model.roi_heads.box_predictor.ridge.weight)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])  # other proposals, another mean norm
