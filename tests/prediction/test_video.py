"""Videos: constant ids, also of objects that cross; files that play; broken videos."""

import functools
import http.server
import json
import os
import signal
import threading
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from tiny_model import tiny_cfg

from mask_rcnn_ext import UserError
from mask_rcnn_ext.engine.interruption import Interrupted, raise_signals
from mask_rcnn_ext.layers.packed_masks import PackedMasks
from mask_rcnn_ext.prediction import video as video_module
from mask_rcnn_ext.prediction.filters import InstanceFilter
from mask_rcnn_ext.prediction.tiles import Tiling
from mask_rcnn_ext.prediction.tracking import Tracker
from mask_rcnn_ext.prediction.video import predict_video
from mask_rcnn_ext.prediction.video_inputs import VideoInput, split_inputs

SIZE = (96, 160)


def find_bright(image: np.ndarray) -> Instances:
    """Stands for a model: an object for each colour that `draw_frames` uses, all of one class."""
    near = [np.abs(image.astype(int) - color).max(axis=2) < 60 for color in COLORS.values()]
    masks = np.array([cv2.morphologyEx(m.astype(np.uint8), cv2.MORPH_OPEN, KERNEL) for m in near])
    return make_instances(masks[masks.sum(axis=(1, 2)) > 12].astype(bool), image.shape[:2])


def make_instances(masks, size, masked=True) -> Instances:
    found = Instances(size)
    places = [np.argwhere(mask) for mask in masks]
    boxes = [[*p.min(0)[::-1], *(p.max(0)[::-1] + 1)] for p in places]
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.scores, found.pred_classes = torch.ones(len(boxes)) * 0.9, torch.zeros(len(boxes)).long()
    if masked:
        found.pred_masks = PackedMasks.pack(np.asarray(masks).reshape(-1, *size))
    return found


KERNEL = np.ones((3, 3), dtype=np.uint8)
COLORS = {"red": (20, 20, 230), "green": (20, 230, 20), "blue": (230, 20, 20)}


class ColorPredictor:
    cfg = tiny_cfg(1)
    class_names, category_ids, batch_size = ["disc"], [7], 2

    def stream_packed(self, images):
        return map(find_bright, images)


def place(name: str, frame: int) -> tuple[int, int] | None:
    """Return where a disc is: red and green cross, red in front; blue comes in frame 10."""
    if name == "red":
        return 20 + 4 * frame, 40
    if name == "green":
        return 140 - 4 * frame, 41
    return (30 + frame, 80) if frame >= 10 else None


def draw_frames(number: int = 30) -> list[np.ndarray]:
    frames = []
    for frame in range(number):
        image = np.full((*SIZE, 3), 90, dtype=np.uint8)
        for name in ("green", "blue", "red"):
            if (centre := place(name, frame)) is not None:
                radius = {"red": 15, "green": 10, "blue": 8}[name]
                cv2.circle(image, centre, radius, COLORS[name], -1)
        frames.append(image)
    return frames


def write_video(path, frames, code="mp4v", fps=20.0):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), fps, SIZE[::-1])
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
    return VideoInput(str(path), path.name)


def read_video(path) -> list[np.ndarray]:
    capture, frames = cv2.VideoCapture(str(path)), []
    while (got := capture.read())[0]:
        frames.append(got[1])
    return frames


def name_ids(tracks) -> dict[str, set[int]]:
    """Return the ids that each disc had, by where its box is."""
    ids: dict[str, set[int]] = {name: set() for name in COLORS}
    for frame in tracks["frames"]:
        for one in frame["objects"]:
            x, y, width, height = one["bbox"]
            centre = np.array([x + width / 2, y + height / 2])
            there = {name: place(name, frame["frame"]) for name in COLORS}
            far = {n: np.hypot(*(centre - p)) for n, p in there.items() if p is not None}
            ids[min(far, key=far.get)].add(one["id"])
    return ids


def test_objects_that_cross_keep_their_ids(tmp_path):
    video = write_video(tmp_path / "clip.mp4", draw_frames())
    summary = predict_video(ColorPredictor(), video, tmp_path / "out")
    assert (summary.num_frames, summary.num_tracks, summary.missing) == (30, 3, 0)
    tracks = json.loads(summary.tracks_path.read_text())
    assert summary.tracks_path.name == "clip.mp4.tracks.json"
    assert tracks["categories"] == [{"id": 7, "name": "disc"}]
    assert [frame["frame"] for frame in tracks["frames"]] == list(range(30))
    assert tracks["frames"][10]["time"] == pytest.approx(0.5)
    hidden = [len(frame["objects"]) for frame in tracks["frames"][12:18]]
    assert (min(hidden), max(hidden)) == (2, 3)  # green is behind red for a while
    ids = name_ids(tracks)
    assert all(len(numbers) == 1 for numbers in ids.values()), ids
    assert set.union(*ids.values()) == {1, 2, 3}
    one = tracks["frames"][-1]["objects"][0]
    assert one["category_id"] == 7
    assert one["segmentation"]["size"] == list(SIZE)
    frames = read_video(summary.video_path)
    assert len(frames) == 30
    assert frames[0].shape == (*SIZE, 3)


@pytest.mark.parametrize("masked", [True, False], ids=["masks", "boxes"])
def test_an_object_that_is_away_for_a_while_comes_back_and_one_that_is_gone_does_not(masked):
    def instances(*places):
        masks = np.zeros((len(places), *SIZE), dtype=bool)
        for mask, (y, x) in zip(masks, places, strict=True):
            mask[y : y + 20, x : x + 20] = True
        return make_instances(masks, SIZE, masked)

    tracker = Tracker(patience=5)
    assert tracker.update(instances((10, 10), (60, 100))) == [1, 2]
    assert tracker.update(instances((60, 100), (10, 14))) == [2, 1]
    assert tracker.update(instances((10, 18), (60, 100))) == [1, 2]
    for _ in range(4):
        assert tracker.update(instances((60, 100))) == [2]
    assert tracker.update(instances((60, 100), (10, 38))) == [2, 1]  # where it has moved to
    for _ in range(7):
        assert tracker.update(instances()) == []
    assert tracker.update(instances((60, 100))) == [3]


@pytest.mark.parametrize("seed", [2, 5])
def test_discs_that_bounce_and_hide_each_other_keep_their_ids(seed):
    rng = np.random.default_rng(seed)
    size, number = np.array([200, 120]), 5  # x, y
    places, speeds = rng.uniform(20, size - 20, (number, 2)), rng.uniform(-3, 3, (number, 2))
    radii = rng.uniform(8, 18, number)
    rows, columns = np.ogrid[:120, :200]
    tracker, ids = Tracker(20), {}
    for _ in range(40):
        places += speeds
        speeds[(places < radii.min()) | (places > size)] *= -1
        front = np.full((120, 200), -1)
        for disc, ((x, y), radius) in enumerate(zip(places, radii, strict=True)):
            front[np.hypot(columns - x, rows - y) < radius] = disc
        seen = rng.permutation([disc for disc in range(number) if (front == disc).sum() > 40])
        masks = [front == disc for disc in seen]
        for disc, one in zip(seen, tracker.update(make_instances(masks, (120, 200))), strict=True):
            assert ids.setdefault(disc, one) == one
    assert len(ids) == number


def test_two_classes_have_two_ids_and_a_fast_object_has_one():
    def instances(x, label):
        mask = np.zeros((1, *SIZE), dtype=bool)
        mask[0, 30:50, x : x + 20] = True
        found = make_instances(mask, SIZE)
        found.pred_classes[:] = label
        return found

    tracker = Tracker()
    assert tracker.update(instances(10, 0)) == [1]
    assert tracker.update(instances(35, 0)) == [1]  # by more than its width
    assert tracker.update(instances(60, 0)) == [1]
    assert tracker.update(instances(85, 1)) == [2]
    assert tracker.update(instances(110, 0)) == [1]


def test_every_second_frame_a_filter_tiles_and_no_picture(tmp_path):
    video = write_video(tmp_path / "clip.avi", draw_frames(20), "MJPG")
    keep = InstanceFilter(["disc"], thresholds={"disc": 0.95})
    options = {"every": 3, "tiling": Tiling(96, 32)}
    summary = predict_video(ColorPredictor(), video, tmp_path / "out", **options)
    assert summary.num_frames == len(read_video(summary.video_path)) == 7
    assert summary.video_path.name == "clip.avi.mp4"
    fps = cv2.VideoCapture(str(summary.video_path)).get(cv2.CAP_PROP_FPS)
    assert fps == pytest.approx(20 / 3, abs=0.01)
    tracks = json.loads(summary.tracks_path.read_text())
    assert [frame["frame"] for frame in tracks["frames"]] == list(range(0, 20, 3))
    assert len(tracks["frames"][0]["objects"]) == 2
    summary = predict_video(ColorPredictor(), video, tmp_path / "none", keep=keep, draw=False)
    assert (summary.num_tracks, summary.video_path) == (0, None)
    assert os.listdir(tmp_path / "none") == ["clip.avi.tracks.json"]


def test_ctrl_c_leaves_files_that_play(tmp_path, monkeypatch):
    video = write_video(tmp_path / "clip.mp4", draw_frames())
    seen = []

    def find(image):
        seen.append(1)
        if len(seen) == 9:
            signal.raise_signal(signal.SIGINT)
        return find_bright(image)

    predictor = ColorPredictor()
    monkeypatch.setattr(predictor, "stream_packed", lambda images: map(find, images), raising=False)
    with pytest.raises(Interrupted), raise_signals():
        predict_video(predictor, video, tmp_path / "out")
    assert len(read_video(tmp_path / "out/clip.mp4")) == 8
    tracks = json.loads((tmp_path / "out/clip.mp4.tracks.json").read_text())
    assert len(tracks["frames"]) == 8
    assert sorted(os.listdir(tmp_path / "out")) == ["clip.mp4", "clip.mp4.tracks.json"]


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    video = write_video(tmp_path / "clip.mp4", draw_frames(5))
    predictor = ColorPredictor()
    monkeypatch.setattr(predictor, "stream_packed", lambda images: map(len, images), raising=False)
    with pytest.raises(AttributeError):
        predict_video(predictor, video, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


def test_videos_that_are_cut_short_or_none_are_told(tmp_path):
    video = write_video(tmp_path / "clip.avi", draw_frames(), "MJPG")
    data = (tmp_path / "clip.avi").read_bytes()
    (tmp_path / "clip.avi").write_bytes(data[: len(data) // 2])
    summary = predict_video(ColorPredictor(), video, tmp_path / "out")
    assert summary.num_frames + summary.missing == 30
    assert 10 < summary.num_frames < 20
    write_video(tmp_path / "clip.mp4", draw_frames(9))
    data = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.mp4").write_text("no video")
    for name in ("cut.mp4", "text.mp4"):
        with pytest.raises(UserError, match=f"{name}: cannot be read as a video"):
            predict_video(
                ColorPredictor(), VideoInput(str(tmp_path / name), name), tmp_path / "out"
            )
    with pytest.raises(UserError, match="camera 99: cannot be opened"):
        predict_video(ColorPredictor(), VideoInput(99, "camera99"), tmp_path / "out")
    with pytest.raises(UserError, match=r"clip\.mp4 would replace the input"):
        predict_video(
            ColorPredictor(), VideoInput(str(tmp_path / "clip.mp4"), "clip.mp4"), tmp_path
        )
    with pytest.raises(UserError, match="--every: expected 1 or more, got 0"):
        predict_video(ColorPredictor(), video, tmp_path / "out", every=0)


class SlowPredictor(ColorPredictor):
    def stream_packed(self, images):
        for image in images:
            time.sleep(0.1)
            yield find_bright(image)


def test_the_frames_of_a_stream_have_the_times_of_the_stream(tmp_path, monkeypatch):
    """A slow model does not change them."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    write_video(tmp_path / "clip.avi", draw_frames(6), "MJPG", fps=20)
    handler = functools.partial(QuietHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/clip.avi"
        video = VideoInput(address, "stream0")
        summary = predict_video(SlowPredictor(), video, tmp_path / "out", draw=False)
        server.shutdown()
    frames = json.loads(summary.tracks_path.read_text())["frames"]
    assert [frame["time"] for frame in frames] == [0.0, 0.05, 0.1, 0.15, 0.2, 0.25]


def test_jpegs_over_http_have_the_times_at_which_they_come(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    now = iter([100.0, 100.0, 100.2, 100.9, *[101.0] * 9])
    monkeypatch.setattr(video_module, "time", SimpleNamespace(monotonic=lambda: next(now)))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), JpegSender) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        video = VideoInput(f"http://127.0.0.1:{server.server_port}/", "stream0")
        times = [moment for _, moment, _ in video_module._Frames(video, 1)]
        predict_video(ColorPredictor(), video, tmp_path / "out", every=2)
        server.shutdown()
    assert times == pytest.approx([0.0, 0.2, 0.9])
    assert "does not tell its frame rate: the video with masks has 12.5 frames" in caplog.text


class ClockedCapture:
    """Stands for a video whose frames have given times, in milliseconds."""

    def __init__(self, clock, capture, path, source):
        self.capture, self.clock = capture(path), [None, *clock]

    def __getattr__(self, name):
        return getattr(self.capture, name)

    def grab(self):
        self.clock = self.clock[1:]
        return self.capture.grab()

    def get(self, name):
        return self.clock[0] if name == cv2.CAP_PROP_POS_MSEC else self.capture.get(name)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class JpegSender(QuietHandler):
    """Sends three JPEG images, one after the other, as cameras do."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for frame in draw_frames(3):
            data = cv2.imencode(".jpg", frame)[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            self.wfile.write(head.encode() + data + b"\r\n")


@pytest.mark.parametrize(
    ("clock", "expected"),
    [
        # The frame rate changes, and one frame has the time of the one before it.
        ([5000.0, 5100.0, 5130.0, 5130.0, 5400.0], [0.0, 0.1, 0.13, 0.13, 0.4]),
        ([0.0, 100.0, 90.0, 110.0, 150.0], [0.0, 0.1, 0.1, 0.11, 0.15]),
        ([0.0] * 5, [0.0, 0.05, 0.1, 0.15, 0.2]),  # no clock: the frame rate says it
        ([0.0, 0.0, 40.0, 80.0, 120.0], [0.0, 0.05, 0.05, 0.08, 0.12]),  # the clock begins late
        ([0.0, 1e5, 2e5, 3e5, 4e5], [0.0, 100.0, 200.0, 300.0, 400.0]),  # a frame every 100 s
        ([0.0, 50.0, 0.0, 150.0, 200.0], [0.0, 0.05, 0.1, 0.15, 0.2]),  # a frame without a time
        # Two recordings that were joined.
        (
            [1000.0, 1050.0, 3000.0, 1000.0, 1050.0, 1100.0, 1150.0],
            [0.0, 0.05, 2.0, 2.0, 2.0, 2.15, 2.2],
        ),
        (
            [0.0, 50.0, 100.0, 150.0, 0.0, 50.0, 100.0, 150.0],
            [0.0, 0.05, 0.1, 0.15, 0.2, 0.2, 0.2, 0.35],
        ),
        # One time is wrong.
        ([10000.0, 10050.0, 8000.0, 10150.0, 10200.0], [0.0, 0.05, 0.05, 0.15, 0.2]),
    ],
)
def test_a_frame_has_the_time_that_its_video_says(clock, expected, tmp_path, monkeypatch):
    video = write_video(tmp_path / "clip.mp4", draw_frames(len(clock)))
    opener = functools.partial(ClockedCapture, clock, cv2.VideoCapture, video.source)
    monkeypatch.setattr(cv2, "VideoCapture", opener)
    frames = video_module._Frames(video, 1)
    assert [moment for _, moment, _ in frames] == pytest.approx(expected)


def test_the_clock_of_a_camera_may_begin_late(tmp_path, monkeypatch):
    """Its first frames have no time; then come the seconds since the start of the machine."""
    write_video(tmp_path / "clip.mp4", draw_frames(5))
    clock = [0.0, 0.0, 5e6, 5e6 + 50, 5e6 + 100]
    opener = functools.partial(ClockedCapture, clock, cv2.VideoCapture, str(tmp_path / "clip.mp4"))
    monkeypatch.setattr(cv2, "VideoCapture", opener)
    ours = iter([7.0, 7.0, 7.02, 7.1, 7.2, 7.3])
    monkeypatch.setattr(video_module, "time", SimpleNamespace(monotonic=lambda: next(ours)))
    frames = video_module._Frames(VideoInput(0, "camera0"), 1)
    assert [moment for _, moment, _ in frames] == pytest.approx([0.0, 0.02, 0.07, 0.12, 0.17])


def test_a_stream_that_is_not_there_is_told(tmp_path):
    video = VideoInput("rtsp://127.0.0.1:9/live", "stream0")
    with pytest.raises(UserError, match="no video comes from there"):
        predict_video(ColorPredictor(), video, tmp_path)
    assert not list(tmp_path.iterdir())


def test_inputs_are_videos_cameras_and_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/x.mp4", "b/x.MOV", "b/x.png", "7"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.mp4").mkdir()
    given = ["a/x.mp4", "b/*.MOV", "b", "0", "7", "rtsp://host/live", "folder.mp4", "*.png"]
    videos, others = split_inputs([*given, "a/x.mp4"])
    assert [(video.source, video.name) for video in videos] == [
        (str(tmp_path / "a/x.mp4"), "a/x.mp4"),
        (str(tmp_path / "b/x.MOV"), "b/x.MOV"),
        (0, "camera0"),
        ("rtsp://host/live", "stream3"),
    ]
    assert others == ["b", "7", "folder.mp4", "*.png"]
    with pytest.raises(UserError, match="no video matches"):
        split_inputs(["c/*.mp4"])
