"""The results of the commands, read from the files that they wrote and from their output."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mask_rcnn_ext.checkpoint.description import get_versions
from mask_rcnn_ext.files import read_json
from mask_rcnn_ext.report.json_records import from_json

from .photos import CLIP
from .pictures import SHOWN
from .results_file import (
    FirstModelResults,
    FolderFacts,
    PredictionCounts,
    ReportFacts,
    StageFacts,
    Tracks,
)
from .stages import SEED, FolderStep, StageStep

__all__ = ["collect_first_model_facts", "key_lines"]

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_BLOCKS = {  # the lines that the page quotes: the first group, or the whole match
    "check": [r"\A.*?(?=^objects of each class)", r"^Training takes .*?$"],
    "train": [r"The recipe:\n(.*?)(?=^\[\d\d/|\Z)"],
    "report": [r"^person/.*?$"],
    "predict": [r"^\d+ images, .*?$", r"^pictures: .*?$"],
    "export": [r"^exported model: .*?$", r"^checked on .*?$"],
    "evaluate": [r"(The results are in .*?)$"],
    "video": [r"^\d+ frames, .*?$"],
}
_SCORES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_TASKS = ("bbox", "segm")


def key_lines(name: str, text: str) -> list[str]:
    """Return the lines that the page quotes from `text`, which the command `name` printed."""
    lines: list[str] = []
    for pattern in _BLOCKS[name]:
        for match in re.finditer(pattern, _ANSI.sub("", text), re.MULTILINE | re.DOTALL):
            lines += (match[1] if match.lastindex else match[0]).rstrip().splitlines()
    return [line.rstrip() for line in lines]


def collect_first_model_facts(
    root: Path, folder: FolderStep, steps: Sequence[StageStep]
) -> FirstModelResults:
    """Return the content of the results file.

    Args:
        root: the folder of the experiment.
        folder: the step that made the user's folder.
        steps: the commands, all done.
    """
    home = root / "home"
    record = read_json(folder.record)
    run = read_json(home / "person/results.json")
    exported = read_json(home / "person/evaluations/split_val-model/results.json")
    analysis = read_json(home / "person/analysis.json")
    parity = read_json(home / "person/export/export.json")["model.onnx"]["parity"]
    credits = record["facts"]["credits"]
    with_credits = [name for name, url in credits.items() if url]
    report = {
        **{key: analysis[key] for key in ("images", "objects", "ap", "best", "sizes")},
        "threshold": analysis["thresholds"]["person"],
        "error_types": analysis["error_types"]["types"],
    }
    return FirstModelResults(
        data=from_json(
            FolderFacts, {**record["facts"], "annotations_sha256": record["annotations"]}
        ),
        seed=SEED,
        cores=os.cpu_count(),
        device=run["run"]["device"],
        versions=get_versions(),
        stages=[
            StageFacts(
                name=step.stage.name,
                command=step.stage.command,
                seconds=step.seconds(),
                printed=key_lines(step.stage.name, step.printed()),
            )
            for step in steps
        ],
        train_seconds=run["run"]["train_seconds"],
        peak_memory_mb=run["run"]["peak_memory_mb"],
        scores={
            name: {task: {key: found[task].get(key) for key in _SCORES} for task in _TASKS}
            for name, found in (("trained", run), ("exported", exported))
        },
        report=from_json(ReportFacts, report),
        parity=parity,
        found=_count_found(home / "found"),
        video=_count_tracks(home / f"found_video/videos/{CLIP}.tracks.json"),
        shown=(with_credits or list(credits))[:SHOWN],
    )


def _count_found(folder: Path) -> PredictionCounts:
    """Return the numbers of images and objects in a prediction."""
    images = read_json(folder / "images.json")["images"]
    return PredictionCounts(len(images), len(read_json(folder / "coco_instances_results.json")))


def _count_tracks(path: Path) -> Tracks:
    """Return how many frames and ids a video has, and how long the ids last."""
    frames = read_json(path)["frames"]
    lives = Counter(found["id"] for frame in frames for found in frame["objects"])
    return Tracks(
        frames=len(frames),
        ids=len(lives),
        ids_of_half_the_frames=sum(2 * life >= len(frames) for life in lives.values()),
        longest=max(lives.values(), default=0),
    )
