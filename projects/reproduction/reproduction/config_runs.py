"""Training runs of configs/shapes/ that are known by their own `config.yaml`."""

from pathlib import Path
from typing import ClassVar

from detectron2.config import CfgNode

from mask_rcnn_ext.config import config_hash, load_config
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.model_zoo import get_config_file

from .training_runs import TrainingRun

__all__ = ["FILLED_IN", "ConfigRun", "read_config"]

# Keys that are filled in when a run starts: they follow from the data and the machine.
FILLED_IN = ("MASK_RCNN_EXT.CLASS_NAMES", "MASK_RCNN_EXT.CATEGORY_IDS", "MODEL.DEVICE")


class ConfigRun(TrainingRun):
    """One training run; its own `config.yaml` says of what config it is.

    So a run that `train_net.py` was asked for by hand, in its folder, counts as well.

    Attributes:
        starts_with: names of what a run leaves that is stopped before it writes its config.
    """

    starts_with: ClassVar[frozenset[str]] = frozenset({"console.txt", "log.txt"})

    @property
    def config_file(self) -> str:
        """Where the variant's yaml is."""
        return get_config_file(f"shapes/{self.variant}")

    def config(self) -> CfgNode:
        """Return the variant's config."""
        return load_config(self.config_file)

    @property
    def filled_in(self) -> tuple[str, ...]:
        """Keys that do not count: they follow from the data, the machine and the folder."""
        return FILLED_IN

    def sha256(self) -> str:
        """Return the hash of what the variant's config and the seed are now."""
        return config_hash(self.config(), self.seed, self.filled_in)

    def written_hash(self) -> str | None:
        """Return the hash of the run's own config; see the base class."""
        path = self.folder / "config.yaml"
        if not path.is_file():
            if self.folder.exists() and {p.name for p in self.folder.iterdir()} - self.starts_with:
                raise UserError(
                    f"{self.folder} is there, but is not a training run (no config.yaml in it). "
                    "Move it away, or give another --output"
                )
            return None
        written = read_config(path)
        return "" if written is None else config_hash(written, written.SEED, self.filled_in)

    @property
    def predictions(self) -> Path:
        """The run's result file."""
        return self.predictions_in(self.folder)

    def predictions_in(self, folder: Path) -> Path:
        """Return where an evaluation that has `folder` as its output leaves its result file."""
        name = self.config().DATASETS.TEST[0]
        return folder / "inference" / name / "coco_instances_results.json"


def read_config(path: Path) -> CfgNode | None:
    """Return a run's config; None when there is none, or this version cannot read it."""
    try:
        return load_config(str(path))
    except UserError:
        return None
