"""Configs are read safely and strictly, and leave detectron2's own config as it was."""

import re
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.config import get_cfg as detectron2_get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from omegaconf import OmegaConf
from support import REPO, run_python

from mask_rcnn_ext import UserError, add_mask_rcnn_ext_config, get_cfg, load_config
from mask_rcnn_ext.config import complete_config, flat_config

CONFIGS = sorted((REPO / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(REPO / "configs")))
def test_every_config_loads_and_builds(path: Path):
    """On the "meta" device, which makes no weights: the largest model has 160 million."""
    cfg = load_config(str(path), ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = build_model(cfg)
    assert sum(p.numel() for p in model.parameters()) > 100_000


def test_there_are_the_promised_root_configs():
    names = {p.stem for p in (REPO / "configs").glob("*.yaml")}
    assert {"mask_rcnn_R50_FPN", "mask_rcnn_R101_FPN", "mask_rcnn_X101_FPN"} <= names


def test_python_tag_is_refused_and_not_run(tmp_path):
    marker = tmp_path / "ran"
    evil = tmp_path / "evil.yaml"
    evil.write_text(f'OUTPUT_DIR: !!python/object/apply:os.system ["touch {marker}"]\n')
    with pytest.raises(UserError, match=r"evil\.yaml: refused.*python/object"):
        get_cfg().merge_from_file(str(evil))
    assert not marker.exists()


def test_python_tag_in_a_base_file_is_refused(tmp_path):
    (tmp_path / "base.yaml").write_text("OUTPUT_DIR: !!python/object/apply:os.getcwd []\n")
    leaf = tmp_path / "leaf.yaml"
    leaf.write_text('_BASE_: "base.yaml"\n')
    with pytest.raises(UserError, match="refused"):
        load_config(str(leaf))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["SEED", "1", "--train-json", "x"], "--train-json stands after '1', where only KEY VALUE"),
        (["mask_rcnn_lite0_FPN", "--auto"], "Options come first, and --config-file comes before"),
        (["SEED=1"], "expected KEY VALUE with a space between them, got 'SEED=1'"),
        (["SEED"], "expected KEY VALUE pairs after the options, got 1 word(s): 'SEED'"),
        (["SOLVER.BASE_LR"], "KEY VALUE"),
    ],
)
def test_words_that_are_no_pairs(words, says):
    with pytest.raises(UserError, match=re.escape(says)):
        load_config(None, words)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("SOLVER.BASELR", "SOLVER.BASE_LR"),
        ("SOLVER.LR", "SOLVER.BASE_LR"),
        ("MODEL.BASE_LR", "SOLVER.BASE_LR"),
        ("MODEL.ROI_HEAD.NUM_CLASSES", "MODEL.ROI_HEADS.NUM_CLASSES"),
        ("model.device", "MODEL.DEVICE"),
        ("INPUT.MIN_SIZE", "INPUT.MIN_SIZE_TEST"),
        ("MODEL.NOPE", ""),  # MODEL.RPN is no value, and not what was meant
        ("SOLVER.EPOCHS", ""),
    ],
)
def test_the_nearest_key_is_a_value_whose_last_word_is_similar(key, meant):
    with pytest.raises(UserError) as error:
        load_config(None, [key, "1"])
    hint = f"; did you mean {meant!r}?" if meant else ""
    assert str(error.value) == f"command line: unknown config key {key!r}{hint}"


def test_missing_file_is_an_error():
    with pytest.raises(UserError, match=r"not found: nowhere\.yaml"):
        load_config("nowhere.yaml")


def test_import_changes_neither_defaults_nor_stock_models():
    """In a fresh process: detectron2's defaults and a stock model, before our import and after."""
    code = """
import torch
from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.modeling import build_model

def describe():
    cfg = get_cfg()
    defaults = cfg.dump()
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_file(
        model_zoo.get_config_file("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    )
    torch.manual_seed(0)
    model = build_model(cfg)
    return defaults, [type(module) for module in model.modules()], model.state_dict()

defaults, classes, weights = describe()
import mask_rcnn_ext
defaults_after, classes_after, weights_after = describe()
assert "MASK_RCNN_EXT" not in defaults
assert defaults == defaults_after
assert classes == classes_after
assert list(weights) == list(weights_after)
assert all(torch.equal(value, weights_after[name]) for name, value in weights.items())
print("the same")
"""
    done = run_python("-W", "ignore", "-c", code, cwd=REPO)
    assert done.stdout == "the same\n", done.stderr


def test_adding_the_keys_twice_keeps_the_users_values():
    cfg = detectron2_get_cfg()
    add_mask_rcnn_ext_config(cfg)
    cfg.MASK_RCNN_EXT.CHANNELS_LAST = True
    add_mask_rcnn_ext_config(cfg)
    assert cfg.MASK_RCNN_EXT.CHANNELS_LAST is True


def test_a_config_is_completed_only_if_it_lacks_keys():
    ours = get_cfg()
    ours.MASK_RCNN_EXT.FREEZE = ("backbone",)  # a tuple does as well as a list
    assert complete_config(ours) is ours
    partial = detectron2_get_cfg()
    partial.MASK_RCNN_EXT = CfgNode({"FREEZE": ["backbone"]})
    partial.freeze()
    completed = complete_config(partial)
    assert completed.MASK_RCNN_EXT.FREEZE == ["backbone"]
    assert completed.MASK_RCNN_EXT.SPEED == "exact"
    assert completed.is_frozen()
    assert "SPEED" not in partial.MASK_RCNN_EXT


def test_a_config_of_another_kind_is_told():
    with pytest.raises(UserError, match=r"CfgNode, got a DictConfig.*LazyConfig"):
        complete_config(OmegaConf.create({"model": {}}))


def test_a_python_config_is_told(tmp_path):
    (tmp_path / "mine.py").write_text("for name in ('train', 'val'): pass")
    with pytest.raises(UserError, match=r"mine.py: expected a yaml file\. .*LazyConfig"):
        load_config(str(tmp_path / "mine.py"))


def test_a_key_of_another_type_is_refused():
    cfg = detectron2_get_cfg()
    cfg.MASK_RCNN_EXT = CfgNode({"CHANNELS_LAST": "yes"})
    with pytest.raises(ValueError, match="CHANNELS_LAST"):
        add_mask_rcnn_ext_config(cfg)


def test_keys_of_a_project_are_declared_before_the_file_is_read(tmp_path):
    def add_keys(cfg):
        cfg.MODEL.ROI_MASK_HEAD.ROUGHNESS = 0.5

    path = tmp_path / "mine.yaml"
    path.write_text("MODEL: {ROI_MASK_HEAD: {ROUGHNESS: 0.25}}")
    overrides = ["MODEL.ROI_MASK_HEAD.ROUGHNESS", "0.125"]
    assert load_config(None, add_keys=add_keys).MODEL.ROI_MASK_HEAD.ROUGHNESS == 0.5
    assert load_config(str(path), add_keys=add_keys).MODEL.ROI_MASK_HEAD.ROUGHNESS == 0.25
    cfg = load_config(str(path), overrides, add_keys=add_keys)
    assert cfg.MODEL.ROI_MASK_HEAD.ROUGHNESS == 0.125
    with pytest.raises(UserError, match="ROUGHNESS"):
        load_config(str(path))


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("OUTPUT_DIR", "2024", "2024"),
        ("OUTPUT_DIR", "007", "007"),
        ("OUTPUT_DIR", "1e3", "1e3"),
        ("OUTPUT_DIR", "None", "None"),
        ("OUTPUT_DIR", "(a)", "(a)"),
        ("OUTPUT_DIR", "out/2024-11", "out/2024-11"),
        ("OUTPUT_DIR", "'quoted'", "quoted"),
        ("MODEL.WEIGHTS", "", ""),
        ("MODEL.WEIGHTS", "''", ""),
        ("DATASETS.TRAIN", "(2024,)", ("2024",)),
        ("DATASETS.TEST", "('a', 1e3)", ("a", "1e3")),
        ("DATASETS.TEST", "()", ()),
        ("MASK_RCNN_EXT.CLASS_NAMES", "[1, 'two', 3.50]", ["1", "two", "3.50"]),
        ("MODEL.RPN.IN_FEATURES", "['p2', 3]", ["p2", "3"]),
        ("SOLVER.STEPS", "(8000,)", (8000,)),
        ("MODEL.DEVICE", "cpu", "cpu"),
        ("SOLVER.MAX_ITER", "7", 7),
    ],
)
def test_text_stays_text_and_numbers_numbers(key, given, expected):
    values = dict(flat_config(load_config(None, [key, given])))
    assert values[key] == expected


def test_a_whole_number_for_a_float_says_how_to_write_it():
    with pytest.raises(UserError, match=r"VOTE_IOU_THRESH.*Write whole numbers with a point"):
        get_cfg().merge_from_list(["MODEL.FCIS.VOTE_IOU_THRESH", "1"])


CATALOG = ["config_train", "config_val", "config_known"]


def write_run_config(path: Path, datasets: list[str], names: list[str], ids: list[int]) -> str:
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = datasets[:1], datasets[1:]
    cfg.MASK_RCNN_EXT.CLASS_NAMES, cfg.MASK_RCNN_EXT.CATEGORY_IDS = names, ids
    path.write_text(cfg.dump())
    return str(path)


def test_class_names_of_a_run_are_where_detectron2s_tools_look(tmp_path, forget_data_sets):
    """`DefaultPredictor(cfg).metadata` belongs to `DATASETS.TEST[0]`; others read TRAIN[0]."""
    run = write_run_config(tmp_path / "a.yaml", CATALOG[:2], ["cell", "nucleus"], [3, 7])
    get_cfg().merge_from_file(run)
    for name in CATALOG[:2]:
        metadata = MetadataCatalog.get(name)
        assert metadata.thing_classes == ["cell", "nucleus"]
        assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    other = write_run_config(tmp_path / "b.yaml", CATALOG[:2], ["cat"], [1])
    kept = MetadataCatalog.get(CATALOG[1])
    load_config(other)
    assert MetadataCatalog.get(CATALOG[1]).thing_classes == ["cat"]
    assert kept.thing_classes == ["cell", "nucleus"]


def test_class_names_of_others_stay(tmp_path, forget_data_sets):
    MetadataCatalog.get("config_train").thing_classes = ["mine"]
    DatasetCatalog.register("config_known", list)
    run = write_run_config(tmp_path / "a.yaml", CATALOG, ["cell"], [1])
    load_config(run)
    assert MetadataCatalog.get("config_train").thing_classes == ["mine"]
    assert MetadataCatalog.get("config_train").get("thing_dataset_id_to_contiguous_id") is None
    assert MetadataCatalog.get("config_val").thing_classes == ["cell"]
    assert MetadataCatalog.get("config_known").get("thing_classes") is None
    load_config(None, ["DATASETS.TEST", "('coco_2017_val',)", "MASK_RCNN_EXT.CLASS_NAMES", "['x']"])
    assert len(MetadataCatalog.get("coco_2017_val").thing_classes) == 80


def many_aliases(levels: int) -> str:
    """Return a yaml whose last value stands for 10 ** levels texts."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"a": "_BASE_: a.yaml"}, "its _BASE_ leads back to it: a.yaml -> a.yaml. Remove one"),
        ({"a": "_BASE_: b.yaml", "b": "_BASE_: ['c.yaml', 'a.yaml']", "c": "SEED: 1"},
         "its _BASE_ leads back to it: a.yaml -> b.yaml -> a.yaml"),
        ({"a": "MODEL: &m\n  X: *m"}, "an alias (*) stands for a value that contains the alias"),
        ({"a": "INPUT:\n  MIN_SIZE_TRAIN: &s [1, *s]"}, "an alias (*) stands for a value that"),
        ({"a": many_aliases(9)}, "stand for 1,234,567,909 values, at most 100,000 are read"),
        ({"a": "_BASE_: b.yaml", "b": many_aliases(9)}, "b.yaml: its aliases"),
        ({"a": "A: " + "[" * 3000 + "]" * 3000}, "nested too deeply"),
        ({"a": '{"a":' * 3000 + "1" + "}" * 3000}, "nested too deeply"),
        ({"a": f"SEED: {'9' * 5000}"}, "a number of 5000 digits"),
    ],
)  # fmt: skip
def test_a_yaml_that_never_ends_is_one_error(tmp_path, texts, message):
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(str(tmp_path / "a.yaml"))
    assert message in str(caught.value)
    assert len(str(caught.value)) < 700


def test_a_few_aliases_and_one_base_twice_are_read(tmp_path):
    (tmp_path / "base.yaml").write_text("SEED: 5")
    for name in "bc":
        (tmp_path / f"{name}.yaml").write_text("_BASE_: base.yaml")
    (tmp_path / "a.yaml").write_text(
        "_BASE_: [b.yaml, c.yaml]\nINPUT:\n  MIN_SIZE_TRAIN: &s [64, 96]\n  MAX_SIZE_TRAIN: 96\n"
        "MODEL:\n  ANCHOR_GENERATOR:\n    SIZES: [*s, *s]\n"
    )
    cfg = load_config(str(tmp_path / "a.yaml"))
    assert cfg.SEED == 5
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[64, 96], [64, 96]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"MODEL: [1, 2", "not a yaml file"),
        (b"SOLVER:\n  MAX_ITER: many\n", "MAX_ITER"),
        (b"- 1\n- 2\n", "x.yaml"),
        (b'_BASE_: "nowhere.yaml"\n', "No such file.*nowhere.yaml"),
        (b"MODEL: {ROI_HEADS: {NUM_CLASES: 3}}", r"x\.yaml.*mean 'MODEL\.ROI_HEADS\.NUM_CLASSES'"),
        (b"OUTPUT_DIR: 2024\n", "OUTPUT_DIR.*Put text that looks like a number into quotes"),
        (b"\xff\xfe\x00abc", "not a yaml file: .*Save it as UTF-8"),
        (
            b"SOLVER: {MAX_ITER: " + b"9" * 5000 + b"}",
            "a number of 5000 digits, which no key takes",
        ),
        (b"MODEL: {MASK_ON: null}", "MODEL.MASK_ON: expected a value such as False, got nothing"),
        (
            b"MODEL: {MASK_ON: True}\nSEED: 1\nMODEL: {DEVICE: cpu}",
            r"x\.yaml: line 3 has the key 'MODEL' a second time",
        ),
        (b"MODEL: {ROI_HEADS: {NUM_CLASSES: 3, NUM_CLASSES: 4}}", "line 1 has the key 'NUM_CLA"),
        (b"DATASETS: {TRAIN: [[a]]}", r"DATASETS.TRAIN: expected a list of text, got \['a'\]"),
        (b"DATASETS: {TEST: ['']}", "DATASETS.TEST: expected names of data sets, got ''"),
        (b"MASK_RCNN_EXT: {CATEGORY_IDS: [x]}", "CATEGORY_IDS: expected a list of whole numbers"),
    ],
)
def test_a_wrong_file_is_one_error(tmp_path, content, said):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(UserError, match=said):
        load_config(str(tmp_path / "x.yaml"))


@pytest.mark.parametrize("key", ["SOLVER.MAX_ITER", "MODEL.MASK_ON", "MASK_RCNN_EXT.CLASS_NAMES"])
def test_none_on_the_command_line_is_no_number_and_no_list(key, tmp_path):
    with pytest.raises(UserError, match=f"^command line: {key}: expected a value .* got nothing"):
        load_config(None, [key, "None"])
    for key in ("WEIGHT_DECAY_BIAS", "WEIGHT_DECAY_NORM"):
        cfg = load_config(None, [f"SOLVER.{key}", "None"])
        assert cfg.SOLVER[key] is None
        (tmp_path / "config.yaml").write_text(cfg.dump())
        assert load_config(tmp_path / "config.yaml").SOLVER[key] is None


def test_no_text_is_empty_text(tmp_path):
    (tmp_path / "x.yaml").write_text("MODEL:\n  WEIGHTS:\n  FPN: {NORM: null}\n")
    model = load_config(str(tmp_path / "x.yaml")).MODEL
    assert model.WEIGHTS == model.FPN.NORM == ""


GROUP = "expected values for the keys in this group, such as"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("MASK_RCNN_EXT: {EARLY_STOPPING: True}", f"{GROUP} MASK_RCNN_EXT.EARLY_STOPPING.PATIENCE"),
        ("MODEL: {FPN: [1]}", f"MODEL.FPN: {GROUP} MODEL.FPN.IN_FEATURES, got [1]"),
        ("SOLVER:", f"SOLVER: {GROUP} SOLVER.LR_SCHEDULER_NAME, got nothing"),
        ("MODEL: 3", f"MODEL: {GROUP} MODEL.WEIGHTS, got 3"),
        ("MODEL:", f"MODEL: {GROUP} MODEL.WEIGHTS, got nothing"),
        ("SOLVER: {MAX_ITER: {A: 3}}", "MAX_ITER: expected a value such as 40000, got keys of its"),
        ("SOLVER: {MAX_ITER: ten}", "SOLVER.MAX_ITER: expected a value such as 40000, got ten"),
        ("OUTPUT_DIR: 3", "OUTPUT_DIR: expected a value such as './output', got 3. Put text that"),
        ("SOLVER: {1: 3}", "expected the name of a key, got '1' (line 1)"),
        ("_BASE_: 3", "_BASE_: expected the path of a file, got 3"),
        ("[1]", "expected keys and values, got a list"),
        ("", "expected keys and values, got nothing"),
    ],
)
def test_a_wrong_kind_of_value_is_one_sentence(text, says, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        load_config(str(tmp_path / "x.yaml"))
    assert f"x.yaml: {says}" in str(error.value) or says in str(error.value)
    assert not re.search("class|Node|\n", str(error.value))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("MASK_RCNN_EXT.EARLY_STOPPING", "True", f"{GROUP} MASK_RCNN_EXT.EARLY_STOPPING.PATIENCE"),
        ("MASK_RCNN_EXT", "{'A': 1}", f"MASK_RCNN_EXT: {GROUP} MASK_RCNN_EXT."),
        ("MODEL", "None", f"MODEL: {GROUP} MODEL.LOAD_PROPOSALS, got nothing"),
        ("SOLVER.MAX_ITER.X", "3", "unknown config key 'SOLVER.MAX_ITER.X'"),
        ("SOLVER.STEPS", "10", "SOLVER.STEPS: expected a value such as (30000,), got 10"),
    ],
)
def test_a_wrong_kind_of_value_on_the_command_line(key, value, says):
    with pytest.raises(UserError) as error:
        load_config(None, [key, value])
    assert says in str(error.value)
    assert not re.search("class|Node|\n", str(error.value))
