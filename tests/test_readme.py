"""The README says what is true: its commands run, its answers have the shape that the service gives, its links lead."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest
import typer.main

import offline.__main__ as offline_main
import research.__main__ as research_main
from service.settings import Settings
from tests.conftest import ROOT, Installation, clean_environment

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def console_blocks() -> list[tuple[str, str]]:
    """(command, output below it) of every ``console`` block; a command may span lines that end in a backslash."""
    commands = []
    for block in re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL):
        for part in re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            commands.append((command.strip(), output.strip()))
    return commands


COMMANDS = console_blocks()
MAKE = [command for command, _ in COMMANDS if command.startswith("make ")]
CURL = [(command, output) for command, output in COMMANDS if command.startswith("curl ")]
OFFLINE = [command for command, _ in COMMANDS if command.startswith(".venv/bin/python -m offline ")]


def test_every_command_is_checked_below() -> None:
    assert len(MAKE) + len(CURL) + len(OFFLINE) == len(COMMANDS)
    assert {"make demo", "make test"} <= set(MAKE)
    assert CURL
    assert OFFLINE


@pytest.mark.parametrize("command", MAKE)
def test_make_knows_the_command(command: str) -> None:
    """CI runs both for real: this suite is one of them, and demo-check is the other with an assertion."""
    arguments = [*shlex.split(command), "-n", "VENV=/nonexistent"]
    result = subprocess.run(arguments, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_ci_runs_what_the_readme_promises() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    for command in ("make demo-check", "make test", "make lint"):
        assert command in script


@pytest.mark.parametrize("command", OFFLINE)
def test_offline_commands_run(command: str, installation: Installation) -> None:
    result = installation.offline(*shlex.split(command)[3:])
    assert result.stdout


@pytest.mark.parametrize(("command", "output"), CURL)
def test_requests_are_answered_in_the_shape_shown(command: str, output: str, client: httpx2.Client) -> None:
    words = shlex.split(command)
    url = next(word for word in words if word.startswith("http"))
    body = words[words.index("-d") + 1]
    response = client.post(url.removeprefix("http://127.0.0.1:8000"), content=body)
    shown, answered = json.loads(output), response.json()
    assert str(shape(answered)) == str(shape(shown)), "the order of the keys counts"
    assert ("error" in shown) == (response.status_code >= 400)
    if "error" in shown:
        assert answered["error"] | {"request_id": ""} == shown["error"] | {"request_id": ""}


def shape(value: Any) -> Any:
    """A JSON value without its particulars: key names and types; a list is the shape of its first element."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_commands_that_are_named_exist() -> None:
    names = {
        program: {*typer.main.get_command(app).commands}  # type: ignore[attr-defined]  # a group of commands
        for program, app in (("offline", offline_main.app), ("research", research_main.app))
    }
    for page in PAGES:
        for program, name in re.findall(r"python -m (offline|research) ([a-z][a-z-]+)", page.read_text()):
            assert name in names[program], f"{page}: {program} {name}"


def test_files_that_are_named_exist() -> None:
    folders = "models|service|offline|research|bench|tests|configs|docs"
    for page in PAGES:
        for name in re.findall(rf"`((?:{folders})/[\w./-]*)`", page.read_text()):
            assert (ROOT / name).exists(), f"{page}: {name}"


def test_every_setting_of_the_service_is_explained() -> None:
    texts = "".join(page.read_text() for page in PAGES if page.name not in ("CHANGELOG.md", "reliability.md"))
    missing = [name for name in Settings.model_fields if f"LORANK_{name.upper()}" not in texts]
    assert not missing
