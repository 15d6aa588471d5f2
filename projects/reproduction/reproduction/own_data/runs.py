"""The runs: three data sets, two starts, two kinds of settings, several seeds."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mask_rcnn_ext.child_processes import run_command
from mask_rcnn_ext.data.split import split_coco
from mask_rcnn_ext.engine.recipe.choose import RECIPE_KEYS
from mask_rcnn_ext.errors import require_range
from mask_rcnn_ext.files import file_sha256, read_json, read_json_or_none, write_json
from mask_rcnn_ext.model_zoo import get_config_file

from ..json_runs import JsonRun, write_class
from ..training_runs import REPO

__all__ = [
    "DATA",
    "EVALUATIONS",
    "PATIENCE",
    "SETTINGS",
    "STARTS",
    "OwnDataRun",
    "Photos",
    "plan_own_data",
]

EVALUATIONS = 6  # evaluations of a run, evenly spread; the last one is at the end
PATIENCE = 2  # evaluations without a better one, after which a run would stop


@dataclass(frozen=True)
class Photos:
    """A data set, and its fixed settings.

    Attributes:
        source: the option of the command line that has its folder.
        category: the class to keep.
        minutes: the time of a training on two cores without other work.
        iterations: settings -> iterations that take this time; multiples of `EVALUATIONS`.
        options: keys of the hand-made settings, in addition to the yaml's.
        starts: the keys of `STARTS` to train from.
        kind: see `write_class`.
        most: see `write_class`.
    """

    source: str
    category: str
    minutes: int
    iterations: Mapping[str, int]
    options: Mapping[str, Any] = field(default_factory=dict)
    starts: tuple[str, ...] = ("scratch", "lite0")
    kind: str = ""
    most: int = 0

    @property
    def variants(self) -> list[tuple[str, str]]:
        """The start and the settings of each variant."""
        return [(start, settings) for start in self.starts for settings in self.iterations]


# `--time` measures how many iterations fit: see the timings in results/own_data.json. `--auto`
# chooses the same batch and image sizes for the first two, and larger images for the third.
DATA = {
    "dsb2018": Photos(
        "dsb2018",
        "nucleus",
        5,
        {"hand": 288, "auto": 288},
        {
            "MODEL.ANCHOR_GENERATOR.SIZES": [[8], [16], [32], [64], [128]],
            "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
            "MODEL.RPN.POST_NMS_TOPK_TEST": 500,
            "TEST.DETECTIONS_PER_IMAGE": 300,
        },
    ),
    "persons": Photos("coco", "person", 15, {"hand": 882, "auto": 882}),
    # What a user with one kind of images has.
    "sixty": Photos(
        "dsb2018",
        "nucleus",
        15,
        {"auto": 780},
        starts=("lite0",),
        kind="fluorescence",
        most=60,
    ),
}
STARTS = {"scratch": {"MODEL.WEIGHTS": ""}, "lite0": {}}
SETTINGS = ("hand", "auto")

_LONGEST = 640  # pixels; no image of the data sets is larger
_OPTIONS = {
    "MODEL.DEVICE": "cpu",
    "TEST.EVAL_PERIOD": 0,  # the checkpoints are evaluated afterwards, see `score_checkpoints`
    "MASK_RCNN_EXT.EMA.ENABLED": True,  # this does not change the training
}


@dataclass(frozen=True)
class OwnDataRun(JsonRun):
    """One training and its scores; the variant is `<data set>_<start>_<settings>`.

    Attributes:
        val_json: all validation images. `files` has only the scoring half.
    """

    val_json: str = field(default="", repr=False)

    evaluations = ("scores",)

    @property
    def data(self) -> str:
        """One of `DATA`."""
        return self.variant.split("_")[0]

    @property
    def start_from(self) -> str:
        """One of `STARTS`."""
        return self.variant.split("_")[1]

    @property
    def settings(self) -> str:
        """One of `SETTINGS`."""
        return self.variant.split("_")[2]

    @property
    def form(self) -> str:
        """See `TrainingRun`; the start takes no time."""
        return f"{self.data}_{self.settings}"

    @property
    def iterations(self) -> int:
        """The number of iterations of the training."""
        return DATA[self.data].iterations[self.settings]

    @property
    def config_file(self) -> str:
        """The recommended yaml, for every variant."""
        return get_config_file("mask_rcnn_lite0_FPN")

    def options(self) -> Mapping[str, Any]:
        """See `JsonRun`."""
        return {
            **_OPTIONS,
            "SOLVER.MAX_ITER": self.iterations,
            "SOLVER.CHECKPOINT_PERIOD": self.iterations // EVALUATIONS,
            **STARTS[self.start_from],
            **(DATA[self.data].options if self.settings == "hand" else {}),
        }

    @property
    def filled_in(self) -> tuple[str, ...]:
        """See `TrainingRun`; the training data decide what `--auto` chooses."""
        given = self.options()
        chosen = RECIPE_KEYS if self.settings == "auto" else ()
        return (*super().filled_in, *(key for key in chosen if key not in given))

    def find_other_inputs(self) -> dict[str, Any]:
        """Return the checksums of the annotations, and whether the settings are `--auto`."""
        validation = {"all_val_json": file_sha256(self.val_json)}
        return {**super().find_other_inputs(), **validation, "settings": self.settings}

    def command(self, resume: bool) -> list[str]:
        """See `TrainingRun`."""
        script, *words = super().command(resume)
        return [script, *(["--auto"] if self.settings == "auto" else []), *words]

    @property
    def scores_file(self) -> Path:
        """The file of the scores."""
        return self.folder / "scores" / "scores.json"

    def scores(self) -> list[dict[str, Any]] | None:
        """Return the evaluations, see `score_checkpoints`; None if they are missing."""
        content = read_json_or_none(str(self.scores_file))
        return content if isinstance(content, list) else None

    def is_complete(self) -> bool:
        """See `Step`."""
        return super().is_complete() and self.scores() is not None

    def train(self, resume: bool) -> int:
        """Train and score in new processes; a finished training is only scored."""
        code = 0 if resume and self.results() else super().train(resume)
        script = str(REPO / "projects/reproduction/score_checkpoints.py")
        command = [sys.executable, script, str(self.folder), self.val_json]
        return code or run_command(command, self.folder / "console.txt")


def plan_own_data(root: str | Path, folders: Mapping[str, str], seeds: int) -> list[OwnDataRun]:
    """Write the annotations and return the runs: the shorter ones first, seed by seed.

    The validation images are split into the same two halves every time. One half selects weights,
    and the other half scores the selected weights.

    Args:
        root: the folder of the runs and of the annotations.
        folders: source of `Photos` -> its folder, see `write_class`.
        seeds: trainings of each variant.

    Raises:
        UserError: see `write_class`; or `seeds` is not positive.
    """
    require_range("--seeds", seeds, 1)
    files: dict[str, tuple[tuple[str, ...], str]] = {}
    for name, photos in DATA.items():
        folder, parts = folders[photos.source], {"kind": photos.kind, "most": photos.most}
        *train, val_json, images = write_class(
            root, name, folder, photos.category, _LONGEST, **parts
        )
        _, half = split_coco(read_json(val_json), 0.5)
        scoring = str(Path(root, "data", f"{name}_scoring.json"))
        write_json(scoring, half)
        files[name] = ((*train, scoring, images), val_json)
    return [
        OwnDataRun.under(root, f"{data}_{start}_{settings}", seed, files=own, val_json=val_json)
        for data, (own, val_json) in files.items()
        for seed in range(1, seeds + 1)
        for start, settings in DATA[data].variants
    ]
