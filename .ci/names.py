"""Names of the house, checked by ``make lint``: one name means one thing, and it is a noun of the field.

Fails on a public module-level name that more than two modules define, and on a word of the old dialect that names a
variable, a parameter, an attribute, a function or a class.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TREES = ("service", "models", "offline", "research", "bench")

DEFINITIONS_AT_MOST = 2

SHARED_NAMES = {
    "log": "each module's logger",
    "app": "each command-line module's commands, and each server's application",
    "main": "the entry point of each program",
    "produce": "the entry point of each producer of knowledge (offline/knowledge/run.py)",
}
"""Names that may be defined in any number of modules, with the reason."""

DIALECT = frozenset({"one", "found", "made", "held", "kept", "told", "aside", "apart", "wanted"})
"""Words that say nothing of what they name: the noun of the thing takes their place."""


def definitions(module: ast.Module) -> Iterator[str]:
    """Public names that a module defines at its top level, typing variables left out."""
    for statement in module.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [statement.name]
        elif isinstance(statement, ast.Assign) and not _is_typing_variable(statement.value):
            names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            names = [statement.target.id]
        else:
            continue
        yield from (name for name in names if not name.startswith("_"))


def _is_typing_variable(value: ast.expr) -> bool:
    return (
        isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in {"TypeVar", "ParamSpec"}
    )


def bindings(module: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, name) of all that a module names: variables, parameters, attributes, functions, classes."""
    for node in ast.walk(module):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name


def faults(root: Path) -> list[str]:
    """A line for each fault in the trees of ``root``."""
    lines, modules = [], defaultdict(list)
    for tree in (*TREES, "tests"):
        for path in sorted((root / tree).rglob("*.py")):
            module, file = ast.parse(path.read_text(encoding="utf-8")), path.relative_to(root).as_posix()
            for line, name in bindings(module):
                if name.strip("_") in DIALECT:
                    lines.append(f"{file}:{line}: {name!r} does not say what it names")
            if tree in TREES:
                for name in set(definitions(module)):
                    modules[name].append(file)
    for name, files in sorted(modules.items()):
        if len(files) > DEFINITIONS_AT_MOST and name not in SHARED_NAMES:
            lines.append(f"{name!r} is defined in {len(files)} modules: {', '.join(files)}")
    return lines


if __name__ == "__main__":
    problems = faults(ROOT)
    print("\n".join(problems) or "names: no fault")  # noqa: T201
    sys.exit(bool(problems))
