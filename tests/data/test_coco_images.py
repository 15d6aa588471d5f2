"""Which image files are found, which sizes are filled in, and what is refused."""

import os
from pathlib import Path
from typing import Any

import pytest
from coco_files import H, W, entry
from detectron2.data.detection_utils import read_image
from PIL import Image

from mask_rcnn_ext.data import coco_images
from mask_rcnn_ext.data.coco_images import check_image_sizes, find_image_files
from mask_rcnn_ext.data.findings import IssueCounter
from mask_rcnn_ext.data.images import ImageHeader


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder `images` with 1.png, 2.png and sub/deep/3.png."""
    root = tmp_path / "images"
    (root / "sub" / "deep").mkdir(parents=True)
    for name in ("1.png", "2.png", "sub/deep/3.png", "sub/\xe9.png"):
        Image.new("RGB", (W, H)).save(root / name)
    return root


def find(root: Path, *names: Any) -> tuple[list[str], list[str], str]:
    """Return the names afterwards ("" where no file was found), the faults, and the log."""
    images = [entry(i + 1, file_name=name) for i, name in enumerate(names)]
    completed = IssueCounter()
    paths, faults = find_image_files(images, str(root), completed)
    names_here = [i["file_name"] if path else "" for i, path in zip(images, paths, strict=True)]
    assert all(os.path.isfile(path) for path in paths if path)
    return names_here, faults, str(completed)


FOUND = {  # name -> `file_name`, the name here, what is said
    "as it is": ("1.png", "1.png", ""),
    "in sub-folders": ("sub/deep/3.png", "sub/deep/3.png", ""),
    "next to the folder": ("../images/1.png", "../images/1.png", ""),
    "backslashes": (r"sub\deep\3.png", "sub/deep/3.png", "had backslashes"),
    "the folder's own name": ("images/1.png", "1.png", "began with the name of the image"),
    "the folder with backslashes": (
        r"images\sub\deep\3.png",
        "sub/deep/3.png",
        "began with the name",
    ),
    "another machine": ("/home/ann/set/1.png", "1.png", "a path of another machine; only its end"),
    "its folders too": ("/home/ann/sub/deep/3.png", "sub/deep/3.png", "a path of another machine"),
    "out of the folder": ("../../media/upload/4/1.png", "1.png", "leads out of the image folder"),
    "that with backslashes": (r"..\..\x\sub\deep\3.png", "sub/deep/3.png", "leads out of"),
    "a sibling": (r"..\images\1.png", "../images/1.png", "had backslashes"),
    "quoted": ("sub/%C3%A9.png", "sub/\xe9.png", "was quoted as in a URL"),
    "a quoted path": ("/data/upload/1/sub/%C3%A9.png", "sub/\xe9.png", "a path of another machine"),
    "a drive": (r"C:\set\2.png", "2.png", "a path of another machine"),
    "a share": (r"\\server\set\2.png", "2.png", "a path of another machine"),
    "capitals": ("sub/deep/3.PNG", "sub/deep/3.png", "in other capitals"),
    "capitals of folders": ("SUB/./Deep/3.png", "sub/./deep/3.png", "in other capitals"),
    "an accent on its own": ("sub/e\u0301.png", "sub/\xe9.png", "in other capitals"),
    "a URL": ("https://x.org/a/2.png?w=40#top", "2.png", "a URL; only its end is used"),
    "a quoted URL": ("s3://bucket/sub%2Fdeep/3.png", "sub/deep/3.png", "a URL"),
}


@pytest.mark.parametrize(("name", "here", "said"), FOUND.values(), ids=FOUND)
def test_a_name_with_one_meaning_is_found(folder, name, here, said):
    names, faults, completed = find(folder, name)
    assert (names, faults) == ([here], [])
    assert said in completed
    assert bool(completed) == bool(said)


def test_a_path_of_this_machine_is_used_as_it_is(folder):
    name = str(folder / "1.png")
    assert find(folder / "sub", name) == ([name], [], "")


def test_an_image_may_be_listed_twice_under_one_name(folder):
    assert find(folder, "/pc/1.png", "/pc/1.png")[:2] == (["1.png", "1.png"], [])


def test_capitals_that_fit_two_files(folder):
    (folder / "2.PNG").touch()
    assert find(folder, "2.Png")[0] == [""]
    assert find(folder, "2.PNG", "2.png") == (["2.PNG", "2.png"], [], "")


def test_folders_in_other_capitals_and_accents(folder):
    (folder / "Pr\xfcfling").mkdir()
    (folder / "1.png").rename(folder / "Pr\xfcfling" / "1.png")
    assert find(folder, "pru\u0308fling/1.PNG")[0] == ["Pr\xfcfling/1.png"]  # as macOS writes it
    (folder / "pr\xfcfling").mkdir()
    assert find(folder, "PR\xdcFLING/1.png")[0] == [""]  # two folders fit
    assert find(folder, "Pr\xfcfling/1.PNG")[0] == ["Pr\xfcfling/1.png"]


@pytest.mark.parametrize("other", ["https://x.org/b/1.png", "1.png"])
def test_two_names_do_not_share_a_file(folder, other):
    names, (fault,), _ = find(folder, "/cam1/1.png", other, "2.png")
    assert names[0] == ""
    assert names[2] == "2.png"
    assert "of 3 image files are missing: /cam1/1.png" in fault


def test_relative_names_lose_no_other_folder(folder):
    names, (fault,), _ = find(folder, "val/1.png")
    assert names == [""]
    assert "1 of 1 image files are missing: val/1.png" in fault


def test_missing_files_are_counted_and_the_folder_shown(folder):
    gone = [f"sub/{i}.png" for i in range(4, 11)]
    names, (fault,), _ = find(folder, "1.png", *gone)
    assert names == ["1.png"] + [""] * 7
    assert "7 of 8 image files are missing: sub/4.png, " in fault
    assert "sub/8.png and 2 more. `file_name` is relative to the folder" in fault
    assert fault.endswith("which holds 1.png, 2.png, sub")
    assert find(folder, "sub/deep/3")[1][0].endswith("For sub/deep/3 there is 3.png")
    assert find(folder, "1.jpg")[1][0].endswith("For 1.jpg there is 1.png")


@pytest.mark.parametrize(
    ("given", "names", "right"),
    [
        pytest.param(".", ["images/1.png", "images/2.png"], ".", id="right"),
        pytest.param(".", ["1.png", "2.png"], "images", id="too high"),
        pytest.param("images", [r"deep\3.png"], "images/sub", id="too high, backslash"),
        pytest.param("images/sub", ["1.png", "2.png"], "images", id="too low"),
        pytest.param("images/sub/deep", ["1.png"], "images", id="two too low"),
        pytest.param("images", ["other/1.png"], ".", id="next to it"),
        pytest.param("annotations", ["deep/3.png"], "images/sub", id="below one next to it"),
    ],
)
def test_the_right_folder_is_suggested(folder, given, names, right):
    (folder.parent / "annotations").mkdir()
    (folder.parent / "other").mkdir()
    (folder.parent / "other" / "1.png").touch()
    root = folder.parent / given
    faults = find(root, *names)[1]
    if given == right:
        assert faults == []
    else:
        expected = f"They are in {folder.parent / right}: give this folder in place of {root}"
        assert faults[0].endswith(expected)


@pytest.mark.parametrize("mount", [False, True])
def test_each_folder_is_searched_once_and_no_whole_disk(folder, mount, monkeypatch):
    """Where the folder above is `/` or a disk, all that is on it could be listed."""
    (folder.parent / "other" / "deep").mkdir(parents=True)
    monkeypatch.setattr(os.path, "ismount", lambda path: mount and path == str(folder.parent))
    near = list(coco_images._nearby_folders(str(folder)))
    expected = [folder.parent, folder.parent.parent, folder / "sub", folder / "sub" / "deep"]
    expected += [] if mount else [folder.parent / "other", folder.parent / "other" / "deep"]
    assert near == list(map(str, expected))


def test_a_root_that_is_no_folder(folder):
    assert find(folder / "1.png", "1.png")[1] == [
        f"expected the folder of the images, got the file {folder / '1.png'}"
    ]
    (fault,) = find(folder.parent / "image", "1.png")[1]
    assert fault == f"image folder not found: {folder.parent / 'image'}; did you mean 'images'?"
    (folder / "loop").symlink_to(folder / "loop")
    (fault,) = find(folder / "loop", "1.png")[1]
    assert "loop is a link that leads to nothing or in a circle" in fault


def test_links_in_a_circle_hide_no_other_file(folder):
    (folder / "4.png").symlink_to(folder / "4.png")
    (folder / "5.png").symlink_to(folder / "2.png")
    (folder / "up").symlink_to(folder)
    (folder / "loop").symlink_to(folder / "loop")
    names, faults, _ = find(folder, "1.png", "4.png", "5.png", "up/2.png", "loop/1.png")
    assert names == ["1.png", "", "5.png", "up/2.png", ""]
    assert "2 of 5 image files are missing: 4.png (a link that leads to nothing or in" in faults[0]
    assert faults[1].startswith(f"folder {folder / 'loop'} cannot be listed: ")


def test_a_folder_is_no_image_and_not_missing(folder):
    (folder / "4.png").mkdir()
    _, faults, _ = find(folder, "1.png", "4.png")
    assert "1 of 2 image files are missing: 4.png (a folder). `file_name`" in faults[0]


@pytest.mark.parametrize("name", [..., None, "", 5])
def test_a_name_that_is_no_text(folder, name):
    assert find(folder, "1.png", name)[1] == [
        "1 of 2 images has no `file_name`: image 2 has no `file_name`"
    ]


def test_names_that_no_file_can_have(folder):
    assert len(find(folder, "a\0b/1.png", "https://[/3.png", "://")[1]) == 1


def check(folder: Path, *images: dict[str, Any]) -> tuple[set[int], list[str], str]:
    paths = [str(folder / i["file_name"]) if i["file_name"] else "" for i in images]
    completed = IssueCounter()
    bad, faults, parts = check_image_sizes(list(images), paths, completed)
    return bad, faults, "; ".join(filter(None, (str(completed), parts)))


def test_sizes_are_filled_in(folder):
    Image.new("L", (7, 5)).save(folder / "sub" / "3.png")
    image = entry(3, file_name="sub/3.png", width=None, height=...)
    completed = "1 x image size read from the file (first: 3)"
    assert check(folder, entry(1), image) == (set(), [], completed)
    assert image == {"id": 3, "file_name": "sub/3.png", "width": 7, "height": 5}
    completed = "1 x `width` of an image read as an integer (first: 1)"
    assert check(folder, entry(1, width=float(W))) == (set(), [], completed)
    assert check(folder, entry(4, file_name="", width=...)) == ({4}, [], "")


def test_a_size_that_contradicts_the_file(folder):
    swapped = entry(2, width=H, height=W)
    bad, (fault,), _ = check(folder, entry(1), swapped)
    assert bad == {2}
    assert "of 1 of 2 images contradict the files: image 2 (2.png) is 30 x 40 in" in fault
    assert "the json, the file is 40 x 30. " in fault
    (folder / "1.png").write_text("no image")
    bad, faults, _ = check(folder, entry(1), swapped)
    assert bad == {1, 2}
    assert faults[0].startswith(f"1 image file cannot be used: {folder / '1.png'}: cannot be read")
    assert faults[1:] == [fault]


def test_images_that_cannot_be_used_are_all_named(folder):
    for name in ("1.png", "2.png"):
        Image.new("I;16", (W, H)).save(folder / name)
    (fault,) = check(folder, entry(1), entry(2))[1]
    assert "2 image files cannot be used: " in fault
    assert "1.png: has more than 8 bits" in fault
    assert "The others: 2.png" in fault


def test_a_file_with_several_pages_is_reported(folder):
    pages = [Image.new("RGB", (W, H))] * 3
    pages[0].save(folder / "4.tif", save_all=True, append_images=pages[1:])
    _, faults, said = check(folder, entry(1), entry(4, file_name="4.tif"))
    assert faults == []
    assert said == "of images with several frames or pages, only the first is read: 4.tif (3)"


def test_an_image_that_is_too_large_says_so(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    said = "pixels, more than the limit of 200; scale it down, or set MASK_RCNN_EXT.DATA.MAX"
    assert said in check(folder, entry(1))[1][0]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_sizes_are_those_after_exif_orientation(folder, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    name = f"turned.{suffix}"
    Image.new("RGB", (W, H)).save(folder / name, exif=exif)
    assert check(folder, entry(1, file_name=name, width=H, height=W))[1] == []
    (fault,) = check(folder, entry(1, file_name=name))[1]
    assert "40 x 30 in the json, the file is 30 x 40, after its EXIF" in fault
    image = entry(1, file_name=name, width=0)
    assert check(folder, image)[1] == []
    assert (image["width"], image["height"]) == read_image(str(folder / name)).shape[1::-1]


def test_a_spread_of_headers_is_read(monkeypatch):
    read = []
    monkeypatch.setattr(coco_images, "HEADERS_CHECKED", 4)
    monkeypatch.setattr(
        coco_images, "read_header", lambda path: read.append(path) or ImageHeader(7, 5, False, 1)
    )
    check(Path(), *(entry(i, width=7, height=5) for i in range(10)))
    assert [os.path.basename(path) for path in read] == ["0.png", "3.png", "6.png", "9.png"]
