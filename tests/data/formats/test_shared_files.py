"""Two images of an export that lead to one file are refused; the same image twice is not."""

import pytest
from format_cases import H, W, only, read, save_image, write_json

from mask_rcnn_ext.errors import UserError

POINTS = [[4, 3], [14, 3], [14, 13]]


def read_label_studio(root, *addresses):
    value = {"points": POINTS, "polygonlabels": ["cat"]}
    result = [{"id": "a", "type": "polygonlabels", "value": value}]
    tasks = [{"data": {"image": a}, "annotations": [{"result": result}]} for a in addresses]
    save_image(root / "images" / "cat.jpg")
    return read(write_json(root / "tasks.json", tasks), "label-studio")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("/data/upload/1/0a1b2c3d-cat.jpg", "/data/upload/1/ffffffff-cat.jpg"),
        ("s3://bucket/day1/cat.jpg", "s3://bucket/day2/cat.jpg"),
        ("s3://bucket1/cat.jpg", "s3://bucket2/cat.jpg"),
        ("/data/local-files/?d=day1/cat.jpg", "/data/local-files/?d=day2/cat.jpg"),
    ],
)
def test_two_images_of_label_studio(first, second, tmp_path):
    with pytest.raises(UserError, match=r"task 2: the images .* same file cat\.jpg\. ") as error:
        read_label_studio(tmp_path, first, second)
    for address in (first, second):
        assert address.rpartition("=")[2] in str(error.value)


def test_the_same_image_of_label_studio_twice(tmp_path):
    addresses = [f"https://host/day1/cat.jpg?X-Sig={number}" for number in range(2)]
    assert len(only(read_label_studio(tmp_path, *addresses)[0])["images"]) == 2


@pytest.mark.parametrize("other", ["http://host:8080", "https://host/studio"])
def test_an_upload_is_the_same_at_each_host(other, tmp_path):
    upload = "/data/upload/1/0a1b2c3d-a%20cat.jpg"
    save_image(tmp_path / "images" / "a cat.jpg")
    images = only(read_label_studio(tmp_path, upload, other + upload)[0])["images"]
    assert [image["file_name"] for image in images] == ["a cat.jpg"] * 2
    with pytest.raises(UserError, match="lead to the same file"):
        read_label_studio(tmp_path, upload, other + upload.replace("0a1b", "ffff"))


def test_two_images_of_labelme(tmp_path):
    save_image(tmp_path / "photos" / "1.jpg")
    shape = {"label": "cat", "points": POINTS, "shape_type": "polygon"}
    for name in ("a", "b"):
        content = {"imagePath": f"C:\\photos\\{name}\\1.jpg", "shapes": [shape]}
        write_json(tmp_path / "jsons" / f"{name}.json", content)
    expected = r"b\.json: the images C:/photos/a/1\.jpg and C:/photos/b/1\.jpg lead to the same "
    with pytest.raises(UserError, match=rf"{expected}file 1\.jpg\. "):
        read(tmp_path / "jsons", "labelme", tmp_path / "photos")
    write_json(tmp_path / "jsons" / "b.json", {"imagePath": "C:\\photos\\a\\1.jpg", "shapes": []})
    dataset, _ = read(tmp_path / "jsons", "labelme", tmp_path / "photos")
    assert len(only(dataset)["images"]) == 2


def test_two_images_of_cvat(tmp_path):
    text = "<annotations><meta><project><labels><label><name>cat</name></label></labels>"
    text += "</project></meta>"
    for subset in ("Train", "Test"):
        text += f'<image name="1.png" subset="{subset}" width="{W}" height="{H}"/>'
    (tmp_path / "annotations.xml").write_text(f"{text}</annotations>")
    save_image(tmp_path / "images" / "1.png")
    expected = r"image 1\.png: the images Train/1\.png and Test/1\.png lead to the same file "
    with pytest.raises(UserError, match=expected):
        read(tmp_path, "cvat")
    (tmp_path / "annotations.xml").write_text(f"{text}</annotations>".replace("Test", "Train"))
    assert len(only(read(tmp_path, "cvat")[0])["images"]) == 2
