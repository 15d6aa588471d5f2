"""The wheel contains the package with its configs, templates and tools, and nothing else."""

import re
import shutil
import zipfile
from pathlib import Path

import pytest
from support import REPO, run_python

from mask_rcnn_ext.version import __version__


def find_copied() -> list[str]:
    """Return the files and folders of the checkout that the Dockerfile copies."""
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", (REPO / "Dockerfile").read_text(), re.M)
    return [name for line in lines for name in line.split()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.Path:
    """The wheel, built in a folder that holds what the Dockerfile copies, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in find_copied():
        if (REPO / name).is_dir():
            shutil.copytree(REPO / name, folder / name, ignore=shutil.ignore_patterns("*.pyc"))
        else:
            shutil.copy(REPO / name, folder)
    run_python("-W", "ignore", "setup.py", "--quiet", "bdist_wheel", cwd=folder, check=True)
    (path,) = folder.glob("dist/*.whl")
    return zipfile.Path(path)


@pytest.fixture
def wheel_files(wheel) -> set[str]:
    return {info.filename for info in wheel.root.filelist if ".dist-info/" not in info.filename}


def find_files(folder: Path, pattern: str, prefix: str) -> set[str]:
    return {f"{prefix}/{path.relative_to(folder)}" for path in folder.rglob(pattern)}


def test_the_wheel_has_all_modules_configs_and_templates(wheel_files):
    package = REPO / "mask_rcnn_ext"
    modules = find_files(package, "*.py", "mask_rcnn_ext")
    configs = find_files(REPO / "configs", "*.yaml", "mask_rcnn_ext/configs")
    templates = {
        f"mask_rcnn_ext/{path.relative_to(package)}"
        for path in package.glob("*/templates/*")
        if path.is_file()
    }
    tools = find_files(REPO / "tools", "*.py", "mask_rcnn_ext_tools")
    assert len(configs) > 50
    assert templates
    assert "mask_rcnn_ext_tools/environment/doctor.py" in tools
    assert wheel_files == modules | configs | templates | tools | {"mask_rcnn_ext/py.typed"}


def test_the_wheel_gives_the_command(wheel):
    (info,) = (path for path in wheel.iterdir() if path.name.endswith(".dist-info"))
    points = (info / "entry_points.txt").read_text().split("\n")
    assert points[:2] == ["[console_scripts]", "mask-rcnn-ext = mask_rcnn_ext_tools.command:main"]
    assert (info / "licenses/LICENSE").is_file()  # tools/environment/detectron2_wheel.py reads it
    assert f"\nVersion: {__version__}\n" in (info / "METADATA").read_text()


def test_the_dockerfile_copies_what_is_there_and_names_known_extras():
    copied = find_copied()
    assert "constraints.txt" in copied
    assert [name for name in copied if not (REPO / name).exists()] == []
    let_in = re.findall(r"^!(.*)$", (REPO / ".dockerignore").read_text(), re.M)
    assert sorted(let_in) == sorted(copied)
    (extras,) = re.findall(r"whl\)\[([\w,-]+)\]", (REPO / "Dockerfile").read_text())
    table = (REPO / "pyproject.toml").read_text().partition("[project.optional-dependencies]\n")[2]
    known = re.findall(r"^([\w-]+) = \[", table.partition("\n[")[0], re.M)
    assert {*extras.split(",")} <= {*known}
