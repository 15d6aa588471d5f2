"""A few changed files of each kind; `make fuzz` reads many."""

import json
import logging
from collections import Counter
from pathlib import Path

import pytest
from fuzz.cases import make_case, read_case
from fuzz.kinds import KINDS
from PIL import Image
from support import REPO

REGRESSIONS = Path(__file__).parent / "regressions"
CASES = 200  # of each kind
KNOWN = sorted(path for path in REGRESSIONS.rglob("*") if path.is_file())


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # the images lower it
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.filterwarnings("ignore")  # of Pillow, of NumPy, of PyTorch about odd files
@pytest.mark.parametrize("name", KINDS)
def test_a_changed_file_is_accepted_or_refused_with_a_sentence(name, tmp_path):
    kind, found = KINDS[name](tmp_path), Counter()
    for number in range(CASES):
        outcome = read_case(kind, make_case(kind, name, number, seed=0))
        assert outcome.kind != "failed", f"case {number}: {outcome.text}"
        found[outcome.kind] += 1
    assert found["accepted"] > 4
    assert found["refused"] > 20


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", KNOWN, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_file_that_once_failed(path, tmp_path):
    kind = KINDS[path.parent.name](tmp_path)
    kind.build_every = 1
    outcome = read_case(kind, path)
    assert outcome.kind != "failed", outcome.text


@pytest.mark.parametrize("name", KINDS)
def test_cases_depend_on_seed_and_number_only(name, tmp_path):
    kind = KINDS[name](tmp_path)
    first, again, *others = (
        make_case(kind, name, number, seed).read_bytes()
        for number, seed in ((3, 0), (3, 0), (4, 0), (3, 1))
    )
    assert first == again
    assert first not in others


def test_no_case_of_the_long_run_failed():
    kinds = json.loads((REPO / "results/fuzz.json").read_text())["kinds"]
    assert list(kinds) == list(KINDS)
    for report in kinds.values():
        assert report["accepted"] + report["refused"] == report["cases"] > 5000
        assert report["failed"] == 0
