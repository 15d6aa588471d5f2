"""R-CNN's second stage on arrays: hard negatives, linear SVMs, ridge regression of boxes.

Paper: "Rich feature hierarchies...", arXiv:1311.2524, section 2.3 and appendices B and C. The paper
does not give some constants (`COST`, `BIAS_FEATURE`, `MEAN_NORM`, the thresholds of the mining);
they are from the authors' released code. That code differs from the paper in three points, where
this module follows the paper: in the code an object is also a negative of the other classes, a
proposal is regressed to its best object of any class, and the bias of the regression is penalised.
scikit-learn fits SVMs and regression; its `LinearSVC` is LIBLINEAR, as in the released code.

Shapes: R proposals, G objects of an image, K classes, N rows of D features.
"""

import importlib.util
import logging
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UserError

__all__ = [
    "ABSENT_MARGIN",
    "MEAN_NORM",
    "ClassSVM",
    "fit_ridge",
    "fit_svm",
    "label_proposals",
    "require_scikit_learn",
]

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]

NEGATIVE_IOU = 0.3  # section 2.3: below it with every object of the class, a proposal is a negative
REGRESSION_IOU = 0.6  # appendix C: above it, a proposal is regressed to the object
MEAN_NORM = 20.0  # of the scaled features; the next constants depend on it
COST = 1e-3  # LIBLINEAR's -c
BIAS_FEATURE = 10.0  # LIBLINEAR's -B: the feature whose weight is the bias, regularised as well
RIDGE_LAMBDA = 1000.0  # appendix C
HARD_MARGIN = -1.0001  # negatives with a higher margin are hard: the solution depends on them
EVICTION_MARGIN = -1.2  # negatives with a lower margin leave the cache
RETRAIN_AFTER = 2000  # new hard negatives of a class until its SVM is fitted again
_MAX_ITER = 10_000
# The margin of a class that cannot be fitted: the sigmoid is 0, so the class is never detected.
ABSENT_MARGIN = -1000.0


def require_scikit_learn() -> None:
    """Check that scikit-learn is installed.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise UserError(
            "R-CNN's SVMs are fitted by scikit-learn, which is not installed. Install it: "
            "pip install 'mask_rcnn_ext[svm]', or pip install scikit-learn"
        )


def label_proposals(overlaps: Array, classes: Array, num_classes: int) -> tuple[Array, Array]:
    """Return the role of each proposal of an image for each class.

    Section 2.3: a proposal is a negative of a class if its IoU with every object of that class is
    below 0.3; in an image without the class every proposal is a negative. The positives are the
    objects themselves; proposals that overlap an object more are not used. Appendix C: a proposal
    is regressed to the object of the class that it overlaps most, if the IoU is above 0.6.

    Args:
        overlaps: (R, G), the IoU of proposals and objects.
        classes: (G,), integers in [0, K).
        num_classes: K.

    Returns:
        Whether a proposal is a negative, (K, R) bool; and the index of the object that a proposal
        is regressed to, (K, R), -1 for none.
    """
    negative = np.ones((num_classes, len(overlaps)), dtype=bool)
    matched = np.full((num_classes, len(overlaps)), -1)
    for label in np.unique(classes):
        own = np.flatnonzero(classes == label)
        nearest, highest = overlaps[:, own].argmax(axis=1), overlaps[:, own].max(axis=1)
        negative[label] = highest < NEGATIVE_IOU
        matched[label] = np.where(highest > REGRESSION_IOU, own[nearest], -1)
    return negative, matched


def fit_svm(
    positives: Array, negatives: Array, *, seed: int, positive_weight: float
) -> tuple[Array, float]:
    """Fit a linear SVM: L2-regularised hinge loss, in the dual form.

    Args:
        positives: (N+, D), N+ > 0.
        negatives: (N-, D), N- > 0.
        seed: decides the order in which LIBLINEAR visits the rows.
        positive_weight: LIBLINEAR's -w1, the cost of an error on a positive relative to a negative;
            2 in the released code.

    Returns:
        Weights (D,) and bias, float64: the margin of a row x is `x @ weights + bias`.
    """
    from sklearn.exceptions import ConvergenceWarning  # late: an extra
    from sklearn.svm import LinearSVC

    model = LinearSVC(
        C=COST,
        loss="hinge",
        dual=True,
        intercept_scaling=BIAS_FEATURE,
        class_weight={1: positive_weight},
        max_iter=_MAX_ITER,
        random_state=seed,
    )
    rows = np.concatenate([positives, negatives]).astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows, np.repeat([1, -1], [len(positives), len(negatives)]))
    if model.n_iter_ >= _MAX_ITER:
        logger.warning("An SVM has not converged after %d passes over its rows.", _MAX_ITER)
    return model.coef_[0], float(model.intercept_[0])


def fit_ridge(rows: Array, targets: Array) -> tuple[Array, Array]:
    """Fit the box regression of a class: least squares with a penalty on the weights.

    Appendix C, equation (5), with a bias, which is not penalised.

    Args:
        rows: (N, D), N > 0, float32 or float64. They are centred in place, to save memory.
        targets: (N, 4), in any units; the weights get the same units.

    Returns:
        Weights (4, D) and biases (4,). They have, and are solved in, the precision of the rows.
    """
    from sklearn.linear_model import Ridge  # late: an extra

    model = Ridge(alpha=RIDGE_LAMBDA, copy_X=False)
    model.fit(rows, targets.astype(rows.dtype))
    return model.coef_, model.intercept_


class ClassSVM:
    """The linear SVM of one class, and the hard negatives that it is fitted to.

    Hard negatives are mined in one pass over the images, as in R-CNN. All negatives of the first
    image are taken, and a first SVM is fitted. After that only negatives above `HARD_MARGIN` are
    taken. After enough new negatives the SVM is fitted again, and negatives below
    `EVICTION_MARGIN` are dropped.

    Attributes:
        weights: (D,), float64; zeros before the first fit.
        bias: `ABSENT_MARGIN` before the first fit.
        fits: the number of fits.
        offered: the number of negatives that were offered.
        taken: the number of negatives that were taken.
    """

    def __init__(
        self,
        positives: Array,
        *,
        seed: int,
        positive_weight: float = 2.0,
        retrain_after: int = RETRAIN_AFTER,
    ) -> None:
        """Start with the positives and no negatives.

        Args:
            positives: (N, D). With N = 0 there is nothing to fit, and negatives are not kept.
            seed: see `fit_svm`.
            positive_weight: see `fit_svm`.
            retrain_after: the number of new hard negatives after which the SVM is fitted again.
        """
        self.positives, self.seed, self.retrain_after = positives, seed, retrain_after
        self.positive_weight = positive_weight
        self.weights, self.bias = np.zeros(positives.shape[1]), ABSENT_MARGIN
        self.fits = self.offered = self.taken = 0
        self._cache, self._new = [positives[:0]], 0

    @property
    def cached(self) -> int:
        """The number of negatives that are kept."""
        return sum(map(len, self._cache))

    def compute_margins(self, rows: Array) -> Array:
        """Return the margins (N,) of rows (N, D), in the precision of the rows."""
        found: Array = rows @ self.weights.astype(rows.dtype) + self.bias
        return found

    def offer(self, rows: Array, negative: Array) -> None:
        """Take the hard negatives of an image; fit again after enough new ones.

        Args:
            rows: (N, D), the features of the image's proposals.
            negative: (N,) bool, whether a proposal is a negative.
        """
        self.offered += int(negative.sum())
        if not len(self.positives) or not negative.any():
            return
        if self.fits:
            negative = negative & (self.compute_margins(rows) > HARD_MARGIN)
        self._cache.append(rows[negative])
        self._new += len(self._cache[-1])
        self.taken += len(self._cache[-1])
        if not self.fits or self._new >= self.retrain_after:
            self._fit()

    def finish(self) -> None:
        """Fit again if there are new negatives; call this after the last image."""
        if self._new:
            self._fit()

    def _fit(self) -> None:
        negatives = np.concatenate(self._cache)
        self.weights, self.bias = fit_svm(
            self.positives, negatives, seed=self.seed, positive_weight=self.positive_weight
        )
        self.fits, self._new = self.fits + 1, 0
        self._cache = [negatives[self.compute_margins(negatives) >= EVICTION_MARGIN]]
