"""`python -m offline init`: what it writes where, and what it refuses before it looks at anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from offline.__main__ import app
from tests.offline.proposal.shops import shop, write


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of a shop, in which the job is started."""
    books = shop(users=120, events=3000)
    write(tmp_path / "ratings.csv", ("reader", "book", "stars", "at"), books.interactions)
    write(tmp_path / "books.csv", ("book", "title", "kinds", "year"), books.items)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*options: str) -> Result:
    return CliRunner().invoke(app, ["init", "--interactions", "ratings.csv", "--items", "books.csv", *options])


def test_a_file_is_written_and_checked(folder: Path) -> None:
    result = init("--name", "books", "--no-measure")
    assert result.exit_code == 0, result.output
    assert "written: configs/books.toml" in result.output
    assert "fact: 3,000 interactions of 120 users" in result.output
    assert (folder / "configs" / "books.toml").is_file()
    assert "LOOK" not in result.output


def test_what_is_doubtful_is_said_at_once(folder: Path) -> None:
    rows = [(user, item, seconds) for user, item, _, seconds in shop(users=120, events=3000).interactions]
    write(
        folder / "ratings.csv", ("reader", "book", "at"), [("", *row[1:]) if row[2] % 7 == 0 else row for row in rows]
    )
    result = init("--no-measure", "--name", "books")
    assert "LOOK" in result.output
    said = [line.removeprefix("  LOOK: ") for line in result.output.splitlines() if line.startswith("  LOOK: ")]
    assert any("cells of 'reader' are empty" in line for line in said)
    written = (folder / "configs" / "books.toml").read_text()
    assert [f"# LOOK: {line}." in written for line in said] == [True] * len(said)


def test_what_is_there_stays(folder: Path) -> None:
    (folder / "configs").mkdir()
    (folder / "configs" / "books.toml").write_text('name = "books"')
    assert "exists already" in str(init("--name", "books").exception)
    assert "taken by configs/books.toml" in str(init("--name", "books", "--to", "configs/other.toml").exception)


def test_a_name_that_none_can_have_is_refused_first(folder: Path) -> None:
    result = init("--name", "B\u00fccher 2", "--to", "x.toml")
    assert result.exit_code == 2
    assert not (folder / "x.toml").exists()
