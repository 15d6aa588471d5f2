"""Predicts on many files into one folder, with several processes; continues after a kill."""

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputFailure, UserError
from ..modeling.checks import is_fcis
from ..proposals.single_images import Search
from ..run_files import move_back
from .coco_results import CocoResultsWriter, describe_instances, trace_instances
from .earlier import list_targets, set_aside_stale
from .filters import InstanceFilter
from .image_files import ImageFile, describe_failure, predict_files
from .image_outputs import (
    LARGEST_PICTURE,
    OUTPUT_FOLDERS,
    WITHOUT_SOFT_MASKS,
    name_outputs,
    write_image_outputs,
)
from .parts import PartReader, PartWriter, find_begun, hash_settings, remove_parts
from .predictor import Predictor
from .tiles import Tiling

__all__ = ["OUTPUTS", "FolderJob", "Summary", "merge_shares", "predict_share"]

logger = logging.getLogger(__name__)

OUTPUTS = ("coco", "polygons", *OUTPUT_FOLDERS)


@dataclasses.dataclass(frozen=True)
class FolderJob:
    """What is predicted, and where its results go. It can be sent to other processes.

    Attributes:
        make_predictor: returns the predictor of the process with a number; a function of a module,
            or a `functools.partial` of one.
        files: the images, from `find_images`.
        output: the folder of the results.
        outputs: names of `OUTPUTS`; "coco" is always written.
        filters: keyword arguments of `InstanceFilter`.
        tiling: cut large images into tiles.
    """

    make_predictor: Callable[[int], Predictor]
    files: Sequence[ImageFile]
    output: str | os.PathLike[str]
    outputs: Sequence[str] = ("coco", "pictures")
    filters: dict[str, Any] = dataclasses.field(default_factory=dict)
    tiling: Tiling | None = None

    def describe(self, predictor: Predictor) -> dict[str, Any]:
        """Return a hash of all settings that change the results, and the classes."""
        weights = str(predictor.cfg.MODEL.WEIGHTS)
        found = os.stat(weights) if os.path.isfile(weights) else None
        cfg = predictor.cfg.clone()
        cfg.defrost()
        cfg.MODEL.DEVICE = ""  # several processes have several GPUs
        settings = {
            "config": cfg.dump(),
            "weights": [found.st_size, found.st_mtime_ns] if found else weights,
            "bfloat16": getattr(getattr(predictor.model, "network", None), "bfloat16", False),
            "batch_size": predictor.batch_size,
            "outputs": sorted(self.outputs),
            # The function of another caller has no settings that can be read.
            "search": repr(predictor.propose) if isinstance(predictor.propose, Search) else "",
            "filters": {name: repr(value) for name, value in self.filters.items()},
            "tiling": self.tiling.resolve(predictor.cfg) if self.tiling else None,
        }
        names, ids = list(predictor.class_names), [int(i) for i in predictor.category_ids]
        return {
            "settings_sha256": hash_settings({**settings, "names": names}),
            "names": names,
            "ids": ids,
        }


@dataclasses.dataclass(frozen=True)
class Summary:
    """What was written.

    Attributes:
        num_files: the images of the job.
        num_images: images that are in the results.
        num_instances: instances in the results.
        num_shrunk: number of pictures that are smaller than their images.
        failures: a line for each image that failed.
        results_path: the COCO results.
        images_path: the file with the ids of images and categories.
        annotations_path: the data set with polygons, if it was asked for.
    """

    num_files: int
    num_images: int
    num_instances: int
    num_shrunk: int
    failures: list[str]
    results_path: Path
    images_path: Path
    annotations_path: Path


def predict_share(
    job: FolderJob,
    predictor: Predictor,
    rank: int = 0,
    world: int = 1,
    on_done: Callable[[int], object] = lambda number: None,
) -> str:
    """Predict the share of one process, except images that an earlier, stopped run has done.

    A share consists of whole batches. A batch has the same images in every run, whatever was done
    before, so its numbers are the same to the bit.

    Args:
        job: the job.
        predictor: the predictor of this process.
        rank: the number of this process.
        world: the number of processes.
        on_done: called with the number of images that have been finished since the last call.

    Returns:
        The hash of the settings, for `merge_shares`.

    Raises:
        UserError: results cannot be written, or an output needs something that the model lacks.
    """
    output = Path(job.output)
    if "soft" in job.outputs and is_fcis(predictor.cfg):
        raise UserError(WITHOUT_SOFT_MASKS)
    head, keep = job.describe(predictor), InstanceFilter(predictor.class_names, **job.filters)
    done_before = PartReader(output, job.files, head["settings_sha256"])
    if rank == 0 and not done_before.is_empty:
        missing = len(done_before.find_missing(range(len(job.files))))
        if done_before.head is None:
            logger.warning(
                "%s: an unfinished prediction has other settings, so this one starts from the "
                "beginning",
                output,
            )
        else:
            logger.info("continuing: %d of %d images are left", missing, len(job.files))
    size = predictor.batch_size
    with PartWriter(output, rank, head, after=done_before.latest) as part:
        for first in range(rank * size, len(job.files), world * size):
            numbers = range(first, min(first + size, len(job.files)))
            wanted = {job.files[number] for number in done_before.find_missing(numbers)}
            on_done(len(numbers) - len(wanted))
            if wanted:
                batch = [job.files[number] for number in numbers]
                _predict_batch(job, predictor, keep, part, batch, wanted, on_done)
    return str(head["settings_sha256"])


def _predict_batch(
    job: FolderJob,
    predictor: Predictor,
    keep: InstanceFilter,
    part: PartWriter,
    batch: Sequence[ImageFile],
    wanted: set[ImageFile],
    on_done: Callable[[int], object],
) -> None:
    def add(file: ImageFile, record: dict[str, Any]) -> None:
        if file in wanted:
            wanted.remove(file)  # a batch that fails is predicted again, image by image
            part.add(file, record)
            on_done(1)

    def on_failure(file: ImageFile, reason: str) -> None:
        add(file, {"failure": reason})

    predicted = predict_files(
        predictor,
        batch,
        on_failure,
        tiling=job.tiling,
        pictures="pictures" in job.outputs,
        soft="soft" in job.outputs,
    )
    for file, image, found in predicted:
        if file not in wanted:
            continue
        record: dict[str, Any] = {}
        try:
            instances = keep(found)
            record["size"] = list(instances.image_size)
            if "polygons" in job.outputs:
                record["annotations"] = trace_instances(instances, predictor.category_ids)
            record["results"] = describe_instances(instances, predictor.category_ids)
            names = predictor.class_names
            part.begin(name_outputs(file.name, job.outputs).values())
            write_image_outputs(job.output, job.outputs, file, image, instances, names)
        except InputFailure as error:  # such as a world file that is none
            record["failure"] = f"{file.path}: {error}"
        except UserError:  # such as a full disk
            raise
        except Exception as error:  # for example no memory, or too large a picture for a JPEG
            record["failure"] = describe_failure(file.path, error)
        add(file, record)


def merge_shares(job: FolderJob, settings_sha256: str, *, complete: bool) -> Summary:
    """Write the result files from the parts of all processes.

    Args:
        job: the job.
        settings_sha256: the hash that `predict_share` returned.
        complete: whether all shares are done. If so, the parts are removed.

    Returns:
        What was written. An incomplete job without any finished image writes nothing.

    Raises:
        UserError: results cannot be written; the parts and the earlier results are kept.
    """
    output = Path(job.output)
    reader = PartReader(output, job.files, settings_sha256)
    head = reader.head or {"names": [], "ids": []}
    writer = CocoResultsWriter(output, head["names"], head["ids"], outputs=job.outputs)
    failures, shrunk, written = [], 0, list[ImageFile]()
    moved: list[tuple[Path, Path]] = []
    done = any("results" in line for _, line in reader.read())
    if complete or done:
        try:
            with writer:
                for file, line in reader.read():
                    if "failure" in line:
                        failures.append(line["failure"])
                    else:
                        written.append(file)
                    if "results" in line:
                        annotations = line.get("annotations", [])
                        writer.write(file.name, line["size"], line["results"], annotations)
                        drawn = "pictures" in job.outputs and "failure" not in line
                        shrunk += drawn and max(line["size"]) > LARGEST_PICTURE
                # Of an image that failed now, a kill may have left a file.
                left = written if complete else job.files
                begun = find_begun(output) - set(list_targets(left, job.outputs))
                moved = set_aside_stale(output, written, job.outputs, begun)
        except Exception:  # after Ctrl-C the results are written
            move_back(moved)
            raise
    remove_parts(output, complete=complete)
    return Summary(
        len(job.files),
        writer.num_images,
        writer.num_instances,
        shrunk,
        failures,
        writer.results_path,
        writer.images_path,
        writer.annotations_path,
    )
