"""The ablations: their configs, the order of work, and the subprocess that trains."""

from dataclasses import replace

import pytest
from reproduction import training_runs
from reproduction.ablations.results import find_published
from reproduction.ablations.runs import AblationRun, plan
from reproduction.ablations.tables import COMPARISONS, TABLES, VARIANTS
from support import REPO

from mask_rcnn_ext import UserError
from mask_rcnn_ext.config import flat_config

FOLDER = REPO / "configs/shapes/ablations"
C4, SOFTMAX = "mask_rcnn_tiny_C4", "mask_rcnn_tiny_C4_softmax"


# The configs


def flat(variant):
    return dict(flat_config(AblationRun.under("", variant, 1).config()))


@pytest.mark.parametrize("comparison", COMPARISONS, ids=lambda c: c.name)
def test_the_two_sides_differ_in_exactly_the_declared_keys(comparison):
    of, minus = flat(comparison.of), flat(comparison.minus)
    assert of.keys() == minus.keys()
    assert {key for key in of if of[key] != minus[key]} == set(comparison.keys)


def test_every_yaml_is_a_variant_that_some_row_uses():
    stems = {path.stem for path in FOLDER.glob("*.yaml") if not path.stem.startswith("Base-")}
    used = {variant for c in COMPARISONS for variant in (c.of, c.minus)}
    assert stems == set(VARIANTS) == used
    assert {c.table for c in COMPARISONS} == set(TABLES)
    assert len({c.name for c in COMPARISONS}) == len(COMPARISONS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_trains_from_scratch_on_the_embedded_data_and_is_evaluated_once(variant):
    cfg = AblationRun.under("", variant, 1).config()
    assert cfg.MODEL.WEIGHTS == ""
    assert cfg.DATASETS.TRAIN == ("occluded_shapes_train",)
    assert cfg.DATASETS.TEST == ("occluded_shapes_val",)
    assert cfg.TEST.EVAL_PERIOD == 0
    assert 0 < cfg.SOLVER.CHECKPOINT_PERIOD < cfg.SOLVER.MAX_ITER


def test_the_paper_differences_are_those_that_it_prints():
    printed = {c.name: find_published(c).difference for c in COMPARISONS}
    for name, difference in {
        f"2b: {C4} - {SOFTMAX}, segm": {"AP": 5.5, "AP50": 7.1, "AP75": 6.4},
        f"2c: {C4} - {C4}_RoIPool, segm": {"AP": 3.4, "AP50": 2.4, "AP75": 5.1},
        "2d: mask_rcnn_tiny_C5 - mask_rcnn_tiny_C5_RoIPool, bbox": {
            "AP": 5.8,
            "AP50": 2.6,
            "AP75": 9.5,
        },
        f"agnostic: {C4} - {C4}_agnostic, segm": {"AP": 0.6},
        "mask: mask_rcnn_tiny_FPN_FCN - faster_rcnn_tiny_FPN, bbox": {
            "AP": 0.9,
            "AP50": 0.7,
            "AP75": 1.4,
        },
        f"2a: {C4}_deep - {C4}, segm": {"AP": 2.4, "AP50": 3.0, "AP75": 2.8},
    }.items():
        assert printed[name] == difference


def test_an_unknown_row_of_the_paper_is_an_error():
    with pytest.raises(ValueError, match="a row 'sigmoidal' in the paper's table 2b"):
        find_published(replace(COMPARISONS[0], paper=("2b", "sigmoidal", "softmax")))


# The plan


def test_seeds_of_2b_and_2c_come_first_and_seed_by_seed():
    order = [(run.variant, run.seed) for run in plan("out", seeds=2)]
    seeded = {v for c in COMPARISONS if c.table in ("2b", "2c") for v in (c.of, c.minus)}
    assert len(order) == len(set(order)) == len(VARIANTS) + len(seeded)
    count = len(seeded)
    assert {v for v, s in order[:count] if s == 1} == seeded
    assert order[count : 2 * count] == [(v, 2) for v, _ in order[:count]]
    assert all(seed == 1 for _, seed in order[2 * count :])


def test_named_tables_get_all_the_seeds_and_share_runs():
    order = [(run.variant, run.seed) for run in plan("out", ["2b", "agnostic"], 2)]
    assert order == [(v, s) for s in (1, 2) for v in (C4, SOFTMAX, f"{C4}_agnostic")]


def test_mistakes_are_told(tmp_path):
    with pytest.raises(UserError, match=r"some of 2b, 2c.*got '2z'"):
        plan("out", ["2z"])
    with pytest.raises(UserError, match="--seeds"):
        plan("out", seeds=0)
    run = AblationRun.under(tmp_path, C4, 1)
    run.folder.mkdir(parents=True)
    (run.folder / "thesis.txt").write_text("dear")
    with pytest.raises(UserError, match="not a training run"):
        run.state()


# The subprocess


def test_the_command_of_a_run(tmp_path, monkeypatch):
    (tmp_path / "train_net.py").write_text(
        "import sys; print(*sys.argv[1:], sep='\\n'); sys.exit(3)"
    )
    monkeypatch.setattr(training_runs, "REPO", tmp_path)
    run = AblationRun.under(tmp_path / "out", C4, 2)
    run.start(False)
    assert run.train(True) == 3
    assert (run.folder / "console.txt").read_text().splitlines() == [
        *("--config-file", run.config_file, "--resume"),
        *("OUTPUT_DIR", str(run.folder), "SEED", "2"),
    ]
