"""`--auto` and `--epochs` through the command line: the table, config.yaml, resuming, errors."""

import shutil

import pytest
import yaml
from small_runs import read_error, write_data
from support import REPO, SMALL, TINY_CONFIG, run_script, run_train_net

# Keys that the recipe is to choose are left out.
CHOSEN = ("INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TEST", "SOLVER.BASE_LR", "SOLVER.WARMUP_ITERS")
PAIRS = zip(SMALL[::2], SMALL[1::2], strict=True)
FREE = [word for pair in PAIRS if pair[0] not in CHOSEN for word in pair]


def train(folder, options, *keys):
    command = ["--config-file", TINY_CONFIG, *options, *FREE, *keys, "OUTPUT_DIR", str(folder)]
    return run_train_net(*command)


def read_config(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with --auto on images of 64 x 48 pixels, and the flags that name its data."""
    root = tmp_path_factory.mktemp("auto")
    flags = write_data(root, train=8, val=2)
    keys = ["SOLVER.MAX_ITER", "2", "SOLVER.CHECKPOINT_PERIOD", "1"]
    assert train(root / "out", ["--auto", *flags], *keys) == 0
    return root / "out", flags


def test_the_values_are_in_the_config_of_the_run(run):
    config = read_config(run[0])
    assert config["INPUT"]["MIN_SIZE_TRAIN"] == [96]  # twice the 48 pixels of the images
    assert config["INPUT"]["MAX_SIZE_TEST"] == 192
    assert config["SOLVER"]["WARMUP_ITERS"] == 1
    assert config["SOLVER"]["MAX_ITER"] == 2


def test_the_table_names_every_value_and_the_users_own(run):
    log = (run[0] / "log.txt").read_text()
    table = log.partition("The recipe:\n")[2].splitlines()
    assert table[0].split() == ["key", "value", "was", "why"]
    rows = {line.split()[0]: line for line in table[2:] if line[:1].strip()}
    assert rows["INPUT.MIN_SIZE_TEST"].split()[1:3] == ["96", "160"]
    assert rows["SOLVER.MAX_ITER"].split()[1:] == ["2", "2100", "yours"]
    assert rows["SOLVER.IMS_PER_BATCH"].split()[1:] == ["4", "4", "yours"]


def test_a_resumed_run_derives_nothing_again(run, tmp_path):
    """The config of the run says 80 pixels, the data would say 96."""
    folder = shutil.copytree(run[0], tmp_path / "out")
    (folder / "last_checkpoint").write_text("model_0000000.pth")
    keys = ["SOLVER.MAX_ITER", "2", "INPUT.MAX_SIZE_TEST", "200"]
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("  - 96\n", "  - 80\n"))
    assert train(folder, ["--auto", "--resume", *run[1]], *keys) == 0
    config = read_config(folder)
    assert config["INPUT"]["MIN_SIZE_TRAIN"] == [80]
    assert config["INPUT"]["MAX_SIZE_TEST"] == 200  # on the command line
    assert "nothing is derived again" in (folder / "log.txt").read_text()


def test_epochs_alone_change_the_length_only(run, tmp_path):
    assert train(tmp_path / "out", ["--epochs", "1.5", *run[1]]) == 0
    config = read_config(tmp_path / "out")
    assert config["SOLVER"]["MAX_ITER"] == 3  # 1.5 * 8 images in batches of 4
    assert config["SOLVER"]["WARMUP_ITERS"] == 1
    assert config["SOLVER"]["BASE_LR"] == 0.001
    assert config["INPUT"]["MIN_SIZE_TRAIN"] == [160]


@pytest.mark.parametrize("option", [["--auto"], ["--epochs", "3"]], ids=lambda o: o[0])
def test_an_evaluation_has_no_recipe(run, option, capsys):
    assert train(run[0], [*option, "--eval-only", *run[1]]) == 2
    assert read_error(capsys).startswith(f"error: {option[0]} chooses how to train")


def test_a_training_in_stages_has_no_recipe(run, monkeypatch, capsys, tmp_path):
    words = ["--config-file", TINY_CONFIG, "--auto", *run[1], "OUTPUT_DIR", str(tmp_path / "out")]
    assert run_script(REPO / "tools/train_two_stage.py", monkeypatch, *words) == 2
    assert "for trainings of one model with train_net.py" in read_error(capsys)
    assert not (tmp_path / "out").exists()


def test_a_run_without_its_config_cannot_keep_the_recipe(run, tmp_path, capsys):
    folder = shutil.copytree(run[0], tmp_path / "out")
    (folder / "config.yaml").unlink()
    assert train(folder, ["--auto", "--resume", *run[1]]) == 2
    assert "--resume with --auto needs the config.yaml of the run" in read_error(capsys)
