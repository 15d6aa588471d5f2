"""The predictions of configs/shapes/Base-Nested.yaml, and which of them came true.

A prediction consists of claims. One number with its 95 % interval decides each claim.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mask_rcnn_ext.report.text import NO_NUMBER, judge_interval

from ..intervals import Estimate
from .contrasts import FCIS, RIVAL
from .experiment_results import ExperimentResults

__all__ = [
    "REFUTATION_RULE",
    "RULE",
    "Claim",
    "Prediction",
    "join_verdicts",
    "judge_predictions",
    "list_refutations",
    "summarize_predictions",
]

RULE = (
    "A difference is above zero if its whole 95 % interval is above zero. It is zero if the "
    "interval includes zero, however wide the interval is. It is not above zero if the interval "
    "reaches down to zero. The same holds for a ratio and one. A prediction came true if all of "
    "its claims hold."
)

REFUTATION_RULE = (
    "It did not happen if the whole interval of FCIS's number is above the other number. It "
    "happened if the whole interval is below. Otherwise the two numbers cannot be told apart."
)

Expected = Literal["above", "equal", "not above", "below", "within one of"]


@dataclass(frozen=True)
class Claim:
    """What a number should be, and the measured number.

    Attributes:
        subject: the model and the thing that the number measures.
        expected: where the number should be, relative to `neutral`.
        neutral: 0 for a difference, 1 for a ratio.
        estimate: the number.
        in_points: whether a difference is in points; False: it is a difference of ratios.
    """

    subject: str
    expected: Expected
    neutral: int
    estimate: Estimate
    in_points: bool = True

    @property
    def holds(self) -> bool | None:
        """Whether the number is as claimed; None if it is missing."""
        low, high = self.estimate.low, self.estimate.high
        if low is None or high is None:
            return None
        if self.expected == "above":
            return low > self.neutral
        if self.expected == "below":
            return high < self.neutral
        if self.expected == "within one of":
            return low > self.neutral - 1 and high < self.neutral + 1
        return low <= self.neutral and (self.expected == "not above" or high >= self.neutral)

    @property
    def verdict(self) -> str:
        """Whether the number is "higher" or "lower" than `neutral`, see `judge_interval`."""
        low, high = self.estimate.low, self.estimate.high
        if low is None or high is None:
            return NO_NUMBER
        return judge_interval(low - self.neutral, high - self.neutral)

    @property
    def text(self) -> str:
        """The claim in words."""
        neutral = "zero" if self.neutral == 0 else "one"
        expected = neutral if self.expected == "equal" else f"{self.expected} {neutral}"
        return f"{self.subject}: {expected}"

    @property
    def measured(self) -> str:
        """The number and its interval: a ratio, a difference of ratios, or points."""
        if self.neutral:
            return self.estimate.show(2)
        if self.in_points:
            return self.estimate.show(1, signed=True) + " points"
        return self.estimate.show(2, signed=True)


@dataclass(frozen=True)
class Prediction:
    """A prediction, or a finding that would refute it: a sentence and its claims."""

    sentence: str
    claims: list[Claim]

    @property
    def came_true(self) -> bool | None:
        """Whether all claims hold; None if none fails and a number is missing."""
        return join_verdicts([claim.holds for claim in self.claims])

    @property
    def failed(self) -> list[Claim]:
        """The claims that do not hold."""
        return [claim for claim in self.claims if claim.holds is False]


def join_verdicts(held: Sequence[bool | None]) -> bool | None:
    """Return whether all hold; None if none fails and one is not known."""
    if False in held:
        return False
    return None if None in held else True


def judge_predictions(results: ExperimentResults) -> list[Prediction]:
    """Return the four predictions, in the order of the config."""

    def same_part(variant: str, k: int, pairs: str) -> Estimate:
        return results.find_same_part(variant, k, f"{pairs}/difference")

    classes: list[tuple[str, str, Expected]] = [
        ("one_class", "pairs of one class", "above"),
        ("two_classes", "pairs of two classes", "not above"),
    ]
    first = [
        Claim(f"FCIS, k = {k}, {text}", expected, 0, same_part(variant, k, pairs))
        for pairs, text, expected in classes
        for k, variant in FCIS.items()
    ]
    growth = results.find_growth("fcis")
    third = [
        Claim(f"Mask R-CNN, pixels of k = {k}", "equal", 0, same_part(RIVAL, k, "one_class"))
        for k in FCIS
    ]
    fourth = [
        Claim(f"FCIS, k = {k}, preference for g/{k}", "above", 1, results.find_lines(variant, k))
        for k, variant in FCIS.items()
    ] + [
        Claim(f"{name}, preference for g/{k}", "not above", 1, results.find_lines(variant, k))
        for name, variant in (("FCIS, k = 1", "fcis_tiny_nested_k1"), ("Mask R-CNN", RIVAL))
        for k in FCIS
    ]
    return [
        Prediction(
            "FCIS makes more pixel errors where both RoIs read the same part than elsewhere, for "
            "pairs of one class and not for pairs of two classes.",
            first,
        ),
        Prediction(
            "The difference grows from k = 7 to k = 3.",
            [Claim("FCIS, k = 3 minus k = 7", "above", 0, growth)],
        ),
        Prediction("It is zero for Mask R-CNN, measured on the same pixels.", third),
        Prediction(
            "The axis runs of FCIS lie at g/7 of the RoI with k = 7 and at g/3 with k = 3; with "
            "k = 1 and for Mask R-CNN they lie at neither.",
            fourth,
        ),
    ]


def list_refutations(results: ExperimentResults) -> list[Prediction]:
    """Return the findings that would refute; one that "came true" did not happen."""
    control, classes = (
        [Claim(f"FCIS, k = {k}, {text}", "above", 0, find(v, k)) for k, v in FCIS.items()]
        for find, text in (
            (results.find_control, "minus Mask R-CNN"),
            (results.find_classes, "one class minus two classes"),
        )
    )
    growth = Claim("FCIS, k = 3 minus k = 7", "above", 0, results.find_growth("fcis"))
    moved = [
        Claim(
            f"preference for g/{k}: k = {k} divided by k = {10 - k}",
            "above",
            1,
            results.find_moved(k),
        )
        for k in FCIS
    ]
    return [
        Prediction("A same-part error of Mask R-CNN that is as large as FCIS's.", control),
        Prediction("A same-part error of pairs of two classes that is as large.", classes),
        Prediction("A difference that does not grow.", [growth]),
        Prediction("Axis runs that stay at the same places when k changes.", moved),
    ]


def summarize_predictions(
    predictions: Sequence[Prediction], numbers: Sequence[int] = (1, 2, 3, 4)
) -> list[str]:
    """Return a text on each prediction: what it said, and whether it came true.

    Args:
        predictions: in the order of their numbers.
        numbers: the first ones of them are used.
    """
    sentences = []
    for number, prediction in zip(numbers, predictions, strict=False):
        verdict = {
            True: "came true",
            False: "did not come true",
            None: "is open: a number is missing",
        }[prediction.came_true]
        failed = "; ".join(
            f"{claim.text}, but it is {claim.measured}" for claim in prediction.failed
        )
        why = f" What failed: {failed}." if failed else ""
        sentences.append(f"Prediction {number} {verdict}. It said: {prediction.sentence}{why}")
    return sentences
