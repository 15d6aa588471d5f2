"""Who may import whom: the floors of the house, and no circle of files."""

import ast
import functools
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from support import REPO

PACKAGE = REPO / "mask_rcnn_ext"
# From the ground up. A room is a sub-package, or a module at the root of the package. It may import
# rooms of lower floors only, never one of its own floor.
FLOORS = (
    {
        "arrays",
        "child_processes",
        "errors",
        "log_filter",
        "model_files",
        "old_names",
        "paper",
        "temporary_files",
        "version",
    },
    {"config_text"},
    {"config_files", "config_keys", "config_node", "files", "run_files"},
    {"config", "config_limits", "fingerprint", "layers", "steps"},
    {"data", "modeling", "overlap"},
    {"checkpoint", "evaluation", "report"},
    {"model_zoo", "proposals"},
    {"engine", "prediction"},
    {"export", "recipes"},
    {"__init__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


@functools.cache
def imports_of(path: Path) -> set[str]:
    """Return the modules of the package that a file imports, wherever in the file."""
    found = set()
    package = path.relative_to(REPO).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if not name.startswith("mask_rcnn_ext"):
                continue
            found.add(name if name in MODULES else name.rpartition(".")[0])
    return found


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def test_every_room_has_a_floor():
    assert {room_of(module) for module in MODULES} == set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downward(path):
    room = room_of(module_of(path))
    others = {module for module in imports_of(path) if room_of(module) != room}
    upward = {module for module in others if FLOOR[room_of(module)] >= FLOOR[room]}
    assert not upward, f"{path} is in {room}"


def test_no_circle_of_files():
    """An import of a package by its own files is of what stands above it there: no circle."""
    graph = {
        module: {
            other
            for other in imports_of(path)
            if not (MODULES[other].name == "__init__.py" and module.startswith(other))
        }
        for module, path in MODULES.items()
    }
    order = TopologicalSorter(graph).static_order()  # raises CycleError, which names the circle
    assert set(order) == set(MODULES)


def test_the_walk_sees_relative_and_absolute_imports(tmp_path):
    seen = imports_of(PACKAGE / "engine" / "trainer.py")
    assert {"mask_rcnn_ext.data.loader", "mask_rcnn_ext.errors"} <= seen


def test_nothing_imports_scripts_tests_or_projects():
    """The projects are downstream: neither the package nor the tools know of them."""
    outside = {path.name for path in (REPO / "projects").iterdir() if path.is_dir()}
    outside |= {"train_net", "tests", "support", "projects", "reproduction"}
    for path in (*FILES, REPO / "train_net.py", *(REPO / "tools").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = getattr(node, "module", None) or ""
                names = [module, *(alias.name for alias in node.names)]
                roots = {name.split(".")[0] for name in names if name}
                assert not roots & outside, path


def test_tests_mirror_the_package():
    """A folder of tests is named like the room that it tests, or like a folder of the checkout."""
    rooms = {p.relative_to(PACKAGE) for p in PACKAGE.rglob("*") if (p / "__init__.py").is_file()}
    others = {Path(name) for name in ("configs", "docs", "projects", "tools")}
    others |= {Path("tools") / name for name in ("benchmarking", "environment")}
    others.add(Path("fuzz"))  # changed files for all rooms
    folders = {p.parent.relative_to(REPO / "tests") for p in (REPO / "tests").rglob("test_*.py")}
    assert folders - {Path()} <= rooms | others


def list_sources() -> list[Path]:
    """Return the Python files of the repository, but for what is installed or written."""
    folders = (PACKAGE, REPO / "tools", REPO / "projects", REPO / "tests")
    return [*REPO.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]


def test_no_file_is_named_after_nothing():
    names = {path.stem for path in list_sources()}
    assert not names & {"utils", "common", "misc", "helpers", "job", "lookup", "records"}
    assert not names & {"combinations", "seeds"}
    assert [path for path in list_sources() if path.stem == "setup"] == [REPO / "setup.py"]


def count_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function without its docstring."""
    first = function.body[0]
    documented = ast.get_docstring(function, clean=False) is not None
    lines = function.end_lineno - function.lineno + 1
    return lines - (first.end_lineno - first.lineno + 1 if documented else 0)


def test_no_file_and_no_function_is_too_long():
    """A file has at most 400 lines, a function 60. A function's docstring does not count."""
    for path in list_sources():
        text = path.read_text()
        assert text.count("\n") <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert count_lines(node) <= 60, f"{path}: {node.name}"
