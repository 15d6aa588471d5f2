"""`make docs`: the site builds without a warning, is complete, and needs no other host."""

import json
import os
import re

import pytest
from support import REPO, run_python

import mask_rcnn_ext

pytest.importorskip("mkdocs")
from mkdocs_hooks import render_notebook, rewrite_links

# What makes a browser load something: not the links that a reader clicks.
LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"([^\"]+)|<link\b[^>]*href=\"([^\"]+)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = ["-W", "ignore", "-m", "mkdocs", "build", "-d", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(REPO)}
    done = run_python(*command, cwd=REPO, env=environment)
    assert done.returncode == 0, done.stderr  # strict: a warning ends the build
    return folder


def test_every_page_is_there(site):
    pages = {path.stem for path in (REPO / "docs").glob("*.md")} | {"all_configs"}
    assert pages <= {path.stem for path in site.glob("*.html")}
    assert not list(site.rglob("*.py"))


def test_a_browser_asks_no_other_host(site):
    for page in site.rglob("*.html"):
        loaded = [a or b for a, b in LOADED.findall(page.read_text())]
        assert len(loaded) > 3
        assert [url for url in loaded if "//" in url] == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import\s*)[\"']?(?:https?:)?//", style.read_text()), style


def test_the_api_page_has_every_public_name(site):
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", (site / "api.html").read_text(), flags=re.S)
    names = {re.sub(r"<[^>]+>", "", heading).split()[0] for heading in headings}
    assert set(mask_rcnn_ext.__all__) <= names


def test_the_notebook_page_has_its_outputs(site):
    page = (site / "notebooks/own_data.html").read_text()
    pictures = re.findall(r"src=\"(own_data_\d+\.jpeg)\"", page)
    assert len(pictures) == 4
    assert all((site / "notebooks" / picture).stat().st_size > 1000 for picture in pictures)


def test_links_out_of_the_docs_become_paths():
    text = "[demo](../results/demo.json), [x](../LICENSE), [own](own_data.md)"
    text += ", [nb](notebooks/a.ipynb), [all](../configs/README.md#a)"
    assert rewrite_links(text, "docs") == (
        "`demo`, x (`LICENSE`), [own](own_data.md), [nb](notebooks/a.md), [all](all_configs.md#a)"
    )
    with pytest.raises(Exception, match="no file"):
        rewrite_links("[gone](../results/gone.json)", "docs")


def test_a_notebook_without_outputs_is_its_cells():
    cells = [
        {"cell_type": "markdown", "source": ["# Title"]},
        {"cell_type": "code", "source": ["a = 1\n", "print(a)"], "outputs": [{"text": ["1\n"]}]},
    ]
    page, pictures = render_notebook(json.loads(json.dumps({"cells": cells})), "notebooks/x")
    assert page == "# Title\n\n```python\na = 1\nprint(a)\n```\n\n```text\n1\n```\n"
    assert pictures == {}
