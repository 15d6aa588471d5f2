"""docs/models.md: what the models cost, from `results/model_costs.json`."""

from collections.abc import Mapping
from typing import Any

from ..markdown import COMMAND, markdown_table

__all__ = ["COSTS", "costs_page", "costs_table"]

COSTS = "results/model_costs.json"

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


def costs_table(content: Mapping[str, Any], folder: str | None = None) -> str:
    """Return the table of `model_costs.json`.

    Args:
        content: the content of the file.
        folder: path from the page to the configs, for links to them; None: no links.
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
        content: the content of `model_costs.json`.
    """
    conventions = [
        f"- {title}: {content['conventions'][key]}." for key, title in _CONVENTIONS.items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    head = _HEAD.format(command=COMMAND, costs=COSTS, conventions="\n".join(conventions))
    return f"{head}{costs_table(content, '../configs')}\nCounted with {versions}.\n"
