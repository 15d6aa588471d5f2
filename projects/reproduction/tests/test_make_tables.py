"""The generated tables: current, noticed when stale, and holding the numbers that they should."""

import ast
import dataclasses
import json
import re

import make_tables
import pytest
from detectron2.config import get_cfg as detectron2_get_cfg
from page_copies import check_tables_are_even, copy_pages
from reproduction.ablations.markdown import ABLATIONS, differences_table
from reproduction.ablations.results import (
    AblationResults,
    AblationSettings,
    IntervalMethod,
    MeasuredDifference,
    PublishedDifference,
    ResultRow,
)
from reproduction.costs.page import COSTS
from reproduction.costs.results_file import CostResults
from reproduction.fcis.experiment_markdown import EXPERIMENT
from reproduction.fcis.experiment_results import ExperimentResults, PhotographResults
from reproduction.fcis.markdown import COMPARISON
from reproduction.fcis.photographs_markdown import PHOTOGRAPHS
from reproduction.fcis.results import ComparisonResults
from reproduction.first_model.markdown import FIRST_MODEL
from reproduction.first_model.results_file import FirstModelResults
from reproduction.lineage.results import LineageResults
from reproduction.lineage.tables import LINEAGE_RESULTS
from reproduction.own_data.markdown import OWN_DATA
from reproduction.own_data.results_file import OwnDataResults
from reproduction.pages import write as generated_pages
from reproduction.pages.config_keys import config_keys
from reproduction.scaling.markdown import SCALING
from reproduction.scaling.results_file import ScalingResults
from support import REPO, change_json

from mask_rcnn_ext import UserError, get_cfg
from mask_rcnn_ext.config import flat_config
from mask_rcnn_ext.paper import CONFIGS, NO_ROW, ROWS
from mask_rcnn_ext.report.json_records import from_json, to_json

PAGES = [
    *("configs/README.md", "docs/models.md", "README.md", "docs/configs.md", "docs/ablations.md"),
    *("docs/fcis_comparison.md", "docs/lineage.md", "docs/own_data.md"),
    *("docs/performance.md", "docs/scaling.md", "docs/first_model.md"),
]


@pytest.fixture
def checkout(tmp_path):
    """Return a copy of what the pages are made from, and of the pages."""
    return copy_pages(tmp_path)


def read(path):
    """Return a page without the blanks that make the columns of its tables even."""
    return re.sub(r" {2,}", " ", path.read_text())


def check(root):
    return make_tables.main(["--check", "--root", str(root)])


def cells(text, config):
    """Return the rows of Markdown tables that link to a config, as lists of cells."""
    rows = [line for line in text.splitlines() if line.startswith("|") and f"[{config}]" in line]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_pages_of_this_checkout_are_current(capsys):
    assert make_tables.main(["--check"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("configs/README.md", "33.6 / 55.2", "33.7 / 55.2"),
        ("README.md", "| mask 35.4", "| mask 35.5"),
        ("docs/models.md", " 44.34 |", " 44.35 |"),
        ("docs/configs.md", "| `MODEL.FCIS.NUM_BINS`", "| `MODEL.FCIS.NUMBINS`"),
        ("docs/lineage.md", "1,500 iterations", "1,600 iterations"),
    ],
)
def test_a_changed_number_is_noticed_and_fixed(checkout, capsys, name, old, new):
    text = (checkout / name).read_text()
    assert old in text
    (checkout / name).write_text(text.replace(old, new, 1))
    assert check(checkout) == 1
    assert (
        capsys.readouterr().err
        == f"stale: {name}; run: python projects/reproduction/make_tables.py\n"
    )
    assert (checkout / name).read_text() != text  # a check writes nothing
    assert make_tables.main(["--root", str(checkout)]) == 0
    assert capsys.readouterr().out == f"written: {name}\n"
    assert (checkout / name).read_text() == text
    assert check(checkout) == 0


def test_a_changed_row_of_the_paper_is_noticed(checkout):
    index = next(i for i, row in enumerate(ROWS) if row.table == "2d")
    rows = [*ROWS]
    rows[index] = dataclasses.replace(
        ROWS[index], published={**ROWS[index].published, "segm/AP": 99.9}
    )
    assert generated_pages.stale_pages(checkout) == []
    assert generated_pages.stale_pages(checkout, rows) == ["configs/README.md", "docs/configs.md"]


def test_a_changed_count_is_noticed(checkout):
    with change_json(checkout / COSTS) as content:
        content["models"][0]["flops"]["backbone"] += 10**9
    assert generated_pages.stale_pages(checkout) == ["docs/models.md"]


def test_a_changed_difference_is_noticed(checkout):
    with change_json(checkout / ABLATIONS) as content:
        content["rows"][0]["ours"]["AP"]["difference"] += 1
    assert generated_pages.stale_pages(checkout) == ["docs/ablations.md"]


def test_the_table_of_ablations_by_hand():
    """Signs, intervals, what was not run, and what the paper printed."""
    ours = {
        "AP": MeasuredDifference(2.04, -1.0, 5.06),
        "AP75": MeasuredDifference(-1.5, None, None),
    }
    paper = PublishedDifference("2b", "minival", {}, {}, {"AP": 5.5, "AP75": 6.4})
    row = ResultRow(
        name="", table="2b", label="a - b", of="a", minus="b", task="segm", keys=[], note="",
        paper=paper, seeds=[1, 2], method=IntervalMethod.STUDENT_T, ours=ours,
    )  # fmt: skip
    replace = dataclasses.replace
    left = replace(row, ours=None, seeds=[], paper=replace(paper, difference={"AP": -0.6}))
    one = replace(row, seeds=[1])
    gone = MeasuredDifference(-0.04, None, None)  # with the runs' predictions
    bare = replace(one, ours={"AP": gone, "AP75": gone})
    settings = AblationSettings(0.95, 1000, 0, {"2b": "Table 2b: mask loss"})
    results = AblationResults(settings, [], [row, one, bare, left], [])
    table = re.sub(r" {2,}", " ", differences_table(results).replace("\u2212", "-"))
    assert table.splitlines()[2:] == [
        "| Table 2b | a - b | +2.0 [-1.0, +5.1] | -1.5 | 2 seeds | +5.5 / +6.4 |",
        "| Table 2b | a - b | +2.0 [-1.0, +5.1] | -1.5 | images, 1 seed | +5.5 / +6.4 |",
        "| Table 2b | a - b | +0.0 | +0.0 | none, 1 seed | +5.5 / +6.4 |",
        "| Table 2b | a - b | not run | not run | | -0.6 / \u2013 |",
    ]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (COSTS, CostResults),
        (FIRST_MODEL, FirstModelResults),
        (OWN_DATA, OwnDataResults),
        (SCALING, ScalingResults),
        (EXPERIMENT, ExperimentResults),
        (PHOTOGRAPHS, PhotographResults),
        (COMPARISON, ComparisonResults),
        (LINEAGE_RESULTS, LineageResults),
    ],
)
def test_records_hold_the_whole_file(name, kind):
    text = (REPO / name).read_text()
    again = to_json(from_json(kind, json.loads(text)))
    if kind in (ExperimentResults, PhotographResults):  # which are only read
        assert drop_nulls(again) == drop_nulls(json.loads(text))
    else:
        assert json.dumps(again, indent=1) + "\n" == text


def drop_nulls(value):
    if isinstance(value, dict):
        return {key: drop_nulls(entry) for key, entry in value.items() if entry is not None}
    return [drop_nulls(entry) for entry in value] if isinstance(value, list) else value


def test_a_missing_page_is_stale_and_written(checkout):
    (checkout / "configs/README.md").unlink()
    assert generated_pages.write_pages(checkout) == ["configs/README.md"]
    assert generated_pages.stale_pages(checkout) == []


def test_every_number_of_the_paper_is_on_the_page_of_configs():
    """Row by row, in the paper's order, with the config or the reason why there is none."""
    text = read(REPO / "configs/README.md")
    lines = iter(text.splitlines())
    for row in ROWS:
        name = f"| {row.name.replace('*', chr(92) + '*')} |"
        line = next(line for line in lines if line.startswith(name))
        numbers = re.findall(r"\d+\.\d", line.removeprefix(name).split(" [")[0].split(" not ")[0])
        by_task = sorted(
            row.published, key=lambda key: ("segm", "bbox", "keypoints").index(key.split("/")[0])
        )
        assert numbers[: len(row.published)] == [f"{row.published[key]:.1f}" for key in by_task], (
            row.name
        )
        assert (f"[{row.config}]({row.config}.yaml)" in line) if row.config else row.note in line
        for checkpoint in row.checkpoints[:1]:
            assert f"`{checkpoint.config.removesuffix('.yaml')}`" in line
            assert f"({checkpoint.fit})" in line


def test_deviations_are_numbered():
    text = (REPO / "configs/README.md").read_text()
    listed = dict(re.findall(r"^(\d+)\. (.*)$", text.split("## Deviations")[1], flags=re.M))
    for row in ROWS:
        if not row.config:
            continue
        found = [r for r in cells(text, row.config) if r[0] == row.name.replace("*", r"\*")]
        numbers = set()
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", found[0][-1].split(";")[0]):
            numbers |= set(range(int(first), int(last or first) + 1))
        assert {listed[str(n)] for n in numbers} == set(row.deviations), row.config


def test_the_table_of_configs_has_one_line_for_each():
    text = (REPO / "docs/configs.md").read_text()
    first, last = generated_pages.markers("the table of configs")
    table = text.split(first)[1].split(last)[0]
    assert re.findall(r"^\| \[(.*?)\]", table, flags=re.M) == [
        *CONFIGS,
        "shapes/mask_rcnn_demo_FPN",
    ]
    assert cells(table, "mask_rcnn_R101_FPN") == [[
        "[mask_rcnn_R101_FPN](../configs/mask_rcnn_R101_FPN.yaml)",
        "1, 2a, 3",
        "mask 35.4 (minival); mask 35.7, box 38.2 (test-dev)",
        "`COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x`: mask 38.6, box 42.9",
        "not run",
    ]]  # fmt: skip
    # ResNeXt-101 of another width does not fit
    assert cells(table, "mask_rcnn_X101_FPN")[0][3] == ""
    demo = json.loads((REPO / "results/demo.json").read_text())
    assert cells(table, "shapes/mask_rcnn_demo_FPN")[0][-1] == (
        f"mask {demo['segm']['AP']:.1f}, box {demo['bbox']['AP']:.1f} (occluded_shapes_val)"
    )


def test_the_readme_has_the_papers_figure_and_ours_for_each_method():
    text = (REPO / "README.md").read_text()
    first, last = generated_pages.markers("the table of methods")
    rows = text.split(first)[1].split(last)[0].strip().splitlines()[2:]
    assert len(rows) == 5
    found = {}
    for row in rows:
        method, config, paper, small, ours = (cell.strip() for cell in row.strip("|").split("|"))
        paths = [re.search(r"\((configs/\S+\.yaml)\)", cell)[1] for cell in (config, small)]
        assert all((REPO / path).is_file() for path in paths)
        assert ["shapes/" in path for path in paths] == [False, True]
        found[method] = paper, ours
    results = {name: json.loads((REPO / f"results/{name}.json").read_text()) for name in (
        "demo", "fcis_comparison", "lineage")}  # fmt: skip
    assert found["Mask R-CNN"][0] == (
        "mask 35.4 (minival); mask 35.7, box 38.2 (test-dev)"  # Tables 2a, 1 and 3
    )
    assert found["Fast R-CNN"][0] == "mAP 66.9 (VOC 2007)"
    aps = [
        run["metrics"]["segm"]["AP"]
        for run in results["fcis_comparison"]["runs"]
        if run["model"] == "FCIS"
    ]
    assert found["FCIS"][1].startswith(f"mask {sum(aps) / len(aps):.1f} ")
    demo = results["demo"]
    assert found["Mask R-CNN"][1] == f"mask {demo['segm']['AP']:.1f}, box {demo['bbox']['AP']:.1f}"
    rcnn = results["lineage"]["methods"][0]["metrics"]["bbox"]["AP"]
    assert found["R-CNN"][1] == f"box {rcnn:.1f}"


def test_the_table_of_keys_has_every_added_key_with_its_default():
    """What `config_keys.py` declares in its text is what it adds to a config."""
    stock = {key for key, _ in flat_config(detectron2_get_cfg())}
    added = {key: repr(value) for key, value in flat_config(get_cfg()) if key not in stock}
    declared = {}
    for keys, description in config_keys():
        assert description.endswith("."), keys
        declared |= {key: repr(ast.literal_eval(default)) for key, default in keys}
    assert declared == added


def test_a_run_of_a_row_stands_beside_it(checkout):
    (checkout / "results/mask_rcnn_R50_FPN.json").write_text(
        json.dumps({"segm": {"AP": 33.333}, "bbox": {"AP": None}, "run": {}})
    )
    text = generated_pages.pages(checkout)["configs/README.md"]
    rows = [row for row in cells(text, "mask_rcnn_R50_FPN") if "minival" in row[-2]]
    assert len(rows) == 2  # Tables 2a and 2e
    assert {row[-2] for row in rows} == {"mask 33.3 (minival)"}


def test_links_lead_to_files():
    for page in PAGES:
        text = (REPO / page).read_text()
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (REPO / page).parent.joinpath(target).exists(), target
    text = (REPO / "configs/README.md").read_text()
    assert all(f"[{name}]({name}.yaml)" in text for name in NO_ROW)
    line = {p.stem for p in (REPO / "configs/lineage").glob("*.yaml") if p.stem[:4] != "Base"}
    assert all(f"[lineage/{name}](lineage/{name}.yaml)" in text for name in line)


def test_tables_are_even():
    for page in PAGES:
        check_tables_are_even((REPO / page).read_text())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("README.md", "# no markers\n", "put them back"),
        ("docs/configs.md", "# no markers\n", "put them back"),
        (COSTS, "[]", "expected an object, got a list. Run: python projects/reproduction/model_"),
        (COSTS, None, "Run: python projects/reproduction/model_costs.py"),
        (ABLATIONS, "{}", "got others (KeyError: 'settings'). Run: python projects/reproduction/r"),
        ("README.md", None, "Give --root a checkout"),
        ("results/mask_rcnn_R50_FPN.json", "{", "Put a run's results.json there"),
        ("results/mask_rcnn_R50_FPN.json", "{}", "with the AP of a task, got none"),
    ],
)  # fmt: skip
def test_what_is_missing_or_broken_is_reported(checkout, capsys, name, text, message):
    if text is None:
        (checkout / name).unlink()
    else:
        (checkout / name).write_text(text)
    before = {page: (checkout / page).read_bytes() for page in PAGES if (checkout / page).exists()}
    assert make_tables.main(["--root", str(checkout)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert all((checkout / page).read_bytes() == content for page, content in before.items())
    with pytest.raises(UserError):
        generated_pages.pages(checkout)
