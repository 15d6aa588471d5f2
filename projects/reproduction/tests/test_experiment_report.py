"""What the FCIS experiment says of made-up results: verdicts, tables, page, and Markdown."""

import functools
import json
import operator
import re

import numpy as np
import pytest
from made_up_experiment import K3, K7, RIVAL, around, make_content, read
from page_copies import check_tables_are_even, copy_pages
from PIL import Image
from reproduction.fcis.experiment_markdown import (
    EXPERIMENT,
    PICTURE,
    experiment_doc,
    experiment_summary,
)
from reproduction.fcis.experiment_page import write_experiment
from reproduction.fcis.experiment_results import MISSING
from reproduction.fcis.experiment_tables import (
    describe_experiment_training,
    make_ap_rows,
    make_claim_rows,
    make_line_rows,
    make_own_rows,
    make_refutation_rows,
    make_same_part_rows,
)
from reproduction.fcis.line_places import find_near_share
from reproduction.fcis.nested_pairs import PairPictures
from reproduction.fcis.predictions import (
    Claim,
    judge_predictions,
    list_refutations,
    summarize_predictions,
)
from reproduction.intervals import Estimate
from reproduction.pages import write as generated_pages

MINUS = "\u2212"


def verdicts(content):
    return [prediction.came_true for prediction in judge_predictions(read(content))]


@pytest.mark.parametrize(
    ("expected", "low", "high", "holds"),
    [
        ("above", 0.1, 2.0, True),
        ("above", 0.0, 2.0, False),
        ("equal", -0.1, 2.0, True),
        ("equal", 0.1, 2.0, False),
        ("equal", -2.0, -0.1, False),
        ("not above", -2.0, -0.1, True),
        ("not above", -0.1, 2.0, True),
        ("not above", 0.1, 2.0, False),
        ("above", None, None, None),
    ],
)
@pytest.mark.parametrize("neutral", [0, 1])
def test_the_interval_decides_a_claim(expected, low, high, holds, neutral):
    ends = [None if end is None else end + neutral for end in (low, high)]
    assert Claim("it", expected, neutral, Estimate(1.0, *ends)).holds is holds


@pytest.mark.parametrize("false", [(), (1,), (2,), (3,), (4,), (1, 2, 3, 4)])
def test_each_prediction_can_fail(false):
    content = make_content(false)
    assert verdicts(content) == [number not in false for number in (1, 2, 3, 4)]
    sentences = summarize_predictions(judge_predictions(read(content)))
    for number, sentence in enumerate(sentences, 1):
        verdict = "did not come true" if number in false else "came true"
        assert sentence.startswith(f"Prediction {number} {verdict}. It said: ")
        assert ("What failed: " in sentence) == (number in false)


def test_what_failed_is_told_with_its_number():
    first, *_ = summarize_predictions(judge_predictions(read(make_content((1,)))))
    it_is = "pairs of two classes: not above zero, but it is +4.0 [+3.0, +5.0] points"
    assert first.endswith(f" What failed: FCIS, k = 7, {it_is}; FCIS, k = 3, {it_is}.")


@pytest.mark.parametrize(
    ("change", "happened"),
    [
        ({}, [False] * 4),
        ({"control": 0.5}, [True, False, False, False]),
        ({"classes": -4.0}, [False, True, False, False]),
    ],
)
def test_what_would_refute(change, happened):
    content = make_content()
    for name, value in change.items():
        content["contrasts"]["same_part"][name][K7]["k = 7"] = around(value)
    assert [not refutation.came_true for refutation in list_refutations(read(content))] == happened
    assert [not r.came_true for r in list_refutations(read(make_content((2, 4))))] == [
        *(False, False, True, True)
    ]
    answers = [row[-1] for row in make_refutation_rows(list_refutations(read(content)))]
    assert answers.count("no") == 7 - sum(happened)
    assert answers.count("yes") == ("classes" in change)  # the other is not told apart


@pytest.mark.parametrize(
    ("false", "end"),
    [
        ((), "cause errors where boxes of one class overlap, and they cause lines."),
        ((4,), "the data do not show lines that follow the parts."),
        ((3,), "and they cause lines."),  # a control of 3 points is no 5 and no 12
    ],
)
def test_the_conclusion_follows_from_the_numbers(false, end):
    assert experiment_summary(read(make_content(false))).split("\n")[0].endswith(end)


def test_the_conclusion_without_errors():
    content = make_content()
    content["contrasts"]["same_part"]["control"][K3]["k = 3"] = around(0.0)
    lines = "FCIS draws lines that follow its parts; the data do not show errors that the parts"
    assert lines in experiment_summary(read(content))
    content["contrasts"]["axis"]["moved"]["lines_7"] = around(1.0)
    neither = "the data show neither errors nor lines that the parts of FCIS cause."
    assert neither in experiment_summary(read(content))
    del content["contrasts"]["axis"]
    assert "the question stays open." in experiment_summary(read(content))


def test_the_summary_has_four_sentences_and_a_table_with_the_numbers():
    text = experiment_summary(read(make_content((3,))))
    sentences = re.split(r"(?<=\.) (?=[A-Z0-9])", text.split("\n")[0])
    assert len(sentences) == 4
    assert sentences[2].startswith("10 small trainings on drawn nested shapes tested [four")
    assert "1, 2 and 4 came true, 3 did not come true" in sentences[2]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    assert rows[0] == ["", "k = 7", "k = 3"]
    assert rows[2] == [
        "FCIS, one class: same-part error",
        *("+5.0 [+4.0, +6.0]", "+12.0 [+11.0, +13.0]"),
    ]
    assert experiment_doc(read(make_content())).startswith(
        "There were 10 trainings, 30 to 30 minutes each, 5.0 hours in all, on cpu, 1 thread. The "
    )
    assert rows[3][1:] == [f"+0.5 [{MINUS}0.5, +1.5]"] * 2
    assert rows[5][1:] == ["3.00 [2.70, 3.30]", "4.00 [3.70, 4.30]"]
    assert rows[6][1:] == ["1.00 [0.70, 1.30]", "0.90 [0.60, 1.20]"]
    assert f"]({PICTURE})" in text
    assert "](images/fcis_experiment.png)" in experiment_doc(read(make_content()))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (("contrasts",), [True, None, True, True]),
        (("contrasts", "axis"), [True, True, True, True]),
        (("models", K7), [None, True, True, None]),
        (("models", RIVAL), [True, True, None, None]),
        (("models", K3, "axis"), [True, True, True, None]),
        (("models", K7, "same_part", "k = 7"), [None, True, True, True]),
        (("part_shares",), [True] * 4),
    ],
    ids=lambda value: "/".join(value) if isinstance(value, tuple) else "",
)
def test_absent_keys_leave_a_dash_and_an_open_question(path, expected):
    content = make_content()
    *keys, last = path
    del functools.reduce(operator.getitem, keys, content)[last]
    assert verdicts(content) == expected
    doc = experiment_doc(read(content))
    if None in expected:
        assert "is open: a number is missing." in doc
    assert "None" not in doc
    assert "nan" not in doc
    assert experiment_summary(read(content))


def test_a_prediction_that_fails_is_not_open():
    content = make_content((1,))
    content["models"][K7]["same_part"]["k = 7"]["one_class/difference"] = dict.fromkeys(
        ("value", "low", "high")
    )
    assert verdicts(content)[0] is False
    assert make_claim_rows(judge_predictions(read(content)))[0][2:] == ("\u2013 points", "\u2013")


def test_the_tables_by_hand():
    content = make_content()
    content["models"][K7]["places"] = [0] * 6 + [1, 1, 1, 1, 1, 4, 4] + [1] * 65 + [99] * 6
    rows = {row[0]: row for row in make_line_rows(read(content))}
    assert rows["FCIS, k = 7"][1:3] == ("1.50 [1.40, 1.60]", "1.40 [1.30, 1.50]")
    assert rows["FCIS, k = 7"][3] == "23.1"  # (4 + 4 + 10) / (70 + 8)
    assert rows["Mask R-CNN"][2:4] == ("\u2013", "16.7")
    assert rows["Mask R-CNN"][5] == "5.6"
    assert find_near_share([0] * 84, 7) == (None, pytest.approx(100 / 6))
    aps = {row[0]: row[1:] for row in make_ap_rows(read(content))}
    means, during = "52.0 / 70.0 / \u2013", "12.0 / 22.0 / 32.0 / 42.0"
    assert aps["FCIS, k = 7"] == ("3", means, means, during, "+10.0")
    row = make_same_part_rows(read(content))[3]
    assert row[:2] == ("FCIS, k = 7", "k = 3")
    assert row[4] == "+5.0 [+4.0, +6.0]"
    assert row[6:] == ("+4.5 [+3.5, +5.5]", "+4.8 [+3.8, +5.8]")
    assert "From iteration 2250 to 3000" in describe_experiment_training(read(content))
    for model in content["models"].values():
        for run in model["runs"]:
            run["evaluations"] = []
    assert make_ap_rows(read(content))[0][-2:] == ("\u2013", "\u2013")
    assert "not in the file" in describe_experiment_training(read(content))


def test_own_proposals_are_told_where_they_were_measured():
    content = make_content()
    assert make_own_rows(read(content)) == []
    assert "Own proposals" not in experiment_doc(read(content))
    model = content["models"][K7]
    found = {
        **{"objects": 400, "matched": 300, "same_part": model["same_part"]},
        **{"errors": {"leak": around(9.0)}, "box_sides": {"on_sides": around(2.5)}},
    }
    model["own_proposals"], model["voted"] = found, {**found, "matched": 200}
    content["models"][RIVAL] |= {"own_proposals": {**found, "box_sides": {}}, "voted": None}
    rival, before, after = make_own_rows(read(content))
    assert rival[:3] == ("Mask R-CNN", "no voting", "75.0")
    assert before[1:5] == ("before voting", "75.0", *["+5.0 [+4.0, +6.0]"] * 2)
    assert after[1:3] == ("after voting", "50.0")
    assert before[5:] == ("9.0 [8.0, 10.0]", "\u2013", "2.5 [1.5, 3.5]", "\u2013")
    assert rival[7] == "\u2013"
    assert "### Own proposals" in experiment_doc(read(content))


def test_an_estimate_in_words():
    assert Estimate(1.26, 1.22, 1.3).show(1, signed=True) == "+1.3 [+1.2, +1.3]"
    assert MISSING.show() == "\u2013"


def test_the_page_and_the_pictures(tmp_path):
    content = make_content((3,))
    tile = np.full((30, 40, 3), 90, np.uint8)
    pairs = [PairPictures(f"{n}.png", n % 2, [tile] * 5) for n in range(4)]
    page, picture = tmp_path / "page.html", tmp_path / "images/sheet.png"
    written = write_experiment(page, picture, read(content), pairs)
    assert [path.name for path in written] == ["page.html", "sheet.png", "sheet_places.png"]
    text = page.read_text()
    for sentence in summarize_predictions(judge_predictions(read(content))):
        assert sentence in text
    assert text.count("<img ") == 20
    assert "http" not in text
    with Image.open(picture) as sheet:  # the best pair of each class
        assert sheet.width > 5 * 40
    before = picture.read_bytes(), written[2].read_bytes(), text
    write_experiment(page, picture, read(content), pairs)
    assert (picture.read_bytes(), written[2].read_bytes(), page.read_text()) == before


def test_docs_and_readme_are_generated_with_and_without_results(tmp_path):
    (copy_pages(tmp_path) / EXPERIMENT).unlink(missing_ok=True)
    pages = generated_pages.pages(tmp_path, ())
    for name in ("README.md", "docs/fcis_comparison.md"):
        assert "The experiment has not been run yet." in pages[name]
    content = make_content()
    (tmp_path / EXPERIMENT).write_text(json.dumps(content))
    pages = generated_pages.pages(tmp_path, ())
    assert experiment_doc(read(content)) in pages["docs/fcis_comparison.md"]
    assert experiment_summary(read(content)) in pages["README.md"]
    check_tables_are_even(experiment_doc(read(content)))
