"""Pages with long names in a real browser; skipped where there is none."""

import check_dataset
import compare
import make_report
import pytest
from browser import CHROMIUM, open_page
from comparison_cases import write_pair
from report_runs import write_data, write_run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

LONG = "w" * 150
NAMES = [LONG, "a class of many words, " * 6]
# The last number of each row of tables, and the last picture of each row, next to where they end.
ENDS = """(() => {
  document.querySelectorAll("details").forEach((each) => { each.open = true; });
  const found = document.querySelectorAll("%s");
  return [...found].map((each) => each.getBoundingClientRect().right);
})()"""


def measure(path, folder, selector):
    """Return where some elements of a page end, in a window of 390 pixels, and its width."""
    with open_page(f"file://{path}", folder) as page:
        page.set_size(390, 844, 2)
        ends = page.run(ENDS % selector)
        return ends, page.run("document.documentElement.scrollWidth")


def test_a_report_with_long_class_names_fits_a_phone(tmp_path):
    folder = write_run(tmp_path, NAMES)
    assert make_report.main([str(folder)]) == 0
    # The tables of classes, before the column of the box AP, may be scrolled.
    ends, width = measure(folder / "report.html", tmp_path, ".bars td, .tiles img, td.main")
    assert len(ends) > 20
    assert max(*ends, width) <= 390


def test_a_check_of_long_class_names_fits_a_phone(tmp_path):
    path, _ = write_data(tmp_path, 3, NAMES)
    options = ["--train-json", str(path), "--train-images", str(tmp_path)]
    assert check_dataset.main([*options, "--output", str(tmp_path / "check")]) == 0
    ends, width = measure(tmp_path / "check/data_check.html", tmp_path, "td.num")
    assert ends
    assert max(*ends, width) <= 390


def test_a_comparison_of_long_model_names_fits_a_phone(tmp_path):
    write_pair(tmp_path)
    files = [
        "--gt-json",
        "truth.json",
        "--images",
        "images",
        "--a",
        "exact.json",
        "--b",
        "cut.json",
    ]
    words = [word if word.startswith("--") else str(tmp_path / word) for word in files]
    names = ["--names", LONG, NAMES[1], "--draws", "2", "--output", str(tmp_path / "out")]
    assert compare.main([*words, *names]) == 0
    ends, width = measure(tmp_path / "out/comparison.html", tmp_path, "td:nth-child(2), .tiles img")
    assert len(ends) > 20
    assert max(*ends, width) <= 390
