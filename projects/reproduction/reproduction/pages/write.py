"""The Markdown that is generated: configs/README.md, docs/models.md, and parts of other pages.

`projects/reproduction/make_tables.py` writes it from `mask_rcnn_ext.paper`, from the comments in
`mask_rcnn_ext/config_keys.py` and from the files in `results/`. A test fails when a page is stale.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.files import atomic_open
from mask_rcnn_ext.paper import ROWS, Row

from ..ablations.markdown import ABLATIONS, ablations_page
from ..ablations.results import AblationResults
from ..costs.page import COSTS, costs_page
from ..costs.results_file import CostResults
from ..fcis.experiment_markdown import EXPERIMENT, experiment_doc, experiment_summary
from ..fcis.experiment_results import ExperimentResults, PhotographResults
from ..fcis.markdown import COMPARISON, comparison_doc
from ..fcis.photographs_markdown import PHOTOGRAPHS, photographs_doc
from ..fcis.results import ComparisonResults
from ..first_model.markdown import FIRST_MODEL, PAGE, first_model_parts
from ..first_model.results_file import FirstModelResults
from ..gpu.markdown import GPU, gpu_doc
from ..gpu.results_file import GpuResults
from ..lineage.results import LineageResults
from ..lineage.tables import LINEAGE_RESULTS, lineage_summary, published_table
from ..markdown import COMMAND, read_record
from ..own_data.markdown import OWN_DATA, own_data_doc
from ..own_data.results_file import OwnDataResults
from ..scaling.markdown import SCALING, scaling_doc
from ..scaling.results_file import ScalingResults
from .benchmark_tables import BENCHMARK, Benchmark, benchmark_tables
from .config_keys import keys_table
from .paper_tables import configs_page, configs_table, methods_table

__all__ = ["markers", "pages", "stale_pages", "write_pages"]

_T = TypeVar("_T")


def markers(what: str) -> tuple[str, str]:
    """Return the lines of a page before and after a generated part, such as "the table of keys"."""
    return (
        f"<!-- {what.capitalize()}: `{COMMAND}` writes it; edits are lost. -->",
        f"<!-- End of {what}. -->",
    )


def _replace_part(text: str, what: str, part: str, path: Path) -> str:
    """Return the page `text` with `part` between the markers of `what`."""
    first, last = markers(what)
    head, begin, rest = text.partition(first)
    _, end, tail = rest.partition(last)
    if not begin or not end:
        raise UserError(
            f"{path}: expected the lines {first!r} and {last!r}, which {what} goes between; put "
            "them back"
        )
    return f"{head}{first}\n\n{part}\n{last}{tail}"


def _read_if_run(kind: type[_T], path: Path, fix: str) -> _T | None:
    return read_record(kind, path, fix) if path.is_file() else None


def pages(root: Path, rows: Sequence[Row] = ROWS) -> dict[str, str]:
    """Return what the generated pages should hold: path relative to `root` -> complete text.

    Args:
        root: the checkout; `results/` and the hand-written text of the pages are read there.
        rows: the rows of the paper.

    Raises:
        UserError: a file of results or a page with hand-written text is missing or broken.
    """
    command = "Run: python projects/reproduction"
    costs = read_record(CostResults, root / COSTS, f"{command}/model_costs.py")
    ablations = read_record(AblationResults, root / ABLATIONS, f"{command}/run_ablations.py")
    comparison = read_record(ComparisonResults, root / COMPARISON, f"{command}/run_comparison.py")
    lineage = read_record(LineageResults, root / LINEAGE_RESULTS, f"{command}/run_lineage.py")
    own_data = _read_if_run(OwnDataResults, root / OWN_DATA, f"{command}/run_own_data.py")
    scaling = _read_if_run(ScalingResults, root / SCALING, "Run: make scaling")
    first = _read_if_run(FirstModelResults, root / FIRST_MODEL, f"{command}/run_first_model.py")
    fix = f"{command}/run_fcis_experiment.py"
    experiment = _read_if_run(ExperimentResults, root / EXPERIMENT, fix)
    photographs = _read_if_run(PhotographResults, root / PHOTOGRAPHS, f"{fix} --photographs")
    fix = f"Run: python tools/benchmark.py inference --output {BENCHMARK}"
    benchmark = _read_if_run(dict[str, Benchmark], root / BENCHMARK, fix)
    gpu = _read_if_run(GpuResults, root / GPU, "Run: make gpu")
    parts = {
        "README.md": {
            "the table of methods": methods_table(root, rows),
            "the experiment in short": experiment_summary(experiment),
        },
        "docs/configs.md": {
            "the table of configs": configs_table(root, rows),
            "the table of keys": keys_table(),
        },
        "docs/ablations.md": {"the ablations' numbers": ablations_page(ablations)},
        "docs/fcis_comparison.md": {
            "the experiment's numbers": experiment_doc(experiment),
            "the photographs' numbers": photographs_doc(photographs),
            "the comparison's numbers": comparison_doc(comparison),
        },
        "docs/lineage.md": {
            "the lineage's numbers": lineage_summary(lineage),
            "the lineage's published numbers": published_table(),
        },
        "docs/own_data.md": {"the numbers of own data": own_data_doc(own_data)},
        "docs/scaling.md": {"the numbers of scaling": scaling_doc(scaling)},
        PAGE: first_model_parts(first),
        "docs/performance.md": {
            "the benchmarks' numbers": benchmark_tables(benchmark),
            "the results of make gpu": gpu_doc(gpu),
        },
    }
    texts = {"configs/README.md": configs_page(root, rows), "docs/models.md": costs_page(costs)}
    for name, generated in parts.items():
        try:
            text = (root / name).read_text("utf-8")
        except OSError as error:
            raise UserError(
                f"{root / name} cannot be read: {error}. Give --root a checkout"
            ) from error
        for what, part in generated.items():
            text = _replace_part(text, what, part, root / name)
        texts[name] = text
    return texts


def _differing(root: Path, rows: Sequence[Row]) -> dict[str, str]:
    return {
        name: text
        for name, text in pages(root, rows).items()
        if not (root / name).is_file() or (root / name).read_text("utf-8") != text
    }


def stale_pages(root: Path, rows: Sequence[Row] = ROWS) -> list[str]:
    """Return the paths, relative to `root`, of the pages that differ from what `pages` returns."""
    return list(_differing(root, rows))


def write_pages(root: Path, rows: Sequence[Row] = ROWS) -> list[str]:
    """Write the pages that are stale, each atomically; return their relative paths.

    Raises:
        UserError: see `pages`; or a file cannot be written.
    """
    stale = _differing(root, rows)
    for name, text in stale.items():
        with atomic_open(root / name, "w") as file:
            file.write(text)
    return list(stale)
