"""The generated part of docs/own_data.md: the results of own data in minutes on a CPU."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from mask_rcnn_ext.report.text import NO_NUMBER, to_text

from ..intervals import Estimate
from ..markdown import markdown_table
from .results_file import Contrast, OwnDataEntry, OwnDataResults, PhotosFacts
from .runs import DATA, SETTINGS

__all__ = ["DATA_TITLES", "OWN_DATA", "PICTURE", "name_variant", "own_data_doc", "select_runs"]

OWN_DATA, PICTURE = "results/own_data.json", "docs/images/own_data.png"

DATA_TITLES = {"dsb2018": "Nuclei", "persons": "Persons", "sixty": "Sixty nuclei images"}
_STARTS = {"lite0": "ImageNet weights", "scratch": "from scratch"}
_SETTINGS = {"hand": "hand-made", "auto": "`--auto`"}
_CHOICES = (
    ("best - last", "the best checkpoint"),
    ("best - last, selection half", "the same on the images that selected it"),
    ("early - last", "the best one before an early end"),
    ("average - last", "averaged weights"),
)

_NOT_RUN = "The experiment has not been run yet.\n"
_DOC = """\
The numbers are from [{results}](../{results}). {state}

{data}

![Mask AP over the minutes of training, by start and settings](images/own_data.png)

*Thick lines are means, thin lines single runs.*

{scores}
AP is for the last weights, on the scoring half of the validation images. The columns "all" have
both halves, since nothing was selected here. In brackets, next to a mean of several trainings, are
the lowest and the highest AP.

{settings}
### Best checkpoint, early end, averaged weights

Each run was evaluated {evaluations} times. One half of the validation images selects the weights,
and the other half scores them. An early end comes after {patience} evaluations without improvement.
The table has the mask AP minus the mask AP of the last weights, with a 95 % interval over the runs.

{choices}
{saved}

### The predictions

{predictions}
A prediction came true if the whole 95 % interval lies in the range. It is refuted if the whole
interval lies outside. Otherwise it is open.
"""


def name_variant(start: str, settings: str) -> str:
    """Return the name of a variant in a legend."""
    return f"{_STARTS[start]}, {_SETTINGS[settings].strip('`')}"


def select_runs(
    runs: Iterable[OwnDataEntry], data: str, start: str, settings: str
) -> list[OwnDataEntry]:
    """Return the runs of one variant, one for each seed."""
    variant = data, start, settings
    return [run for run in runs if (run.data, run.start, run.settings) == variant]


def own_data_doc(results: OwnDataResults | None) -> str:
    """Return the Markdown; None: nothing was run."""
    if not results or not results.runs:
        return _NOT_RUN
    return _DOC.format(
        results=OWN_DATA,
        state=_describe_state(results),
        data=_describe_data(results.data),
        scores=_make_scores(results.runs),
        settings=_make_settings(results.runs),
        evaluations=results.evaluations,
        patience=results.patience,
        choices=_make_choices(results.contrasts),
        saved=_describe_saved(results.contrasts),
        predictions=_make_predictions(results),
    )


def _describe_state(results: OwnDataResults) -> str:
    done, planned = len(results.runs), results.planned_seeds
    total = planned * sum(len(photos.variants) for photos in DATA.values())
    devices = ", ".join(sorted({str(run.device) for run in results.runs}))
    state = f"Seeds: {planned}. Device: {devices}."
    for timing in results.timings:
        data, settings = timing.form.split("_")
        state += (
            f" {DATA_TITLES[data]}, {_SETTINGS[settings]}: {timing.seconds_per_iteration} s per "
            f"iteration with {timing.threads} threads, so {timing.fitting_iterations} fit "
            f"into {timing.minutes} minutes."
        )
    if done < total:
        state += f" **{done} of {total} trainings are done; the others have not been run yet.**"
    return state


def _describe_data(data: Mapping[str, PhotosFacts]) -> str:
    return " ".join(
        f"{DATA_TITLES[name]} ({name}): {facts.train.images} training images with "
        f"{facts.train.objects} objects, {facts.all.images} validation images, of "
        f"which {facts.scoring.images} score, and {facts.minutes} minutes of training."
        for name, facts in data.items()
    )


def _make_scores(entries: Sequence[OwnDataEntry]) -> str:
    header = ["data", "start", "settings", "seeds", "mask AP", "AP50", "AP, all", "AP50, all"]
    header += ["box AP", "iterations", "seconds"]
    rows = []
    for data, photos in DATA.items():
        for start, settings in photos.variants:
            runs = select_runs(entries, data, start, settings)
            names = [DATA_TITLES[data], _STARTS[start], _SETTINGS[settings], str(len(runs))]
            rows.append([*names, *_summarize_runs(runs)])
    return markdown_table(header, rows, words=3)


def _summarize_runs(runs: Sequence[OwnDataEntry]) -> list[str]:
    if not runs:
        return ["not run", *[NO_NUMBER] * 6]

    def score(part: str, metric: str, task: str = "segm") -> str:
        return _show([run.evaluations[-1].score(part, metric, task) for run in runs])

    seconds = fmean(run.train_seconds or 0.0 for run in runs)
    masks = [score(part, metric) for part in ("scoring", "all") for metric in ("AP", "AP50")]
    boxes = score("scoring", "AP", "bbox")
    return [*masks, boxes, str(runs[0].iterations), f"{seconds:.0f}"]


def _make_settings(runs: Sequence[OwnDataEntry]) -> str:
    """Return the table of the settings that differ between `--auto` and hand-made."""
    rows = []
    for data in DATA:
        own = [run for run in runs if run.data == data]
        found = {run.settings: run.chosen for run in reversed(own)}
        if {*found} != {*SETTINGS}:
            continue
        rows += [
            [DATA_TITLES[data], f"`{key}`", f"`{hand}`", f"`{found['auto'][key]}`"]
            for key, hand in found["hand"].items()
            if found["auto"][key] != hand
        ]
    if not rows:
        return ""
    table = markdown_table(["data", "key", "hand-made", "`--auto`"], rows)
    return f"The settings differ in these keys only:\n\n{table}"


def _show(values: Sequence[float]) -> str:
    """Return the mean, and the smallest and largest value if there are several."""
    text = to_text(fmean(values))
    if len(values) == 1:
        return text
    return f"{text} ({to_text(min(values))} to {to_text(max(values))})"


def _find(contrasts: Iterable[Contrast], data: str, name: str) -> Contrast | None:
    return next((c for c in contrasts if (c.data, c.name) == (data, name)), None)


def _interval(contrast: Contrast | None, signed: bool = True) -> str:
    if contrast is None:
        return NO_NUMBER
    shown = Estimate(contrast.mean, contrast.low, contrast.high).show(signed=signed)
    return f"{shown} (one run)" if contrast.low is None else shown


def _make_choices(contrasts: Sequence[Contrast]) -> str:
    rows = [
        [title, *(_interval(_find(contrasts, data, name)) for data in DATA)]
        for name, title in _CHOICES
    ]
    return markdown_table(["weights", *DATA_TITLES.values()], rows, words=1)


def _describe_saved(contrasts: Sequence[Contrast]) -> str:
    parts = []
    for data, photos in DATA.items():
        if contrast := _find(contrasts, data, "saved"):
            minutes = photos.minutes * contrast.mean / 100
            early = sum(value > 0 for value in contrast.values)
            parts.append(
                f"{DATA_TITLES[data]}: {early} of {len(contrast.values)} runs would have ended "
                f"early, which saves {to_text(minutes)} of {photos.minutes} minutes on average."
            )
    return " ".join(parts)


def _make_predictions(results: OwnDataResults) -> str:
    rows = []
    for prediction in results.predictions:
        contrast = _find(results.contrasts, prediction.data, prediction.name)
        ends = [prediction.least, prediction.most]
        low, high = ("" if end is None else to_text(end, 0) for end in ends)
        expected = f"{low} to {high}" if low and high else f"≥ {low}" if low else f"≤ {high}"
        cells = [DATA_TITLES[prediction.data], prediction.sentence, expected]
        signed = "-" in prediction.name
        rows.append([*cells, _interval(contrast, signed), prediction.verdict])
    return markdown_table(["data", "prediction", "range", "measured", "verdict"], rows)
