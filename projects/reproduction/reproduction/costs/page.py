"""docs/models.md: what the models cost, from `results/model_costs.json`."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.files import read_json

__all__ = ["COMMAND", "COSTS", "costs_page", "costs_table", "markdown_table", "read_results"]

COSTS = "results/model_costs.json"
COMMAND = "python projects/reproduction/make_tables.py"  # writes all generated pages

_HEAD = """\
# What the models cost

<!-- `{command}` writes this file from the results of model_costs.py; edits are lost. -->

Parameters in millions, FLOPs in billions for one image, from [{costs}](../{costs}).
`python projects/reproduction/model_costs.py NAME ...` counts them for any config by name, one of
ours or one of detectron2's zoo. The paper gives no such numbers.

{conventions}

"""
_CONVENTIONS = {
    "flops": "Counted",
    "not_counted": "Not counted",
    "image": "The image",
    "rois": "RoIs",
    "parameters": "Parameters",
}
_PARTS = ("backbone", "rpn", "maps", "box", "mask", "keypoint")


def markdown_table(header: Sequence[str], rows: Iterable[Iterable[str]], words: int = 0) -> str:
    """Return a Markdown table.

    Args:
        header: of each column.
        rows: the cells, escaped where they need it.
        words: number of columns of text; those after them are numbers, aligned to the right. 0: all
            are text.
    """
    rule = ["---:" if 0 < words <= column else "---" for column in range(len(header))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *rows))


def read_results(path: Path, fix: str) -> dict[str, Any]:
    """Return the json object in a file of results.

    Args:
        path: the file.
        fix: the last sentence of an error message, which tells the user what to do.

    Raises:
        UserError: the file cannot be read, or does not hold a json object.
    """
    content = read_json(path, fix)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object, got a {type(content).__name__}. {fix}")
    return content


def costs_table(content: Mapping[str, Any], folder: str | None = None) -> str:
    """Return the table of `model_costs.json`.

    Args:
        content: of the file.
        folder: where the configs are, seen from the page, for links to them; None: no links.
    """

    def cells(model: Mapping[str, Any]) -> list[str]:
        config, flops, parameters = (model[key] for key in ("config", "flops", "parameters"))
        return [
            config if folder is None else f"[{config}]({folder}/{config}.yaml)",
            " x ".join(str(side) for side in model["image_size"]),
            f"{model['proposals']} / {model['detections']}",
            *(f"{parameters[key] / 1e6:.2f}" for key in ("total", "trainable")),
            *(f"{flops[part] / 1e9:.1f}" if part in flops else "" for part in ("total", *_PARTS)),
        ]

    header = ["config", "image", "proposals / detections", "parameters", "trainable", "FLOPs"]
    header += ["backbone", "RPN", "score maps", "box branch", "mask branch", "keypoint branch"]
    return markdown_table(header, map(cells, content["models"]), words=1)


def costs_page(content: Mapping[str, Any]) -> str:
    """Return docs/models.md.

    Args:
        content: of `model_costs.json`.
    """
    conventions = [
        f"- {title}: {content['conventions'][key]}." for key, title in _CONVENTIONS.items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    head = _HEAD.format(command=COMMAND, costs=COSTS, conventions="\n".join(conventions))
    return f"{head}{costs_table(content, '../configs')}\nCounted with {versions}.\n"
