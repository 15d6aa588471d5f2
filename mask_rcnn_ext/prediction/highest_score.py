"""Says how far a prediction without any detection is from the score threshold.

A model drops what is below its threshold, so a few of the images are predicted once more, with the
lowest threshold.
"""

import contextlib
import math
from collections.abc import Callable, Iterable

from detectron2.structures import Instances

from ..errors import UserError, count_noun
from ..report.run_data import spread_evenly
from .filters import InstanceFilter
from .folder import FolderJob
from .image_files import predict_files
from .predictor import Predictor
from .video import predict_sample
from .video_inputs import VideoInput

__all__ = ["describe_highest_in_images", "describe_highest_in_video", "explain_nothing"]

MOST_IMAGES = 8


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

    Raises:
        UserError: the model cannot be used for prediction.
    """
    files = [job.files[index] for index in spread_evenly(len(job.files), MOST_IMAGES)]
    found = predict_files(predictor, files, _ignore, tiling=job.tiling, pictures=False)
    some = len(files) < len(job.files)
    where = f" in {len(files)} of {len(job.files):,} images" if some else ""
    return _describe(job, predictor, (instances for _, _, instances in found), where)


def describe_highest_in_video(
    job: FolderJob, video: VideoInput, every: int, predictor: Predictor
) -> str:
    """Return the same as `describe_highest_in_images` for frames of a video; "" for a camera.

    Only each `every`-th frame has been predicted, and counts.
    """
    found = list(predict_sample(predictor, video, MOST_IMAGES, job.tiling, every))
    return (
        _describe(job, predictor, found, f" in {count_noun(len(found), 'frame')}") if found else ""
    )


def _ignore(*failure: object) -> None:
    """Do nothing: the prediction has named the image."""


def _describe(job: FolderJob, predictor: Predictor, found: Iterable[Instances], where: str) -> str:
    names = predictor.class_names
    keep = InstanceFilter(names, classes=job.filters.get("classes"))
    best = max((_find_best(keep(instances)) for instances in found), default=(0.0, 0))
    if not best[0]:
        return f"nothing has a score{where}, however low"
    score = math.floor(best[0] * 1000) / 1000  # rounded up, it could equal the threshold
    return f"the highest score{where} was {score:g} ({names[best[1]]})"


def _find_best(instances: Instances) -> tuple[float, int]:
    """Return the highest score and its class; (0, 0) without instances."""
    pairs = zip(instances.scores.tolist(), instances.pred_classes.tolist(), strict=True)
    return max(pairs, default=(0.0, 0))
