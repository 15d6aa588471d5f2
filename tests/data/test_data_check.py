"""A check of a data set: the faults and warnings of training, and what only a person can judge."""

import json
from pathlib import Path

import numpy as np
import pytest
from coco_files import H, W, annotation, content, entry
from PIL import Image
from support import write_coco

from mask_rcnn_ext.data.data_check import check_dataset
from mask_rcnn_ext.data.findings import Example
from mask_rcnn_ext.data.own_data import register_own_data
from mask_rcnn_ext.errors import UserError


def draw(path: Path, seed: int = 0) -> np.ndarray:
    """Write an image of smooth, random brightness; return its pixels."""
    path.parent.mkdir(exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((W, H), Image.Resampling.BICUBIC)
    image.save(path)
    return np.asarray(image)


def write(folder: Path, split: str = "train", **changes) -> list[str]:
    """Write a json of the images 1 and 2, with the files it lists; return its two arguments."""
    coco = content(**changes) if "annotations" in changes else content(annotation(6), **changes)
    for image in coco["images"]:
        if not (path := folder / split / image["file_name"]).exists():
            draw(path, len(path.parent.name) + image["id"])
    (folder / f"{split}.json").write_text(json.dumps(coco))
    return [str(folder / f"{split}.json"), str(folder / split)]


def texts(check, level: str) -> list[str]:
    return [finding.text for finding in check.findings if finding.level == level]


def find(check, words: str):
    (finding,) = [finding for finding in check.findings if words in finding.text]
    return finding


def test_sound_data(tmp_path):
    path, images = write_coco(tmp_path, images=12)
    check = check_dataset(str(path), str(images))
    assert texts(check, "error") == texts(check, "warning") == []
    assert check.class_names == ["cat", "dog"]
    objects = check.splits["train"].objects
    assert objects.per_image == [2] * 12
    assert sum(objects.per_class.values()) == len(objects.sizes) == 24
    assert not objects.tiny + objects.huge + objects.crowds + objects.empty


@pytest.mark.parametrize(
    "changes",
    [
        {"images": [entry(1), entry(1)]},
        {"images": [entry(1, width=W + 1), entry(2)]},
        {"annotations": [annotation(1, category_id=9), annotation(2, bbox=[1, 1, 0, 0])]},
        {"annotations": [annotation(1, segmentation=[])]},
        {"categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "cat"}]},
    ],
    ids=["ids", "size", "reference", "no mask", "names"],
)
def test_errors_are_the_faults_of_training(tmp_path, changes):
    pairs = write(tmp_path, **changes), write(tmp_path, "val", images=[entry(4, file_name="4.png")])
    Path(tmp_path, "val", "4.png").unlink()
    arguments = [*pairs[0], *pairs[1]]
    check = check_dataset(*arguments)
    with pytest.raises(UserError) as refused:
        register_own_data(*arguments, clean_dir=str(tmp_path / "clean"))
    assert str(refused.value).splitlines()[1:] == [f"  {text}" for text in texts(check, "error")]
    assert len(texts(check, "error")) > 1


def test_warnings_are_those_of_training_with_their_places(tmp_path):
    twins = [annotation(1), annotation(2), annotation(3, image_id=2, bbox=[30, 0, 5, 5])]
    bad = [annotation(4, image_id=2, segmentation=[[1, 1, 2, 2]]), annotation(5, category_id=3)]
    arguments = write(tmp_path, annotations=[*twins, *bad])
    val = write(tmp_path, "val", images=[entry(7, file_name="7.png")], annotations=[])
    Path(tmp_path, "val", "7.png").write_bytes(Path(tmp_path, "train", "2.png").read_bytes())
    check = check_dataset(*arguments, *val)
    own = register_own_data(*arguments, *val, clean_dir=str(tmp_path / "clean"))
    assert list(own.warnings) == texts(check, "warning")[: len(own.warnings)]
    assert len(own.warnings) == 5
    assert find(check, "contradict their masks").examples == [Example("train", 1, (3,))]
    assert find(check, "repeat an object").examples == [Example("train", 0, (1, 2))]
    (dropped,) = find(check, "dropped 1 of 5").examples
    assert (dropped.image, dropped.annotation_ids) == (1, (4,))
    assert dropped.text.startswith("polygon that is not")
    # What training says is not said again in other words.
    assert not any("hold the same pixels" in finding.text for finding in check.findings)
    twins = find(check, "nearly the same pixels").examples
    assert [example.annotation_ids for example in twins] == [(1, 5)]
    shared = find(check, "are also in")
    assert shared.examples == [Example("train", 1), Example("val", 0)]


def test_one_object_under_two_classes(tmp_path):
    near = annotation(2, category_id=3, segmentation=[[10, 10, 20, 10, 20, 19, 10, 20]])
    far = annotation(3, segmentation=[[10, 10, 20, 10, 20, 12, 10, 12]])  # of the same box
    check = check_dataset(*write(tmp_path, annotations=[annotation(1), near, far]))
    twins = find(check, "nearly the same pixels")
    assert twins.level == "warning"
    assert [example.annotation_ids for example in twins.examples] == [(1, 2)]
    assert twins.examples[0].text == "IoU 0.95, cat and dog"


def test_tiny_huge_crowds_and_empty_images(tmp_path):
    square = [[0, 0, 7, 0, 7, 7, 0, 7]]
    whole = [[0, 0, W, 0, W, H, 0, H]]
    annotations = [
        annotation(1),
        annotation(2, bbox=[0, 0, 7, 7], segmentation=square),
        annotation(3, bbox=[0, 0, W, H], segmentation=whole),
        annotation(4, iscrowd=1),
    ]
    check = check_dataset(*write(tmp_path, annotations=annotations))
    for words, ids in (
        ("are tiny", (2,)),
        ("at least 90%", (3,)),
        ("1 crowd region, neither", (4,)),
    ):
        finding = find(check, words)
        assert finding.level == "note"
        assert finding.examples == [Example("train", 0, ids)]
    assert find(check, "no annotation: 2.png").examples == [Example("train", 1)]
    assert "1 of 2 classes has fewer than 10 objects" in find(check, "fewer than").text


@pytest.mark.parametrize(("crowds", "level"), [(1, "note"), (2, "warning")])
def test_crowds_are_told_once(tmp_path, crowds, level):
    """Two of ten are many; training warns of them, and the check repeats its words."""
    boxes = [[[x, 0, x + 4, 0, x + 4, 9, x, 9]] for x in range(0, 50, 5)]
    annotations = [
        annotation(i + 1, segmentation=box, bbox=[5 * i, 0, 4, 9], iscrowd=int(i < crowds))
        for i, box in enumerate(boxes)
    ]
    check = check_dataset(*write(tmp_path, annotations=annotations))
    (finding,) = [f for f in check.findings if "crowd region" in f.text]
    assert finding.level == level


def test_a_class_without_objects_in_val(tmp_path):
    both = [annotation(1), annotation(2, category_id=3, image_id=2)]
    check = check_dataset(*write(tmp_path, annotations=both), *write(tmp_path, "val"))
    assert find(check, "and so no AP").text.endswith("no AP: dog")


def test_what_the_pixels_tell(tmp_path):
    """Files that training's first check lets pass, one colour, grey images, and unlisted ones."""
    names = ["broken.png", "plain.png", "grey.png", "fine.png"]
    images = [entry(i, file_name=name) for i, name in enumerate(names)]
    arguments = write(
        tmp_path, images=images, annotations=[annotation(1), annotation(2, image_id=3)]
    )
    folder = tmp_path / "train"
    data = (folder / "broken.png").read_bytes()
    (folder / "broken.png").write_bytes(data[:80] + b"\xff" * (len(data) - 100) + data[-20:])
    Image.new("RGB", (W, H), (9, 9, 9)).save(folder / "plain.png")
    Image.open(folder / "grey.png").convert("L").save(folder / "grey.png")
    draw(folder / "other.png", 77)
    register_own_data(*arguments, "", "", clean_dir=str(tmp_path))
    check = check_dataset(*arguments)
    assert f"{folder / 'broken.png'}: cannot be read" in find(check, "stop it later").text
    assert check.findings[0].level == "error"
    assert find(check, "one colour").examples == [Example("train", 1)]
    kinds = find(check, "several kinds")
    assert "3 x PNG RGB, 8 bit, 1 x PNG grey, 8 bit" in kinds.text
    assert kinds.examples == [Example("train", 2, (), "PNG grey, 8 bit")]


def test_files_with_several_pages_are_a_warning(tmp_path):
    """The warning names other places than the malformed annotation."""
    annotations = [annotation(1), annotation(2, segmentation=[[1, 1, 2, 2]])]
    images = [entry(1), entry(2, file_name="2.tif")]
    arguments = write(tmp_path, images=images, annotations=annotations)
    pages = [Image.new("RGB", (W, H), (0, 0, i)) for i in range(3)]
    pages[0].save(tmp_path / "train" / "2.tif", save_all=True, append_images=pages[1:])
    said = "several frames or pages, only the first is read: 2.tif (3)"
    finding = find(check_dataset(*arguments), said)
    assert (finding.level, finding.examples) == ("warning", [])


def test_unlisted_files(tmp_path):
    arguments = write(tmp_path)
    draw(tmp_path / "train" / "more.png")
    (tmp_path / "train" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "._more.png").write_text("a file of macOS")
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    draw(tmp_path / "train" / ".ipynb_checkpoints" / "more-checkpoint.png")
    (tmp_path / "train" / "@eaDir" / "more.png").mkdir(parents=True)  # of Synology
    draw(tmp_path / "train" / "@eaDir" / "more.png" / "SYNOPHOTO_THUMB_M.png")
    finding = find(check_dataset(*arguments), "in no json")
    assert "1 of 3 image files are in no json: more.png" in finding.text


def test_copies_in_other_files(tmp_path):
    """The same pixels in another format, and the same picture smaller and compressed."""
    train = write(tmp_path)
    val_images = [entry(1, file_name="a.bmp"), entry(2, file_name="b.jpg", width=20, height=15)]
    small = annotation(1, image_id=1)
    val = write(tmp_path, "val", images=val_images, annotations=[small])
    first, second = (Image.open(tmp_path / "train" / f"{i}.png") for i in (1, 2))
    first.save(tmp_path / "val" / "a.bmp")
    second.resize((20, 15)).save(tmp_path / "val" / "b.jpg", quality=60)
    check = check_dataset(*train, *val)
    same, alike = find(check, "hold the same pixels"), find(check, "look alike")
    assert same.level == alike.level == "warning"
    assert same.examples == [Example("train", 0), Example("val", 0)]
    assert alike.examples == [Example("train", 1), Example("val", 1)]
    assert "1.png = a.bmp" in same.text
    assert "2.png = b.jpg" in alike.text


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": 3}', "[" * 100_000])
def test_a_file_that_is_no_coco_json(tmp_path, text):
    (tmp_path / "train.json").write_text(text)
    check = check_dataset(str(tmp_path / "train.json"), str(tmp_path))
    assert [finding.level for finding in check.findings] == ["error"]
    assert check.splits["train"].images == []


def test_an_image_folder_that_is_not_there(tmp_path):
    check = check_dataset(write(tmp_path)[0], str(tmp_path / "nowhere"))
    assert "image folder not found" in texts(check, "error")[0]


def test_without_masks(tmp_path):
    arguments = write(tmp_path, annotations=[annotation(1, segmentation=...)])
    assert check_dataset(*arguments).count("error") == 1
    check = check_dataset(*arguments, masks=False)
    assert check.count("error") == 0
    assert check.splits["train"].objects.sizes == [10]
