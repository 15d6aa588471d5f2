"""The public names: which they are, and that Python and type checkers find each of them."""

import ast
import inspect
import pickle

import pytest
from support import REPO

import mask_rcnn_ext

NAMES = [
    "FCIS",
    "RCNN",
    "Checkpointer",
    "FCISComparisonEvaluator",
    "FCISROIHeads",
    "MaskRCNN",
    "MaskRCNNCOCOEvaluator",
    "MaskRCNNCityscapesEvaluator",
    "MaskRCNNFCNHead",
    "MaskRCNNMLPHead",
    "MaskRCNNROIHeads",
    "MaskRCNNROIPooler",
    "MaskRCNNRes5ROIHeads",
    "PSROIAlign",
    "PSROIPool",
    "Predictor",
    "RCNNROIHeads",
    "ROIAlignMax",
    "ROIWarpAve",
    "ROIWarpMax",
    "RPNMethod",
    "SelectiveSearchMethod",
    "Trainer",
    "UserError",
    "add_mask_rcnn_ext_config",
    "argument_parser",
    "build_evaluator",
    "check_dataset",
    "compare",
    "compute_proposals",
    "convert_checkpoint",
    "derive_recipe",
    "draw_instances",
    "get_cfg",
    "launch",
    "load_config",
    "load_results",
    "load_truth",
    "measure",
    "model_zoo",
    "register_own_data",
    "run_as_command",
    "run_job",
    "write_check_page",
    "write_fixed_jsons",
    "write_proposal_file",
    "write_report",
]


def test_the_list():
    """A change of this list is a change for users: say it in CHANGELOG.md."""
    assert mask_rcnn_ext.__all__ == NAMES
    assert set(NAMES) <= set(dir(mask_rcnn_ext))


def test_a_star_import_brings_them():
    namespace: dict = {}
    exec("from mask_rcnn_ext import *", namespace)
    assert set(NAMES) <= namespace.keys()


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_documented_and_can_be_pickled(name):
    value = getattr(mask_rcnn_ext, name)
    assert len(inspect.getdoc(value) or "") > 20
    if inspect.ismodule(value):
        return
    assert value.__name__ == name
    assert value.__doc__, "inherited only"
    assert pickle.loads(pickle.dumps(value)) is value


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'mask_rcnn_ext' has no attribute 'Predicter'"):
        _ = mask_rcnn_ext.Predicter


def test_type_checkers_see_the_names_that_are_imported_late():
    tree = ast.parse((REPO / "mask_rcnn_ext/__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    seen = {alias.name: node.module or alias.name for node in block.body for alias in node.names}
    assert seen == mask_rcnn_ext._LAZY
    assert (REPO / "mask_rcnn_ext/py.typed").is_file()
