"""Hidden files, of macOS, Jupyter and Synology, are no data. Folders that are links are read."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from format_cases import only, read, save_image, whole_objects, write_json

from mask_rcnn_ext.data.formats import FORMATS, guess_format, write_dataset
from mask_rcnn_ext.data.formats.files import index_images
from mask_rcnn_ext.errors import UserError

WRITTEN = sorted(name for name, (_, write) in FORMATS.items() if write and name != "coco")


def hide_copies(folder):
    """Give each file below `folder` a file of macOS, and copies as of Jupyter and Synology."""
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")
        saved = path.parent / ".ipynb_checkpoints" / f"{path.stem}-checkpoint{path.suffix}"
        thumbnail = path.parent / "@eaDir" / path.name / f"SYNOPHOTO_THUMB_M{path.suffix}"
        for copy in (saved, thumbnail):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


@pytest.mark.parametrize("name", WRITTEN)
def test_hidden_files_are_not_read(name, tmp_path):
    dataset = whole_objects(tmp_path)
    output = tmp_path / "out"
    write_dataset(dataset, name, output)
    images = None if name in ("yolo", "voc", "labelme") else dataset.image_root
    expected = read(output, name, images)
    hide_copies(tmp_path)
    assert read(output, name, images) == expected
    if name != "id-images":  # which --from names
        assert guess_format(output) == name


def write_labelme(folder):
    """Write an image and its json, next to it, in two levels of folders."""
    points = [[4, 3], [14, 3], [14, 13], [4, 13]]
    shapes = [{"label": "cat", "points": points, "shape_type": "polygon"}]
    for inside in (folder, folder / "below"):
        save_image(inside / "1.png")
        write_json(inside / "1.json", {"shapes": shapes, "imagePath": "1.png"})


def test_folders_that_are_links_are_read(tmp_path):
    other, home = tmp_path / "other", tmp_path / "home"
    write_labelme(other)
    home.mkdir()
    (home / "day 1").symlink_to(other)
    (other / "circle").symlink_to(home)
    content = only(read(home, "labelme")[0])
    assert [i["file_name"] for i in content["images"]] == ["1.png", "below/1.png"]
    assert len(content["annotations"]) == 2


def test_a_link_to_a_folder_that_is_read_in_its_own_place(tmp_path):
    write_labelme(tmp_path / "day 1")
    (tmp_path / "day 1" / "last").symlink_to(tmp_path / "day 1" / "below")
    (tmp_path / "latest").symlink_to(tmp_path / "day 1")
    names = [i["file_name"] for i in only(read(tmp_path, "labelme")[0])["images"]]
    assert names == ["1.png", "below/1.png"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    output, iterdir = tmp_path / "out", Path.iterdir
    write_labelme(output)
    (output / "locked").mkdir()

    def refuse(folder):
        if folder.name == "locked":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UserError, match=r"folder .*locked cannot be listed: Permission denied"):
        read(output, "labelme")


def test_a_link_to_a_hidden_folder_is_read(tmp_path):
    """Its own place is not read."""
    home = tmp_path / "home"
    write_labelme(home / ".store" / "day 1")
    (home / "day 2").symlink_to(home / ".store" / "day 1")
    (home / ".store" / "day 1" / "again").symlink_to(home / ".store" / "day 1" / "below")
    (home / ".store" / "day 1" / "circle").symlink_to(home)
    names = [i["file_name"] for i in only(read(home, "labelme")[0])["images"]]
    assert names == ["1.png", "below/1.png"]


def test_only_files_are_listed(tmp_path):
    """Links that lead nowhere are none, and a pipe would block for ever."""
    save_image(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").symlink_to("a.jpg")
    (tmp_path / "a.png").symlink_to("gone.png")
    (tmp_path / "c.png").symlink_to("c.png")
    os.mkfifo(tmp_path / "d.png")
    assert list(index_images(tmp_path)) == ["a", "b"]
