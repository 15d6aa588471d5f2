"""A measurement of the masks of a finished training, in a file of the training's folder."""

from typing import Any

from mask_rcnn_ext.files import file_sha256, read_json_or_none, write_json
from mask_rcnn_ext.report.json_records import to_json
from mask_rcnn_ext.steps import Step

from ..training_runs import TrainingRun

__all__ = ["RunMeasurement"]


class RunMeasurement(Step):
    """The file is the result and the record of the step: new weights make it stale.

    Args:
        run: the training.
        name: the name of the file.
        format: a number that changes with the content of the file.
        title: what was done with the run, for a line of text.
    """

    def __init__(self, run: TrainingRun, name: str, format: int, title: str = "measured") -> None:
        file = run.folder / name
        super().__init__(f"{run.title} {title}", file, [file])
        self._weights, self._format = run.folder / "model_final.pth", format

    def find_inputs(self) -> dict[str, Any]:
        """See `Step`."""
        sha256 = file_sha256(str(self._weights)) if self._weights.is_file() else None
        return {"weights_sha256": sha256, "format": self._format}

    def read_record(self) -> dict[str, Any] | None:
        """See `Step`."""
        content = read_json_or_none(str(self.record))
        return {key: content.get(key) for key in self.find_inputs()} if content else None

    def write(self, content: dict[str, Any]) -> None:
        """Write the file; `content` may contain records."""
        write_json(self.record, to_json({**self.find_inputs(), **content}))

    def finish(self) -> None:
        """See `Step`; `write` has written the record."""
