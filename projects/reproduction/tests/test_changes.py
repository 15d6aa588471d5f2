"""What the changes in testing change: collected from the records, and in sentences."""

import json
import re

import pytest
from made_up_experiment import K3, make_changes, make_content, read
from reproduction.fcis.axis_records import PLACES, AxisRecord
from reproduction.fcis.change_measurement import ChangeMeasurement, collect_changes
from reproduction.fcis.change_tables import describe_changes, make_change_rows
from reproduction.fcis.experiment import plan_experiment
from reproduction.fcis.experiment_markdown import experiment_doc
from reproduction.fcis.inference_changes import list_changes
from reproduction.fcis.true_box_records import TrueBoxRecord

from mask_rcnn_ext.overlap.same_part import SUMS, SamePartRecord

MINUS = "\u2212"


def made_up(**options):
    """Return results that hold the changes only, see `make_changes`."""
    return read({"models": {}, "changes": make_changes(**options)})


def make_record(image, wrong, right):
    """Return a record: `wrong` of 100 pixels in the same part, 10 of 100 elsewhere."""
    sums = {name: 100 if name.endswith("pixels") else 10 for name in SUMS}
    part = SamePartRecord(image, {**sums, "one_class/same/wrong": wrong})
    axis = AxisRecord(image, 20.0, 10.0, [1] * PLACES)
    return TrueBoxRecord({"k = 7": part, "k = 3": part}, axis, right, 2)


def test_a_change_is_compared_with_none_on_the_same_images(tmp_path):
    (run,) = [run for run in plan_experiment(tmp_path, 1) if run.variant == K3]
    wrong = dict(zip(list_changes(3), (50, 40, 30, 20), strict=True))
    records = {
        name: [
            make_record(image, count + image, 1.0 if name == "none" else 1.5) for image in range(3)
        ]
        for name, count in wrong.items()
    }
    step = ChangeMeasurement(run)
    step.write({"changes": records})
    rows = collect_changes([run])
    assert [row["change"] for row in rows] == list(wrong)
    assert {row["k"] for row in rows} == {3}
    plain, align = rows[:2]
    assert plain["error"]["value"] == pytest.approx(51 - 10)
    assert plain["by_change"] is None
    assert align["by_change"]["error"] == pytest.approx({"value": -10, "low": -10, "high": -10})
    assert align["by_change"]["right"]["value"] == pytest.approx(25)
    assert align["excess"]["value"] == 2
    assert align["lines_minus_rival"] is None
    assert json.loads(json.dumps(rows)) == rows


def test_predictions_on_changes():
    said = describe_changes(made_up())
    assert [s.split(". ")[0] for s in said[:3]] == [f"Prediction {n} came true" for n in (5, 6, 8)]
    starts = ("PSROIAlign does not remove", "Soft parts do not remove", "Nine copies do not remove")
    for start, sentence in zip(starts, said[3:], strict=True):
        assert sentence.startswith(f"{start} the effect")


def test_soft_parts_that_remove_the_effect():
    """A same-part error of zero removes it, unless there are fewer right masks."""
    said = describe_changes(made_up(error=(0.3, -0.4)))
    assert said[2].startswith("Prediction 8 did not come true")
    assert "FCIS, k = 7, same-part error: above zero, but it is +0.3" in said[2]
    assert said[4].startswith("Soft parts remove the effect")
    fewer = describe_changes(made_up(error=(0.3, -0.4), right=-0.5))
    assert fewer[4].startswith("Soft parts do not remove the effect")


def test_a_changed_preference_is_a_difference_of_ratios():
    """It has two decimals, and is not in points."""
    rows = make_changes()
    for row in rows:
        if row["change"] == "PSROIAlign" and row["k"] == 7:
            row["by_change"]["lines"] = {"value": 0.55, "low": 0.34, "high": 0.77}
    said = describe_changes(read({"models": {}, "changes": rows}))[0]
    failed = "FCIS, k = 7, change of the preference for g/7: zero, but it is +0.55 [+0.34, +0.77]."
    assert said.endswith(f"What failed: {failed}")


def test_the_pages_have_the_changes():
    rows = make_change_rows(made_up())
    assert rows[0][:3] == ("Mask R-CNN, k = 7", "none", f"+0.2 [{MINUS}0.8, +1.2]")
    assert rows[1][1:4] == ("nine copies", f"+0.2 [{MINUS}0.8, +1.2]", f"+0.0 [{MINUS}0.5, +0.5]")
    doc = experiment_doc(read({**make_content(), "changes": make_changes()}))
    assert re.search(r"\| Mask R-CNN, k = 7 \| nine copies +\|", doc)
    assert "Changes in testing have not been measured yet." in experiment_doc(read(make_content()))
