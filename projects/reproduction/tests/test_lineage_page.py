"""`make lineage`: what is measured of the runs, the pictures, the page and docs/lineage.md."""

import json
import pickle
import re
from dataclasses import replace

import make_tables
import numpy as np
import pytest
import run_lineage as tool
from fake_lineage import (
    FAST,
    FASTER,
    MASK,
    RCNN,
    SETS,
    TRAINED,
    FakeLineage,
    small_sets,
    use_small_configs,
)
from page_copies import copy_pages
from PIL import Image
from reproduction.lineage.inference import find_best_proposals, load_model
from reproduction.lineage.page import write_lineage
from reproduction.lineage.papers import LINEAGE as PUBLISHED
from reproduction.lineage.pictures import draw_pictures, make_lineage_sheet
from reproduction.lineage.results import LineageResults
from reproduction.lineage.runs import LineageRun
from reproduction.lineage.tables import (
    HEADER,
    describe_results,
    lineage_summary,
    list_differences,
    make_method_rows,
    published_table,
)

from mask_rcnn_ext.report.drawing.pictures import choose_color
from mask_rcnn_ext.report.json_records import from_json

# detectron2's anchor generator calls torch.meshgrid the old way.
pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the folder of a whole lineage of two seeds, of small untrained models."""
    folder = tmp_path_factory.mktemp("made")
    remove = small_sets(folder)
    with pytest.MonkeyPatch.context() as patch:
        use_small_configs(patch)
        fake = FakeLineage()
        fake.weights = True
        patch.setattr(LineageRun, "train", lambda run, resume: fake.train(run, resume))
        patch.setattr(tool, "propose_in_subprocess", fake.propose)
        options = ["--seeds", "2", "--output", str(folder / "out"), "--timed-images", "2"]
        options += ["--results", str(folder / "results.json")]
        assert tool.main([*options, "--picture", str(folder / "images/picture.png")]) == 0
        yield folder
    remove()


def read(content):
    return from_json(LineageResults, content)


@pytest.fixture
def content(made):
    """Return what was measured, with times that no machine decides."""
    content = json.loads((made / "results.json").read_text())
    for method, seconds in zip(content["methods"], (4.0, 0.05, 0.04, 0.06), strict=True):
        assert method["seconds_per_image"]["median"] > 0
        method["seconds_per_image"] = {"median": seconds, "low": seconds, "high": seconds}
    return content


def test_the_file_has_what_a_reader_needs(made, content):
    assert content["dataset"] == SETS[1]
    assert content["seeds"] == [1, 2]
    assert content["shared"]["train"] == SETS[0]
    assert [method["variant"] for method in content["methods"]] == TRAINED
    rcnn, fast, faster, mask = content["methods"]
    box = {"AP": 21.5, "AP50": 50, "AP75": 10, "APs": None, "APm": None}
    assert rcnn["metrics"] == {"bbox": box, "segm": None}
    assert mask["metrics"]["segm"]["AP"] == 19.5
    assert [m["proposal_seconds_per_image"] for m in content["methods"]] == [0.25, 0.25, None, None]
    assert [m["proposals"] for m in (fast, faster)] == ["stored", "RPN"]
    assert (rcnn["train_seconds"], rcnn["train_images"]) == (90, 6)
    assert (content["timing"]["images"], content["timing"]["threads"]) == (2, 1)
    assert [(run["variant"], run["seed"]) for run in content["runs"]] == [
        (variant, seed) for seed in (1, 2) for variant in TRAINED
    ]
    run = content["runs"][0]
    assert run["metrics"]["bbox"]["AP"] == 21
    assert (run["device"], run["versions"]) == ("a cpu", {"torch": "9.8"})
    assert len(run["config_sha256"]) == 64
    assert run["inputs"]["proposals"].keys() == set(SETS)
    assert content["runs"][3]["inputs"] == {}
    with Image.open(made / "images/picture.png") as picture:
        assert picture.width > 2000


@pytest.fixture
def loaded(made, monkeypatch):
    use_small_configs(monkeypatch)
    return lambda variant: load_model(LineageRun.under(made / "out", variant, 1))


def test_the_proposals_are_those_that_the_model_reads_or_makes(made, loaded):
    file = pickle.loads((made / "out/proposals/lineage_val.pkl").read_bytes())
    stored = find_best_proposals(loaded(RCNN), 1, 50)
    np.testing.assert_allclose(stored, file["boxes"][1], atol=1e-4)  # images are resized 64 / 48
    np.testing.assert_allclose(
        find_best_proposals(loaded(RCNN), 1, 1), file["boxes"][1][:1], atol=1e-4
    )
    model = loaded(FASTER)
    own = find_best_proposals(model, 1, 5)
    assert own.shape == (5, 4)
    assert (own >= 0).all()
    assert (own[:, 2] <= 64).all()
    assert (own[:, 3] <= 48).all()
    assert not model.model.proposal_generator._forward_hooks


def test_the_table_by_hand(content):
    rows = [dict(zip(HEADER, row, strict=True)) for row in make_method_rows(read(content))]
    assert [row["method"] for row in rows] == ["R-CNN", "Fast R-CNN", "Faster R-CNN", "Mask R-CNN"]
    assert rows[0]["box AP"] == "21.5"
    assert [row["mask AP"] for row in rows] == ["none", "none", "none", "19.5"]
    assert [row["s per image"] for row in rows] == ["4.00", "0.050", "0.040", "0.060"]
    expected = ["+ 0.250", "+ 0.250", "included", "included"]
    assert [row["proposals, s"] for row in rows] == expected
    assert [row["training, min"] for row in rows] == ["1.5"] * 4


def test_a_second_step_is_told_as_one(content):
    svm = {**content["methods"][0], "variant": "svm", "base": RCNN, "iterations": None}
    svm["metrics"] = {"bbox": {"AP": None, "AP50": None, "AP75": None}, "segm": None}
    content["methods"].insert(1, svm)
    row = dict(zip(HEADER, make_method_rows(read(content))[1], strict=True))
    assert row["training, min"] == "R-CNN's + 1.5"
    assert row["box AP"] == "\u2013"
    assert not [
        sentence for sentence in describe_results(read(content)) if sentence.startswith("svm")
    ]


def test_the_sentences_say_what_each_step_took(content):
    schedule, proposals, fast, faster, mask = describe_results(read(content))
    assert schedule == "Each network was trained for 1,500 iterations of 4 images."
    assert "takes 0.250 s per image and gives 2 boxes on average, of which at most 200" in proposals
    assert "cover 91.3 % of the objects" in proposals
    assert fast == (
        "Fast R-CNN compared with R-CNN: the network takes 0.050 s per image instead of 4.00 s "
        "(with proposals 0.300 s instead of 4.25 s). Box AP is 22.5 instead of 21.5."
    )
    assert (
        "0.040 s per image instead of 0.050 s (with proposals 0.040 s instead of 0.300 s)" in faster
    )
    assert "with proposals" not in mask
    assert mask.endswith("It also predicts masks, with a mask AP of 19.5.")
    for method, small, large in zip(
        content["methods"], (40, 20, 10, 30), (50, 51, 52, 53), strict=True
    ):
        method["metrics"]["bbox"] |= {"APs": small, "APm": large}
    content["methods"][0]["iterations"] = 900
    schedule, _, fast, *_ = describe_results(read(content))
    assert schedule == (
        "Each network was trained for 900 iterations of 4 images (R-CNN); 1,500 iterations of 4 "
        "images (Fast R-CNN, Faster R-CNN, Mask R-CNN)."
    )
    sizes = "(objects under 32 pixels: 20.0 instead of 40.0; larger objects: 51.0 instead of 50.0)."
    assert fast.endswith(sizes)


def test_the_page_has_our_numbers_and_the_papers_by_name(made, content, tmp_path):
    written = write_lineage(tmp_path, read(content), [], ["a note"])
    assert [path.name for path in written] == ["lineage.html"]
    page = (tmp_path / "lineage.html").read_text()
    for row in make_method_rows(read(content)):
        assert all(cell.replace("'", "&#39;") in page for cell in row)
    assert "a note" in page
    for number in PUBLISHED:
        value = f"{number.value:.1f}" if "AP" in number.metric else f"{number.value:g}"
        assert f"{number.metric} {value}" in page, number
        assert number.source in page
    assert "None of these numbers was measured here" in page
    assert all(
        sentence.replace("'", "&#39;") in page for sentence in list_differences(read(content))
    )
    assert "means over 2 trainings" in page
    assert "R-CNN 4.00 + 0.250 s, Fast R-CNN 0.050 + 0.250 s, Faster R-CNN 0.040 s" in page
    content["seeds"] = [1]
    assert "each method has one training" in list_differences(read(content))[-1]
    whole = (made / "out/lineage.html").read_text()
    assert whole.count("data:image/jpeg") == 4 * (1 + 2 * 4)  # 4 images: truth, and 2 a method
    assert "The pictures and the times are from seed 1" in whole


def near(picture, color):
    return np.abs(picture.astype(int) - color).max(axis=2) <= 12


@pytest.fixture
def drawn(made):
    """Return pictures of images; in the first, one of two proposals is the first object's box."""
    truth = json.loads((made / SETS[1] / "annotations.json").read_text())
    boxes = [a["bbox"] for a in truth["annotations"] if a["image_id"] == 1]
    x, y, w, h = boxes[0]
    proposals = {
        "001.png": np.zeros((0, 4)),
        "000.png": np.array([[x, y, x + w, y + h], [0, 0, 5, 5.0]]),
    }
    proposals |= {f"{index:03d}.png": np.zeros((0, 4)) for index in (2, 3)}
    found = {"image_id": 1, "category_id": 3, "score": 0.8, "bbox": boxes[0]}
    predictions = {FAST: {1: [found, {**found, "score": 0.4}]}, FASTER: {}, MASK: {}}
    return draw_pictures(SETS[1], predictions, dict.fromkeys(predictions, proposals), 4)[0]


def test_proposals_that_cover_an_object_are_red(drawn):
    fast, faster, _ = drawn[0].methods
    assert fast.proposals_text == "2 boxes cover 1 of 2 objects"
    assert (fast.found_text, faster.found_text) == ("1 detection", "0 detections")
    hits, misses = (near(fast.proposals, choose_color(index)) for index in (0, 2))
    assert hits.sum() > 100
    rows, columns = np.nonzero(misses)
    assert (rows.max(), columns.max()) == pytest.approx((31, 31), abs=3)  # 5 pixels, times 400 / 64
    empty = drawn[1].methods[0]
    assert empty.proposals_text == "0 boxes cover 0 of 2 objects"


def test_the_sheet_shows_shared_proposals_once(drawn, content, monkeypatch):
    asked = []
    name = "reproduction.lineage.pictures.make_tile_sheet"
    monkeypatch.setattr(name, lambda *words: asked.append(words))
    first = read(content).methods[0]
    methods = [
        replace(first, variant=variant, name=name, base=base, proposals=proposals,
                variation=name == "RoIAlign")
        for variant, name, base, proposals in (
            (FAST, "Fast R-CNN", None, "stored"), ("svm", "SVMs", FAST, "stored"),
            (FASTER, "Faster R-CNN", None, "RPN"), ("align", "RoIAlign", None, "RPN"),
            (MASK, "Mask R-CNN", None, "RPN"),
        )
    ]  # fmt: skip
    make_lineage_sheet(drawn[:2], methods, "heading")
    tiles, texts, columns, _, titles = asked[0]
    assert titles == [
        *("Ground truth", "Selective search", "Fast R-CNN", "RPN of Faster R-CNN", "Faster R-CNN"),
        "Mask R-CNN",
    ]
    assert (len(tiles), len(texts), columns) == (12, 12, 6)
    near_red = [near(tile, choose_color(0)).sum() for tile in tiles[:6]]
    assert near_red[1] > 100
    assert near_red[3] > 100
    assert tiles[0].shape == (320, 320, 3)


@pytest.fixture
def checkout(tmp_path, content):
    """Return a copy of what the pages are made of, with the lineage's numbers."""
    (copy_pages(tmp_path) / "results/lineage.json").write_text(json.dumps(content))
    return tmp_path


def test_the_page_holds_the_numbers_and_a_check_notices_others(checkout, content, capsys):
    root = ["--root", str(checkout)]
    assert make_tables.main(root) == 0
    assert make_tables.main(["--check", *root]) == 0
    page = (checkout / "docs/lineage.md").read_text()
    assert lineage_summary(read(content)) in page
    assert published_table() in page
    row = "| VGG-16 | VOC 2007 | VOC 2007 test | mAP 66.9 | arXiv:1504.08083 |"
    assert row in re.sub(r" {2,}", " ", page)
    content["methods"][0]["metrics"]["bbox"]["AP"] += 1
    (checkout / "results/lineage.json").write_text(json.dumps(content))
    capsys.readouterr()
    assert make_tables.main(["--check", *root]) == 1
    assert "stale: docs/lineage.md; run: python" in capsys.readouterr().err
    (checkout / "results/lineage.json").unlink()
    assert make_tables.main(["--check", *root]) == 2
    assert "Run: python projects/reproduction/run_lineage.py" in capsys.readouterr().err
