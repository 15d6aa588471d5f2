"""The report that a script makes from finished runs, as a step of work."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mask_rcnn_ext.files import file_sha256, read_json, write_json
from mask_rcnn_ext.fingerprint import code_sha256, files_sha256, imported_files
from mask_rcnn_ext.steps import Step, run_step

from .training_runs import REPO, TrainingRun

__all__ = ["Report"]


class Report(Step):
    """The files that a script makes from finished runs.

    They are made again if a run, the code of the script, a template or an option has changed.

    Args:
        script: the script.
        files: the files; the record is `made_from.json` in the folder of the first one.
        runs: the runs.
        write: makes the files.
        options: options that decide the content of the files.
    """

    def __init__(
        self,
        script: str | Path,
        files: Sequence[Path],
        runs: Sequence[TrainingRun],
        write: Callable[[], None],
        **options: Any,
    ) -> None:
        self.script, self.files, self.runs = Path(script).resolve(), files, runs
        self.write, self.options = write, options
        self._record = str(files[0].with_name("made_from.json"))

    @property
    def title(self) -> str:
        """See `Step`."""
        return str(self.files[0])

    def recipe(self) -> dict[str, Any]:
        """See `Step`."""
        packages = [REPO / "mask_rcnn_ext", Path(__file__).parent]
        runs = {run.title: [file_sha256(str(f)) for f in run.measured_files] for run in self.runs}
        return {
            "runs": runs,
            "options": self.options,
            "code_sha256": code_sha256(imported_files([self.script], packages), REPO),
            "templates_sha256": [files_sha256(folder, "**/*.j2") for folder in packages],
        }

    def recorded(self) -> dict[str, Any] | None:
        """See `Step`."""
        return read_json(self._record)

    def is_complete(self) -> bool:
        """See `Step`."""
        return all(path.is_file() for path in self.files)

    def start(self, resume: bool) -> None:
        """See `Step`."""
        Path(self._record).unlink(missing_ok=True)

    def make(self, resume: bool) -> None:
        """See `Step`."""
        self.write()

    def finish(self) -> None:
        """See `Step`."""
        write_json(self._record, self.recipe())

    def update(self, *, always: bool) -> None:
        """Make the files that are stale, or all of them; say so if nothing was to do."""
        if always:
            self.start(False)
            self.make(False)
            self.finish()
        elif run_step(self) == "done":
            print(f"{self.title} is up to date")
