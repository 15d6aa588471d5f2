"""`TEST.PRECISE_BN`: a resumed run computes the statistics of an uninterrupted one."""

import shutil

import pytest
from small_runs import read_weights, same, train_small, write_data

KEYS = [
    "MASK_RCNN_EXT.TINY_RESNET.NORM", "BN", "TEST.PRECISE_BN.ENABLED", "True",
    "TEST.PRECISE_BN.NUM_ITER", "1", "TEST.EVAL_PERIOD", "2", "SOLVER.CHECKPOINT_PERIOD", "3",
    "SOLVER.MAX_ITER", "4", "SOLVER.IMS_PER_BATCH", "1",
]  # fmt: skip


@pytest.mark.parametrize("seed", ["1", "-1"])
def test_the_statistics_are_those_of_an_uninterrupted_run(tmp_path, seed):
    """The run evaluates after 2 and 4 iterations; the resumed one only after 4."""
    flags = write_data(tmp_path, train=6, val=1)
    out = tmp_path / "out"
    assert train_small(flags, out, *KEYS, "SEED", seed) == 0
    half = shutil.copytree(out, tmp_path / "half")
    (half / "last_checkpoint").write_text("model_0000002.pth")
    assert train_small([*flags, "--resume"], half, *KEYS, "SEED", seed) == 0
    assert same(*(read_weights(folder / "model_final.pth") for folder in (half, out)))
