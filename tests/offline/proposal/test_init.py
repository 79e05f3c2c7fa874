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


def test_what_is_there_stays(folder: Path) -> None:
    (folder / "configs").mkdir()
    (folder / "configs" / "books.toml").write_text('name = "books"')
    assert "exists already" in str(init("--name", "books").exception)
    assert "taken by configs/books.toml" in str(init("--name", "books", "--to", "configs/other.toml").exception)


def test_a_name_that_none_can_have_is_refused_first(folder: Path) -> None:
    result = init("--name", "B\u00fccher 2", "--to", "x.toml")
    assert result.exit_code == 2
    assert not (folder / "x.toml").exists()
