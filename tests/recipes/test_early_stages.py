"""Training in stages, whose stages end early: what `--resume` does again."""

import shutil

import pytest
import train_two_stage
from small_runs import read_stamps, write_data
from support import SMALL, TINY_CONFIG

KEYS = [
    *SMALL, "SOLVER.MAX_ITER", "9", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.BASE_LR", "0.0",
    "SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR",
    "SOLVER.STEPS", "()", "TEST.EVAL_PERIOD", "1", "MASK_RCNN_EXT.VALIDATION_LOSS", "True",
    "MASK_RCNN_EXT.EARLY_STOPPING.PATIENCE", "1",
    "MASK_RCNN_EXT.BEST_CHECKPOINT.METRIC", "validation_loss/total_loss",
    "MASK_RCNN_EXT.TINY_RESNET.NORM", "FrozenBN", "MODEL.FPN.NORM", "''",
]  # fmt: skip


def train(folder, flags, *options: str) -> int:
    head = ["--config-file", TINY_CONFIG, *flags, *options]
    return train_two_stage.main([*head, *KEYS, "OUTPUT_DIR", str(folder)])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run: the flags of the data, and the folder."""
    root = tmp_path_factory.mktemp("run")
    flags = write_data(root, train=4, val=2)
    assert train(root / "out", flags) == 0
    return flags, root / "out"


def test_the_config_may_be_the_name_of_one_of_ours(tmp_path, capsys):
    options = ["--config-file", "shapes/mask_rcnn_tiny_FPN", "--resume"]
    assert train_two_stage.main([*options, "OUTPUT_DIR", str(tmp_path)]) == 2
    assert "--resume: no checkpoint in" in capsys.readouterr().err


def test_stages_that_ended_early_are_done(run, tmp_path):
    flags, out = run[0], shutil.copytree(run[1], tmp_path / "out")
    before = read_stamps(out)
    assert before.keys() >= {"rpn/model_final.pth", "model_final.pth"}
    assert (out / "log.txt").read_text().count("Training ends after 2 iterations") == 2
    assert train(out, flags, "--resume") == 0
    assert read_stamps(out) == before
    assert (out / "log.txt").read_text().count("done already") == 4


def test_an_interrupted_second_stage_continues_on_the_same_proposals(run, tmp_path):
    flags, out = run[0], shutil.copytree(run[1], tmp_path / "out")
    (out / "last_checkpoint").write_text("model_0000000.pth")
    (out / "model_final.pth").unlink()
    before = read_stamps(out)
    assert train(out, flags, "--resume") == 0
    assert (out / "model_final.pth").is_file()
    changed = {path for path, stamp in read_stamps(out).items() if before.get(path) != stamp}
    assert not any(path.startswith(("rpn/", "proposals/")) for path in changed)
