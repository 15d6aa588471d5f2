"""docs/models.md: what the models cost, from `results/model_costs.json`."""

from ..markdown import COMMAND, markdown_table
from .results_file import MODEL_PARTS, CostResults, ModelCosts

__all__ = ["COSTS", "costs_page", "costs_table"]

COSTS = "results/model_costs.json"

_HEAD = """\
# What the models cost

<!-- `{command}` writes this file from the results of model_costs.py; edits are lost. -->

The table gives parameters in millions, and FLOPs in billions for one image, from
[{costs}](../{costs}). The paper gives no such numbers.
`python projects/reproduction/model_costs.py NAME ...` counts them for any config, ours or of
detectron2's zoo.

- **FLOPs.** fvcore counts them, as in detectron2.utils.analysis. A multiply-add counts as one.
  The figures include convolutions, fully connected layers, matrix products, batch normalisation
  and upsampling. The last two are under one per cent.
- **Not counted:** RoI layers, NMS, anchors, decoding of boxes, max pooling, softmax, pasting of
  masks, and other elementwise operations. fvcore has no count for them.
- **Image.** The shorter side is the size that the config sets for testing. The sides have the
  ratio 3 : 2 (Cityscapes: 2 : 1), and each is padded to a multiple of 32. The figures are for one
  image and one pass, without test-time augmentation.
- **RoIs.** The box branch gets as many RoIs as the config has proposals in testing. The mask and
  keypoint branches get as many as it has detections. In C4, res5 is part of the box branch and of
  the mask branch. FCIS has score maps of the whole image instead of branches, so their cost does
  not depend on the number of RoIs.
- **Parameters** are weights and biases. The statistics and factors of frozen batch normalisation
  do not count. "trainable" leaves out the parameters that the config freezes.

"""


def costs_table(results: CostResults, folder: str | None = None) -> str:
    """Return the table of the models.

    Args:
        results: the results.
        folder: path from the page to the configs, for links to them; None: no links.
    """

    def cells(model: ModelCosts) -> list[str]:
        config, flops = model.config, model.flops
        return [
            config if folder is None else f"[{config}]({folder}/{config}.yaml)",
            " x ".join(str(side) for side in model.image_size),
            f"{model.proposals} / {model.detections}",
            f"{model.parameters.total / 1e6:.2f}",
            f"{model.parameters.trainable / 1e6:.2f}",
            *(
                f"{flops[part] / 1e9:.1f}" if part in flops else ""
                for part in ("total", *MODEL_PARTS)
            ),
        ]

    header = ["config", "image", "proposals / detections", "parameters", "trainable", "FLOPs"]
    header += ["backbone", "RPN", "score maps", "box branch", "mask branch", "keypoint branch"]
    return markdown_table(header, map(cells, results.models), words=1)


def costs_page(results: CostResults) -> str:
    """Return docs/models.md."""
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    head = _HEAD.format(command=COMMAND, costs=COSTS)
    return f"{head}{costs_table(results, '../configs')}\nCounted with {versions}.\n"
