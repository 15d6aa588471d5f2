"""A measurement of the masks of a finished training, in a file of the training's folder."""

from typing import Any, ClassVar

from mask_rcnn_ext.files import file_sha256, read_json_or_none, write_json
from mask_rcnn_ext.report.json_records import to_json
from mask_rcnn_ext.steps import Step

from ..training_runs import TrainingRun

__all__ = ["RunMeasurement"]


class RunMeasurement(Step):
    """The file is the result and the record of the step: new weights make it stale.

    Args:
        run: the training.

    Attributes:
        file_name: the name of the file.
        format: a number that changes with the content of the file.
        done: what was done with the run, for a line of text.
    """

    file_name: ClassVar[str]
    format: ClassVar[int]
    done: ClassVar[str] = "measured"

    def __init__(self, run: TrainingRun) -> None:
        file = run.folder / self.file_name
        super().__init__(f"{run.title} {self.done}", file, [file])
        self.run: Any = run

    def find_inputs(self) -> dict[str, Any]:
        """See `Step`."""
        weights = self.run.folder / "model_final.pth"
        sha256 = file_sha256(str(weights)) if weights.is_file() else None
        return {"weights_sha256": sha256, "format": self.format}

    def read_record(self) -> dict[str, Any] | None:
        """See `Step`."""
        content = read_json_or_none(str(self.record))
        return {key: content.get(key) for key in self.find_inputs()} if content else None

    def write(self, content: dict[str, Any]) -> None:
        """Write the file; `content` may contain records."""
        write_json(self.record, to_json({**self.find_inputs(), **content}))

    def finish(self) -> None:
        """See `Step`; `write` has written the record."""
