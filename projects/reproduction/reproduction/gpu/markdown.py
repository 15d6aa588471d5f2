"""The part of docs/performance.md on what was run on a GPU."""

from mask_rcnn_ext.report.text import to_text

from ..pages.benchmark_tables import make_section
from .results_file import GpuResults

__all__ = ["GPU", "gpu_doc"]

GPU = "results/gpu.json"


def gpu_doc(results: GpuResults | None) -> str:
    """Return the Markdown; None: nothing was run."""
    if results is None:
        return "`make gpu` has not been run: no GPU was at hand.\n"
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    parts = [f"Device: {results.device}. Versions: {versions}.\n"]
    if tests := results.tests:
        bad = tests.failures + tests.errors
        passed = tests.tests - bad - tests.skipped
        parts.append(f"Tests marked gpu: {passed} passed, {bad} failed, {tests.skipped} skipped.\n")
    if training := results.training:
        run, tasks = training.run, (("mask AP", training.segm), ("box AP", training.bbox))
        aps = ", ".join(f"{name} {to_text(found['AP'])}" for name, found in tasks if found)
        parts.append(
            f"Mask R-CNN, ResNet-50 FPN, from scratch on {training.data}: {aps} after "
            f"{run.train_seconds:.0f} seconds, peak memory {run.peak_memory_mb:.0f} MB.\n"
        )
    parts += [make_section(name, part) for name, part in (results.benchmark or {}).items()]
    return "\n".join(parts)
