"""CVAT for images 1.1 as CVAT and datumaro write it."""

import re

import numpy as np
import pytest
from format_cases import H, W, classes_of, masks_of, only, read, save_image

from mask_rcnn_ext.data.formats import guess_format
from mask_rcnn_ext.errors import UserError

LABELS = """<labels>
        <label><name>zebra</name><color>#33ddff</color><type>any</type><attributes></attributes></label>
        <label>
          <name>cat</name>
          <attributes><attribute><name>old</name><mutable>False</mutable></attribute></attributes>
        </label>
        <label><name>1</name><type>points</type><parent>body</parent></label>
      </labels>"""
POLYGON = (
    '<polygon label="cat" source="manual" occluded="0" '
    'points="4.00,3.00;14.00,3.00;14.00,13.00;4.00,13.00" z_order="0" {}>'
    '<attribute name="old">true</attribute></polygon>'
)


def make(root, shapes, where="task", keys="", name="a b.png", mark=""):
    """Write an export; `where` is task, job or project, of which each has its own labels."""
    save_image(root / "images" / name)
    text = f"""<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <{where}><id>1</id><name>nuclei</name><size>1</size>{LABELS}</{where}>
    <dumped>2024-01-01 10:00:00.000000+00:00</dumped>
  </meta>
  <image id="0" name="{name}" {keys} width="40" height="30">
    {shapes}
  </image>
</annotations>"""
    (root / "annotations.xml").write_bytes((mark + text.replace("\n", "\r\n")).encode())
    return root


@pytest.mark.parametrize("where", ["task", "job", "project"])
def test_polygons_classes_and_odd_fields(where, tmp_path):
    root = make(tmp_path, POLYGON.format(""), where, 'task_id="3" subset="Train"', mark="\ufeff")
    dataset, counted = read(root, "cvat")
    assert classes_of(dataset) == ["zebra", "cat"]
    (annotation,) = only(dataset)["annotations"]
    assert annotation["segmentation"] == [[4, 3, 14, 3, 14, 13, 4, 13]]
    assert annotation["bbox"] == [4, 3, 10, 10]
    assert counted == {}


def test_runs_of_a_mask_go_along_the_rows_of_its_box(tmp_path):
    mask = '<mask label="cat" rle="0, 4, 1, 1, 1, 5" left="30" top="20" width="4" height="3"/>'
    expected = np.zeros((H, W), dtype=bool)
    expected[20:23, 30:34] = [[1, 1, 1, 1], [0, 1, 0, 1], [1, 1, 1, 1]]
    np.testing.assert_array_equal(masks_of(read(make(tmp_path, mask), "cvat")[0])[0], expected)


def test_groups_boxes_ellipses_and_shapes_without_an_area(tmp_path):
    shapes = [
        POLYGON.format('group_id="2"'),
        POLYGON.format('group_id="2"').replace("4.00", "24.00"),
        '<box label="cat" xtl="x" ytl="3" xbr="28" ybr="13" group_id="2" occluded="0"></box>',
        '<box label="cat" xtl="30" ytl="3" xbr="10" ybr="13" occluded="0"></box>',
        POLYGON.format('group_id="0"'),
        '<box label="zebra" xtl="10" ytl="10" xbr="20" ybr="12" rotation="90.0" z_order="0"/>',
        '<ellipse label="cat" cx="20.0" cy="15.0" rx="8" ry="4" rotation="90" z_order="1"/>',
        '<polyline label="cat" points="1,1;5,5"/>',
        '<points label="cat" points="1,1"/>',
        '<tag label="cat"/>',
        '<skeleton label="body"><points label="1" points="1,1"/></skeleton>',
    ]
    dataset, counted = read(make(tmp_path, "\n".join(shapes)), "cvat")
    found = only(dataset)["annotations"]
    assert len(found[0]["segmentation"]) == 2
    assert found[1]["segmentation"] == [[4, 3, 14, 3, 14, 13, 4, 13]]
    assert found[2]["bbox"] == [14, 6, 2, 10]
    assert "segmentation" not in found[2]
    assert found[3]["bbox"] == pytest.approx([16, 7, 8, 16], abs=0.01)
    assert counted == {
        "box in a group with masks: left out": 1,
        "box without a mask: kept as a box": 2,
        "box without width or height: left out": 1,
        "polyline: left out": 1,
        "points: left out": 1,
        "tag: left out": 1,
        "skeleton: left out": 1,
    }


def test_an_export_without_its_images_says_how_to_name_them(tmp_path):
    make(tmp_path, POLYGON.format("")).joinpath("images").rename(tmp_path / "photos")
    with pytest.raises(UserError, match=r"xml: image folder not found: .*Give it with --images"):
        read(tmp_path, "cvat")
    assert len(only(read(tmp_path, "cvat", tmp_path / "photos")[0])["images"]) == 1


def test_subsets_of_a_project_are_splits_in_folders(tmp_path):
    make(tmp_path, "", "project", 'subset="Train"')
    text = (tmp_path / "annotations.xml").read_text()
    image = (
        f'<image id="1" name="2.png" subset="Validation" width="40" height="30">{POLYGON}</image>'
    )
    (tmp_path / "annotations.xml").write_text(
        text.replace("</annotations>", f"{image.format('')}</annotations>")
    )
    save_image(tmp_path / "images" / "Validation" / "2.png")
    dataset, _ = read(tmp_path / "annotations.xml", "cvat")
    files = {k: c["images"][0]["file_name"] for k, c in dataset.splits.items()}
    assert files == {"train": "a b.png", "val": "Validation/2.png"}


@pytest.mark.parametrize("file", ["frame_000000.PNG", "frame_000000.png", "Train/frame_000000.PNG"])
def test_a_frame_of_a_video_has_a_name_without_an_ending(file, tmp_path):
    """CVAT writes `name="frame_000000"`, and the file with an ending."""
    make(tmp_path, POLYGON.format(""), keys='subset="Train"', name="frame_000000.png")
    xml = tmp_path / "annotations.xml"
    xml.write_text(xml.read_text().replace("000.png", "000"))
    image = (tmp_path / "images" / "frame_000000.png").rename(tmp_path / "0.png")
    (tmp_path / "images" / file).parent.mkdir(exist_ok=True)
    image.rename(tmp_path / "images" / file)
    assert [i["file_name"] for i in only(read(tmp_path, "cvat")[0])["images"]] == [file]
    (tmp_path / "images" / file).unlink()
    with pytest.raises(UserError, match=r"1 image files are missing: frame_000000\. "):
        read(tmp_path, "cvat")


def test_images_of_one_name_in_two_subsets_are_two_files(tmp_path):
    root = make(tmp_path, POLYGON.format(""), "project", 'subset="Train"', "frame_000000.png")
    (root / "images" / "frame_000000.png").unlink()
    text = (root / "annotations.xml").read_text()
    (entry,) = re.findall("<image.*</image>", text, re.DOTALL)
    text = text.replace(entry, entry + entry.replace("Train", "Test").replace("4.00", "24.00"))
    (root / "annotations.xml").write_text(text)
    for subset in ("Train", "Test"):
        save_image(root / "images" / subset / "frame_000000.png")
    dataset, _ = read(root, "cvat")
    files = {k: [i["file_name"] for i in c["images"]] for k, c in dataset.splits.items()}
    assert files == {"train": ["Train/frame_000000.png"], "test": ["Test/frame_000000.png"]}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ('<mask label="cat" rle="0, 4" left="0" top="0" width="3" height="2"/>', "cover 4 pixels"),
        ('<mask label="cat" rle="0, 6" left="39" top="0" width="3" height="2"/>', "x 39, y 0"),
        (
            '<mask label="cat" rle="9223372036854775807, 9223372036854775807, 6" left="0" top="0" '
            'width="2" height="2"/>',
            "cover 18446744073709551620 pixels",
        ),
        ('<mask label="cat" rle="6" left="3" top="3" width="-3" height="-2"/>', "of -3 x -2 at"),
        ('<mask label="cat" rle="6" left="nan" top="0"/>', "`left`: expected a number, got 'nan'"),
        (POLYGON.format('group_id="inf"'), "`group_id`: expected a number, got 'inf'"),
        ('<mask label="cat" rle="a" left="0" top="0" width="3" height="2"/>', "whole numbers"),
        ('<polygon label="cat" points="1,2;3"/>', "`points`: expected x,y;x,y"),
        ('<polygon points="1,2;3,4;5,6"/>', "<polygon> has no `label`"),
        ('<polygon label="cta" points="1,2;3,4;5,9"/>', "did you mean 'cat'"),
        ('<star label="cat"/>', "unknown shape <star>"),
    ],
)
def test_a_wrong_shape_is_named(shape, message, tmp_path):
    root = make(tmp_path, f"{POLYGON.format('')}{shape}")
    with pytest.raises(UserError, match=r"annotations\.xml, image a b\.png, shape 2 ") as error:
        read(root, "cvat")
    assert message in str(error.value)


def test_a_wrong_file_is_named(tmp_path):
    root = make(tmp_path, "<track/>")
    path = root / "annotations.xml"
    for text, message in (
        ("<annotations><track/></annotations>", "tracks of a video"),
        ("<annotations><image", "not xml: .* line 1"),
        ("<annotation/>", "expected the element `annotations`"),
        ("<annotations/>", "no image is listed"),
        (
            '<annotations><image name="a b.png" width="40"/></annotations>',
            "<image> has no `height`",
        ),
        ('<annotations><image name="c.png" width="4" height="3"/></annotations>', "missing: c.png"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read(root, "cvat")


@pytest.mark.parametrize("encoding", ["big5", "utf_88"])
def test_an_encoding_that_cannot_be_read_is_named(encoding, tmp_path):
    path = tmp_path / "annotations.xml"
    path.write_text(f"<?xml version='1.0' encoding='{encoding}'?><annotations/>")
    with pytest.raises(UserError, match=r"annotations\.xml: not xml: .*encoding"):
        read(path, "cvat")
    with pytest.raises(UserError, match="no format that can be guessed"):
        guess_format(path)
