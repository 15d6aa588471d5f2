"""Says how far a prediction without any detection is from the score threshold.

A model drops what is below its threshold, so a few of the images are predicted once more, with the
lowest threshold. With it the model finds as many objects as it may, and to paste and merge their
masks takes much longer than the prediction did. So only scores are read here, and only in some of
the tiles if the images are cut. An object at the edge of a tile does not count, since the merging
of tiles may drop it. Any other object stays.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt
import torch
from detectron2.structures import Instances

from ..errors import UserError, count_noun
from ..report.run_data import spread_evenly
from .filters import InstanceFilter
from .folder import FolderJob
from .image_files import open_file
from .predictor import Predictor
from .tiled import cut_image
from .tiles import Tile, lay_tiles
from .video import read_sample
from .video_inputs import VideoInput
from .windows import TiffWindows

__all__ = ["describe_highest_in_images", "describe_highest_in_video", "explain_nothing"]

logger = logging.getLogger(__name__)

MOST_IMAGES = 8
MOST_TILES = 32  # of all these images


def explain_nothing(
    threshold: str, make_lowest: Callable[[], Predictor], describe: Callable[[Predictor], str]
) -> str:
    """Return a line that says that there is no detection, with the highest score if it is known.

    Args:
        threshold: the threshold as the user has given it.
        make_lowest: returns a predictor with the lowest score threshold.
        describe: one of the functions below, without its last argument.
    """
    said = f"no detection reached {threshold}"
    with contextlib.suppress(UserError):  # an exported model has a lowest threshold of its own
        if highest := describe(make_lowest()):
            said += f"; {highest}"
    return said


def describe_highest_in_images(job: FolderJob, predictor: Predictor) -> str:
    """Return the highest score in some images of a job: "the highest score was 0.31 (cat)".

    Args:
        job: a job that has found nothing. Of its filters, only the classes count.
        predictor: a predictor with the lowest score threshold.
    """
    files = [job.files[index] for index in spread_evenly(len(job.files), MOST_IMAGES)]
    search = _Search(job, predictor)
    for index, file in enumerate(files):
        most = (MOST_TILES - search.num_tiles) // (len(files) - index)
        try:
            source = open_file(predictor, file, search.side)
            if isinstance(source, TiffWindows):
                with contextlib.closing(source):
                    search.look_at(source.size, source.read, most)
            else:
                search.look_at(source.shape[:2], cut_image(source), most)
        except UserError:
            continue  # the prediction has named the image
        except Exception as error:
            logger.debug("%s", file.path, exc_info=error)
    if not search.num_images:
        return ""
    some = search.num_images < len(job.files)
    return search.describe(f"{search.num_images} of {len(job.files):,} images" if some else "")


def describe_highest_in_video(
    job: FolderJob, video: VideoInput, every: int, predictor: Predictor
) -> str:
    """Return the same as `describe_highest_in_images` for frames of a video; "" for a camera.

    Only each `every`-th frame has been predicted, and counts.
    """
    search = _Search(job, predictor)
    for frame in read_sample(predictor, video, MOST_IMAGES, every):
        search.look_at(frame.shape[:2], cut_image(frame), MOST_TILES // MOST_IMAGES)
    return search.describe(count_noun(search.num_images, "frame")) if search.num_images else ""


class _Search:
    """Looks for the highest score in images, or in some tiles of each image.

    Args:
        job: says which classes count, and how images are cut.
        predictor: a predictor with the lowest score threshold.

    Attributes:
        side: the side of the tiles; 0 if images are not cut.
        num_images: the images that were looked at.
        num_tiles: their tiles that were looked at.
    """

    def __init__(self, job: FolderJob, predictor: Predictor) -> None:
        self._predictor = predictor
        self._keep = InstanceFilter(predictor.class_names, classes=job.filters.get("classes"))
        self.side, self._overlap = job.tiling.resolve(predictor.cfg) if job.tiling else (0, 0)
        self.num_images = self.num_tiles = self._all_tiles = 0
        self._best = (0.0, 0)  # the highest score and its class

    def look_at(
        self, size: Sequence[int], read: Callable[[Tile], npt.NDArray[Any]], most: int
    ) -> None:
        """Predict on an image (H, W) whose parts `read` returns, or on at most `most` tiles."""
        tiles = [Tile(0, 0, size[0], size[1])]
        if self.side:
            tiles = lay_tiles(size, self.side, self._overlap)
        chosen = [tiles[index] for index in spread_evenly(len(tiles), most)]
        best = self._best
        found = self._predictor.stream_packed(map(read, chosen), masks=False)
        for tile, instances in zip(chosen, found, strict=True):
            inside = self._keep(instances[_find_inside(instances, tile, size)])
            pairs = zip(inside.scores.tolist(), inside.pred_classes.tolist(), strict=True)
            best = max([best, *pairs])
        self._best = best
        self.num_images += 1
        self.num_tiles += len(chosen)
        self._all_tiles += len(tiles)

    def describe(self, images: str) -> str:
        """Return the sentence; `images` names the images in it, "" if it need not name them."""
        where = f" in {images}" if images else ""
        if self._all_tiles > self.num_images:
            number, every = self.num_tiles, self._all_tiles
            tiles = f"{number} of {every:,} tiles" if number < every else f"{number} tiles"
            where = f" inside {tiles}" + (f" of {images}" if images else "")
        if not self._best[0]:
            return f"nothing has a score{where}, however low"
        score = math.floor(self._best[0] * 1000) / 1000  # rounded up, it could equal the threshold
        name = self._predictor.class_names[self._best[1]]
        return f"the highest score{where} was {score:g} ({name})"


def _find_inside(instances: Instances, tile: Tile, size: Sequence[int]) -> torch.Tensor:
    """Return which instances of a tile are at no edge that cuts the image, (N,) bool."""
    boxes = instances.pred_boxes.tensor
    height, width = instances.image_size
    kept = torch.ones(len(boxes), dtype=torch.bool)
    for cuts, clear in (
        (tile.left > 0, boxes[:, 0] >= tile.reach),
        (tile.top > 0, boxes[:, 1] >= tile.reach),
        (tile.right < size[1], boxes[:, 2] <= width - tile.reach),
        (tile.bottom < size[0], boxes[:, 3] <= height - tile.reach),
    ):
        if cuts:
            kept &= clear
    return kept
