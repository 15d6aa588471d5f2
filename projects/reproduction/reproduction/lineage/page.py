"""The page of the lineage with our numbers and the papers', and a sheet of pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mask_rcnn_ext.files import atomic_open
from mask_rcnn_ext.report.charts import COLORS, INK, MUTED, Chart, finish_chart, make_axes
from mask_rcnn_ext.report.drawing.pictures import encode_jpeg, save_png
from mask_rcnn_ext.report.render import render_page

from .pictures import ImagePictures, RGBArray, make_lineage_sheet
from .results import LineageResults
from .tables import (
    HEADER,
    PUBLISHED_HEADER,
    describe_results,
    format_seconds,
    list_differences,
    make_method_rows,
    make_published_rows,
)

__all__ = ["draw_times", "write_lineage"]

_QUALITY = 80
_SHEET_IMAGES = 2  # images on the sheet; the page has all


def write_lineage(
    folder: str | Path,
    results: LineageResults,
    images: Sequence[ImagePictures],
    notes: Sequence[str] = (),
) -> list[Path]:
    """Write `lineage.html`, and `lineage.png` if there are pictures.

    Args:
        folder: made if missing.
        results: the results.
        images: the pictures, in their order.
        notes: sentences at the top of the page.

    Returns:
        The paths written.

    Raises:
        UserError: a file cannot be written.
    """
    folder = Path(folder)
    names = {method.variant: method.name for method in results.methods}
    page = render_page(
        "lineage.html.j2",
        Path(__file__).parent,
        content=results,
        notes=notes,
        header=HEADER,
        rows=make_method_rows(results),
        times=draw_times(results),
        sentences=describe_results(results),
        differences=list_differences(results),
        published_header=PUBLISHED_HEADER,
        published=make_published_rows(),
        cases=[(image.name, _embed(image, names)) for image in images],
        versions=results.runs[0].versions or {},
        devices=" and ".join(sorted({str(run.device) for run in results.runs})),
    )
    written = [folder / "lineage.html"]
    if written[0].is_file():  # of an earlier page, and so is its picture
        (folder / "lineage.png").unlink(missing_ok=True)
    with atomic_open(written[0], "w") as file:
        file.write(page)
    if images:
        written.append(folder / "lineage.png")
        chain = (m.name for m in results.methods if not m.base and not m.variation)
        heading = (
            f"{', '.join(chain)} on {results.dataset}\n"
            "Proposals: the best ones. Red proposals cover an object (IoU 0.5 or more), the others "
            "are yellow. Detections: score 0.5 or more; those that find an object have its colour."
        )
        save_png(written[1], make_lineage_sheet(images[:_SHEET_IMAGES], results.methods, heading))
    return written


def draw_times(results: LineageResults) -> Chart:
    """Return the chart of each method's seconds per image: the network, and stored proposals."""
    methods = results.methods[::-1]  # axes count from below
    figure, axes = make_axes(5.4, 0.5 + 0.34 * len(methods), grid="x")
    names = [method.name for method in methods]
    network = [method.seconds_per_image.median for method in methods]
    stored = [method.proposal_seconds_per_image or 0.0 for method in methods]
    axes.barh(names, network, 0.55, color=COLORS[0])
    bars = axes.barh(names, stored, 0.55, left=network, color=COLORS[1])
    labels = [
        format_seconds(first) + (f" + {format_seconds(second)}" if second else "") + " s"
        for first, second in zip(network, stored, strict=True)
    ]
    axes.bar_label(bars, labels, padding=4, color=MUTED, fontsize=9)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_xlim(0, 1.5 * max(method.total_seconds for method in methods))
    axes.xaxis.set_major_formatter("{x:g}")
    alt = "Seconds per image: " + ", ".join(
        f"{name} {label}" for name, label in zip(names[::-1], labels[::-1], strict=True)
    )
    legend = [(0, "the network, per image", ""), (1, "selective search, before it", "")]
    return finish_chart(figure, "", alt, legend)


def _embed(image: ImagePictures, names: Mapping[str, str]) -> list[dict[str, Any] | None]:
    """Return two rows of pictures: ground truth and detections, then each method's proposals."""

    def picture(rgb: RGBArray, title: str, text: str) -> dict[str, Any]:
        height, width = rgb.shape[:2]
        url = encode_jpeg(rgb, _QUALITY)
        return {"url": url, "width": width, "height": height, "title": title, "text": text}

    return [
        picture(image.truth, "Ground truth", image.text),
        *(picture(m.found, names[m.variant], m.found_text) for m in image.methods),
        None,
        *(picture(m.proposals, "its proposals", m.proposals_text) for m in image.methods),
    ]
