"""Who may import whom: the contracts of pyproject.toml, and that importing does nothing and stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

_SLOW = "pytest.mark.slow"


def test_every_slow_test_has_a_small_one() -> None:
    """A case of a parametrized test may be slow by itself: the others are its small ones."""
    tests = {
        f"{path.relative_to(ROOT)}::{node.name}": [ast.unparse(decorator) for decorator in node.decorator_list]
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    slow = {name: marks for name, marks in tests.items() if any(mark.startswith(_SLOW) for mark in marks)}
    assert slow
    for name, marks in slow.items():
        (mark,) = (mark for mark in marks if mark.startswith(_SLOW))
        small = mark.removeprefix(f"{_SLOW}(small='").removesuffix("')")
        assert small in tests.keys() - slow.keys(), f"{name}: {mark}"


MOST_PARAMETERS = {"service": 6, "models": 8, "offline": 8, "research": 8, "bench": 8, "tests": 8}
"""Of a function, ``self`` and ``cls`` not counted. Constructors and commands of the command line may have more."""


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return sum(argument is not None and argument.arg not in {"self", "cls"} for argument in every)


def _is_exempt(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return function.name == "__init__" or any(".command(" in ast.unparse(mark) for mark in function.decorator_list)


def test_functions_have_few_parameters() -> None:
    crowded = {
        f"{path.relative_to(ROOT)}::{node.name}"
        for tree, most in MOST_PARAMETERS.items()
        for path in (ROOT / tree).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if not _is_exempt(node) and _parameters(node) > most
    }
    assert crowded == set()


def test_import_contracts_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def imported_by(module: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after importing ``module``."""
    code = f"import sys, {module}; print(' '.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_the_service_loads_no_training_library() -> None:
    loaded = imported_by("service.app")
    assert not loaded & {"torch", "transformers", "pandas", "polars", "sklearn", "onnx", "offline"}
    assert "service" in loaded


def test_the_contract_is_numpy_and_pydantic() -> None:
    loaded = imported_by("models.contract.encoding, models.contract.artifact, models.contract.exposures")
    assert not loaded & {"redis", "fastapi", "onnxruntime", "torch", "service", "offline"}


def test_an_idle_job_loads_no_torch() -> None:
    assert not imported_by("offline.refresh") & {"torch", "transformers", "onnxruntime", "service"}


LIBRARIES = frozenset(
    {"torch", "transformers", "sklearn", "scipy", "statsmodels", "matplotlib", "polars", "pandas", "ray"}
)
"""Each takes from half a second to several to load."""


def test_the_command_line_loads_no_library_before_a_job_needs_it() -> None:
    modules = [f"offline.cli.{path.stem}" for path in (ROOT / "offline" / "cli").glob("[!_]*.py")]
    loaded = imported_by(", ".join(["offline.__main__", "offline.jobs.status", "offline.demo", *sorted(modules)]))
    assert not loaded & LIBRARIES


def test_reports_and_calibration_load_what_they_draw_and_fit_with_when_they_do() -> None:
    modules = "offline.ab.report, offline.ab.offpolicy, offline.training.page"
    loaded = imported_by(f"{modules}, offline.reranking.calibrate, offline.knowledge.projection")
    assert not loaded & {"sklearn", "statsmodels", "pandas", "matplotlib", "torch"}
    assert {"scipy", "polars"} <= loaded


def test_nothing_happens_on_import(tmp_path: Path) -> None:
    code = "import service.app, service.__main__; from threading import active_count; assert active_count() == 1\n"
    code += "import offline.__main__, offline.demo, models.valkey.embedded"
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
