"""The report that a script makes from finished runs, as a step of work."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mask_rcnn_ext.files import file_sha256
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
        super().__init__(str(files[0]), files[0].with_name("made_from.json"), files)
        self.script, self.runs = Path(script).resolve(), runs
        self.write, self.options = write, options

    def find_inputs(self) -> dict[str, Any]:
        """See `Step`."""
        packages = [REPO / "mask_rcnn_ext", Path(__file__).parent]
        runs = {run.title: [file_sha256(str(f)) for f in run.measured_files] for run in self.runs}
        return {
            "runs": runs,
            "options": self.options,
            "code_sha256": code_sha256(imported_files([self.script], packages), REPO),
            "templates_sha256": [files_sha256(folder, "**/*.j2") for folder in packages],
        }

    def make(self, resume: bool) -> None:
        """See `Step`."""
        self.write()

    def update(self, *, always: bool) -> None:
        """Make the files if they are stale or if `always`; print a line if they are up to date."""
        if always:
            self.start(False)
            self.make(False)
            self.finish()
        elif run_step(self) == "done":
            print(f"{self.title} is up to date")
