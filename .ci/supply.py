"""What this project installs: a bill of materials, licences, and advisories, of the environment that runs this file.

    python .ci/supply.py FOLDER

writes `FOLDER/sbom.cdx.json` (CycloneDX 1.6) and `FOLDER/licences.tsv`. Fails on a licence that `supply.toml` beside
this file does not allow, and on a version that one of its advisories affects. The standard library and pip are all it
needs, so that it runs in the serving image's environment, too.
"""

from __future__ import annotations

import json
import re
import sys
import sysconfig
import tomllib
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from pip._vendor.packaging.requirements import InvalidRequirement, Requirement
from pip._vendor.packaging.specifiers import SpecifierSet

RULES = Path(__file__).with_name("supply.toml")
OURS = "lorank"
REVIEW_DAYS = 90
"""Age of the list of advisories from which on its age is told."""

_AND, _OR = re.compile(r"\s+AND\s+"), re.compile(r"\s+OR\s+")


@dataclass(frozen=True, slots=True)
class Package:
    """An installed distribution: its name in the form that indexes compare, version, licence as an SPDX expression or
    as it words it, and the names of what it requires."""

    name: str
    version: str
    licence: str
    requires: tuple[str, ...]

    @property
    def purl(self) -> str:
        """Package URL, the identity of a component in a bill of materials."""
        return f"pkg:pypi/{self.name}@{self.version.replace('+', '%2B')}"


@dataclass(frozen=True, slots=True)
class Rules:
    """The content of supply.toml: see its comments."""

    allowed: frozenset[str]
    wordings: Mapping[str, str]
    reviewed: Mapping[str, str]
    exceptions: Mapping[str, Mapping[str, str]]
    reviewed_on: date
    advisories: tuple[Mapping[str, Any], ...]
    accepted: Mapping[str, str]

    @classmethod
    def read(cls, path: Path = RULES) -> Rules:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        licences, advisories = document["licences"], document["advisories"]
        return cls(
            frozenset(licences["allowed"]),
            licences["wordings"],
            licences["reviewed"],
            licences["exceptions"],
            advisories["reviewed_on"],
            tuple(advisories["known"]),
            advisories["accepted"],
        )


def canonical(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(rules: Rules) -> list[Package]:
    """The distributions of this environment, by name. Not those that a package carries inside itself: Ray puts its own
    on the path when it is imported."""
    packages = {}
    folders = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    for distribution in distributions(path=folders):
        name = canonical(distribution.metadata["Name"])
        requires = tuple(sorted(set(_requires(distribution))))
        packages[name] = Package(name, distribution.version, _licence(distribution, name, rules), requires)
    return [packages[name] for name in sorted(packages)]


def _requires(distribution: Distribution) -> Iterator[str]:
    """Names of what a distribution requires here, without its extras."""
    for line in distribution.requires or ():
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonical(requirement.name)


def _licence(distribution: Distribution, name: str, rules: Rules) -> str:
    """By review, or else by the metadata: the expression, the first line of the free text, the classifiers."""
    if name in rules.reviewed:
        return rules.reviewed[name]
    metadata = distribution.metadata
    if expression := metadata.get("License-Expression"):
        return str(expression)
    text = (metadata.get("License") or "").strip().split("\n")[0]
    classifiers = [line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier", []) if "License ::" in line]
    for words in (text, *classifiers):
        if words and rules.wordings.get(words, words) in rules.allowed:
            return rules.wordings.get(words, words)
    return text[:80] or " AND ".join(classifiers) or "none named"


def is_allowed(licence: str, allowed: frozenset[str]) -> bool:
    """Whether an SPDX expression without brackets allows a use under allowed licences alone."""
    choices = _OR.split(licence)
    return any(all(part in allowed for part in _AND.split(choice)) for choice in choices)


def licence_faults(packages: list[Package], rules: Rules) -> list[str]:
    """A line for each package whose licence nobody has allowed."""
    faults = []
    for package in packages:
        exception = rules.exceptions.get(package.name)
        if exception is not None and exception["licence"] == package.licence:
            continue
        if not is_allowed(package.licence, rules.allowed):
            faults.append(
                f"{package.name} {package.version} has the licence {package.licence!r}, which is not allowed: read it, "
                f"then add it to licences.allowed in {RULES.name}, or the package to licences.exceptions with the "
                "reason or, if its metadata are unclear, to licences.reviewed; or do without the package"
            )
    return faults


def advisory_faults(packages: list[Package], rules: Rules) -> list[str]:
    """A line for each installed version that a known advisory affects and nobody has accepted."""
    versions = {package.name: package.version for package in packages}
    faults = []
    for advisory in rules.advisories:
        version = versions.get(canonical(advisory["package"]))
        if version is None or advisory["id"] in rules.accepted:
            continue
        if any(SpecifierSet(affected).contains(version, prereleases=True) for affected in advisory["affected"]):
            faults.append(
                f"{advisory['package']} {version} is affected by {advisory['id']} ({advisory['source']}, "
                f"{advisory['published']}): {advisory['summary']}; install a version outside of "
                f"{' or '.join(advisory['affected'])}, or accept it with a reason in {RULES.name}"
            )
    return faults


def bill_of_materials(packages: list[Package]) -> dict[str, Any]:
    """CycloneDX 1.6, the same for the same packages."""
    purls = {package.name: package.purl for package in packages}
    components = [_component(package) for package in packages if package.name != OURS]
    dependencies = [
        {"ref": package.purl, "dependsOn": sorted(purls[name] for name in package.requires if name in purls)}
        for package in packages
    ]
    content = json.dumps([components, dependencies], sort_keys=True)
    subject = next((package for package in packages if package.name == OURS), None)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}",
        "version": 1,
        "metadata": {} if subject is None else {"component": {**_component(subject), "type": "application"}},
        "components": components,
        "dependencies": dependencies,
    }


def _component(package: Package) -> dict[str, Any]:
    is_expression = all(
        re.fullmatch(r"[A-Za-z0-9.+-]+", part) for part in re.split(r" AND | OR | WITH ", package.licence)
    )
    licence: dict[str, Any] = (
        {"expression": package.licence} if is_expression else {"license": {"name": package.licence}}
    )
    return {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "purl": package.purl,
        "licenses": [licence],
    }


def main(folder: Path) -> int:
    """Write both files; 1 if a licence or a version is at fault."""
    rules = Rules.read()
    packages = installed(rules)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sbom.cdx.json").write_text(json.dumps(bill_of_materials(packages), indent=1) + "\n", encoding="utf-8")
    lines = [f"{package.name}\t{package.version}\t{package.licence}\n" for package in packages]
    (folder / "licences.tsv").write_text("".join(lines), encoding="utf-8")
    faults = [*licence_faults(packages, rules), *advisory_faults(packages, rules)]
    age = (datetime.now(UTC).date() - rules.reviewed_on).days
    if age > REVIEW_DAYS:
        print(f"supply: the advisories were reviewed {age} days ago: docs/security.md says how")  # noqa: T201
    print("\n".join(faults) or f"supply: {len(packages)} packages, no fault; {folder}/sbom.cdx.json, licences.tsv")  # noqa: T201
    return int(bool(faults))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} FOLDER")
    sys.exit(main(Path(sys.argv[1])))
