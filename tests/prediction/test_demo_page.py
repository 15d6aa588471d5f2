"""The demo page in a real browser; skipped where there is none."""

import json

import pytest
from browser import CHROMIUM, open_page
from demo_runs import *  # noqa: F403
from demo_runs import HOSTILE, PNG
from PIL import Image
from pycocotools.coco import COCO

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

COUNT = "document.getElementById('count').textContent"
LEGEND = "[...document.querySelectorAll('#legend li')].map((row) => row.textContent)"
PIXELS = "document.getElementById('canvas').toDataURL()"


def set_score(page, value: float) -> None:
    page.run(
        f"document.getElementById('score').value = {value};"
        "document.getElementById('score').dispatchEvent(new Event('input'));"
    )


def test_a_person_drops_an_image_looks_at_it_and_saves_it(server, demo_predictor, tmp_path):
    name = "<b>a&b.x.png"  # a hostile name
    (tmp_path / name).write_bytes(PNG)
    (tmp_path / "text.png").write_text("no image")
    scores = sorted(demo_predictor(str(tmp_path / name)).scores.tolist())
    with open_page(server.url, tmp_path) as page:
        page.set_size(390, 844, 2, dark=True)
        page.give_file("#file", tmp_path / "text.png")
        page.wait("!document.getElementById('error').hidden")
        error = page.run("document.getElementById('error').textContent")
        assert error == "text.png: cannot be read as an image (no image format that Pillow knows)."

        page.drop_file("#drop", tmp_path / name)
        page.wait("!document.getElementById('work').hidden")
        assert page.run("document.getElementById('error').hidden")
        status = page.run("document.getElementById('status').textContent")
        assert status.startswith(f"{name}: 130 \N{MULTIPLICATION SIGN} 90 pixels, ")
        set_score(page, 0)
        assert page.run(COUNT) == "10 objects"
        legend = page.run(LEGEND)
        assert any(row.startswith(HOSTILE) for row in legend)
        assert page.run("document.title") == "Try a model: model_final.pth"
        assert page.run("document.querySelectorAll('#work img, #status b').length") == 0
        assert page.run("document.documentElement.scrollWidth") <= 390

        pictures = [page.run(PIXELS)]
        for switch in ("masks", "boxes", "names"):
            page.run(f"document.getElementById('{switch}').click()")
            pictures.append(page.run(PIXELS))
        assert len(set(pictures)) == 4

        middle = (scores[4] + scores[5]) / 2
        threshold = round(middle, 2)
        kept = sum(score > threshold for score in scores)
        assert 0 < kept < 10
        set_score(page, threshold)
        assert page.run(COUNT) == ("1 object" if kept == 1 else f"{kept} objects")
        assert sum(int(row[-1]) for row in page.run(LEGEND)) == kept

        for button in ("saveJson", "savePicture"):
            page.run(f"document.getElementById('{button}').click()")
        saved = wait_for(page, tmp_path, ("*_objects.json", "*_objects.jpg"))
        fault = [entry for entry in page.faults if "400" not in json.dumps(entry)]
        assert fault == []  # 400 is the answer to text.png
        asked = {url.partition("?")[0] for url in page.requested}
    here = {url for url in asked if not url.startswith(("data:", "blob:"))}
    assert here == {server.url, f"{server.url}predict"}
    coco = COCO(saved[0])
    assert coco.dataset["images"][0]["file_name"] == name
    assert {c["id"]: c["name"] for c in coco.dataset["categories"]}[7] == HOSTILE
    assert len(coco.anns) == kept
    assert Image.open(saved[1]).size == (480, 332)


def wait_for(page, folder, patterns) -> list:
    """Return the files that the browser saves, when they are complete."""
    for _ in range(600):
        found = [path for pattern in patterns for path in folder.glob(pattern)]
        if len(found) == len(patterns) and not list(folder.glob("*.crdownload")):
            return found
        page.run("new Promise((done) => setTimeout(done, 50))")
    raise AssertionError(list(folder.iterdir()))
