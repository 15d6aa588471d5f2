"""Who may import whom inside the package."""

import ast
from pathlib import Path

import pytest
from conftest import REPO

PACKAGE = REPO / "mask_rcnn_ext"
# part -> parts it may import; a part is a sub-package or a module at the root of the package
ALLOWED = {
    "errors": set(),
    "atomic": {"errors"},
    "config": {"errors", "atomic"},
    "paper": set(),
    "model_zoo": {"config", "engine", "paper", "errors", "atomic"},
    "layers": {"errors", "atomic"},
    "data": {"errors", "atomic"},
    "evaluation": {"errors", "atomic"},
    "modeling": {"layers", "errors", "atomic"},
    "engine": {"modeling", "data", "evaluation", "config", "model_zoo", "errors", "atomic"},
    "report": {"evaluation", "config", "paper", "errors", "atomic"},
    "__init__": {"data", "modeling", "engine", "config", "model_zoo", "errors", "atomic"},
}


def imported_parts(path: Path) -> set[str]:
    """Return the parts of the package that a file imports, wherever in the file."""
    parts = set()
    package = ["mask_rcnn_ext", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        parts |= {n.split(".")[1] for n in names if n.startswith("mask_rcnn_ext.")}
    return parts


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_house(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    allowed = ALLOWED[part] | {part}
    assert imported_parts(path) <= allowed, f"{path}: {imported_parts(path) - allowed}"


def test_the_walk_sees_relative_and_absolute_imports(tmp_path):
    seen = imported_parts(PACKAGE / "engine" / "trainer.py")
    assert {"data", "evaluation", "errors"} <= seen


def test_the_package_imports_no_script_and_no_test():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = getattr(node, "module", None) or ""
                names = [module, *(alias.name for alias in node.names)]
                roots = {name.split(".")[0] for name in names if name}
                assert not roots & {"train_net", "tools", "tests", "conftest", "projects"}, path


def test_no_grab_bag_modules():
    names = {path.name for path in FILES}
    assert not names & {"utils.py", "common.py", "misc.py", "helpers.py"}
