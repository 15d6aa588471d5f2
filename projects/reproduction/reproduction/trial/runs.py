"""The runs of the trial: two data sets, two trainers, several seeds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.model_zoo import get_config_file

from ..json_runs import JsonRun, write_class

__all__ = ["TRAINERS", "TRIAL_DATA", "TrialRun", "plan_trial"]

# Data set -> the class to keep, and the longest side of an image in pixels. The small images of
# nuclei, most of them from a fluorescence microscope, load several times as fast as the large ones.
TRIAL_DATA = {"dsb2018": ("nucleus", 256), "persons": ("person", 640)}
TRAINERS = ("ours", "plain")

# The demo's model at half its width, with anchors from 8 pixels on.
_OPTIONS = {
    "MODEL.DEVICE": "cpu",
    "MASK_RCNN_EXT.TINY_RESNET.STEM_CHANNELS": 16,
    "MASK_RCNN_EXT.TINY_RESNET.CHANNELS": [16, 32, 64, 128],
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 32,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 32,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[8], [16], [32], [64], [128]],
    "SOLVER.WARMUP_ITERS": 20,
    "SOLVER.MAX_ITER": 250,
    "SOLVER.CHECKPOINT_PERIOD": 250,
    "TEST.EVAL_PERIOD": 0,
}
_PLAIN_OPTIONS = {
    "SOLVER.AMP.ENABLED": False,
    "MASK_RCNN_EXT.AMP_INFERENCE": False,
    "MASK_RCNN_EXT.CHANNELS_LAST": False,
}


@dataclass(frozen=True)
class TrialRun(JsonRun):
    """One training; the variant is `<data set>_<trainer>`."""

    @property
    def data(self) -> str:
        """One of `TRIAL_DATA`."""
        return self.variant.rsplit("_", 1)[0]

    @property
    def trainer(self) -> str:
        """One of `TRAINERS`."""
        return self.variant.rsplit("_", 1)[1]

    @property
    def config_file(self) -> str:
        """The demo's yaml, for every variant."""
        return get_config_file("shapes/mask_rcnn_tiny_FPN")

    def options(self) -> Mapping[str, Any]:
        """See `JsonRun`."""
        return {**_OPTIONS, **(_PLAIN_OPTIONS if self.trainer == "plain" else {})}

    def command(self, resume: bool) -> list[str]:
        """See `TrainingRun`."""
        script, *words = super().command(resume)
        if self.trainer == "plain":
            script = "projects/reproduction/train_plain.py"
        return [script, *words]

    def is_resumable(self) -> bool:
        """Return False: only our trainer would continue with the same images."""
        return False


def plan_trial(root: str | Path, folders: Mapping[str, str], seeds: int) -> list[TrialRun]:
    """Write the annotations of the trial and return its runs: all with seed 1, then with seed 2.

    Args:
        root: the folder of the runs and of the annotations.
        folders: data set -> its folder, see `write_class`.
        seeds: trainings of each trainer on each data set; two or more.

    Raises:
        UserError: see `write_class`; or there are too few seeds.
    """
    if seeds < 2:
        raise UserError(f"--seeds: expected 2 or more, for the interval over seeds, got {seeds}")
    files = {
        name: write_class(root, name, folders[name], *kept) for name, kept in TRIAL_DATA.items()
    }
    return [
        TrialRun.under(root, f"{data}_{trainer}", seed, files=f)
        for seed in range(1, seeds + 1)
        for data, f in files.items()
        for trainer in TRAINERS
    ]
