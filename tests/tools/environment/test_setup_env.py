"""`make setup`: what a failed or interrupted run leaves is never trusted. Nothing is downloaded."""

import re

import doctor
import pytest
import setup_env
from setup_env import Environment, SetupError, build, list_steps
from support import REPO


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with the files that decide what is installed, in place of this checkout."""
    for name in (*setup_env.INPUTS, "constraints.txt", "constraints-oldest.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n")
    monkeypatch.setattr(setup_env, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def environment(checkout, monkeypatch):
    """An environment whose commands are recorded; making it puts a Python that runs into it."""
    environment = Environment(checkout / ".venv")
    environment.commands = []

    def run(command, hint):
        environment.commands.append(" ".join(map(str, command)))
        if "venv" in command:
            environment.python.parent.mkdir()
            environment.python.write_text("#!/bin/sh\n")
            environment.python.chmod(0o755)

    monkeypatch.setattr(environment, "run", run)
    return environment


def fail_at(environment, monkeypatch, word, error):
    succeed = environment.run

    def run(command, hint):
        succeed(command, hint)
        if any(word in str(part) for part in command):
            raise error

    monkeypatch.setattr(environment, "run", run)


def test_all_steps_then_nothing_to_do(environment, capsys):
    build(environment)
    assert all(word in command for word, command in zip(STEPS, environment.commands, strict=True))
    assert capsys.readouterr().out.count(" s\n") == 5  # one line with the seconds for each step
    assert environment.is_current()


STEPS = ("venv", "torchvision", "-e", "install_detectron2.py", "mask_rcnn_ext.engine.run")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "error", [SetupError("no network"), KeyboardInterrupt()], ids=["fail", "kill"]
)
def test_a_run_that_ends_early_is_not_trusted(environment, monkeypatch, step, error):
    with monkeypatch.context() as context:
        fail_at(environment, context, step, error)
        with pytest.raises(type(error)):
            build(environment)
    assert not environment.is_current()
    (environment.folder / "half-installed").touch()
    environment.commands.clear()
    build(environment)
    assert len(environment.commands) == 5  # from the start
    assert not (environment.folder / "half-installed").exists()
    assert environment.is_current()


def test_a_run_that_ends_while_it_removes_is_repeatable(environment, checkout, monkeypatch):
    build(environment)
    (checkout / "tools/environment/detectron2_wheel.py").write_text("VERSION = 1\n")

    def interrupted(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(setup_env.shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(environment)
    assert not environment.is_current()
    build(environment)
    assert environment.is_current()


def test_a_failed_update_is_not_trusted(environment, checkout, monkeypatch):
    build(environment)
    (checkout / "constraints.txt").write_text("torch==0\n")
    assert not environment.is_current()
    fail_at(environment, monkeypatch, "torchvision", SetupError("no such version"))
    with pytest.raises(SetupError):
        build(environment)
    assert not environment.is_complete()


@pytest.mark.parametrize(
    ("name", "text", "steps"),
    [
        pytest.param("constraints.txt", "torch==0\n", 5, id="versions-update"),
        pytest.param("pyproject.toml", '[project]\nname = "x"\n', 5, id="requirements-update"),
        pytest.param(
            "tools/environment/detectron2_wheel.py", "VERSION = 1\n", 5, id="detectron2-rebuilds"
        ),
        pytest.param("pyproject.toml", "# pyproject.toml\n\n[tool.ruff]\n", 0, id="tool-settings"),
    ],
)
def test_what_a_changed_file_brings_about(environment, checkout, name, text, steps):
    build(environment)
    environment.commands.clear()
    (checkout / name).write_text(text)
    if not environment.is_current():
        build(environment)
    assert len(environment.commands) == steps
    assert environment.is_current()


def test_an_update_removes_the_replaced_opencv_before_it_installs_the_other(environment, checkout):
    build(environment)
    assert not any("uninstall" in command for command in environment.commands)
    environment.commands.clear()
    (checkout / "constraints.txt").write_text("torch==0\n")
    build(environment)
    removed = f"{environment.python} -m pip uninstall --yes opencv-python-headless"
    (install,) = (command for command in environment.commands if ".[dev]" in command)
    assert environment.commands.index(removed) < environment.commands.index(install)


def test_an_environment_of_other_versions_has_its_own_file(environment, checkout):
    oldest = Environment(checkout / ".venv-oldest", "constraints-oldest.txt")
    commands = [" ".join(command) for _, command, _ in list_steps(oldest, update=False)]
    assert sum("-c constraints-oldest.txt" in command for command in commands) == 3
    assert not any("-c constraints.txt" in command for command in commands)
    build(environment)
    (checkout / "constraints-oldest.txt").write_text("torch==0\n")
    assert environment.is_current()


def test_the_docs_name_the_oldest_version_that_is_tested():
    (oldest,) = re.findall(
        r"^torch==(\d+\.\d+)", (REPO / "constraints-oldest.txt").read_text(), re.M
    )
    for page in ("README.md", "docs/getting_started.md", "docs/contributing.md", "pyproject.toml"):
        assert f"PyTorch {oldest}" in (REPO / page).read_text(), page
    assert ".".join(map(str, doctor.OLDEST_TORCH)) == oldest


def test_a_moved_checkout_is_set_up_again(environment, checkout):
    build(environment)
    moved = Environment(checkout / "moved")
    environment.folder.rename(moved.folder)
    assert not moved.is_current()


def test_an_environment_of_the_users_is_left_alone(environment):
    (environment.folder / "bin").mkdir(parents=True)
    with pytest.raises(SetupError, match="was not made by `make setup`, so it is left alone"):
        build(environment)
    assert environment.commands == []
    assert (environment.folder / "bin").is_dir()


def test_a_file_of_the_users_is_left_alone(environment):
    environment.folder.write_text("my-environment\n")  # as some shells have it
    with pytest.raises(SetupError, match="was not made by `make setup`, so it is left alone"):
        build(environment)
    assert environment.folder.read_text() == "my-environment\n"


def test_a_failed_command_shows_the_end_of_its_output(checkout):
    environment = Environment(checkout / ".venv")
    environment.folder.mkdir()
    with pytest.raises(SetupError) as raised:
        environment.run(["sh", "-c", "seq 100; echo no space left >&2; exit 3"], "Make room.")
    message = str(raised.value)
    assert "exit code 3" in message
    assert "no space left" in message
    assert "    99\n" in message
    assert "    50\n" not in message
    assert message.endswith("Make room.")
