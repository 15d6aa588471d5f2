"""Draw the pictures of the documentation that show the demo, its data, and the check of a data set.

python projects/reproduction/draw_docs_images.py --demo output/demo --dsb2018 DIR

Run `make demo` first. The pages are opened in a headless Chromium, Debian's package `chromium`. The
other pictures in docs/images come from the scripts that measure what they show, except for
dsb2018_predictions.png, which is the `predictions.png` of the run in results/dsb2018.json.
"""

import argparse
import base64
import contextlib
import io
import shlex
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))  # the browser of the tests

from browser import CHROMIUM, open_page  # noqa: E402
from detectron2.data import DatasetCatalog  # noqa: E402

from mask_rcnn_ext import Predictor, UserError  # noqa: E402
from mask_rcnn_ext.child_processes import run_command  # noqa: E402
from mask_rcnn_ext.engine.launch import run_as_command  # noqa: E402
from mask_rcnn_ext.files import atomic_open  # noqa: E402
from mask_rcnn_ext.prediction.demo_server import DemoServer  # noqa: E402

_IMAGES = ROOT / "docs/images"
_WIDTH = 1100
_SHOWN = 4  # number of the validation image that the demo page shows
_AUGMENTED = """
    tools/preview_dataset.py --augmented --config-file configs/shapes/mask_rcnn_tiny_FPN.yaml
    --dataset occluded_shapes_train --num 2 --columns 6 --size 120 --output {output}
    MASK_RCNN_EXT.AUGMENTATION.VERTICAL_FLIP True MASK_RCNN_EXT.AUGMENTATION.ROTATION 180.0
    MASK_RCNN_EXT.AUGMENTATION.SCALE_JITTER "[0.5, 2.0]" MASK_RCNN_EXT.AUGMENTATION.BRIGHTNESS 0.3
    MASK_RCNN_EXT.AUGMENTATION.COPY_PASTE 0.5
"""  # the command in docs/own_data.md


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    help_demo = "folder of the finished demo (default: %(default)s)"
    parser.add_argument("--demo", type=Path, default="output/demo", metavar="DIR", help=help_demo)
    help_nuclei = "the nuclei: a folder with annotations_train.json, annotations_val.json, images/"
    parser.add_argument("--dsb2018", type=Path, metavar="DIR", help=help_nuclei)
    return parser.parse_args(argv)


def draw_images(args: argparse.Namespace) -> None:
    """Draw the pictures; without `--dsb2018`, the picture of the check stays as it is.

    Raises:
        UserError: there is no browser, or no finished demo, or a tool fails.
    """
    if CHROMIUM is None:
        raise UserError("expected a browser, found none: apt-get install chromium")
    for name in ("report.html", "predictions.png", "model_final.pth"):
        if not (args.demo / name).is_file():
            raise UserError(f"{args.demo} has no {name}: run `make demo` first")
    if args.dsb2018:
        for name in ("annotations_train.json", "annotations_val.json", "images"):
            if not (args.dsb2018 / name).exists():
                raise UserError(f"--dsb2018 {args.dsb2018} has no {name}")
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        _save("demo_predictions", Image.open(args.demo / "predictions.png"))
        _draw_report(args.demo / "report.html", folder)
        _draw_demo_page(args.demo, folder)
        augmented = str(folder / "augmented.png")
        _run_tool([part.format(output=augmented) for part in shlex.split(_AUGMENTED)])
        _save("augmented", Image.open(augmented))
        if args.dsb2018:
            _draw_check(args.dsb2018, folder)


def _draw_report(report: Path, folder: Path) -> None:
    """Show the types of errors, the confusion matrix, AP by size and overlap, and the scores."""
    with open_page(report.resolve().as_uri(), folder) as page:
        page.set_size(_WIDTH, 800)
        top = _find(page, "h2", "What goes wrong").top
        bottom = _find(page, "figcaption", "All classes together", parents=3).bottom
        _save("demo_analysis", _photograph(page, top, bottom))


def _draw_demo_page(demo: Path, folder: Path) -> None:
    image = Path(DatasetCatalog.get("occluded_shapes_val")[_SHOWN]["file_name"]).resolve()
    with _serve(Predictor(str(demo / "model_final.pth"))) as url, open_page(url, folder) as page:
        page.set_size(1000, 800)
        page.drop_file("#drop", image)
        page.wait("!document.getElementById('work').hidden")
        _save("demo_page", _photograph(page, 0, 964))


def _draw_check(data: Path, folder: Path) -> None:
    options = [
        part
        for split in ("train", "val")
        for part in (f"--{split}-json", f"annotations_{split}.json", f"--{split}-images", "images")
    ]
    # In the data's folder, so that the page shows no paths of this machine.
    _run_tool(["tools/check_dataset.py", *options, "--output", str(folder / "check")], data)
    with open_page((folder / "check/data_check.html").as_uri(), folder) as page:
        page.set_size(_WIDTH, 800)
        _save("data_check", _photograph(page, 0, _find(page, "h2", "Warnings", parents=1).bottom))


@contextlib.contextmanager
def _serve(predictor: Predictor) -> Iterator[str]:
    with DemoServer(port=0) as server:
        thread = threading.Thread(target=server.serve, args=(predictor,))
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


class _Place(NamedTuple):
    """The upper and the lower end of an element, in CSS pixels from the top of the page."""

    top: float
    bottom: float


def _find(page: Any, name: str, text: str, parents: int = 0) -> _Place:
    """Return where a heading is, or the element that is so many levels above it."""
    script = f"""(() => {{
      let found = [...document.querySelectorAll("{name}")].find(
        (each) => each.textContent.startsWith("{text}"));
      for (let level = 0; level < {parents}; level++) found = found.parentElement;
      const {{top, bottom}} = found.getBoundingClientRect();
      return [top + scrollY, bottom + scrollY];
    }})()"""
    return _Place(*page.run(script))


def _photograph(page: Any, top: float, bottom: float) -> Image.Image:
    """Return the part of a page between two heights, in CSS pixels, with a margin."""
    width, top, bottom = page.run("innerWidth"), max(0, top - 16), bottom + 16
    clip = {"x": 0, "y": top, "width": width, "height": bottom - top, "scale": 1}
    found = page.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
    return Image.open(io.BytesIO(base64.b64decode(found["data"])))


def _save(name: str, image: Image.Image) -> None:
    """Write a picture with at most 256 colours and a width of at most `_WIDTH` pixels."""
    if image.width > _WIDTH:
        height = round(image.height * _WIDTH / image.width)
        image = image.resize((_WIDTH, height), Image.Resampling.LANCZOS)
    path = _IMAGES / f"{name}.png"
    with atomic_open(path) as file:
        image.convert("RGB").quantize(256).save(file, "PNG", optimize=True)
    print(path.relative_to(ROOT))


def _run_tool(command: Sequence[str], folder: Path = ROOT) -> None:
    tool, *options = command
    code = run_command([sys.executable, str(ROOT / tool), *options], folder=folder)
    if code:
        raise UserError(f"{tool} failed (exit code {code})")


if __name__ == "__main__":
    sys.exit(run_as_command(lambda: draw_images(parse_args(None))))
