"""Docstrings of packages that list their files, against the folders: a list is whole and names no file that is gone.

An entry of a list is a line of its own: the name of a module or package, two or more spaces, what it is.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

_ENTRY = re.compile(r"([a-z][a-z0-9_]*)  +\S.*")


def _listed(package: Path) -> list[str]:
    """Names in the list of a package's docstring, in its order."""
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    return [entry[1] for entry in map(_ENTRY.fullmatch, docstring.splitlines()) if entry]


def _modules(package: Path) -> list[str]:
    """Names of the modules and packages in a package's folder, sorted."""
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    return sorted(modules | {path.parent.name for path in package.glob("*/__init__.py")})


PACKAGES = [
    path.parent.relative_to(ROOT)
    for tree in ("service", "models", "offline", "research", "bench")
    for path in sorted((ROOT / tree).rglob("__init__.py"))
]
LISTS = [package for package in PACKAGES if _listed(ROOT / package)]


def test_large_packages_of_the_product_list_their_files() -> None:
    named = {"models/contract", "models/ctr", "offline/knowledge", "offline/publish", "offline/training"}
    assert named <= {package.as_posix() for package in LISTS}


@pytest.mark.parametrize("package", LISTS, ids=Path.as_posix)
def test_a_list_of_files_is_that_of_the_folder(package: Path) -> None:
    assert sorted(_listed(ROOT / package)) == _modules(ROOT / package)


@pytest.mark.parametrize("package", PACKAGES, ids=Path.as_posix)
def test_no_line_lists_two_files(package: Path) -> None:
    """A second column would be read as part of the first one's text."""
    docstring = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text())) or ""
    for line in docstring.splitlines():
        assert len(re.findall(r"\S {2,}\S", line)) <= 1, line
