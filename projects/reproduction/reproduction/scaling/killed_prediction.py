"""Predicts on many images, without and with kills, and compares the files."""

import dataclasses
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mask_rcnn_ext.errors import UserError

from .commands import PREDICT, Command
from .drawn_images import SIDE
from .results_file import Found, Kill, PredictionFacts

__all__ = ["Job", "compare_folders", "plan_kills", "predict_with_kills"]

RESULT_FILES = ("coco_instances_results.json", "images.json")
_WHAT = ("the command", "one of its processes", "all of its processes")
# Few detections and large batches: this tests the files of many images, not the model.
_FEW = ["MODEL.RPN.PRE_NMS_TOPK_TEST", "50", "MODEL.RPN.POST_NMS_TOPK_TEST", "20"]
_FEW += ["TEST.DETECTIONS_PER_IMAGE", "5"]
_TICK = 0.5  # seconds between two checks


@dataclasses.dataclass(frozen=True)
class Job:
    """A prediction.

    Attributes:
        weights: the model file, which contains its config.
        images: the folder of the images.
        processes: the number of processes that share the images.
    """

    weights: Path
    images: Path
    processes: int = 2

    def start(self, output: Path) -> Command:
        """Start the prediction, or continue it."""
        arguments = [PREDICT, str(self.weights), str(self.images), "--output", str(output)]
        arguments += ["--processes", str(self.processes), "--write", "coco", "--batch-size", "32"]
        arguments += ["--score-threshold", "0.05", "--opts", *_FEW]
        return Command(arguments, output.parent / f"{output.name}.log")


def plan_kills(count: int, images: int, seed: int) -> list[tuple[int, str]]:
    """Return after how many images to kill, ascending, and what to kill."""
    draw = random.Random(seed)
    moments = sorted(draw.randrange(images // 50, images - images // 50) for _ in range(count))
    return [(moment, _WHAT[number % len(_WHAT)]) for number, moment in enumerate(moments)]


def predict_with_kills(folder: Path, job: Job, kills: int, seed: int) -> PredictionFacts:
    """Predict into the folders `undisturbed` and `killed`, and compare them.

    Args:
        folder: the parent of the two folders; earlier ones are removed.
        job: the prediction.
        kills: number of SIGKILLs.
        seed: decides the moments of the kills.

    Raises:
        UserError: a command failed, or ended before it could be killed.
    """
    outputs = [folder / name for name in ("undisturbed", "killed")]
    for output in outputs:
        shutil.rmtree(output, ignore_errors=True)
    names = sorted(path.name for path in job.images.iterdir())
    start = time.perf_counter()
    memory = job.start(outputs[0]).finish()
    undisturbed = time.perf_counter() - start
    done = []
    start = time.perf_counter()
    for moment, what in plan_kills(kills, len(names), seed):
        done.append(Kill(_kill(job.start(outputs[1]), outputs[1], moment, what), what))
    memory = max(memory, job.start(outputs[1]).finish())
    return PredictionFacts(
        images=len(names),
        processes=job.processes,
        kills=done,
        seed=seed,
        undisturbed_seconds=undisturbed,
        killed_seconds=time.perf_counter() - start,
        peak_memory_mb=memory,
        **vars(compare_folders(outputs[0], outputs[1], names)),
        side=SIDE,
    )


def _kill(command: Command, output: Path, moment: int, what: str) -> int:
    """Kill a command when `moment` images are done; return how many are done."""
    process = command.process
    moment = max(moment, _count_done(output) + 1)  # it has begun
    try:
        while (done := _count_done(output)) < moment:
            if process.poll() is not None:
                raise UserError(f"the prediction ended before {moment} images were done")
            time.sleep(_TICK)
        if what == "all of its processes":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            target = process.pid if what == "the command" else max(_find_children(process.pid))
            os.kill(target, signal.SIGKILL)
        process.wait(120)
        return done
    finally:
        command.kill()
        process.wait()


def _count_done(output: Path) -> int:
    """Return how many images have a line in the parts."""
    lines = (line for path in output.glob("parts/*.jsonl") for line in path.open("rb"))
    return sum(line.startswith(b'{"name"') for line in lines)


def _find_children(pid: int) -> list[int]:
    """Return the processes that predict: the children of a process, without helpers (Linux)."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    commands = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in found}
    return [child for child, command in commands.items() if b"spawn_main" in command]


def compare_folders(first: Path, second: Path, names: Sequence[str]) -> Found:
    """Return the images and instances that a prediction has lost, found twice or changed.

    Args:
        first: the results of a prediction without kills.
        second: the results of a prediction with kills.
        names: the file names of the images.
    """
    listed = json.loads((second / "images.json").read_bytes())["images"]
    counts = Counter(image["file_name"] for image in listed)
    results = json.loads((second / "coco_instances_results.json").read_bytes())
    repeated = Counter(json.dumps(result, sort_keys=True) for result in results)
    return Found(
        instances=len(results),
        lost=sum(name not in counts for name in names),
        doubled=sum(n - 1 for n in counts.values()) + sum(n - 1 for n in repeated.values()),
        bytes_equal=all(
            (first / name).read_bytes() == (second / name).read_bytes() for name in RESULT_FILES
        ),
        left_over=sorted(p.name for p in second.iterdir() if p.name not in RESULT_FILES),
    )
