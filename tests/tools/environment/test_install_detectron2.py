"""The installer of detectron2, on a miniature of the wheel that it reads. No network."""

import base64
import hashlib
import runpy
import shlex
import shutil
import subprocess
import venv
import zipfile
from pathlib import Path

import detectron2_wheel
import install_detectron2
import pytest
from detectron2_wheel import InstallError
from support import run_python

SCRIPT = Path(install_detectron2.__file__)

CARRIED = {
    "LabGym/__init__.py": "raise ImportError('not to be installed')\n",
    "LabGym/detectron2/__init__.py": (
        "from LabGym.detectron2.sub import name\nimport LabGym.detectron2.sub as _\n"
        '__version__ = "0.6"\n'
    ),
    "LabGym/detectron2/sub.py": 'name = "LabGym.detectron2.sub"\n',
    "LabGym/detectron2/model_zoo/configs/a.yaml": "VERSION: 2\n",
    "labgym-3.1.2.dist-info/METADATA": "Name: LabGym\n",
}


@pytest.fixture
def carrier(tmp_path):
    """A small wheel laid out as the one that carries detectron2."""
    return write_carrier(tmp_path / "labgym-3.1.2-py3-none-any.whl", CARRIED)


@pytest.fixture
def bare_python(tmp_path):
    """The Python of an environment with nothing installed, not even pip."""
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    return tmp_path / "bare" / "bin" / "python"


@pytest.fixture
def nothing_installed(monkeypatch):
    """Let the installer find no detectron2."""
    monkeypatch.setattr(install_detectron2, "find_detectron2", lambda: "")


@pytest.fixture
def pip_calls(monkeypatch):
    """Record the calls of pip instead of making them."""
    calls = []
    monkeypatch.setattr(install_detectron2, "_pip", lambda *call: calls.append(call))
    return calls


def write_carrier(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run_script(python, *arguments, **environment):
    command = [str(python), str(SCRIPT), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment or None
    )


def write_package(site, name, source=""):
    """Write a package of one file; return its folder."""
    (site / name).mkdir(parents=True)
    (site / name / "__init__.py").write_text(source)
    return site / name


def test_wrong_hash_stops_with_one_message_and_installs_nothing(bare_python, carrier, tmp_path):
    for name in ("torch", "torchvision"):
        write_package(tmp_path / "stubs", name)
    result = run_script(bare_python, "--wheel", str(carrier), PYTHONPATH=str(tmp_path / "stubs"))
    assert result.returncode == 1
    assert result.stderr.count("error:") == 1
    assert "Traceback" not in result.stderr
    assert f"expected sha256 {detectron2_wheel.CARRIER_SHA256}" in result.stderr
    assert f"got      sha256 {sha256(carrier)}" in result.stderr
    found = subprocess.run(
        [bare_python, "-c", "import detectron2"], capture_output=True, check=False
    )
    assert found.returncode == 1
    assert run_script(bare_python, "--check").returncode == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("labgym-3.1.2-py3-none-any.whl", "nothing was installed", id="wrong-hash"),
        pytest.param("absent.whl", "cannot read the wheel", id="missing"),
    ],
)
def test_a_wrong_wheel_does_not_reach_pip(
    nothing_installed, pip_calls, carrier, capsys, name, message
):
    assert install_detectron2.main(["--wheel", str(carrier.with_name(name))]) == 1
    assert pip_calls == []
    assert message in capsys.readouterr().err


def test_torch_is_asked_for_first(bare_python, carrier):
    result = run_script(bare_python, "--wheel", str(carrier))
    assert result.returncode == 1
    assert "torch and torchvision must be installed before detectron2" in result.stderr
    assert "pip install torch torchvision" in result.stderr


def test_an_installed_detectron2_is_kept(tmp_path, bare_python):
    package = write_package(tmp_path / "site", "detectron2", '__version__ = "0.6+mine"\n')
    before = sorted(tmp_path.rglob("*"))
    # An absent wheel: any attempt to install would fail.
    arguments = ("--wheel", str(tmp_path / "absent.whl"))
    result = run_script(bare_python, *arguments, PYTHONPATH=str(package.parent))
    assert result.returncode == 0, result.stderr
    assert f"detectron2 0.6+mine in {package} is installed already" in result.stdout
    assert [path for path in sorted(tmp_path.rglob("*")) if "__pycache__" not in path.parts] == [
        path for path in before if "__pycache__" not in path.parts
    ]


def test_a_broken_detectron2_is_the_users_and_is_kept(tmp_path, bare_python):
    source = "raise ImportError('undefined symbol: x')\n"
    package = write_package(tmp_path / "site", "detectron2", source)
    result = run_script(bare_python, PYTHONPATH=str(package.parent))
    assert result.returncode == 1
    assert "importing it fails" in result.stderr
    assert "undefined symbol: x" in result.stderr
    assert "doctor.py" in result.stderr


def test_a_bare_folder_is_not_detectron2(tmp_path, bare_python):
    (tmp_path / "site" / "detectron2").mkdir(parents=True)
    result = run_script(bare_python, "--check", PYTHONPATH=str(tmp_path / "site"))
    assert result.returncode == 1
    assert "not installed" in result.stdout


def test_the_tree_loses_the_prefix_and_nothing_else(carrier):
    tree = detectron2_wheel.read_tree(carrier)
    assert {path: content.decode() for path, content in tree.items()} == {
        "detectron2/__init__.py": (
            'from detectron2.sub import name\nimport detectron2.sub as _\n__version__ = "0.6"\n'
        ),
        "detectron2/sub.py": 'name = "detectron2.sub"\n',
        "detectron2/model_zoo/configs/a.yaml": "VERSION: 2\n",
    }


def test_a_leftover_of_the_carrier_is_an_error(tmp_path):
    files = {**CARRIED, "LabGym/detectron2/sub.py": "path = 'LabGym/detectron2'\n"}
    wheel = write_carrier(tmp_path / "labgym.whl", files)
    with pytest.raises(InstallError, match=r"still in 1 files, first detectron2/sub\.py"):
        detectron2_wheel.read_tree(wheel)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"not a zip", "cannot read the wheel", id="not-a-zip"),
        pytest.param(None, r"has no LabGym/detectron2/__init__\.py", id="other-wheel"),
    ],
)
def test_a_file_that_is_no_carrier(tmp_path, content, message):
    wheel = tmp_path / "other.whl"
    if content is None:
        write_carrier(wheel, {"other/__init__.py": ""})
    else:
        wheel.write_bytes(content)
    with pytest.raises(InstallError, match=message):
        detectron2_wheel.read_tree(wheel)


def test_the_built_wheel_installs_and_imports(carrier, tmp_path):
    wheel = detectron2_wheel.build_wheel(detectron2_wheel.read_tree(carrier), tmp_path)
    assert wheel.name == "detectron2-0.6+59d9fb1b-py3-none-any.whl"
    target = tmp_path / "target"
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    run_python("-m", "pip", "install", *options, "--target", target, wheel, check=True)
    code = (
        "import detectron2, importlib.metadata as m; "
        "print(detectron2.__version__, detectron2.name, m.version('detectron2'))"
    )
    # -S: without the site-packages of this environment, which has the real detectron2.
    result = run_python("-S", "-c", code, env={"PYTHONPATH": str(target)}, check=True)
    assert result.stdout.split() == ["0.6", "detectron2.sub", "0.6+59d9fb1b"]
    assert (target / "detectron2/model_zoo/configs/a.yaml").read_text() == "VERSION: 2\n"
    assert not (target / "LabGym").exists()


def test_the_built_wheel_describes_itself(carrier, tmp_path):
    tree = detectron2_wheel.read_tree(carrier)
    wheel = detectron2_wheel.build_wheel(tree, tmp_path)
    first = wheel.read_bytes()
    assert detectron2_wheel.build_wheel(tree, tmp_path).read_bytes() == first
    with zipfile.ZipFile(wheel) as archive:
        info = "detectron2-0.6+59d9fb1b.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
        record = archive.read(f"{info}/RECORD").decode().splitlines()
        assert b"Apache License" in archive.read(f"{info}/licenses/LICENSE")
        assert detectron2_wheel.CARRIER_SHA256.encode() in archive.read(f"{info}/ORIGIN")
        recorded = [line.split(",")[0] for line in record]
        assert sorted(recorded) == sorted(archive.namelist())
        for line in record[:-1]:
            path, digest, size = line.split(",")
            content = archive.read(path)
            assert int(size) == len(content)
            algorithm, _, encoded = digest.partition("=")
            # base64 with its padding taken off, as the wheel format wants it
            assert (
                base64.urlsafe_b64decode(encoded + "=") == hashlib.new(algorithm, content).digest()
            )
            assert not encoded.endswith("=")
    assert "Requires-Dist: fvcore>=0.1.5,<0.1.6\n" in metadata
    assert "Requires-Dist: setuptools<81\n" in metadata
    assert "Requires-Dist: torch" not in metadata


def test_a_failed_download_is_one_message(nothing_installed, monkeypatch, tmp_path, capfd):
    # An empty index: pip looks nowhere else.
    monkeypatch.setenv("PIP_INDEX_URL", tmp_path.as_uri())
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert install_detectron2.main([]) == 1
    error = capfd.readouterr().err
    assert error.startswith("error: labgym==3.1.2 could not be downloaded:")
    assert "No matching distribution found" in error
    assert "--wheel FILE" in error
    assert "Traceback" not in error


def test_the_right_wheel_is_handed_to_pip(monkeypatch, carrier, capsys, tmp_path):
    monkeypatch.setattr(install_detectron2, "CARRIER_SHA256", sha256(carrier))
    answers = iter(["", "detectron2 0.6 in /site/detectron2"])
    monkeypatch.setattr(install_detectron2, "find_detectron2", lambda: next(answers))
    handed = {}

    def pip(arguments, failure, hint):
        keep = next(a for a in arguments if a.startswith("--constraint=") and "keep" in a)
        handed["keep"] = Path(keep.partition("=")[2]).read_text().split()
        handed["wheel"] = Path(next(a for a in arguments if a.endswith(".whl")))
        handed["arguments"] = arguments
        assert handed["wheel"].is_file()

    monkeypatch.setattr(install_detectron2, "_pip", pip)
    assert install_detectron2.main(["--wheel", str(carrier), "-c", "pins.txt"]) == 0
    assert handed["arguments"][0] == "install"
    assert "--constraint=pins.txt" in handed["arguments"]
    assert any(pin.startswith("torch==") for pin in handed["keep"])  # torch is left as it is
    assert not handed["wheel"].exists()  # the temporary folder is gone
    assert "detectron2 0.6 in /site/detectron2 installed" in capsys.readouterr().out


def test_what_does_not_import_is_uninstalled_again(monkeypatch, carrier, pip_calls, capsys):
    monkeypatch.setattr(install_detectron2, "CARRIER_SHA256", sha256(carrier))
    answers = iter(["", InstallError("importing it fails")])

    def find():
        answer = next(answers)
        if answer:
            raise answer
        return answer

    monkeypatch.setattr(install_detectron2, "find_detectron2", find)
    assert install_detectron2.main(["--wheel", str(carrier)]) == 1
    assert [call[0][0] for call in pip_calls] == ["install", "uninstall"]
    assert "uninstalled again" in capsys.readouterr().err


def test_the_tools_of_an_installed_wheel_find_the_licence_and_one_another(tmp_path):
    tools, info = tmp_path / "mask_rcnn_ext_tools", tmp_path / "mask_rcnn_ext-0.1.0.dist-info"
    shutil.copytree(SCRIPT.parent, tools / "environment")
    (info / "licenses").mkdir(parents=True)
    (info / "licenses/LICENSE").write_text("a licence")
    found = runpy.run_path(str(tools / "environment/detectron2_wheel.py"))["find_license"]()
    assert found.read_text() == "a licence"
    doctor = runpy.run_path(str(tools / "environment/doctor.py"))
    script = shlex.split(doctor["INSTALL_DETECTRON2"])[-1]
    assert script == str(tools / "environment/install_detectron2.py")
    assert "constraints" not in doctor["INSTALL_TORCH"]
    assert " -e " not in doctor["INSTALL_PACKAGE"]
