"""The comparisons of the small ablations, in the order of the paper's tables.

A variant is a yaml in `configs/shapes/ablations/`. A comparison is one row of the results: a pair
of variants that differ only in the config keys that the comparison names. The paper discusses the
same differences. 2b: sigmoid minus softmax; 2c: each layer minus RoIPool; 2d: RoIAlign minus
RoIPool; 2e: the FCN minus each MLP; section 4.2: class-specific minus class-agnostic masks; Table
3: the box AP with minus without the mask branch; 2a: the deeper minus the shallower backbone.
"""

from dataclasses import dataclass

__all__ = ["COMPARISONS", "SEEDED_TABLES", "TABLES", "VARIANTS", "VariantPair"]

_C4, _C5, _FPN = "mask_rcnn_tiny_C4", "mask_rcnn_tiny_C5", "mask_rcnn_tiny_FPN_FCN"

# Variant (the name of its yaml) -> its label.
VARIANTS = {
    _C4: "C4: RoIAlign ave, sigmoid, class-specific",
    f"{_C4}_softmax": "C4, softmax",
    f"{_C4}_RoIPool": "C4, RoIPool",
    f"{_C4}_RoIWarpMax": "C4, RoIWarp max",
    f"{_C4}_RoIWarpAve": "C4, RoIWarp ave",
    f"{_C4}_RoIWarpV1Max": "C4, RoIWarp max, MNC's first form",
    f"{_C4}_RoIWarpV1Ave": "C4, RoIWarp ave, MNC's first form",
    f"{_C4}_RoIAlignMax": "C4, RoIAlign max",
    f"{_C5}_RoIPool": "C5, RoIPool",
    _C5: "C5: RoIAlign",
    "mask_rcnn_tiny_FPN_MLP2": "FPN, MLP with 2 hidden layers",
    "mask_rcnn_tiny_FPN_MLP3": "FPN, MLP with 3 hidden layers",
    _FPN: "FPN: FCN",
    f"{_C4}_agnostic": "C4, class-agnostic masks",
    "faster_rcnn_tiny_FPN": "FPN, no mask branch",
    "faster_rcnn_tiny_C4": "C4, no mask branch",
    f"{_C4}_deep": "C4, three blocks in res4",
}

# Table, as `--rows` names it -> its subject.
TABLES = {
    "2b": "Table 2b: mask loss",
    "2c": "Table 2c: RoI layer, stride 16",
    "2d": "Table 2d: RoI layer, stride 32",
    "2e": "Table 2e: mask branch",
    "agnostic": "Section 4.2: class-agnostic masks",
    "mask": "Table 3: mask branch on or off",
    "2a": "Table 2a: depth of the backbone",
}
SEEDED_TABLES = ("2b", "2c")  # run with several seeds, unless `--rows` asks for others


@dataclass(frozen=True)
class VariantPair:
    """One row of the results: AP of variant `of` minus AP of variant `minus`.

    Attributes:
        table: a key of `TABLES`.
        label: the label of the row.
        of, minus: keys of `VARIANTS`.
        task: "segm" or "bbox".
        keys: the config keys in which the two differ.
        paper: the paper's table, and its rows for `of` and `minus`, as `mask_rcnn_ext.paper` names
            them.
        note: a fact to know when you compare our difference with the paper's.
    """

    table: str
    label: str
    of: str
    minus: str
    task: str
    keys: tuple[str, ...]
    paper: tuple[str, str, str]
    note: str = ""

    @property
    def name(self) -> str:
        """The unique name of the row."""
        return f"{self.table}: {self.of} - {self.minus}, {self.task}"


_BOX_POOLER, _MASK_POOLER = "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "MODEL.ROI_MASK_HEAD.POOLER_TYPE"
_MASK_HEAD = "MODEL.ROI_MASK_HEAD"
_MLP = "MLP, fc: 1024 -> 1024 -> {}80*28^2"
_FCN = "FCN, conv: 256 -> 256 -> 256 -> 256 -> 256 -> 80"
_WITH, _WITHOUT = "Mask R-CNN, ResNet-101-FPN", "Faster R-CNN, RoIAlign, ResNet-101-FPN"


def _roi_layer(layer: str, of: str, form: str = "") -> VariantPair:
    label = layer.replace(",", "") + form + " - RoIPool"
    paper = ("2c", layer, "RoIPool, max")
    return VariantPair("2c", label, of, f"{_C4}_RoIPool", "segm", (_BOX_POOLER,), paper)


def _stride_32(task: str, what: str) -> VariantPair:
    paper, keys = ("2d", "RoIAlign", "RoIPool"), (_BOX_POOLER, _MASK_POOLER)
    return VariantPair(
        "2d", f"RoIAlign - RoIPool, {what}", _C5, f"{_C5}_RoIPool", task, keys, paper
    )


def _branch(layers: int, keys: tuple[str, ...]) -> VariantPair:
    label, minus = f"FCN - MLP, {layers} hidden layers", f"mask_rcnn_tiny_FPN_MLP{layers}"
    paper = ("2e", _FCN, _MLP.format("1024 -> " * (layers - 2)))
    return VariantPair("2e", label, _FPN, minus, "segm", keys, paper)


def _mask_branch(of: str, minus: str, form: str, note: str) -> VariantPair:
    label, paper = f"with - without it, {form}, boxes", ("3", _WITH, _WITHOUT)
    return VariantPair("mask", label, of, minus, "bbox", ("MODEL.MASK_ON",), paper, note)


COMPARISONS = (
    VariantPair(
        *("2b", "sigmoid - softmax", _C4, f"{_C4}_softmax", "segm"),
        keys=(f"{_MASK_HEAD}.LOSS",),
        paper=("2b", "sigmoid", "softmax"),
    ),
    _roi_layer("RoIWarp, max", f"{_C4}_RoIWarpMax"),
    _roi_layer("RoIWarp, ave", f"{_C4}_RoIWarpAve"),
    _roi_layer("RoIWarp, max", f"{_C4}_RoIWarpV1Max", ", first form"),
    _roi_layer("RoIWarp, ave", f"{_C4}_RoIWarpV1Ave", ", first form"),
    _roi_layer("RoIAlign, max", f"{_C4}_RoIAlignMax"),
    _roi_layer("RoIAlign, ave", _C4),
    _stride_32("segm", "masks"),
    _stride_32("bbox", "boxes"),
    _branch(2, (f"{_MASK_HEAD}.NAME",)),
    _branch(3, (f"{_MASK_HEAD}.NAME", f"{_MASK_HEAD}.NUM_FC")),
    VariantPair(
        *("agnostic", "class-specific - agnostic", _C4, f"{_C4}_agnostic", "segm"),
        keys=(f"{_MASK_HEAD}.CLS_AGNOSTIC_MASK",),
        paper=("text", "class-specific masks", "class-agnostic masks"),
    ),
    _mask_branch(_FPN, "faster_rcnn_tiny_FPN", "FPN", "The paper's is ResNet-101-FPN."),
    _mask_branch(
        *(_C4, "faster_rcnn_tiny_C4", "C4"),
        note="The paper's is ResNet-101-FPN, whose branches share no head; here they share res5.",
    ),
    VariantPair(
        *("2a", "three blocks in res4 - one", f"{_C4}_deep", _C4, "segm"),
        keys=("MASK_RCNN_EXT.TINY_RESNET.BLOCKS",),
        paper=("2a", "ResNet-101-C4", "ResNet-50-C4"),
        note="The paper's is ResNet-101 - ResNet-50: 17 more blocks, all in res4.",
    ),
)
