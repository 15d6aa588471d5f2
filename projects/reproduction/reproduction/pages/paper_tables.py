"""The tables of configs in configs/README.md, README.md and docs/configs.md.

They come from `mask_rcnn_ext.paper`. The published numbers are the paper's, and the numbers of
weights are detectron2's. A row has our number if `results/<config>.json` is the `results.json` of a
run of that config.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from statistics import fmean

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.paper import NO_ROW, Checkpoint, Row
from mask_rcnn_ext.report.text import to_text

from ..fcis.markdown import COMPARISON
from ..fcis.results import ComparisonResults
from ..lineage.papers import LINEAGE as PUBLISHED
from ..lineage.results import LineageResults
from ..lineage.tables import LINEAGE_RESULTS, lineage_configs
from ..markdown import COMMAND, markdown_table, read_record, read_results

__all__ = ["configs_page", "configs_table", "methods_table"]

# README's table: (method, config of the papers, small config that was trained here).
_METHODS = (
    ("Mask R-CNN", "mask_rcnn_R101_FPN", "shapes/mask_rcnn_demo_FPN"),
    ("FCIS", "fcis_R101_C5_dilated", "shapes/fcis_tiny"),
    ("Faster R-CNN", "faster_rcnn_R101_FPN", "shapes/lineage/faster_rcnn_tiny"),
    ("Fast R-CNN", "lineage/fast_rcnn_VGG16", "shapes/lineage/fast_rcnn_tiny"),
    ("R-CNN", "lineage/rcnn_VGG16", "shapes/lineage/rcnn_tiny"),
)

_TASKS = {"segm": "mask", "bbox": "box", "keypoints": "keypoint"}
_TITLES = {
    "1": "mask AP",
    "2a": "backbones",
    "2b": "softmax or sigmoid",
    "2c": "RoI layers",
    "2d": "RoI layers at stride 32",
    "2e": "mask branches",
    "text": "two sentences",
    "3": "box AP",
    "4": "keypoint AP",
    "5": "tasks trained together, AP of persons",
    "6": "RoI layers for keypoints",
    "7": "Cityscapes",
    "8": "enhanced, each row on top of the one before",
    "9": "enhanced keypoints, each row on top of the one before",
}
_DEMO, _DEMO_RESULTS = "shapes/mask_rcnn_demo_FPN", "results/demo.json"
_NONE = "\u2013"
_NOT_RUN = "not run"

_CONFIGS_HEAD = f"""\
# The configs

<!-- `{COMMAND}` writes this file from mask_rcnn_ext/paper; edits are lost. -->

There is one yaml for each row of the paper (arXiv:1703.06870v3, Tables 1 to 9, and section 4.2)
whose data and starting weights are public, and for the rival method FCIS (arXiv:1611.07709). A yaml
contains the keys that differ from its `_BASE_`. The comment at its top gives the row, the published
numbers, the command, and the deviations from the paper:

    python train_net.py --num-gpus 8 --config-file configs/mask_rcnn_R50_FPN.yaml

The configs in `shapes/` train small models on drawn images: the demo, and the small counterparts of
the ablations and of the lineage. [docs/ablations.md](../docs/ablations.md) and
[docs/lineage.md](../docs/lineage.md) have their results. [docs/models.md](../docs/models.md) has
the parameters and FLOPs of each model.

## By name, and with weights

    from mask_rcnn_ext import model_zoo
    cfg = model_zoo.get_config("mask_rcnn_R50_FPN", trained=True)

`mask_rcnn_ext.model_zoo` takes our names and detectron2's names. `detectron2.model_zoo`
cannot find our configs, for two reasons. It looks only in its own installed folder, so we would
have to write our files there. And it merges them into detectron2's default config, which lacks this
package's keys. A change of either would change detectron2 for every other project in the
environment.

The paper's own weights are not public in this format. With `trained=True`, a config gets the
weights of detectron2's zoo that fit it best, and the settings of testing that belong to these
weights. `model_zoo.get_config(name, trained=True)` and `model_zoo.get(name, trained=True)` merge
these settings. If you only set `MODEL.WEIGHTS` to the URL of the weights, `train_net.py` does not.

## How to read the tables

- AP is from 0 to 100. The APs after the name of a row are the paper's own. Its minival is
  `coco_2017_val`.
- *zoo* names the most similar weights of detectron2's zoo, with the AP that detectron2 gives for
  them. "identical": they have the same architecture. "nearest": the weights load, but were trained
  in a model that computes something else with them. "different": they have another architecture,
  and `trained=True` refuses them.
- *ours* is "{_NOT_RUN}", unless `results/<config>.json` is the `results.json` of a run.
- The last column has the numbers of the [deviations](#deviations) at the end of this page.
"""

_LINEAGE_TITLE = "The line before it: R-CNN, Fast R-CNN, Faster R-CNN"
_LINEAGE_HEAD = """\
The numbers come from the papers that the table names. mAP is the metric of PASCAL VOC, which is
read from `$DETECTRON2_DATASETS/VOC2007`. R-CNN and Fast R-CNN read stored proposals, which
`tools/compute_proposals.py` writes: the comment at the top of each config has the command, and
lists the deviations. `train_net.py` trains the RPN and the rest of Faster R-CNN together, and
`tools/train_alternating.py` trains them in the four steps of the paper.
[lineage/rcnn_R50](lineage/rcnn_R50.yaml), R-CNN with ResNet-50, is in no paper. The small
counterparts are in `shapes/lineage/`.
"""


def _link(config: str, folder: str) -> str:
    return f"[{config}]({folder}{config}.yaml)"


def _numbers(values: Mapping[str, float], keys: Sequence[str]) -> str:
    """Return "35.7 / 58.0" of `keys`; nothing when none of them is there."""
    if not any(key in values for key in keys):
        return ""
    return " / ".join(f"{values[key]:.1f}" if key in values else _NONE for key in keys)


def _aps(values: Mapping[str, float]) -> str:
    """Return "mask 35.4, box 39.6": the AP of each task."""
    aps = (
        f"{word} {values[f'{task}/AP']:.1f}"
        for task, word in _TASKS.items()
        if f"{task}/AP" in values
    )
    return ", ".join(aps)


def _ours(root: Path, config: str) -> str:
    """Return our AP of a config on its own test set, or "not run"."""
    path = root / (_DEMO_RESULTS if config == _DEMO else f"results/{config}.json")
    if not path.is_file():
        return _NOT_RUN
    record = read_results(path, "Put a run's results.json there, or nothing")
    values = {
        f"{task}/AP": record[task]["AP"]
        for task in _TASKS
        if isinstance(record.get(task), dict) and record[task].get("AP") is not None
    }
    if not values:
        raise UserError(f"{path}: expected a run's results.json with the AP of a task, got none")
    split = {_DEMO: "occluded_shapes_val"}.get(
        config, "val" if "cityscapes/" in config else "minival"
    )
    return f"{_aps(values)} ({split})"


def _checkpoint(checkpoint: Checkpoint) -> str:
    aps = {
        "segm/AP": checkpoint.mask,
        "bbox/AP": checkpoint.box,
        "keypoints/AP": checkpoint.keypoint,
    }
    known = {key: value for key, value in aps.items() if value is not None}
    return f"`{checkpoint.config.removesuffix('.yaml')}`: {_aps(known)}"


def _zoo(checkpoints: Sequence[Checkpoint]) -> str:
    return f"{_checkpoint(checkpoints[0])} ({checkpoints[0].fit})" if checkpoints else "none"


def _ranges(numbers: Iterable[int]) -> str:
    """Return "1-4, 7" for 1, 2, 3, 4, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(
        f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs
    )


def _paper_table(root: Path, rows: Sequence[Row], deviations: Sequence[str]) -> str:
    """Return one table of the paper, on one split."""
    keys = list(dict.fromkeys(key for row in rows for key in row.published))
    tasks = {task: [key for key in keys if key.startswith(f"{task}/")] for task in _TASKS}
    tasks = {task: found for task, found in tasks.items() if found}

    def heading(task: str, found: Sequence[str]) -> str:
        return " / ".join(
            [f"{_TASKS[task]} AP", *(key.split("/AP")[1].lstrip("-") for key in found[1:])]
        )

    def cells(row: Row) -> Iterator[str]:
        yield row.name.replace("*", r"\*").replace("|", r"\|")
        yield from (_numbers(row.published, found) for found in tasks.values())
        if row.config is None:
            yield from (_NONE, "", "", row.note)
            return
        yield from (_link(row.config, ""), _zoo(row.checkpoints), _ours(root, row.config))
        numbers = _ranges(sorted(deviations.index(text) + 1 for text in row.deviations))
        yield f"{numbers}; {row.note}" if row.note else numbers

    published = [heading(task, found) for task, found in tasks.items()]
    header = ["row", *published, "config", "zoo", "ours", "deviations, notes"]
    return markdown_table(header, map(cells, rows))


def configs_page(root: Path, rows: Sequence[Row]) -> str:
    """Return configs/README.md; `results/` is read below `root`."""
    deviations = list(dict.fromkeys(text for row in rows for text in row.deviations))
    parts = [_CONFIGS_HEAD]
    for (table, split), found in groupby(rows, key=lambda row: (row.table, row.split)):
        place = "Section 4.2" if table == "text" else f"Table {table}"
        parts.append(f"## {place}: {_TITLES[table]}, on {split}\n")
        parts.append(_paper_table(root, list(found), deviations))
    parts.append("## Weights in detectron2's zoo\n")
    header = [
        "config",
        "weights",
        "fit",
        "what differs from the row",
        "settings for testing",
    ]
    parts.append(markdown_table(header, _zoo_rows(rows)))
    parts.append(f"## {_LINEAGE_TITLE}\n")
    parts.append(_LINEAGE_HEAD)
    parts.append(lineage_configs())
    parts.append("## Configs that are not in the paper\n")
    parts.append("\n".join(f"- {_link(name, '')}: {why}." for name, why in NO_ROW.items()) + "\n")
    parts.append("## Deviations\n")
    parts.append("\n".join(f"{n}. {text}" for n, text in enumerate(deviations, 1)) + "\n")
    return "\n".join(parts)


def _zoo_rows(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    found = {row.config: row.checkpoints for row in rows if row.config and row.checkpoints}
    for config, checkpoints in found.items():
        for checkpoint in checkpoints:
            pairs = list(pairwise(checkpoint.overrides))[::2]
            settings = ", ".join(f"`{key.removeprefix('MODEL.')} {value}`" for key, value in pairs)
            name, note = _checkpoint(checkpoint), checkpoint.note
            yield _link(config, ""), name, checkpoint.fit, note, settings or _NONE


def _published(rows: Sequence[Row]) -> str:
    """Return the APs of a config, of each split, the one to compare with first."""
    splits: dict[str, dict[str, float]] = {}
    for row in sorted(rows, key=lambda row: row.split.startswith("test")):
        splits.setdefault(row.split, {}).update(row.published)
    found = {split: _aps(values) for split, values in splits.items()}
    return "; ".join(f"{aps} ({split})" for split, aps in found.items() if aps) or "not printed"


def methods_table(root: Path, rows: Sequence[Row]) -> str:
    """Return README's table: method, config, the paper's AP, small config, its AP.

    Args:
        root: the checkout, which has `results/`.
        rows: the rows of the paper's tables.
    """
    methods = read_record(LineageResults, root / LINEAGE_RESULTS, "").methods
    lineage = {f"lineage/{method.variant}": method for method in methods}
    runs = read_record(ComparisonResults, root / COMPARISON, "").runs
    aps = (run.metrics["segm"]["AP"] for run in runs if run.model == "FCIS")
    fcis = [ap for ap in aps if ap is not None]

    def ours(config: str) -> str:
        if config == "shapes/fcis_tiny":
            return f"mask {fmean(fcis):.1f} (mean of {len(fcis)} trainings)"
        if method := lineage.get(config.removeprefix("shapes/")):
            return f"box {to_text(method.ap('bbox'))}"
        return _ours(root, config).removesuffix(" (occluded_shapes_val)")

    def published(config: str) -> str:
        for paper_row in PUBLISHED:
            if paper_row.config == config and paper_row.metric == "mAP":
                return f"mAP {paper_row.value:.1f} (VOC 2007)"
        return _published([row for row in rows if row.config == config])

    cells = (
        (name, _link(full, "configs/"), published(full), _link(small, "configs/"), ours(small))
        for name, full, small in _METHODS
    )
    header = ["method", "config", "AP in the paper", "small config", "AP here"]
    return markdown_table(header, cells)


def configs_table(root: Path, rows: Sequence[Row]) -> str:
    """Return the table of docs/configs.md, a line per config; `results/` is below `root`."""

    def cells(config: str) -> Sequence[str]:
        own = [row for row in rows if row.config == config]
        tables = ", ".join(dict.fromkeys("4.2" if r.table == "text" else r.table for r in own))
        fits = [c for c in own[0].checkpoints if c.fit != "different"]
        zoo = _zoo(fits).replace(" (identical)", "") if fits else ""
        return _link(config, "../configs/"), tables, _published(own), zoo, _ours(root, config)

    names = dict.fromkeys(row.config for row in rows if row.config)
    demo = (_link(_DEMO, "../configs/"), "the demo", "", "", _ours(root, _DEMO))
    header = ["config", "table or section", "AP in the paper"]
    header += ["weights in detectron2's zoo that fit", "ours"]
    return markdown_table(header, [*map(cells, names), demo])
