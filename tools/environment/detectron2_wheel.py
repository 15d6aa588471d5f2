"""Builds a wheel of detectron2 from another distribution's wheel that contains its Python tree.

LabGym's wheel contains, under `LabGym/detectron2/`, detectron2 (Apache-2.0) at the upstream commit
59d9fb1b, with one change: its imports have the prefix `LabGym.`. The functions here compare the
hash of the wheel, extract the folder, remove the prefix and write the wheel that pip installs.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

CARRIER = "labgym==3.1.2"
CARRIER_SHA256 = "a2900cff8a3fb508e1975f19b5f9abd9f261966db87b0c332697fb4138c1cb2b"
CARRIER_FOLDER = "LabGym/"
CARRIER_PREFIX = b"LabGym."
VERSION = "0.6+59d9fb1b"

# detectron2's install_requires, with four differences:
# - iopath up to 0.1.10 instead of below it: 0.1.10 is the release that was tested with it;
# - setuptools is added: detectron2.model_zoo imports its pkg_resources, which version 81 dropped;
# - black is left out: only LazyConfig.to_py imports it, to format its output;
# - dataclasses is left out: it is a backport for Python 3.6.
# Like detectron2's list, this one has no torch, torchvision or OpenCV: the user chooses them.
REQUIRES = (
    "Pillow>=7.1",
    "matplotlib",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.7,<0.1.11",
    "omegaconf>=2.1,<2.4",
    "hydra-core>=1.1",
    "packaging",
    "setuptools<81",
)

METADATA = f"""\
Metadata-Version: 2.1
Name: detectron2
Version: {VERSION}
Summary: detectron2 without its compiled operators (see ORIGIN)
Home-page: https://github.com/facebookresearch/detectron2
License: Apache-2.0
License-File: LICENSE
Requires-Python: >=3.7
""" + "".join(f"Requires-Dist: {requirement}\n" for requirement in REQUIRES)

ORIGIN = f"""\
This is the Python tree of detectron2, commit 59d9fb1b, Copyright (c) Facebook, Inc. and its
affiliates, under the Apache License 2.0 (licenses/LICENSE):
https://github.com/facebookresearch/detectron2

It was taken from the folder {CARRIER_FOLDER}detectron2/ of the distribution {CARRIER}
(sha256 {CARRIER_SHA256}).
The prefix "{CARRIER_PREFIX.decode()}", which that distribution had put before the imports, was
removed; nothing else was changed. The compiled operators (detectron2._C) are not included.
"""

WHEEL = """\
Wheel-Version: 1.0
Generator: install_detectron2
Root-Is-Purelib: true
Tag: py3-none-any
"""


class InstallError(Exception):
    """detectron2 could not be installed; the message has the reason and the fix."""


def find_license() -> Path:
    """Return the licence of this package, which is also detectron2's, in a checkout or a wheel."""
    root = Path(__file__).resolve().parents[2]
    (path,) = [*root.glob("LICENSE"), *root.glob("mask_rcnn_ext-*.dist-info/licenses/LICENSE")]
    return path


def verify_hash(wheel: Path, expected: str) -> None:
    """Compare the sha256 of `wheel` with `expected`.

    Raises:
        InstallError: the hash differs, or the file cannot be read.
    """
    try:
        actual = hashlib.sha256(wheel.read_bytes()).hexdigest()
    except OSError as error:
        raise InstallError(f"cannot read the wheel {wheel}: {error.strerror}") from error
    if actual != expected:
        raise InstallError(
            f"{wheel.name} is not the expected file.\n"
            f"    expected sha256 {expected}\n"
            f"    got      sha256 {actual}\n"
            "It is damaged or was replaced; nothing was installed. Empty pip's cache\n"
            "(`pip cache purge`) and try again, or install detectron2 with --source git."
        )


def read_tree(wheel: Path) -> dict[str, bytes]:
    """Return path -> content of the files of `detectron2/` in a carrier wheel, without the prefix.

    Raises:
        InstallError: the folder is missing, or the carrier's name is left in one of its files.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            folder = f"{CARRIER_FOLDER}detectron2/"
            tree = {
                name.removeprefix(CARRIER_FOLDER): archive.read(name).replace(CARRIER_PREFIX, b"")
                for name in sorted(archive.namelist())
                if name.startswith(folder) and not name.endswith("/")
            }
    except (OSError, zipfile.BadZipFile) as error:
        raise InstallError(f"cannot read the wheel {wheel}: {error}") from error
    if "detectron2/__init__.py" not in tree:
        raise InstallError(f"{wheel.name} has no {folder}__init__.py; is it {CARRIER}?")
    name = CARRIER_FOLDER.rstrip("/").encode()
    left = [path for path, content in tree.items() if name in content]
    if left:
        raise InstallError(f"{name.decode()!r} is still in {len(left)} files, first {left[0]}")
    return tree


def build_wheel(tree: dict[str, bytes], folder: Path) -> Path:
    """Write `tree` as a wheel of detectron2 into `folder` and return the path of the wheel.

    The same tree gives the same bytes: the members are sorted and have no time.
    """
    info = f"detectron2-{VERSION}.dist-info"
    members = {
        **tree,
        f"{info}/METADATA": METADATA.encode(),
        f"{info}/WHEEL": WHEEL.encode(),
        f"{info}/ORIGIN": ORIGIN.encode(),
        f"{info}/licenses/LICENSE": find_license().read_bytes(),
    }
    record = "".join(f"{path},{_record_entry(content)}\n" for path, content in members.items())
    members[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    wheel = folder / f"detectron2-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in members.items():
            member = zipfile.ZipInfo(path)
            member.external_attr = 0o100644 << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, content)
    return wheel


def _record_entry(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"sha256={digest},{len(content)}"
