"""A conversion writes nothing outside OUTPUT, whatever the names of images and splits are."""

from dataclasses import replace

import pytest
from format_cases import only, whole_objects

from mask_rcnn_ext.data.formats import FORMATS, write_dataset
from mask_rcnn_ext.errors import UserError

WRITTEN = [name for name, (_, write) in FORMATS.items() if write]


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def output_of(name, folder):
    return folder / ("all.json" if name == "coco" else "out")


@pytest.mark.parametrize("kind", ["absolute", "parent"])
@pytest.mark.parametrize("name", WRITTEN)
def test_images_outside_of_their_folder(name, kind, tmp_path):
    dataset = whole_objects(tmp_path / "data")
    root = tmp_path / "data" / "bilder"
    for image in only(dataset)["images"]:
        start = str(root) if kind == "absolute" else "../bilder"
        image["file_name"] = f"{start}/{image['file_name']}"
    before = files_of(tmp_path)
    output = output_of(name, tmp_path / "outputs")
    write_dataset(dataset, name, output)
    outside = {p: c for p, c in files_of(tmp_path).items() if p != output}
    assert {p: c for p, c in outside.items() if not p.is_relative_to(output)} == before
    if name == "id-images":
        assert sorted(p.name for p in output.iterdir()) == ["ein Bild.png", "leer.png", "é 2.png"]


def test_number_images_outside_of_the_folder_do_not_mix(tmp_path):
    dataset = whole_objects(tmp_path / "data")
    names = ["../a/1.png", "../b/1.png", "b/1.png"]
    for image, name in zip(only(dataset)["images"], names, strict=True):
        image["file_name"] = name
    write_dataset(dataset, "id-images", tmp_path / "out")
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in files_of(tmp_path / "out"))
    assert found == [".._a_1.png", ".._b_1.png", "b/1.png"]


@pytest.mark.parametrize("split", ["../all", "{}/all", "..", ".", "a/b", "a\\b", "a\0b", ""])
@pytest.mark.parametrize("name", WRITTEN)
def test_a_split_has_the_name_of_a_file(name, split, tmp_path):
    dataset = whole_objects(tmp_path / "data")
    splits = {"train": only(dataset), split.format(tmp_path): only(dataset)}
    dataset = replace(dataset, splits=splits)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "all.json").write_text("precious")
    before = files_of(tmp_path)
    with pytest.raises(UserError, match=r"the split '.*': expected a name that a file can have"):
        write_dataset(dataset, name, tmp_path / "outputs" / "out")
    assert files_of(tmp_path) == before
