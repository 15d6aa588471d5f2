"""Checks a data set as a training does, and in addition all pixels and all objects.

The faults and warnings of a training come first, in the same words. The other findings do not stop
a training, and only a person can decide whether the data is right.
"""

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import count_noun, name_some
from .annotations import explain_crowds
from .coco_json import CocoJson
from .findings import Example, Finding, Level
from .image_facts import MOST_COMPARED, ImageFacts, find_alike, find_equal_pixels, scan_images
from .images import IMAGE_SUFFIXES, is_hidden
from .object_facts import ObjectFacts, collect_object_facts, find_odd_objects
from .own_data import InspectedData, inspect_own_data

__all__ = ["DataCheck", "SplitCheck", "check_dataset"]

_MOST_EXAMPLES = 6  # of a finding


@dataclass(frozen=True)
class SplitCheck:
    """One json with its images.

    Attributes:
        file: the inspected json.
        image_root: the folder of its images.
        images: the facts of each image of `file.content["images"]`; None if there is no file.
        objects: counts of its sound annotations.
    """

    file: CocoJson
    image_root: str
    images: list[ImageFacts | None] = field(repr=False)
    objects: ObjectFacts = field(repr=False)


@dataclass(frozen=True)
class DataCheck:
    """The result of a check.

    Attributes:
        splits: "train" or "val" -> its json.
        findings: errors first, then warnings, then notes.
        class_names: in the order of the category ids.
    """

    splits: dict[str, SplitCheck]
    findings: list[Finding]
    class_names: list[str]

    def count(self, level: Level) -> int:
        """Return the number of findings of a level. With no error, a training takes the data."""
        return sum(finding.level == level for finding in self.findings)


def check_dataset(
    train_json: str = "",
    train_images: str = "",
    val_json: str = "",
    val_images: str = "",
    *,
    masks: bool = True,
    channels: int = 0,
    progress: bool = False,
) -> DataCheck:
    """Check a user's COCO-format data as a training does, and look at every image and object.

    Every image file is decoded once. Nothing is written.

    Args:
        train_json: path of the train json, or "".
        train_images: folder of the train images.
        val_json: path of the validation json, or "".
        val_images: folder of the validation images.
        masks: an object without a segmentation is malformed, as for a model with masks.
        channels: number of channels of images that `data.bands` reads, see
            `MASK_RCNN_EXT.DATA.IMAGE_CHANNELS`; 0: 8-bit colour images.
        progress: show a bar on the terminal while the images are read.

    Raises:
        UserError: a json is given without its images, images without their json, or neither.
            Mistakes in the data raise no error; they are findings.
    """
    pairs = {"train": (train_json, train_images), "val": (val_json, val_images)}
    data = inspect_own_data(pairs, masks=masks, channels=channels)
    sizes = {
        path: (image["height"], image["width"])
        for file in data.files.values()
        for path, image in zip(file.image_paths, file.content.get("images", ()), strict=True)
        if path
    }
    facts = scan_images(sizes, channels=channels, progress=progress)
    splits = {
        split: SplitCheck(
            file,
            pairs[split][1],
            [facts.get(path) for path in file.image_paths],
            collect_object_facts(file),
        )
        for split, file in data.files.items()
    }
    findings = _list_training_findings(data)
    for split, check in splits.items():
        findings += _find_odd_images(split, check)
        findings += find_odd_objects(split, check.file, check.objects)
        if check.file.completed.issues:
            text = f"{check.file.path}: changed when it is read: {check.file.completed}"
            findings.append(Finding("note", text))
    findings += _find_similar_images(splits, data)
    if not data.faults:
        findings += _find_unlisted_files(splits)
    order: list[Level] = ["error", "warning", "note"]
    findings.sort(key=lambda finding: order.index(finding.level))
    findings = [replace(f, examples=f.examples[:_MOST_EXAMPLES]) for f in findings]
    return DataCheck(splits, findings, list(data.table.values()))


def _list_training_findings(data: InspectedData) -> list[Finding]:
    """Return the faults and warnings of a training, with the annotations and images to look at."""
    found, faults = [], dict.fromkeys(data.faults)
    for split, file in data.files.items():
        places = {image["id"]: i for i, image in enumerate(file.content.get("images", ()))}
        by_id = {annotation["id"]: annotation for annotation in file.annotations}

        def show(
            *ids: int, text: str = "", split: str = split, places: Any = places, by_id: Any = by_id
        ) -> Example:
            return Example(split, places[by_id[ids[0]]["image_id"]], ids, text)

        examples = {doubt.text: [show(*group) for group in doubt.groups] for doubt in file.doubts}
        crowds = [a["id"] for a in file.kept if a["iscrowd"]]
        examples[explain_crowds(file.kept)] = [show(crowd) for crowd in crowds]
        # First an example of each reason, then the others.
        dropped = [(n, i, r) for r, ids in file.dropped.issues.items() for n, i in enumerate(ids)]
        malformed = [show(i, text=reason) for _, i, reason in sorted(dropped, key=lambda d: d[0])]
        found += [
            Finding("error", fault, malformed)
            for fault in faults
            if file.path in fault and file.dropped.issues and str(file.dropped) in fault
        ]
        for sentence in file.warnings:
            text = sentence.removeprefix(f"{file.path}: ")
            shown = malformed if text.startswith("dropped ") else examples.get(text, [])
            found.append(Finding("warning", sentence, shown))
    shown_with = {finding.text for finding in found}
    found += [Finding("error", fault) for fault in faults if fault not in shown_with]
    for repeated in data.repeated:
        shown = [Example(*place) for group in repeated.groups for place in group[:2]]
        found.append(Finding("warning", repeated.text, shown))
    return found + [Finding("warning", sentence) for sentence in data.gaps]


def _find_odd_images(split: str, check: SplitCheck) -> list[Finding]:
    """Return images of a json that are broken, have a single colour, or another kind."""
    path, entries = check.file.path, check.file.content.get("images", ())
    known = [(i, image) for i, image in enumerate(check.images) if image is not None]
    found = []
    broken = [(i, image.fault) for i, image in known if image.fault]
    if broken:
        others = [str(entries[i]["file_name"]) for i, _ in broken[1:]]
        also = f". The others: {name_some(others)}" if others else ""
        text = (
            f"{path}: {count_noun(len(broken), 'image file')} would pass the first check of a "
            f"training, and stop it later: {broken[0][1]}{also}"
        )
        found.append(Finding("error", text))
    plain = [i for i, image in known if image.plain]
    if plain:
        names = name_some([str(entries[i]["file_name"]) for i in plain])
        text = f"{path}: {len(plain)} of {len(known)} images have only one colour: {names}"
        found.append(Finding("warning", text, [Example(split, i) for i in plain]))
    kinds = Counter(image.kind for _, image in known)
    if len({(image.mode, image.bits) for _, image in known}) > 1:
        counts = ", ".join(f"{n} x {kind}" for kind, n in kinds.most_common())
        common = kinds.most_common(1)[0][0]
        odd = [Example(split, i, (), image.kind) for i, image in known if image.kind != common]
        text = (
            f"{path}: the images are of several kinds: {counts}. All become RGB of 8 bits, without "
            "alpha. Make sure that the model is used on the same mix"
        )
        found.append(Finding("note", text, odd))
    return found


def _find_similar_images(splits: dict[str, SplitCheck], data: InspectedData) -> list[Finding]:
    """Return images with the same pixels in different files, and images that look alike."""
    places, facts = [], []
    for split, check in splits.items():
        for i, image in enumerate(check.images):
            if image is not None:
                places.append((split, i))
                facts.append(image)
    reported = {frozenset(g) for repeated in data.repeated for g in repeated.groups}
    paths = {p: splits[p[0]].file.image_paths[p[1]] for p in places}
    same = [[places[i] for i in group] for group in find_equal_pixels(facts)]
    same = [g for g in same if frozenset(g) not in reported and len({paths[p] for p in g}) > 1]
    alike = [[places[i], places[j]] for i, j in find_alike(facts)]
    found = _describe_groups(
        splits, same, "hold the same pixels in different files", "Keep one of each"
    )
    found += _describe_groups(
        splits, alike, "look alike: the same picture in another size or quality, or neighbouring "
        "frames of a film", "Look at them, and keep each picture in one split",
    )  # fmt: skip
    if len(facts) > MOST_COMPARED:
        text = (
            f"images that only look alike were not searched: there are {len(facts):,} images, and "
            f"at most {MOST_COMPARED:,} are compared with each other. Equal pixels are found"
        )
        found.append(Finding("note", text))
    return found


def _describe_groups(
    splits: dict[str, SplitCheck], groups: list[list[tuple[str, int]]], what: str, advice: str
) -> list[Finding]:
    def name(place: tuple[str, int]) -> str:
        return str(splits[place[0]].file.content["images"][place[1]]["file_name"])

    found = []
    for leaks in (True, False):
        chosen = [group for group in groups if (len({split for split, _ in group}) == 2) is leaks]
        if not chosen:
            continue
        shown = name_some([" = ".join(map(name, group[:3])) for group in chosen], 3)
        where = "of train and val" if leaks else "within a json"
        why = ". The model has seen these images in training, so AP is too high" if leaks else ""
        text = f"{count_noun(len(chosen), 'group')} of images {where} that {what}: "
        text += f"{shown}{why}. {advice}"
        pairs = []
        for group in chosen:
            last = next((p for p in group if p[0] != group[0][0]), group[1])
            pairs += [Example(*group[0]), Example(*last)]
        found.append(Finding("warning" if leaks else "note", text, pairs))
    return found


def _find_unlisted_files(splits: dict[str, SplitCheck]) -> list[Finding]:
    """Return the image files of the folders that no json lists."""
    listed = {os.path.realpath(p) for c in splits.values() for p in c.file.image_paths if p}
    found = []
    for root in dict.fromkeys(os.path.realpath(check.image_root) for check in splits.values()):
        images = []
        for top, folders, names in os.walk(root):
            folders[:] = [name for name in folders if not is_hidden(name)]
            shown = [name for name in names if not is_hidden(name)]
            kept = [name for name in shown if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
            images += [os.path.join(top, name) for name in kept]
        extra = sorted(set(images) - listed)
        if extra:
            some = name_some([os.path.relpath(path, root) for path in extra])
            text = (
                f"{root}: {len(extra)} of {len(images)} image files are in no json: {some}. The "
                "model learns nothing from them"
            )
            found.append(Finding("note", text))
    return found
