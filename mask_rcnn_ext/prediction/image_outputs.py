"""The output files of one image: a picture, a label image, soft masks, GeoJSON."""

import io
import json
import logging
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.structures import Instances
from PIL import Image

from ..data.images import BGRArray
from ..errors import UserError
from ..files import atomic_open
from ..layers.packed_masks import PackedMasks
from ..report.drawing.pictures import draw_instances
from .georeference import GeoReference, read_georeference
from .image_files import ImageFile

__all__ = [
    "LARGEST_PICTURE",
    "OUTPUT_FOLDERS",
    "draw_label_image",
    "make_geojson",
    "name_outputs",
    "write_image_outputs",
]

logger = logging.getLogger(__name__)

# Pixels of the longer side. Smaller images are enlarged so that labels can be read; larger images
# are drawn smaller, which is faster.
SMALLEST_PICTURE, LARGEST_PICTURE = 480, 4096
WITHOUT_SOFT_MASKS = (
    "--write soft: the model gives masks without probabilities. FCIS, for example, cuts its masks "
    "at a threshold before they vote"
)
MOST_LABELS = 65_535  # 16 bits; 0 is the background
OUTPUT_FOLDERS = ("pictures", "labels", "soft", "geojson")  # each has the name of its output


def write_image_outputs(
    folder: str | os.PathLike[str],
    outputs: Sequence[str],
    file: ImageFile,
    image: BGRArray | None,
    instances: Instances,
    class_names: Sequence[str],
) -> None:
    """Write the files of one image, each to the folder with the name of the output.

    Args:
        folder: the folder of all results.
        outputs: names in `OUTPUT_FOLDERS`; other names are ignored.
        file: the image's file.
        image: (H, W, 3) uint8 BGR; None if it is too large for a picture.
        instances: instances on the CPU, in pixels of the image; `pred_masks`, if present, are
            `PackedMasks`.
        class_names: names of the K classes.

    Raises:
        UserError: a file cannot be written, or an output needs something that the model lacks.
    """
    names = name_outputs(file.name, outputs)
    paths = {output: Path(folder, path) for output, path in names.items()}
    if "labels" in outputs:
        _save_image(paths["labels"], Image.fromarray(draw_label_image(instances)), "PNG")
    if "soft" in outputs:
        _save_soft_masks(paths["soft"], instances)
    if "geojson" in outputs:
        content = make_geojson(instances, class_names, read_georeference(file.path))
        with atomic_open(paths["geojson"], "w", durable=False) as text:
            json.dump(content, text)
    if "pictures" in outputs and image is None:
        logger.warning("%s: too large for a picture; only its results are written", file.path)
    elif "pictures" in outputs and image is not None:
        _save_picture(paths["pictures"], image, instances, class_names)


def name_outputs(name: str, outputs: Collection[str]) -> dict[str, str]:
    """Return the file of each of `outputs` for one image, relative to the folder of the results."""
    drawn_as_it_is = name.lower().endswith((".jpg", ".jpeg", ".png"))
    paths = {
        "pictures": f"pictures/{name}" if drawn_as_it_is else f"pictures/{name}.png",
        "labels": f"labels/{name}.png",
        "soft": f"soft/{name}.npz",
        "geojson": f"geojson/{name}.geojson",
    }
    return {output: path for output, path in paths.items() if output in outputs}


def _save_picture(
    path: Path, image: BGRArray, instances: Instances, class_names: Sequence[str]
) -> None:
    """Draw the instances of one image and write the picture, as JPEG or PNG by the extension."""
    longer = max(image.shape[:2])
    picture = draw_instances(
        image[:, :, ::-1],
        instances.pred_masks if instances.has("pred_masks") else None,
        instances.pred_boxes.tensor.numpy(),
        [
            f"{class_names[label]} {score:.2f}"
            for label, score in zip(
                instances.pred_classes.tolist(), instances.scores.tolist(), strict=True
            )
        ],
        scale=min(max(1.0, SMALLEST_PICTURE / longer), LARGEST_PICTURE / longer),
    )
    kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    _save_image(path, Image.fromarray(picture), kind, quality=92)


def _save_image(path: Path, image: Image.Image, kind: str, **options: Any) -> None:
    encoded = io.BytesIO()  # keeps errors of encoding apart from errors of writing
    image.save(encoded, format=kind, **options)
    with atomic_open(path, durable=False) as file:
        file.write(encoded.getvalue())


def _require_masks(instances: Instances, output: str) -> PackedMasks:
    if not instances.has("pred_masks"):
        raise UserError(f"--write {output}: the model predicts no masks")
    masks: PackedMasks = instances.pred_masks
    return masks


def draw_label_image(instances: Instances) -> npt.NDArray[np.uint16]:
    """Return an image (H, W) with the number of the instance at each pixel, 0 for none.

    The first instance has number 1. Where masks overlap, a pixel belongs to the instance with the
    higher score; of equal scores, to the first.

    Args:
        instances: instances on the CPU; `pred_masks` are `PackedMasks`.

    Raises:
        UserError: the instances have no masks.
        ValueError: there are more than 65,535 instances.
    """
    masks = _require_masks(instances, "labels")
    if len(masks) > MOST_LABELS:
        raise ValueError(
            f"{len(masks):,} objects; a label image of 16 bits can hold {MOST_LABELS:,}"
        )
    labels = np.zeros(instances.image_size, dtype=np.uint16)
    best = np.argsort(-instances.scores.numpy(), kind="stable")
    for number in best[::-1].tolist():  # the best one last, on top
        crop = next(iter(masks[[number]]))
        labels[crop.rows, crop.columns][crop.mask] = number + 1
    return labels


def _save_soft_masks(path: Path, instances: Instances) -> None:
    """Write `windows` (N, 4) int32, XYXY, and for each instance i `mask_i` (h, w) uint8."""
    soft = _require_masks(instances, "soft").soft
    if soft is None:
        raise UserError(WITHOUT_SOFT_MASKS)
    windows = np.zeros((len(soft), 4), dtype=np.int32)
    arrays: dict[str, Any] = {"windows": windows}
    for number, (top, left, levels) in enumerate(soft):
        windows[number] = (left, top, left + levels.shape[1], top + levels.shape[0])
        arrays[f"mask_{number}"] = levels
    with atomic_open(path, durable=False) as file:
        np.savez_compressed(file, **arrays)


def make_geojson(
    instances: Instances, class_names: Sequence[str], reference: GeoReference | None
) -> dict[str, Any]:
    """Return a GeoJSON `FeatureCollection` with a feature for each instance.

    The outlines follow the sides of the pixels and have holes. The geometry of an instance without
    a mask is its box; the geometry of an empty mask is null. The properties are `id` (the number of
    the instance, from 1), `class` and `score`.

    Args:
        instances: instances on the CPU; `pred_masks`, if present, are `PackedMasks`.
        class_names: names of the K classes.
        reference: where the image lies; None gives pixels, x to the right and y down. Its
            coordinate reference system is named in `crs`, as GDAL and QGIS read it.
    """
    from ..layers.polygons import trace_polygons  # its SciPy is slow to import

    features = []
    masks = iter(instances.pred_masks) if instances.has("pred_masks") else None
    rows = zip(
        instances.pred_classes.tolist(),
        instances.scores.tolist(),
        instances.pred_boxes.tensor.tolist(),
        strict=True,
    )
    for number, (label, score, (x0, y0, x1, y1)) in enumerate(rows, start=1):
        if masks is not None:
            top, left, mask = next(masks)
            corner = np.array([left, top])
            parts = [[ring + corner for ring in part] for part in trace_polygons(mask)]
        else:
            parts = [[np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])]]
        polygons = [
            [_close_ring(ring, reference, outer=not place) for place, ring in enumerate(part)]
            for part in parts
        ]
        geometry: dict[str, Any] | None = {"type": "MultiPolygon", "coordinates": polygons}
        if len(polygons) == 1:
            geometry = {"type": "Polygon", "coordinates": polygons[0]}
        properties = {"id": number, "class": class_names[label], "score": round(score, 6)}
        features.append(
            {
                "type": "Feature",
                "properties": properties,
                "geometry": geometry if polygons else None,
            }
        )
    collection: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if reference is not None and reference.epsg:
        # EPSG:4326 has latitude first; GeoJSON has longitude first, which is CRS84.
        name = "OGC:1.3:CRS84" if reference.epsg == 4326 else f"EPSG::{reference.epsg}"
        collection["crs"] = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{name}"}}
    return collection


def _close_ring(
    ring: npt.NDArray[np.number], reference: GeoReference | None, *, outer: bool
) -> list[list[float]]:
    """Return a closed ring; outer rings run counterclockwise where y points up, as in GeoJSON."""
    from ..layers.polygons import measure_ring

    located = ring if reference is None else reference.locate(ring)
    if (measure_ring(located) > 0) != outer:
        located = located[::-1]
    points: list[list[float]] = located.tolist()
    return [*points, points[0]]
