"""Predicts on the videos of a command line, and says what was found."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from mask_rcnn_ext import Predictor
from mask_rcnn_ext.engine.interruption import Interrupted
from mask_rcnn_ext.errors import InputFailure, UserError, count_noun
from mask_rcnn_ext.prediction.filters import InstanceFilter
from mask_rcnn_ext.prediction.folder import FolderJob
from mask_rcnn_ext.prediction.video_inputs import VideoInput

__all__ = ["predict_videos"]


def predict_videos(
    args: argparse.Namespace,
    job: FolderJob,
    videos: Sequence[VideoInput],
    lowest: Callable[[], Predictor],
) -> int:
    """Predict on the videos, one after the other; return the exit code.

    A video that cannot be read is named, and the others are still predicted.

    Raises:
        UserError: a file cannot be written, several processes are asked for, or the only input
            cannot be read.
    """
    # SciPy is slow to import.
    from mask_rcnn_ext.prediction.highest_score import describe_highest_in_video, explain_nothing
    from mask_rcnn_ext.prediction.video import predict_video

    several = "RANK" in os.environ and os.environ.get("WORLD_SIZE") != "1"
    if args.processes > 1 or several:
        raise UserError(
            "a video is predicted by one process: leave out --processes; with torchrun or Slurm, "
            "start only one"
        )
    predictor, code, folder = job.make_predictor(0), 0, Path(args.output, "videos")
    keep = InstanceFilter(predictor.class_names, **job.filters)
    draw = "pictures" in job.outputs
    for video in videos:
        try:
            summary = predict_video(
                predictor,
                video,
                folder,
                keep=keep,
                every=args.every or 1,
                draw=draw,
                tiling=job.tiling,
            )
        except KeyboardInterrupt as error:
            print(f"interrupted; the frames that are done are in {folder}", file=sys.stderr)
            return error.exit_code if isinstance(error, Interrupted) else 130
        except InputFailure as error:
            if len(videos) == 1 and not job.files:
                raise
            print(f"error: {error}", file=sys.stderr)
            code = 1
            continue
        frames = count_noun(summary.num_frames, "frame")
        found = f"{frames}, {count_noun(summary.num_tracks, 'object')}"
        print(f"{found}: {summary.video_path or summary.tracks_path}")
        if not summary.num_tracks:
            describe = partial(describe_highest_in_video, job, video, args.every or 1)
            print(explain_nothing(args.score_threshold, lowest, describe))
        if summary.missing:
            print(
                f"{video.source}: {count_noun(summary.missing, 'frame')} at the end cannot be "
                "read; the file may be cut short",
                file=sys.stderr,
            )
            code = 1
    return code
