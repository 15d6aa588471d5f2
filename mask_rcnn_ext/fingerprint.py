"""Fingerprints of source code and of folders, which show whether a result is out of date."""

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .files import file_sha256

__all__ = ["code_sha256", "files_sha256", "imported_files"]


def imported_files(entries: Iterable[Path], packages: Sequence[Path]) -> list[Path]:
    """Return source files and the files of some packages that they import, also indirectly.

    The imports are read from the source, at any place in a file; nothing is imported. The
    `__init__.py` at the root of a package only collects public names, so it is left out.

    Args:
        entries: files inside the packages or outside.
        packages: the folders of the packages.

    Returns:
        Sorted paths, with the entries.
    """
    found: set[Path] = set()
    waiting = list(entries)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _find_imports(path, packages)
    return sorted(found)


def _find_imports(path: Path, packages: Sequence[Path]) -> Iterator[Path]:
    roots = {package.name: package.parent for package in packages}
    for level, module, names in _read_imports(path.read_bytes()):
        if level:  # a relative import inside one of the packages
            folder = path.parents[level - 1]
            root = next(p for p in packages if folder.is_relative_to(p)).parent
            module = ".".join([*folder.relative_to(root).parts, *filter(None, [module])])
        for name in names:
            parts = f"{module}.{name}".split(".") if module else name.split(".")
            # The `__init__.py` of a folder runs before its modules. The root is left out.
            for end in range(2, len(parts) + 1) if parts[0] in roots else ():
                place = roots[parts[0]].joinpath(*parts[:end])
                for file in (place.with_suffix(".py"), place / "__init__.py"):
                    if file.is_file():
                        yield file


@functools.cache
def _read_imports(source: bytes) -> list[tuple[int, str, list[str]]]:
    """Return (level, module, names) of each import; `import a.b` is (0, "", ["a.b"])."""
    imports = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imports.append((0, "", [alias.name for alias in node.names]))
        elif isinstance(node, ast.ImportFrom):
            imports.append((node.level, node.module or "", [alias.name for alias in node.names]))
    return imports


def code_sha256(files: Iterable[Path], root: Path) -> str:
    """Return the SHA-256 of Python files; comments, docstrings and layout do not count.

    Args:
        files: the files, see `imported_files`. Their order counts.
        root: the folder to which the paths are relative, so the checkout may be moved.
    """
    digest = hashlib.sha256()
    for path in files:
        code = _dump_code(path.read_bytes())
        digest.update(f"{path.relative_to(root).as_posix()} {code}\n".encode())
    return digest.hexdigest()


@functools.cache  # the steps of an experiment share most of their files
def _dump_code(source: bytes) -> str:
    """Return the syntax tree of a Python file without its docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:]
    return ast.dump(tree)


def files_sha256(folder: Path, pattern: str = "**/*") -> str:
    """Return the SHA-256 of the names and the content of the files in a folder.

    Args:
        folder: the folder.
        pattern: which files, as `Path.glob` reads it; by default all, also in folders inside.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob(pattern)):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            digest.update(f"{name} {file_sha256(str(path))}\n".encode())
    return digest.hexdigest()
