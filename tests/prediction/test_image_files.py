"""Which files an input of a prediction stands for, and the names of their results."""

import os

import pytest

from mask_rcnn_ext import UserError
from mask_rcnn_ext.prediction.image_files import find_images


def names(*inputs, **kwargs) -> list[str]:
    return [file.name for file in find_images([str(i) for i in inputs], **kwargs)]


def test_find_images_by_folder_glob_and_file(tmp_path, monkeypatch):
    for name in ("b/2.jpg", "b/10.JPG", "b/deep/1.webp", "a/1.tiff", "a/[x].png", "odd.dat"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    assert names(tmp_path / "b") == ["2.jpg", "10.JPG"]
    assert names(tmp_path / "b", recursive=True) == ["2.jpg", "10.JPG", "deep/1.webp"]
    assert names(tmp_path / "*" / "1*") == ["a/1.tiff", "b/10.JPG"]
    assert names(tmp_path / "**" / "*.webp") == ["b/deep/1.webp"]
    assert names(tmp_path / "a" / "[x].png") == ["[x].png"]
    assert names(tmp_path / "odd.dat") == ["odd.dat"]
    assert names(tmp_path / "b", tmp_path / "b" / "2.jpg") == ["2.jpg", "10.JPG"]
    assert names(tmp_path / "b" / "2.jpg", tmp_path / "a") == ["b/2.jpg", "a/1.tiff", "a/[x].png"]
    monkeypatch.chdir(tmp_path)
    assert names("b", "b/../b/2.jpg", tmp_path / "b") == ["2.jpg", "10.JPG"]
    assert names("b/*", recursive=True) == ["2.jpg", "10.JPG"]


def test_a_pipe_is_left_out_and_never_read(tmp_path, caplog):
    """Opening it would block for ever."""
    (tmp_path / "x.png").touch()
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    assert names(tmp_path) == names(tmp_path / "*.png") == ["x.png"]
    assert f"{tmp_path}: left out pipes, sockets and devices: pipe.png" in caplog.text
    with pytest.raises(UserError, match="expected an image file, got a pipe, socket or device"):
        names(pipe)


def test_find_images_hints_at_subfolders(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "x.png").touch()
    with pytest.raises(UserError, match="its subfolders have some: add --recursive"):
        names(tmp_path / "in")
    with pytest.raises(UserError) as error:  # the only image is left out, and there is no subfolder
        names(tmp_path / "in/deep", exclude=[tmp_path / "in/deep/x.png"])
    assert "recursive" not in str(error.value)


def test_a_pattern_enters_no_folder_that_is_a_link(tmp_path):
    for name in ("a.png", "in/b.png", "in/deep/c.png", ".hidden/d.png", "in/.hidden/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("loop", "again", "in/up"):  # paths without end for glob.glob
        (tmp_path / name).symlink_to(tmp_path)
    (tmp_path / "itself").symlink_to("itself")
    for pattern, expected in (
        ("**/*.png", ["a.png", "b.png", "c.png"]),
        ("i*/**/*.png", ["b.png", "c.png"]),
        ("in/**", ["b.png", "c.png"]),
        ("loop/in/*.png", ["b.png"]),
    ):
        found = find_images([str(tmp_path / pattern)])
        assert [file.path.name for file in found] == expected, pattern


def test_hidden_files_and_folders_are_left_out(tmp_path):
    """Examples are the files of macOS and Jupyter, and the small copies of Synology."""
    hidden = ("._a.png", ".ipynb_checkpoints/a/a.png", "@eaDir/a.png/SYNOPHOTO_THUMB_M.png")
    for name in ("a.png", "in/deep/b.png", *hidden):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert names(tmp_path, recursive=True) == ["a.png", "in/deep/b.png"]
    assert names(tmp_path / "**" / "*.png") == ["a.png", "in/deep/b.png"]
    assert names(tmp_path / "*" / "*" / "*.png") == ["in/deep/b.png"]
    assert names(tmp_path / "@eaDir" / "*" / "*.png") == ["a.png/SYNOPHOTO_THUMB_M.png"]
