"""Predicts on a video or a camera: a video with masks, and a json with the tracks of objects."""

import contextlib
import dataclasses
import itertools
import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from detectron2.structures import Instances
from tqdm import tqdm

from ..data.images import BGRArray
from ..errors import InputFailure, UserError, require_range
from ..files import atomic_open, explain_write_error
from ..report.drawing.pictures import draw_instances
from ..temporary_files import make_temporary_folder
from .coco_results import describe_instances
from .predictor import Predictor
from .tiled import cut_image, predict_tiles
from .tiles import Tiling
from .tracking import Tracker
from .video_inputs import VideoInput, is_stream, name_video_files, require_free_video_files

__all__ = ["VideoSummary", "predict_video", "read_sample"]

logger = logging.getLogger(__name__)

_FRAMES_BEHIND = 3  # frames in a row behind an earlier one, after which the clock has begun again
_LATE = 60.0  # seconds; a first time beyond it, after frames without one, is no time of this run
_USUAL_FPS = 25.0  # for a source that does not tell its frame rate


@dataclasses.dataclass(frozen=True)
class VideoSummary:
    """What was written.

    Attributes:
        num_frames: frames that were predicted.
        num_tracks: objects that were followed.
        missing: frames that the header of the file announces but the file lacks; 0 if complete.
        video_path: the video with masks; None if it was not asked for.
        tracks_path: the json with the tracks.
    """

    num_frames: int
    num_tracks: int
    missing: int
    video_path: Path | None
    tracks_path: Path


class _Frames:
    """Reads every n-th frame of a source."""

    def __init__(self, video: VideoInput, every: int) -> None:
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg's log would hide our error
        source = video.source
        if not (isinstance(source, int) or is_stream(source) or os.path.isfile(source)):
            raise InputFailure(f"input not found: {source}")
        self._capture = cv2.VideoCapture(source)
        if not self._capture.isOpened():
            if isinstance(source, int):
                raise InputFailure(
                    f"camera {source}: cannot be opened. Is it connected, not in use by another "
                    "program, and are you allowed to use it?"
                )
            if is_stream(source):
                raise InputFailure(
                    f"{source}: no video comes from there. Is the address right, and is the stream "
                    "running? If it sends over UDP only: "
                    'export OPENCV_FFMPEG_CAPTURE_OPTIONS="rtsp_transport;udp"'
                )
            raise InputFailure(
                f"{source}: cannot be read as a video by OpenCV. It may be cut short: an MP4 has "
                "its index at its end"
            )
        self.every, self.number_read = every, 0
        self._is_camera = isinstance(source, int)
        self.is_live = self._is_camera or is_stream(source)
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        told = 0 < fps <= 1000
        self.fps = fps if told else _USUAL_FPS
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = 0 if self.is_live or not 0 < count < 1e9 else int(count)
        # Seconds: the first frame by our clock and by the source's, and the last frame.
        self._began = self._start = self._moment = 0.0
        self._has_clock = not (
            str(source).startswith(("http://", "https://")) and self._is_endless_jpegs()
        )
        self.knows_rate = told and self._has_clock
        self._clock_has_begun, self._frames_behind = False, 0

    def __iter__(self) -> Iterator[tuple[int, float, BGRArray]]:
        """Yield the number of each frame, its time in seconds, and its pixels."""
        while self._capture.grab():
            number, self.number_read = self.number_read, self.number_read + 1
            if number % self.every:
                continue
            good, frame = self._capture.retrieve()
            if not good:
                return
            yield number, self._find_moment(number), np.ascontiguousarray(frame)

    def _find_moment(self, number: int) -> float:
        """Return when the frame was taken, in seconds from the first frame.

        The source says it: frames of a stream wait while the model works, and phones write videos
        whose frame rate changes. A source without a clock says 0 for each frame.
        """
        if number == 0:
            self._began = time.monotonic()
        elapsed, step = time.monotonic() - self._began, self.every / self.fps
        if not self._has_clock:
            return elapsed
        now = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        late = self._is_camera and now > _LATE and not self._clock_has_begun
        moment = self._moment + step
        if number == 0:
            self._start, moment = now, 0.0
        elif now <= 0:
            if self.is_live and not self._clock_has_begun:
                moment = elapsed
        else:
            behind = now - self._start < self._moment
            self._frames_behind = self._frames_behind + 1 if behind else 0
            if late or self._frames_behind == _FRAMES_BEHIND:
                # The clock has begun after some frames, or again: recordings were joined.
                self._start = now - self._moment - max(1, self._frames_behind) * step
                self._frames_behind = 0
            moment = now - self._start
        self._clock_has_begun |= now > 0
        self._moment = max(self._moment, moment)
        return self._moment

    def _is_endless_jpegs(self) -> bool:
        """Return whether these are JPEG images without an end, as cameras send them over HTTP.

        They have no times, and FFmpeg invents 25 images per second.
        """
        jpegs = int(self._capture.get(cv2.CAP_PROP_FOURCC)) == cv2.VideoWriter.fourcc(*"MJPG")
        return jpegs and not self._capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0

    def count_missing(self) -> int:
        """Return the number of frames that did not come; some files only estimate how many come."""
        missing = self.count - self.number_read
        return missing if missing > max(2, self.count // 50) else 0

    def close(self) -> None:
        """Close the source."""
        self._capture.release()


class _MaskVideo:
    """Writes an MP4 that replaces `path` when it is complete, or after a `KeyboardInterrupt`."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, _round_rate(fps)
        self._stack = contextlib.ExitStack()
        self._writer: Any = None
        self._number = 0

    def __enter__(self) -> "_MaskVideo":
        return self

    def write(self, frame: BGRArray) -> None:
        """Add a frame. The first frame sets the size of the video."""
        if self._writer is None:
            try:
                own = make_temporary_folder(self._path.parent)
                self._temporary = self._stack.enter_context(own) / "video.mp4"
            except OSError as error:
                raise explain_write_error(self._path, error) from error
            code, size = cv2.VideoWriter.fourcc(*"mp4v"), frame.shape[1::-1]
            self._writer = cv2.VideoWriter(str(self._temporary), code, self._fps, size)
            if not self._writer.isOpened():
                raise UserError(f"cannot write {self._path}: OpenCV cannot write an MP4 there")
        self._writer.write(frame)
        self._number += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            if self._writer is None:
                return
            self._writer.release()
            if kind is None or issubclass(kind, KeyboardInterrupt):
                self._require_whole()
                try:
                    os.replace(self._temporary, self._path)
                except OSError as error:
                    raise explain_write_error(self._path, error) from error

    def _require_whole(self) -> None:
        """Open the file again to count its frames: OpenCV does not report a full disk."""
        written = cv2.VideoCapture(str(self._temporary))
        frames = int(written.get(cv2.CAP_PROP_FRAME_COUNT)) if written.isOpened() else 0
        written.release()
        if frames < self._number:
            raise UserError(f"cannot write {self._path}: frames are missing. Is the disk full?")


def _round_rate(fps: float) -> float:
    """Return the nearest frame rate that MPEG-4 holds: a fraction with numbers up to 65,535."""
    digits = 3 if fps < 65.535 else 2 if fps < 655.35 else 1
    return max(0.01, round(fps, digits))


class _TrackFile:
    """Writes the json of the tracks. The file appears when it is complete, as in `_MaskVideo`."""

    def __init__(self, path: Path, head: dict[str, Any], category_ids: Sequence[int]) -> None:
        self.path, self._head, self._category_ids = path, head, category_ids
        self._end, self.num_frames = 0, 0

    def __enter__(self) -> "_TrackFile":
        self._stack = contextlib.ExitStack()
        self._file = self._stack.enter_context(atomic_open(self.path, "w"))
        self._file.write(f'{json.dumps(self._head)[:-1]}, "frames": [')
        return self

    def add(self, number: int, moment: float, ids: Sequence[int], instances: Instances) -> None:
        """Add the objects of a frame."""
        objects = [
            {"id": one, **result}
            for one, result in zip(
                ids, describe_instances(instances, self._category_ids), strict=True
            )
        ]
        frame = {"frame": number, "time": round(moment, 3), "objects": objects}
        self._file.write(f"{',' if self.num_frames else ''}\n{json.dumps(frame)}")
        self._end, self.num_frames = self._file.tell(), self.num_frames + 1

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        if kind is not None and not (interrupted and self.num_frames):
            self._stack.__exit__(kind, *error)
            return
        with self._stack:
            if interrupted:  # the interrupt may have come in the middle of a frame
                self._file.seek(self._end)
                self._file.truncate()
            self._file.write("\n]}\n")


def _require_short_name(path: Path) -> None:
    try:
        os.lstat(path.name)  # in this folder, since that of the results may not be there yet
    except FileNotFoundError:
        pass
    except OSError as error:
        raise explain_write_error(path, error) from error


def predict_video(
    predictor: Predictor,
    video: VideoInput,
    folder: str | os.PathLike[str],
    *,
    keep: Callable[[Instances], Instances] = lambda instances: instances,
    every: int = 1,
    draw: bool = True,
    tiling: Tiling | None = None,
) -> VideoSummary:
    """Follow the objects of a video; write it with masks, and a json with their tracks.

    The files are `NAME.mp4` and `NAME.tracks.json`. After a `KeyboardInterrupt`, which is the usual
    way to end a camera, both contain the frames that are done. The interrupt is raised again.

    Args:
        predictor: the predictor.
        video: the video.
        folder: the output folder, which is made if it is missing.
        keep: a filter, see `InstanceFilter`.
        every: predict on every n-th frame; the video with masks has only these frames.
        draw: write the video with masks.
        tiling: cut frames into tiles.

    Raises:
        InputFailure: the video cannot be read.
        UserError: a file cannot be written, or see `require_free_video_files`.
    """
    require_range("--every", every, 1)
    require_free_video_files([video], folder, draw=draw)
    target, tracks_path = name_video_files(video, folder)
    _require_short_name(tracks_path)  # the longest name
    frames = _Frames(video, every)
    if draw and not frames.knows_rate:
        logger.warning(
            "%s does not tell its frame rate: the video with masks has %g frames per second, and "
            "may play too fast or too slowly. The times in the json are right.",
            *(video.name, frames.fps / every),
        )
    tracker, numbers = Tracker(patience=max(1, round(frames.fps / every))), set[int]()
    tracks = _TrackFile(
        tracks_path,
        {"video": video.name, "fps": frames.fps, "categories": _list_categories(predictor)},
        predictor.category_ids,
    )
    with contextlib.ExitStack() as stack:
        stack.callback(frames.close)
        masks = stack.enter_context(_MaskVideo(target, frames.fps / every)) if draw else None
        # It makes the folder, and is in place first: it tells the next run that the video is ours.
        stack.enter_context(tracks)
        bar = stack.enter_context(tqdm(total=-(-frames.count // every) or None, unit="frame"))
        for number, moment, frame, found in _predict_frames(predictor, frames, tiling):
            instances = keep(found)
            ids = tracker.update(instances)
            if masks is not None:
                masks.write(_draw(frame, instances, ids, predictor.class_names))
            tracks.add(number, moment, ids, instances)
            numbers.update(ids)
            bar.update()
        if not tracks.num_frames:
            raise InputFailure(f"{video.source}: no frame of it can be read")
    return VideoSummary(
        tracks.num_frames,
        len(numbers),
        frames.count_missing(),
        target if draw else None,
        tracks.path,
    )


def read_sample(
    predictor: Predictor, video: VideoInput, most: int, every: int = 1
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield at most `most` frames, spread evenly, as images for the predictor.

    Only each `every`-th frame counts, as for `predict_video`. A camera or stream yields nothing.

    Raises:
        UserError: the video cannot be read.
    """
    if isinstance(video.source, int) or is_stream(video.source):
        return
    with contextlib.closing(_Frames(video, 1)) as frames:
        frames.every = every * max(1, -(-frames.count // every) // most)
        for _, _, frame in itertools.islice(frames, most):
            yield _order_channels(predictor, frame)


def _list_categories(predictor: Predictor) -> list[dict[str, Any]]:
    pairs = zip(predictor.category_ids, predictor.class_names, strict=True)
    return [{"id": int(category), "name": name} for category, name in pairs]


def _predict_frames(
    predictor: Predictor, frames: _Frames, tiling: Tiling | None
) -> Iterator[tuple[int, float, BGRArray, Instances]]:
    """Yield each frame with its number, its time and its instances."""
    if tiling is not None:
        for number, moment, frame in frames:
            image = _order_channels(predictor, frame)
            found = predict_tiles(predictor, cut_image(image), frame.shape[:2], tiling)
            yield number, moment, frame, found
        return
    waiting: deque[tuple[int, float, BGRArray]] = deque()

    def feed() -> Iterator[BGRArray]:
        for each in frames:
            waiting.append(each)
            yield _order_channels(predictor, each[2])

    for found in predictor.stream_packed(feed()):
        yield *waiting.popleft(), found


def _order_channels(predictor: Predictor, frame: BGRArray) -> npt.NDArray[np.uint8]:
    """Return a frame as an image for the predictor."""
    # With this key, arrays have the order of an image file, which is R, G, B.
    return frame[:, :, ::-1] if predictor.cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS else frame


def _draw(
    frame: BGRArray, instances: Instances, ids: Sequence[int], class_names: Sequence[str]
) -> BGRArray:
    """Return the frame with its instances; an object keeps its colour."""
    labels = [
        f"{class_names[label]} {number}"
        for label, number in zip(instances.pred_classes.tolist(), ids, strict=True)
    ]
    picture = draw_instances(
        frame[:, :, ::-1],
        instances.pred_masks if instances.has("pred_masks") else None,
        instances.pred_boxes.tensor.numpy(),
        labels,
        color_ids=[number - 1 for number in ids],
    )
    return np.ascontiguousarray(picture[:, :, ::-1])
