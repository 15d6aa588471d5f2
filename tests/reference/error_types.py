"""TIDE's error types and their costs, slowly, by the letter of the paper (arXiv:2008.08115).

Section 2.2 has the types, section 2.3 the oracles. Images are (objects, detections): objects are
(class, crowd), detections (class, score), best score first; `ious[d][g]` are their IoUs.
"""

import itertools

import numpy as np

TYPES = ("localization", "classification", "duplicate", "background", "both", "missed")


def find_types(objects, detections, ious):
    """Return (type or "right" or "ignored", object or None) of each detection; objects missed."""
    taken, found = {}, []
    for d, (label, _) in enumerate(detections):
        free = [
            g
            for g, (other, crowd) in enumerate(objects)
            if other == label and not crowd and g not in taken and ious[d][g] >= 0.5
        ]
        in_crowd = any(
            other == label and crowd and ious[d][g] >= 0.5
            for g, (other, crowd) in enumerate(objects)
        )
        if free:
            best = max(free, key=lambda g: (ious[d][g], g))
            taken[best] = d
            found.append(("right", best))
        else:
            found.append(("ignored" if in_crowd else "", None))
    near = set()
    for d, (label, _) in enumerate(detections):
        if found[d][0]:
            continue
        real = [g for g, (_, crowd) in enumerate(objects) if not crowd]
        own = [g for g in real if objects[g][0] == label]
        others = [g for g in real if objects[g][0] != label]
        best_own = max(own, key=lambda g: ious[d][g], default=None)
        best_other = max(others, key=lambda g: ious[d][g], default=None)
        overlap_own = 0 if best_own is None else ious[d][best_own]
        overlap_other = 0 if best_other is None else ious[d][best_other]
        if 0.1 <= overlap_own < 0.5:
            found[d] = ("localization", best_own)
        elif overlap_other >= 0.5:
            found[d] = ("classification", best_other)
        elif overlap_own >= 0.5:
            found[d] = ("duplicate", None)
        elif max(overlap_own, overlap_other) < 0.1:
            found[d] = ("background", None)
        else:
            found[d] = ("both", None)
        near.add(found[d][1])
    missed = [
        g for g, (_, crowd) in enumerate(objects) if not crowd and g not in taken and g not in near
    ]
    return found, missed, set(taken)


def average_precision(detections, number):
    """Return the AP of (score, right) pairs: COCO's, with 101 recalls."""
    if not number:
        return 100.0
    points, hits = [], 0
    for count, (_, right) in enumerate(sorted(detections, key=lambda d: -d[0]), start=1):
        hits += right
        points.append((hits / number, hits / count))
    recalls = np.linspace(0, 1, 101)  # as COCO has them: not all are the nearest to k / 100
    best = [max((p for r, p in points if r >= recall), default=0) for recall in recalls]
    return 100 * sum(best) / 101


def measure(images, classes, repaired=None):
    """Return AP50 when the errors of the type `repaired` are repaired; None: as it is."""
    detections = {label: [] for label in classes}
    numbers = dict.fromkeys(classes, 0)
    present = set()
    for objects, found_here, ious in images:
        found, missed, taken = find_types(objects, found_here, ious)
        for label, crowd in objects:
            numbers[label] += not crowd
            present |= set() if crowd else {label}
        fixed = set(taken)
        for (label, score), (kind, about) in zip(found_here, found, strict=True):
            if kind == "ignored":
                continue
            if kind == repaired and kind in ("localization", "classification"):
                if about in fixed:  # found already, or repaired with a better score
                    continue
                fixed.add(about)
                detections[objects[about][0]].append((score, True))
            elif kind != repaired:
                detections[label].append((score, kind == "right"))
        if repaired == "missed":
            for g in missed:
                numbers[objects[g][0]] -= 1
    aps = [average_precision(detections[label], numbers[label]) for label in sorted(present)]
    return sum(aps) / len(aps)


def count(images):
    """Return type -> number."""
    counts = dict.fromkeys(TYPES, 0)
    for image in images:
        found, missed, _ = find_types(*image)
        for kind, _ in itertools.chain(found, [("missed", g) for g in missed]):
            if kind in counts:
                counts[kind] += 1
    return counts
