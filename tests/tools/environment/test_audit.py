"""What pip-audit finds decides the exit code; a list that cannot be reached does not."""

import json

import audit
import pytest

KNOWN = {"name": "torch", "version": "2.9.0"}
FAULT = {"id": "CVE-2026-24747", "fix_versions": ["2.10.0"], "aliases": [], "description": ""}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found on PyPI"}


@pytest.fixture
def answer(tmp_path, monkeypatch):
    """Return a function that makes a stub of pip-audit print a text; it checks the options."""

    def install(text, code=0, error=""):
        (tmp_path / "pip_audit.py").write_text(
            "import sys\n"
            "assert sys.argv[1:3] == ['-r', 'pins.txt'] and '--disable-pip' in sys.argv\n"
            f"print({error!r}, file=sys.stderr)\nprint({text!r})\nsys.exit({code})\n"
        )

    (tmp_path / "pins.txt").write_text("torch==2.9.0\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return install


@pytest.mark.parametrize(
    ("packages", "code", "lines"),
    [
        ([{**KNOWN, "vulns": []}], 0, ["packages checked: 1, known faults: 0"]),
        (
            [{**KNOWN, "vulns": [FAULT, {**FAULT, "id": "PYSEC-1", "fix_versions": []}]}, UNKNOWN],
            1,
            [
                "torch 2.9.0: CVE-2026-24747, fixed in 2.10.0",
                "torch 2.9.0: PYSEC-1, fixed in no version yet",
                "packages checked: 1, known faults: 2, packages that are not in the list: 1",
            ],
        ),
        ([UNKNOWN], 0, ["The versions were not checked: no list of known faults can be reached"]),
    ],
)
def test_known_faults_are_listed(answer, capsys, packages, code, lines):
    answer(json.dumps({"dependencies": packages, "fixes": []}), code)
    assert audit.main(["pins.txt"]) == code
    found = capsys.readouterr().out.splitlines()
    assert len(found) == len(lines)
    assert all(line.startswith(start) for line, start in zip(found, lines, strict=True))


def test_without_a_connection_nothing_is_checked(answer, capsys):
    answer("", 1, "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='pypi.org')")
    assert audit.main(["pins.txt"]) == 0
    assert "were not checked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pins.txt", "cannot read pins.txt: ERROR: requirement file"),
        ("missing.txt", "missing.txt is not a file"),
    ],
)
def test_a_list_that_cannot_be_read_is_a_mistake(answer, capsys, name, says):
    if name == "pins.txt":  # the other mistake is told also without pip-audit
        answer("", 1, "ERROR: requirement file pins.txt contains invalid specifier at line 2")
    with pytest.raises(SystemExit, match=r"^2$"):
        audit.main([name])
    assert says in capsys.readouterr().err
