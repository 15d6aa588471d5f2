"""Label Studio's json, and its code of brush masks."""

import numpy as np
import pytest
from format_cases import H, W, classes_of, masks_of, only, read, save_image, write_json

from mask_rcnn_ext.data.formats.label_studio_rle import decode_brush, encode_brush
from mask_rcnn_ext.errors import UserError

# A mask of 6 x 5 pixels, a 4 x 3 frame at x 1, y 1: `mask2rle` of label-studio-sdk made it.
FRAME = [0, 0, 0, 120, 57, 27, 254, 27, 0, 191, 255, 56, 4, 127, 243, 128, 71, 255, 56, 5, 255, 252]
FRAME += [54, 0]
# 3 x 2 pixels with colours: the first pixel has been wiped out, only the fourth channel counts.
PAINTED = [0, 0, 0, 24, 57, 27, 248, 25, 16, 132, 194, 0, 0, 160, 3, 192, 127, 222, 0, 2, 0]


def region(kind, value, label="cat", number="Fx1", **keys):
    size = {"original_width": W, "original_height": H, "image_rotation": 0}
    named = {"id": number, "from_name": "label", "to_name": "image", "origin": "manual"}
    labels = {f"{kind}labels": [label]} if label else {}
    return {**size, "value": {**value, **labels}, "type": f"{kind}labels", **named, **keys}


# 10 x 10 pixels at x 4, y 3, in percent
SQUARE = {"points": [[10, 10], [35, 10], [35, 130 / 3], [10, 130 / 3]], "closed": True}


def task(*results, image="/data/upload/1/0a1b2c3d-a_b.png", number=17, **keys):
    annotation = {
        "id": 1,
        "completed_by": 1,
        "result": list(results),
        "was_cancelled": False,
        "ground_truth": False,
        "updated_at": "2024-01-02T00:00:00Z",
        "lead_time": 3.2,
    }
    keys = {"annotations": [annotation], "drafts": [], "predictions": [], **keys}
    return {"id": number, "file_upload": "0a1b2c3d-a_b.png", "data": {"image": image}, **keys}


def make(root, *tasks, name="a_b.png"):
    save_image(root / "images" / name)
    return write_json(root / "export.json", list(tasks))


def test_the_code_of_the_tool():
    frame = np.zeros((5, 6), dtype=bool)
    frame[1:4, 1:5] = True
    frame[2, 2:4] = False
    np.testing.assert_array_equal(decode_brush(FRAME, 5, 6), frame)
    assert encode_brush(frame) == FRAME
    np.testing.assert_array_equal(decode_brush(PAINTED, 2, 3), [[0, 1, 0], [0, 0, 1]])


@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (150, 131)])
def test_the_code_gives_back_every_mask(shape):
    rng = np.random.default_rng(0)
    for share in (0, 0.01, 0.5, 1):  # runs of one pixel, and of more than 2 ** 16 values
        mask = rng.random(shape) < share
        np.testing.assert_array_equal(decode_brush(encode_brush(mask), *shape), mask)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (FRAME[:-3], "ends too early"),
        ("1,2", "expected a list of bytes"),
        ([256], "expected a list of bytes"),
        ([0, 0, 0, 121, *FRAME[4:]], "holds 121 values; an image of 6 x 5"),
    ],
)
def test_a_broken_code_is_refused(code, message):
    with pytest.raises(ValueError, match=message):
        decode_brush(code, 5, 6)


def test_polygons_brushes_ellipses_and_rectangles(tmp_path):
    mask = np.zeros((H, W), dtype=bool)
    mask[20:25, 3:9] = True
    path = make(
        tmp_path,
        task(
            region("polygon", SQUARE),
            region("brush", {"format": "rle", "rle": encode_brush(mask)}, "dog", "b"),
            region("ellipse", {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20}, number="c"),
            region("rectangle", {"x": 10, "y": 10, "width": 25, "height": 50}, number="d"),
            region("keypoint", {"x": 1, "y": 1, "width": 1}, number="e"),
            region("polygon", SQUARE, label=None, number="f"),
            {"value": {"choices": ["good"]}, "id": "g", "type": "choices", "from_name": "c"},
        ),
    )
    dataset, counted = read(path, "label-studio")
    assert classes_of(dataset) == ["cat", "dog"]
    square, brush, ellipse, box = only(dataset)["annotations"]
    assert square["segmentation"] == [[4, 3, 14, 3, 14, 13, 4, 13]]
    assert brush["area"] == 30
    assert ellipse["bbox"] == pytest.approx([16, 9, 8, 12], abs=0.1)
    assert box["bbox"] == [4, 3, 10, 15]
    assert "segmentation" not in box
    assert only(dataset)["images"][0]["file_name"] == "a_b.png"
    assert counted == {
        "box without a mask: kept as a box": 1,
        "region of the type keypointlabels: left out": 1,
        "region without a label: left out": 1,
        "region of the type choices: left out": 1,
    }


def test_shape_and_label_may_be_two_results_of_one_id(tmp_path):
    shape = {**region("polygon", SQUARE, label=None), "type": "polygon"}
    label = {**region("labels", {"labels": ["fox"]}, label=None), "type": "labels"}
    dataset, _ = read(make(tmp_path, task(shape, label)), "label-studio")
    assert classes_of(dataset) == ["fox"]
    assert masks_of(dataset)[0].sum() == 100


def test_one_annotation_of_a_task_is_read(tmp_path):
    drawn = [region("polygon", SQUARE)]
    old = {"result": [], "updated_at": "2024-01-01T00:00:00Z"}
    new = {"result": drawn, "updated_at": "2024-02-01T00:00:00Z"}
    skipped = {"result": drawn, "updated_at": "2024-03-01T00:00:00Z", "was_cancelled": True}
    truth = {**old, "ground_truth": True}
    for annotations, objects, several in (
        ([new, old, skipped], 1, 1),
        ([new, truth], 0, 1),
        ([old], 0, 0),
    ):
        tasks = [task(annotations=annotations), task(*drawn)]
        dataset, counted = read(make(tmp_path, *tasks), "label-studio")
        assert len(only(dataset)["images"]) == 2
        assert len(only(dataset)["annotations"]) == objects + 1
        assert counted.get("task with several annotations: only one is read", 0) == several
    tasks = [task(annotations=[skipped]), task(annotations=[]), task(*drawn)]
    dataset, counted = read(make(tmp_path, *tasks), "label-studio")
    assert len(only(dataset)["images"]) == 1
    assert counted == {
        "skipped task: left out": 1,
        "task without an annotation: left out": 1,
    }


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/upload/1/0a1b2c3d-a_b.png", "0a1b2c3d-a_b.png"),
        ("/data/local-files/?d=photos/%C3%A9%202.png", "photos/é 2.png"),
        ("/data/local-files/?d=d/photos/1.png", "1.png"),
        ("https://host/bucket/a%20b.png?X-Sig=1", "a b.png"),
        ("s3://bucket/x/1.png", "1.png"),
    ],
)
def test_addresses_of_images(address, name, tmp_path):
    path = make(tmp_path, task(region("polygon", SQUARE), image=address), name=name)
    assert only(read(path, "label-studio")[0])["images"][0]["file_name"] == name


def test_the_order_of_the_classes_is_in_the_labelling_interface(tmp_path):
    path = make(tmp_path, task(region("polygon", SQUARE)))
    labels = '<Label value="zebra"/><Label value="cat" background="#f00"/>'
    (tmp_path / "label_config.xml").write_text(
        f'<View><Image name="image" value="$image"/><PolygonLabels name="label" toName="image">'
        f"{labels}</PolygonLabels></View>"
    )
    assert classes_of(read(path, "label-studio")[0]) == ["zebra", "cat"]
    config = (tmp_path / "label_config.xml").read_text()
    (tmp_path / "label_config.xml").write_text(  # the export has the alias
        config.replace('value="cat"', 'value="A cat, not a dog" alias="cat"')
    )
    assert classes_of(read(path, "label-studio")[0]) == ["zebra", "cat"]
    (tmp_path / "label_config.xml").write_text("<View><Image")
    with pytest.raises(UserError, match=r"label_config\.xml: not xml: .* line 1"):
        read(path, "label-studio")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": {"brushlabels": ["cat"], "rle": FRAME}}, "`rle`: holds 120 values"),
        ({"image_rotation": 90}, "turned by 90 degrees"),
        ({"type": "polygonlabels", "value": {"polygonlabels": ["cat"], "points": [1]}}, "percent"),
        (
            {"type": "rectanglelabels", "value": {"labels": ["cat"], "x": 1, "y": None}},
            "`y`: expected a number, got None",
        ),
        (
            {"type": "polygonlabels", "value": {"labels": ["cat"], "points": [[10**400, 1]]}},
            "`points`: expected a list of [x, y] in percent",
        ),
        (
            {
                "type": "rectanglelabels",
                "value": {"labels": ["cat"], "x": 1, "y": 1, "rotation": "abc"},
            },
            "`rotation`: expected a number, got 'abc'",
        ),
    ],
)
def test_a_wrong_region_is_named(changes, message, tmp_path):
    path = make(
        tmp_path, task(region("polygon", SQUARE), {**region("brush", {}, number="q"), **changes})
    )
    with pytest.raises(UserError, match=r"export\.json, task 17, region q: ") as error:
        read(path, "label-studio")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": [1]}, "`id`: expected a text or a number, got [1]"),
        ({"type": ["polygon"]}, "`type`: expected a text or a number, got ['polygon']"),
        ({"value": "x"}, "`value`: expected an object, got x"),
        ({"value": [1, 2]}, "`value`: expected an object, got [1, 2]"),
        ({"original_width": [40]}, "`original_width`: expected a text or a number, got [40]"),
    ],
)
def test_a_wrong_result_is_named(changes, message, tmp_path):
    path = make(tmp_path, task({**region("polygon", SQUARE), **changes}))
    with pytest.raises(UserError, match=r"export\.json, task 17: ") as error:
        read(path, "label-studio")
    assert message in str(error.value)


EMBEDDED = f"data:image/png;base64,{'iVBORw0KGgo/' * 100}"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"data": ["a_b.png"]}, "`data`: expected an object, got ['a_b.png']"),
        ({"data": {"image": EMBEDDED}}, "`data` holds an image itself, expected the name of a "),
        ({"data": {"photo": EMBEDDED}}, "`data` holds an image itself, expected the name of a "),
        ({"data": {"image": 5}}, "`data` names no image"),
        ({"data": {"image": f"{'x' * 5000}.png"}}, "1 of 1 image files are missing: xxx"),
        ({"annotations": 5}, "`annotations`: expected a list, got 5"),
        ({"annotations": [{"result": 5}]}, "`result`: expected a list, got 5"),
        ({"annotations": [{"result": [5]}]}, "`result`: expected objects, got 5"),
    ],
)
def test_a_wrong_task_is_named(keys, message, tmp_path):
    with pytest.raises(UserError, match=r"export\.json, task 17: ") as error:
        read(make(tmp_path, task(region("polygon", SQUARE), **keys)), "label-studio")
    assert message in str(error.value)


def test_an_address_that_is_no_url_ends_with_the_name(tmp_path):
    path = make(tmp_path, task(region("polygon", SQUARE), image="http://[host/a_b.png"))
    assert only(read(path, "label-studio")[0])["images"][0]["file_name"] == "a_b.png"


def test_a_wrong_file_is_named(tmp_path):
    path = make(tmp_path, task(region("polygon", SQUARE, original_width=41)))
    with pytest.raises(UserError, match=r"task 17: says 41 x 30 pixels .* the file is 40 x 30"):
        read(path, "label-studio")
    path = make(tmp_path, task(region("polygon", SQUARE), image="/data/upload/1/0a1b2c3d-c.png"))
    expected = r"task 17: 1 of 1 image files are missing: 0a1b2c3d-c\.png"
    with pytest.raises(UserError, match=expected):
        read(path, "label-studio")
    write_json(path, [{"image": "a.png", "label": []}])
    with pytest.raises(UserError, match="not JSON-MIN"):
        read(path, "label-studio")


def test_the_folder_of_an_export(tmp_path):
    path = make(tmp_path, task(region("polygon", SQUARE)))
    from_folder, from_json = (only(read(place, "label-studio")[0]) for place in (tmp_path, path))
    assert from_folder == from_json
    write_json(tmp_path / "more.json", [])
    with pytest.raises(UserError, match=r"in this folder, found export\.json, more\.json"):
        read(tmp_path, "label-studio")
    with pytest.raises(UserError, match="in this folder, found none"):
        read(tmp_path / "images", "label-studio")


def test_two_folders_of_one_split_are_refused(tmp_path):
    for name in ("val", "validation"):
        make(tmp_path / name, task(), name="a_b.png").rename(tmp_path / name / "tasks.json")
    with pytest.raises(UserError, match=r"val/tasks\.json and .*tion/tasks\.json are both of the"):
        read(tmp_path, "label-studio")
