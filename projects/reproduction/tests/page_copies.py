"""Copies of the generated pages and of what they are made of, and a check of their tables."""

import re
import shutil

from support import REPO


def copy_pages(folder):
    """Copy the results, and the pages with their hand-written text; return the folder."""
    pages = (REPO / "README.md", REPO / "configs/README.md", *REPO.glob("docs/*.md"))
    for path in (*pages, *REPO.glob("results/*.json")):
        target = folder / path.relative_to(REPO)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    return folder


def check_tables_are_even(text):
    """Check that every line of a table has as many cells as its head."""
    width = 0
    for line in text.splitlines():
        count = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert count in (0, width) or not width, line
        width = count
