"""The generated part of docs/scaling.md: the results on one machine."""

from ..markdown import markdown_table
from .results_file import PredictionFacts, ScalingResults

__all__ = ["SCALING", "scaling_doc"]

SCALING = "results/scaling.json"

_NOT_RUN = "Not run yet.\n"
_RUNS = {
    "one_node": "one node, `--num-gpus 2`",
    "two_nodes": "two nodes, `--num-machines 2 --num-gpus 1`",
    "torchrun": "two nodes, `torchrun --nnodes 2 --nproc-per-node 1`",
}


def scaling_doc(results: ScalingResults | None) -> str:
    """Return the text for the content of `SCALING`; None: it has not been run."""
    if results is None:
        return _NOT_RUN
    training = results.training
    verdicts = {None: "", True: "yes", False: "NO"}
    rows = [
        [title, f"{training.seconds[name]:.0f} s", verdicts[training.equal.get(name)]]
        for name, title in _RUNS.items()
    ]
    header = ["training", "time with start", "weights equal to the first row's, to the bit"]
    return "\n".join(
        [
            f"From [{SCALING}](../{SCALING}), on {results.cores} CPU cores with PyTorch "
            f"{results.versions['torch']}. The nodes are processes of this machine. Other work "
            "ran on it, so the times show only the order of magnitude.\n",
            f"Training of a small model, {training.iterations} iterations of "
            f"{training.batch} images:\n",
            markdown_table(header, rows),
            _describe_prediction(results.prediction),
        ]
    )


def _describe_prediction(found: PredictionFacts) -> str:
    kills = [f"{kill.what} after {kill.after_images:,}" for kill in found.kills]
    rows = [
        ["images", f"{found.images:,} of {found.side} x {found.side} pixels"],
        ["processes", str(found.processes)],
        ["SIGKILL to", ", ".join(kills)],
        ["images lost", str(found.lost)],
        ["images or instances found twice", str(found.doubled)],
        ["instances", f"{found.instances:,}"],
        ["result files equal to the byte", "yes" if found.bytes_equal else "NO"],
        ["files left over", ", ".join(found.left_over) or "none"],
        ["time without kills", f"{found.undisturbed_seconds:.0f} s"],
        ["time with kills", f"{found.killed_seconds:.0f} s"],
        ["memory of the largest process", f"{found.peak_memory_mb:.0f} MB"],
    ]
    table = markdown_table(["prediction", ""], rows)
    return f"Prediction with the trained model, once without kills and once with kills:\n\n{table}"
