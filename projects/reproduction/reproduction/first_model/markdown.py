"""The generated parts of docs/first_model.md: each command, what it printed, and its results."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mask_rcnn_ext.report.text import NO_NUMBER

from ..markdown import markdown_table
from .results_file import FirstModelResults, ModelScores, ReportFacts, StageFacts
from .stages import plan_stages

__all__ = ["FIRST_MODEL", "PAGE", "PICTURE", "first_model_parts", "name_video_picture"]

FIRST_MODEL, PICTURE = "results/first_model.json", "docs/images/first_model.png"
PAGE = "docs/first_model.md"

_NOT_RUN = "Not run yet.\n"
_WIDTH = 100  # characters of a line of a command


def name_video_picture(picture: str | Path) -> Path:
    """Return the path of the video's picture, next to `picture`."""
    return Path(picture).with_name(f"{Path(picture).stem}_video.png")


def first_model_parts(results: FirstModelResults | None) -> dict[str, str]:
    """Return what each generated part of the page holds, by its title.

    A part says "Not run yet" if the results lack this command or have another command in its place,
    for example after a trial.

    Args:
        results: None: nothing was run.
    """
    stages = plan_stages()
    found = {stage.name: stage for stage in results.stages} if results else {}
    run = all(s.name in found and found[s.name].command == s.command for s in stages)
    parts = {"the first model's data": _describe_data(results) if results and run else _NOT_RUN}
    for stage in stages:
        text = _show_command(stage.words)
        if results and run:
            text += _quote(found[stage.name]) + _FURTHER[stage.name](results)
        else:
            text += _NOT_RUN
        parts[f"the command {stage.name}"] = text
    return parts


def _show_command(words: Sequence[str]) -> str:
    """Return a command as a block; lines break before an option or a key."""
    lines, line = [], "mask-rcnn-ext"
    groups: list[list[str]] = []
    for word in words:
        if not groups or word.startswith("--") or word.split(".")[0].isupper():
            groups.append([])
        groups[-1].append(word)
    for group in groups:
        text = shlex.join(group)
        if len(line) + len(text) + 3 > _WIDTH:
            lines.append(f"{line} \\")
            line = f"    {text}"
        else:
            line = f"{line} {text}"
    return "".join(f"    {each}\n" for each in [*lines, line]) + "\n"


def _quote(stage: StageFacts) -> str:
    lines = "\n".join(stage.printed)
    return f"It took {_say_time(stage.seconds)}, and printed:\n\n```text\n{lines}\n```\n"


def _say_time(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.1f} minutes"


def _describe_data(results: FirstModelResults) -> str:
    data, versions = results.data, results.versions
    total = sum(stage.seconds for stage in results.stages)
    training = next(stage.seconds for stage in results.stages if stage.name == "train")
    return (
        f"She has {data.photos} photos with {data.objects} persons, {data.new_photos} new "
        f"photos, and a video of {data.clip.frames} frames. All commands together took "
        f"{_say_time(total)}, of which the training took {_say_time(training)}. The training used "
        f"up to {results.peak_memory_mb / 1000:.1f} GB of memory. This is one run with seed "
        f"{results.seed} on {results.cores} CPU cores ({results.device}) with Python "
        f"{versions['python']} and PyTorch {versions['torch']}; "
        f"[{FIRST_MODEL}](../{FIRST_MODEL}) has the figures.\n"
    )


def _score_table(models: Mapping[str, ModelScores]) -> str:
    names = ("AP", "AP50", "AP75")
    header = ["model", *(f"{kind} {n}" for kind in ("mask", "box") for n in names)]
    rows = [
        [name, *(_say(found[task][n]) for task in ("segm", "bbox") for n in names)]
        for name, found in models.items()
    ]
    return markdown_table(header, rows, 1)


def _say(score: float | None) -> str:
    return NO_NUMBER if score is None else f"{score:.1f}"


def _describe_report(results: FirstModelResults) -> str:
    report = results.report
    ap = report.ap["AP"]
    costs = sorted(report.error_types.items(), key=lambda pair: -(pair[1].cost or 0))
    worst = [f"{name} ({_say(found.cost)} points of AP50)" for name, found in costs[:2]]
    sizes = [f"{name} {_say(part.AP.value)}" for name, part in report.sizes.items()]
    return (
        f"\nThe report gives a mask AP of {_say(ap.value)}, with a 95 % interval from "
        f"{_say(ap.low)} to {_say(ap.high)}. The interval is wide because there are only "
        f"{report.images} validation photos with {report.objects} persons. By the size of "
        f"persons, AP is: {', '.join(sizes)}. Two types of errors cost most: {' and '.join(worst)}."
        f"\n\n{_describe_threshold(report)}\n"
    )


def _describe_threshold(report: ReportFacts) -> str:
    best = report.best
    if report.threshold is None:
        return "No detection is right, so no score threshold is the best."
    return (
        f"The best score threshold is **{report.threshold:.2f}**. With it, "
        f"{100 * (best.precision or 0):.0f} % of the detections are right, and "
        f"{100 * (best.recall or 0):.0f} % of the persons are found (F1 {best.f1 or 0:.2f})."
    )


def _describe_found(results: FirstModelResults) -> str:
    urls = (results.data.credits.get(name) for name in results.shown)
    credits = [f"[{number}]({url})" for number, url in enumerate(urls, 1) if url]
    by = (
        f" The photos are from COCO, which took them from Flickr. From left to right: "
        f"{', '.join(credits)}."
        if credits
        else ""
    )
    return (
        "\n![New photos with the persons that were found](images/first_model.png)\n\n"
        f"*The first new photos, in the order of their names.{by}*\n"
    )


def _describe_export(results: FirstModelResults) -> str:
    parity = results.parity
    return (
        f"\nThe command writes the file only if it finds the same objects as the model: here "
        f"{parity['detections']} objects in {parity['images']} images.\n"
    )


def _describe_video(results: FirstModelResults) -> str:
    video, clip = results.video, results.data.clip
    url = results.data.credits.get(clip.photo)
    by = f" The photo is from COCO, which took it [from Flickr]({url})." if url else ""
    return (
        f"\nThe photo shows {clip.persons} large persons. The tracker followed {video.ids} "
        f"objects. {video.ids_of_half_the_frames} of them are in at least half of the "
        f"{video.frames} frames; the longest track has {video.longest} frames.\n\n"
        "![Frames of the video with masks and numbers](images/first_model_video.png)\n\n"
        f"*Frames of the video, evenly spaced.{by}*\n"
    )


_FURTHER: dict[str, Callable[[FirstModelResults], str]] = {
    "check": lambda results: "",
    "train": lambda results: (
        "\nAP on the validation photos:\n\n" + _score_table({"trained": results.scores["trained"]})
    ),
    "report": _describe_report,
    "predict": _describe_found,
    "export": _describe_export,
    "evaluate": lambda results: "\n" + _score_table(results.scores),
    "video": _describe_video,
}
