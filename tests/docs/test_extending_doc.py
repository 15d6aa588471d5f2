"""docs/extending.md is true: its blocks run, in order, as one script; its links and names exist."""

import importlib
import json
import re

import pytest
import torch
import yaml
from detectron2 import modeling
from support import REPO, SMALL, reset_determinism, write_coco

from mask_rcnn_ext import argument_parser, run_job, write_report

DOC = REPO / "docs/extending.md"
TEXT = DOC.read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)


@pytest.fixture(scope="module")
def namespace(tmp_path_factory):
    """The names that the blocks leave, run in a folder that has the data they speak of."""
    folder = tmp_path_factory.mktemp("plugin")
    write_coco(folder, images=4)
    names: dict = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch, reset_determinism():
        patch.chdir(folder)
        for number, block in enumerate(BLOCKS, start=1):
            if "launch(" in block:  # the demo's size would take longer
                names["VALUES"] += [*SMALL, "MODEL.DEVICE", "cpu"]
            exec(compile(block, f"extending.md, block {number}", "exec"), names)
        assert (folder / "output/plugin/model_final.pth").is_file()
    torch.set_num_threads(threads)
    return {**names, "FOLDER": folder}


def test_the_parts_of_the_script_are_in_the_model(namespace):
    model = modeling.build_model(namespace["cfg"])
    assert type(model.roi_heads) is namespace["ContextROIHeads"]
    assert type(model.roi_heads.mask_head) is namespace["SmoothMaskHead"]
    assert model.roi_heads.mask_head.roughness_weight == 0.2
    assert type(model.roi_heads.box_pooler.level_poolers[0]) is namespace["ContextROIAlign"]
    assert type(model.backbone.bottom_up) is namespace["PlainBackbone"]


def test_the_enlarged_boxes_are_enlarged(namespace):
    layer = namespace["ContextROIAlign"]((7, 7), 1.0, 2)
    ramp = torch.arange(64.0).expand(1, 1, 64, 64)
    plain = super(type(layer), layer).forward(ramp, torch.tensor([[0.0, 8.0, 8.0, 56.0, 56.0]]))
    assert torch.equal(layer(ramp, torch.tensor([[0.0, 16.0, 16.0, 48.0, 48.0]])), plain)


def test_a_run_with_own_keys_is_evaluated_by_its_weights_alone_and_reported(namespace, monkeypatch):
    monkeypatch.chdir(namespace["FOLDER"])
    words = ["MODEL.WEIGHTS", "output/plugin/model_final.pth", "DATASETS.TEST", "('plugin_train',)"]
    args = argument_parser().parse_args(["--eval-only", *words, "OUTPUT_DIR", "output/evaluation"])
    with reset_determinism():
        run_job(args, add_keys=namespace["add_my_keys"])
    results = json.loads((namespace["FOLDER"] / "output/evaluation/results.json").read_text())
    assert {"bbox", "segm"} <= results.keys()
    write_report("output/plugin")
    page = (namespace["FOLDER"] / "output/plugin/report.html").read_text()
    assert "ROI_MASK_HEAD.ROUGHNESS_WEIGHT" in page


def test_yaml_block_says_what_the_python_block_does(namespace):
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.S)
    said = yaml.safe_load(block)
    cfg = namespace["cfg"]
    assert (REPO / "docs" / said.pop("_BASE_")).is_file()

    def compare(node, values):
        for key, value in values.items():
            if isinstance(value, dict):
                compare(node[key], value)
            else:
                assert (list(node[key]) if isinstance(value, list) else node[key]) == value, key

    compare(cfg, said)


def test_named_files_exist():
    links = [DOC.parent / link for link in re.findall(r"\]\((?!http)([^)#]+)\)", TEXT)]
    pattern = r"`((?:projects|tests|mask_rcnn_ext|configs|tools)/[\w/.]+)`"
    files = [REPO / name for name in re.findall(pattern, TEXT)]
    assert len(files) > 4
    assert [str(path) for path in [*links, *files] if not path.exists()] == []


def test_the_table_names_registries_and_classes_that_exist():
    rows = [line for line in TEXT.splitlines() if line.startswith("| `")]
    assert len(rows) == 5
    for row in rows:
        _, _, registry, _, base, _ = (cell.strip(" `") for cell in row.split("|"))
        assert registry == "DatasetCatalog" or hasattr(modeling, registry), registry
        module, _, name = base.rpartition(".")
        assert hasattr(importlib.import_module(module), name), base
