"""Finds, by name, the layers of a model whose size depends on the number of classes."""

import math
import re
from collections.abc import Iterable

__all__ = ["CLASS_LAYERS", "ShapeMismatch", "count_classes", "count_groups"]

# (parameter name, shape in the file, shape in the model)
ShapeMismatch = tuple[str, tuple[int, ...], tuple[int, ...]]

# Layers whose first dimension depends on the number of classes, unless they are class-agnostic.
CLASS_LAYERS = re.compile(
    r"^roi_heads\.(box_predictor\.(\d+\.)?(cls_score|bbox_pred|svm|ridge)|mask_head\.predictor|"
    r"score_maps)\."  # score_maps: FCIS
)


def count_groups(key: str, rows: int, classes: int) -> int:
    """Return the number of classes of a class layer, including the background if it has one.

    The name is checked first: two rows of `cls_score` could mean one class and the background, or
    two classes.

    Args:
        key: the name of the weight.
        rows: the first dimension of the weight.
        classes: the number of classes of the model.

    Returns:
        `classes`, `classes + 1`, or 0 for a class-agnostic layer.
    """
    if ".cls_score." in key or ".score_maps." in key:
        return classes + 1
    if ".bbox_pred." in key:
        return classes if rows == 4 * classes else 0
    for groups in (classes, classes + 1):
        pixels, rest = divmod(rows, groups)
        if not rest and math.isqrt(pixels) ** 2 == pixels:
            return groups
    return 0


def count_classes(shapes: Iterable[ShapeMismatch], bins: int) -> tuple[int, int] | None:
    """Return the number of foreground classes in file and model; None if it is the same.

    Args:
        shapes: the layers whose shapes differ between file and model.
        bins: k * k of an FCIS model, which has 2 * k * k score maps per class; else 0.
    """
    shapes = [shape for shape in shapes if shape[1] and shape[2]]  # a single number has no classes
    for name, in_file, in_model in shapes:
        if in_file[0] == in_model[0]:  # the number of classes is the same; the features differ
            continue
        if re.search(r"^roi_heads\.box_predictor\.(\d+\.)?cls_score\.", name):
            return in_file[0] - 1, in_model[0] - 1  # the last row is the background
        if name.startswith("roi_heads.box_predictor.svm."):
            return in_file[0], in_model[0]
    if any(name.startswith("roi_heads.box_maps.") for name, _, _ in shapes):
        return None  # another k, so the classes of the file cannot be counted
    for name, in_file, in_model in shapes:
        if name.startswith("roi_heads.score_maps.") and bins and in_file[0] % (2 * bins) == 0:
            return in_file[0] // (2 * bins) - 1, in_model[0] // (2 * bins) - 1
    return None
