"""The wheel contains the package with its configs and templates, and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support import REPO


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    # All output goes to `folder`, so that the checkout stays as it is.
    command = [
        sys.executable, "-W", "ignore", "setup.py", "--quiet", "egg_info", "--egg-base", folder,
        "build", "--build-base", folder / "build",
        "bdist_wheel", "--bdist-dir", folder / "tree", "--dist-dir", folder,
    ]  # fmt: skip
    subprocess.run(command, cwd=REPO, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


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
    assert len(configs) > 50
    assert templates
    assert wheel_files == modules | configs | templates | {"mask_rcnn_ext/py.typed"}
