"""The lineage to look at: a page with its numbers and the papers', and a sheet of pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mask_rcnn_ext.files import atomic_open
from mask_rcnn_ext.report.drawing.pictures import jpeg_url, save_png

from .pictures import RGBArray, Scene, lineage_sheet
from .tables import (
    HEADER,
    PUBLISHED_HEADER,
    differences,
    method_rows,
    published_rows,
    seconds_text,
    sentences,
)

__all__ = ["write_lineage"]

_QUALITY = 80
_SHEET_SCENES = 2  # images on the sheet, the picture for a README; the page has all


@dataclass(frozen=True)
class TimeBar:
    """A method's seconds per image as a bar: widths in percent of the longest method's."""

    name: str
    network: float
    proposals: float
    text: str


def write_lineage(
    folder: str | Path,
    content: Mapping[str, Any],
    scenes: Sequence[Scene],
    notes: Sequence[str] = (),
) -> list[Path]:
    """Write `lineage.html`, and `lineage.png` when there are pictures.

    Args:
        folder: made if missing.
        content: of `lineage.json`.
        scenes: the pictures, in their order.
        notes: sentences to know.

    Returns:
        The paths written.

    Raises:
        UserError: a file cannot be written.
    """
    folder = Path(folder)
    page = _render(content, scenes, notes)
    written = [folder / "lineage.html"]
    with atomic_open(written[0], "w") as file:
        file.write(page)
    (folder / "lineage.png").unlink(missing_ok=True)  # of an earlier page
    if scenes:
        written.append(folder / "lineage.png")
        save_png(
            written[1], lineage_sheet(scenes[:_SHEET_SCENES], content["methods"], _heading(content))
        )
    return written


def _heading(content: Mapping[str, Any]) -> str:
    chain = (m["name"] for m in content["methods"] if not m["base"] and not m["variation"])
    names = ", ".join(chain)
    return (
        f"{names} on {content['dataset']}\n"
        "Proposals: the best ones, red where one covers an object (IoU 0.5 or more), else yellow. "
        "Detections: score 0.5 or more; what finds an object has its colour."
    )


def _time_bars(content: Mapping[str, Any]) -> list[TimeBar]:
    parts = [
        (
            method["name"],
            float(method["seconds_per_image"]["median"]),
            float(method["proposal_seconds_per_image"] or 0.0),
        )
        for method in content["methods"]
    ]
    unit = 100 / max(network + proposals for _, network, proposals in parts)
    return [
        TimeBar(
            name,
            round(unit * network, 2),
            round(unit * proposals, 2),
            seconds_text(network) + (f" + {seconds_text(proposals)}" if proposals else "") + " s",
        )
        for name, network, proposals in parts
    ]


def _picture(rgb: RGBArray, title: str, text: str) -> dict[str, Any]:
    height, width = rgb.shape[:2]
    url = jpeg_url(rgb, _QUALITY)
    return {"url": url, "width": width, "height": height, "title": title, "text": text}


def _case(scene: Scene, names: Mapping[str, str]) -> dict[str, Any]:
    """Return two rows of pictures: what is there and found, and below each method its proposals."""
    found = [
        _picture(tiles.found, names[tiles.variant], tiles.found_text) for tiles in scene.methods
    ]
    proposals = [
        _picture(tiles.proposals, "its proposals", tiles.proposals_text) for tiles in scene.methods
    ]
    truth = _picture(scene.truth, "Ground truth", scene.text)
    return {"name": scene.name, "rows": [[truth, *found], [None, *proposals]]}


def _render(content: Mapping[str, Any], scenes: Sequence[Scene], notes: Sequence[str]) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = {method["variant"]: method["name"] for method in content["methods"]}
    return environment.get_template("lineage.html.j2").render(
        content=content,
        notes=notes,
        header=HEADER,
        rows=method_rows(content),
        bars=_time_bars(content),
        sentences=sentences(content),
        differences=differences(content),
        published_header=PUBLISHED_HEADER,
        published=published_rows(),
        cases=[_case(scene, names) for scene in scenes],
        versions=content["runs"][0]["versions"] or {},
        devices=" and ".join(sorted({str(run["device"]) for run in content["runs"]})),
    )
