"""Tables of users and items with ids that come twice and words among numbers."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from offline.data.dataset import open_dataset
from tests.offline.proposal.shops import Shop, shop, write
from tests.offline.proposal.test_propose import HEADER, items_of, proposed


@pytest.fixture(scope="module")
def books() -> Shop:
    return shop()


def ratings_of(books: Shop, folder: Path) -> Path:
    return write(folder / "ratings.csv", HEADER, books.interactions)


@pytest.mark.parametrize("again", [1, 3, 40])
def test_of_an_id_that_is_described_twice_the_last_row_counts(books: Shop, tmp_path: Path, again: int) -> None:
    newer = [(item, f"{title}, second edition", kinds, year) for item, title, kinds, year in books.items[:again]]
    items = write(tmp_path / "books.csv", ("book", "title", "kinds", "year"), [*books.items, *newer])
    users = write(tmp_path / "readers.csv", ("reader", "country"), [*books.users, ("u7", "FR"), ("u9", "IN")])
    config, text = proposed(tmp_path, ratings_of(books, tmp_path), items, users)
    assert config.data.items is not None
    assert config.data.users is not None
    assert (config.data.items.repeated, config.data.users.repeated) == ("last", "last")
    assert f"LOOK: {again} of 40 ids of {items} are described more than once" in text
    source = open_dataset(config.data, tmp_path / "raw")
    assert source.catalogue().items["b0"]["title"].endswith("second edition")
    rows = f"items: {again} row{'s' if again > 1 else ''} more than ids: of those of an id the last counts"
    assert rows in source.check(config.feature_schema).facts


def test_rows_that_are_alike_need_no_setting(books: Shop, tmp_path: Path) -> None:
    items = write(tmp_path / "books.csv", ("book", "title", "kinds", "year"), [*books.items, books.items[3]])
    config, text = proposed(tmp_path, ratings_of(books, tmp_path), items)
    assert config.data.items is not None
    assert config.data.items.repeated is None
    assert "LOOK" not in text


@pytest.mark.parametrize(("word", "decimal"), [("abc", "."), ("unknown", "."), ("inf", "."), ("unknown", ",")])
def test_a_word_among_numbers_counts_as_empty(books: Shop, tmp_path: Path, word: str, decimal: str) -> None:
    weights = [f"{at + 0.25:g}".replace(".", decimal) for at in range(len(books.items))]
    weights[17] = word
    rows = [(*row, weight) for row, weight in zip(books.items, weights, strict=True)]
    items = write(tmp_path / "books.csv", ("book", "title", "kinds", "year", "weight"), rows, separator=";")
    config, text = proposed(tmp_path, ratings_of(books, tmp_path), items)
    assert config.data.items is not None
    assert (config.data.items.columns["weight"].type, config.data.items.nulls) == ("float", ("", word))
    assert "weight" in {field.name for field in config.feature_schema.item_fields}
    assert f"LOOK: 1 of 40 cells of 'weight' in {items} are no number, such as {word!r}: they count as empty" in text
    catalogue = open_dataset(config.data, tmp_path / "raw").catalogue()
    assert (catalogue.items["b17"]["weight"], catalogue.items["b18"]["weight"]) == (None, 18.25)


def test_a_word_that_means_something_elsewhere_stays(books: Shop, tmp_path: Path) -> None:
    rows = [(*row, "used" if at == 5 else at, "used" if at % 2 else "new") for at, row in enumerate(books.items)]
    items = write(tmp_path / "books.csv", ("book", "title", "kinds", "year", "pages", "state"), rows)
    config, text = proposed(tmp_path, ratings_of(books, tmp_path), items)
    assert config.data.items is not None
    assert (config.data.items.columns["pages"].type, config.data.items.nulls) == ("text", ("",))
    assert "'pages'" in text
    assert "such as 'used': it is a text" in text


def test_one_word_among_the_numbers_of_two_columns(books: Shop, tmp_path: Path) -> None:
    header = ("book", "title", "kinds", "year", "weight", "pages", "age", "avg_rating")
    rows = [
        (
            *row,
            "unknown" if at == 7 else at + 0.5,
            "unknown" if at in (7, 9) else at,
            "unknown" if at % 4 == 0 else at,
            at / 10,
        )
        for at, row in enumerate(books.items)
    ]
    items = write(tmp_path / "books.csv", header, [*rows, (*rows[0][:-1], 9.9)])
    config, text = proposed(tmp_path, ratings_of(books, tmp_path), items)
    assert config.data.items is not None
    types = {name: column.type for name, column in config.data.items.columns.items()}
    assert (types["weight"], types["pages"], types["age"]) == ("float", "int", "int")
    assert config.data.items.nulls == ("", "unknown")
    assert "LOOK: 11 of 41 cells of 'age' in" in text
    assert config.data.items.repeated is None, "the rows differ only in what is not used"


def test_items_without_a_description_lower_the_coverage_that_a_release_needs(books: Shop, tmp_path: Path) -> None:
    few = Shop(books.interactions, books.items[:32], books.users)
    config, text = proposed(tmp_path, ratings_of(books, tmp_path), items_of(few, tmp_path))
    assert config.publish.min_item_coverage == 0.72
    assert "LOOK: only 32 of 40 items have anything to tell, so min_item_coverage is 0.72" in text
    nameless = [(row[0], "", "", "") if at < 6 else row for at, row in enumerate(books.items)]
    config, _ = proposed(
        tmp_path,
        ratings_of(books, tmp_path),
        write(tmp_path / "books.csv", ("book", "title", "kinds", "year"), nameless),
    )
    assert config.publish.min_item_coverage == 0.76
    config, text = proposed(tmp_path, ratings_of(books, tmp_path), items_of(books, tmp_path))
    assert config.publish.min_item_coverage == 0.9
    assert "LOOK" not in text


def test_the_spelling_of_what_is_not_described_is_said(books: Shop, tmp_path: Path) -> None:
    spelled = [(f"0{row[0][1:]}" if at % 8 == 0 else row[0][1:], *row[1:]) for at, row in enumerate(books.items)]
    rows = [(user, item[1:], *others) for user, item, *others in books.interactions]
    random.Random(1).shuffle(rows)
    path = write(tmp_path / "ratings.csv", HEADER, rows)
    items = write(tmp_path / "books.csv", ("book", "title", "kinds", "year"), spelled)
    _, text = proposed(tmp_path, path, items)
    assert "12.5% of the items of interactions are not described, such as" in text
    assert '5 of 5 would be, written "007" as "7": write both alike' in text


def test_many_words_among_numbers_are_said(books: Shop, tmp_path: Path) -> None:
    rows = [(*row, "old" if at % 4 == 0 else at) for at, row in enumerate(books.items)]
    items = write(tmp_path / "books.csv", ("book", "title", "kinds", "year", "age"), rows)
    config, text = proposed(tmp_path, ratings_of(books, tmp_path), items)
    assert config.data.items is not None
    assert (config.data.items.columns["age"].type, config.data.items.nulls) == ("text", ("",))
    assert "LOOK: 10 of 40 cells of 'age'" in text
    assert "list them in nulls" in text
