"""The part of docs/performance.md on what was run on a GPU."""

from collections.abc import Mapping
from typing import Any

from mask_rcnn_ext.report.text import to_text

from ..pages.benchmark_tables import make_section

__all__ = ["GPU", "gpu_doc"]

GPU = "results/gpu.json"
_TASKS = (("segm", "mask AP"), ("bbox", "box AP"))


def gpu_doc(content: Mapping[str, Any] | None) -> str:
    """Return the Markdown.

    Args:
        content: of `results/gpu.json`; None: nothing was run.
    """
    if content is None:
        return "`make gpu` has not been run: no GPU was at hand.\n"
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    parts = [f"Device: {content['device']}. Versions: {versions}.\n"]
    if tests := content.get("tests"):
        bad = tests["failures"] + tests["errors"]
        passed = tests["tests"] - bad - tests["skipped"]
        parts.append(
            f"Tests marked gpu: {passed} passed, {bad} failed, {tests['skipped']} skipped.\n"
        )
    if training := content.get("training"):
        run, shown = training["run"], [pair for pair in _TASKS if pair[0] in training]
        aps = ", ".join(f"{name} {to_text(training[task]['AP'])}" for task, name in shown)
        parts.append(
            f"Mask R-CNN, ResNet-50 FPN, from scratch on {training['data']}: {aps} after "
            f"{run['train_seconds']:.0f} seconds, peak memory {run['peak_memory_mb']:.0f} MB.\n"
        )
    parts += [make_section(name, part) for name, part in content.get("benchmark", {}).items()]
    return "\n".join(parts)
