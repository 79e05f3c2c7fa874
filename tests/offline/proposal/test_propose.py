"""A configuration for files that nobody has described: it understands them, validates, and says what they hold."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from offline.config import JobConfig, load_config
from offline.data.arrival import append_new
from offline.data.catalogue import DataError
from offline.data.dataset import open_dataset
from offline.data.log import InteractionLog
from offline.jobs.outlook import outlook
from offline.proposal.forms import form_of
from offline.proposal.propose import name_of, propose
from offline.training.samples import split_samples
from tests.offline.proposal.shops import Shop, shop, write

HEADER = ("reader", "book", "stars", "at")


@pytest.fixture(scope="module")
def books() -> Shop:
    return shop()


def proposed(folder: Path, interactions: Path, items: Path, users: Path | None = None) -> tuple[JobConfig, str]:
    """The configuration that is written for these files, checked against them, and its text."""
    text = propose(interactions, items, users, "mine").text()
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    config = load_config(path)
    findings = open_dataset(config.data, folder / "raw").check(config.feature_schema)
    assert not findings.errors
    return config, text


def items_of(books: Shop, folder: Path, **form: Any) -> Path:
    return write(folder / "books.csv", ("book", "title", "kinds", "year"), books.items, **form)


def test_ratings_with_users(books: Shop, tmp_path: Path) -> None:
    config, text = proposed(
        tmp_path,
        write(tmp_path / "ratings.csv", HEADER, books.interactions),
        items_of(books, tmp_path),
        write(tmp_path / "readers.csv", ("reader", "country"), books.users),
    )
    table = config.data.interactions
    assert table is not None
    assert (table.user, table.item, table.value, table.time, table.time_unit) == ("reader", "book", "stars", "at", "s")
    assert config.data.labels.kind == "threshold"
    schema = config.feature_schema
    assert (schema.value_min, schema.value_max, schema.liked_above) == (1.0, 5.0, 3.0)
    assert [field.name for field in schema.user_fields] == ["country"]
    assert {field.name: field.slots for field in schema.item_fields} == {"kinds": 2, "year": 1}
    assert config.data.texts.item == '["{title}"|an unnamed book][; {kinds}][; year {year}]'
    assert (config.data.texts.noun, config.data.texts.topics_column) == ("book", "kinds")
    assert "# 60 different" in text


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M"),
        ("%Y-%m-%d %H:%M:%S", None),
        ("%m/%d/%Y %H:%M", "%m/%d/%Y %H:%M"),
    ],
)
def test_times_in_words(books: Shop, tmp_path: Path, form: str, expected: str | None) -> None:
    rows = [
        (user, item, stars, datetime.fromtimestamp(second, UTC).strftime(form))
        for user, item, stars, second in books.interactions
    ]
    config, _ = proposed(tmp_path, write(tmp_path / "ratings.csv", HEADER, rows), items_of(books, tmp_path))
    assert config.data.interactions is not None
    assert config.data.interactions.time_format == expected
    assert config.data.interactions.time_unit == (None if expected else "iso")


def test_the_remedy_for_times_that_are_not_read_works_as_it_stands(books: Shop, tmp_path: Path) -> None:
    form = "%H:%M on %d.%m.%Y"
    rows = [(*row[:3], datetime.fromtimestamp(row[3], UTC).strftime(form)) for row in books.interactions]
    config, text = proposed(tmp_path, write(tmp_path / "ratings.csv", HEADER, rows), items_of(books, tmp_path))
    assert config.data.split_by == "order"
    (remark,) = [line for line in text.splitlines() if "is not understood" in line]
    for word in ('write time = "at"', 'time_format = "..." into [data.interactions]', "remove split_by from [data]"):
        assert word in remark
    lines = [line for line in text.splitlines() if not line.startswith("split_by")]
    at = lines.index("[data.interactions]") + 1
    lines[at:at] = ['time = "at"', f'time_format = "{form}"']
    (tmp_path / "mended.toml").write_text("\n".join(lines), encoding="utf-8")
    mended = load_config(tmp_path / "mended.toml")
    assert mended.data.timed
    assert not open_dataset(mended.data, tmp_path / "raw").check(mended.feature_schema).errors


def test_milliseconds_semicolons_and_another_encoding(books: Shop, tmp_path: Path) -> None:
    rows = [(user, item, stars, second * 1000) for user, item, stars, second in books.interactions]
    described = [(item, title.replace("garden", "Gärtchen"), kinds, year) for item, title, kinds, year in books.items]
    items = write(
        tmp_path / "books.csv", ("book", "title", "kinds", "year"), described, separator=";", encoding="latin-1"
    )
    config, _ = proposed(tmp_path, write(tmp_path / "ratings.csv", HEADER, rows, separator="\t"), items)
    assert config.data.interactions is not None
    assert config.data.items is not None
    assert (config.data.interactions.time_unit, config.data.interactions.separator) == ("ms", "\t")
    assert (config.data.items.separator, config.data.items.encoding) == (";", "cp1252")


def test_no_header(books: Shop, tmp_path: Path) -> None:
    config, _ = proposed(tmp_path, write(tmp_path / "ratings.csv", (), books.interactions), items_of(books, tmp_path))
    assert config.data.interactions is not None
    assert config.data.interactions.header == ("column_1", "column_2", "column_3", "column_4")
    assert (config.data.interactions.user, config.data.interactions.item) == ("column_1", "column_2")
    assert config.data.labels.kind == "threshold"


def test_no_value_is_implicit(books: Shop, tmp_path: Path) -> None:
    rows = [(user, item, second) for user, item, _, second in books.interactions]
    config, text = proposed(
        tmp_path, write(tmp_path / "visits.csv", ("visitor", "book", "at"), rows), items_of(books, tmp_path)
    )
    assert config.data.labels.kind == "implicit"
    assert config.feature_schema.history_types == ("interaction",)
    assert "every row is a positive" in text


def test_zeros_and_ones_are_labels(books: Shop, tmp_path: Path) -> None:
    rows = [(user, item, int(stars > 3), second) for user, item, stars, second in books.interactions]
    header = ("user_id", "item_id", "click", "timestamp")
    config, _ = proposed(tmp_path, write(tmp_path / "clicks.csv", header, rows), items_of(books, tmp_path))
    assert config.data.labels.kind == "binary"


def test_parquet_with_lists(books: Shop, tmp_path: Path) -> None:
    interactions, items = tmp_path / "ratings.parquet", tmp_path / "books.parquet"
    columns = ["reader", "book", "stars", "seconds"]
    frame = pl.DataFrame(books.interactions, schema=columns, orient="row")
    frame.with_columns(at=pl.from_epoch("seconds")).drop("seconds").write_parquet(interactions)
    described = pl.DataFrame(books.items, schema=["book", "title", "kinds", "year"], orient="row")
    described.with_columns(pl.col("kinds").str.split("|")).write_parquet(items)
    config, _ = proposed(tmp_path, interactions, items)
    assert config.data.interactions is not None
    assert config.data.interactions.time_unit == "iso"
    assert {field.name for field in config.feature_schema.item_fields} == {"kinds", "year"}


def test_parts_of_a_set_that_brings_them(books: Shop, tmp_path: Path) -> None:
    parts = ["train"] * 1200 + ["valid"] * 150 + ["test"] * 150
    rows = [(row[0], row[1], part, at) for at, (row, part) in enumerate(zip(books.interactions, parts, strict=True))]
    header = ("user", "book", "part", "position")
    config, text = proposed(
        tmp_path, write(tmp_path / "bought.tsv", header, rows, separator="\t"), items_of(books, tmp_path)
    )
    assert config.data.interactions is not None
    table = config.data.interactions
    assert (table.time, table.time_unit, table.split_column) == ("position", "order", "part")
    assert tomllib.loads(text)["data"]["labels"]["kind"] == "implicit"


def test_a_set_that_brings_training_and_test_alone(books: Shop, tmp_path: Path) -> None:
    rows = [(*row[:2], "train" if at < 1300 else "test", row[3]) for at, row in enumerate(books.interactions)]
    path = write(tmp_path / "bought.csv", ("user", "book", "part", "at"), rows)
    config, text = proposed(tmp_path, path, items_of(books, tmp_path))
    table = config.data.interactions
    assert table is not None
    assert (table.split_column, table.split_values.validation) == ("part", ())
    assert "LOOK: no row of 'part' validates" in text
    source, log = open_dataset(config.data, tmp_path / "raw"), InteractionLog.empty()
    log, _ = append_new(log, source, source.catalogue(), config.data.labels, config.feature_schema)
    splits = split_samples(config.samples, log)
    sizes = {split: len(of) for split, of in splits.rows.items()}
    assert abs(sizes["validation"] - sizes["train"] / 9) <= 1
    facts = outlook(config, source.catalogue(), log, splits).facts
    assert any("no part validates, so the last tenth of the training part's samples does" in fact for fact in facts)


def test_parts_of_which_none_tests_are_said(books: Shop, tmp_path: Path) -> None:
    rows = [(*row[:2], "train" if at < 1300 else "valid", row[3]) for at, row in enumerate(books.interactions)]
    path = write(tmp_path / "bought.csv", ("user", "book", "split", "at"), rows)
    config, text = proposed(tmp_path, path, items_of(books, tmp_path))
    assert config.data.interactions is not None
    assert config.data.interactions.split_column is None
    assert "LOOK: 'split' looks like parts of the data and is not used" in text


def test_short_histories_get_small_partitions(tmp_path: Path) -> None:
    few = shop(users=400, events=1600)
    config, text = proposed(
        tmp_path, write(tmp_path / "ratings.csv", HEADER, few.interactions), items_of(few, tmp_path)
    )
    assert config.samples.min_history == 2
    assert config.knowledge.liber.partition_size == 5
    assert "of the users have one or more" in text


def test_ids_that_never_meet_are_refused(books: Shop, tmp_path: Path) -> None:
    rows = [(user, f"{int(item[1:])}.0", stars, second) for user, item, stars, second in books.interactions]
    items = [(item[1:], *others) for item, *others in books.items]
    with pytest.raises(DataError, match=r'no column of the interactions .* 40 of 40 would be, written "12\.0" as "12"'):
        propose(
            write(tmp_path / "ratings.csv", HEADER, rows),
            write(tmp_path / "books.csv", ("book", "title", "kinds", "year"), items),
            None,
            None,
        )


def test_a_name_of_the_folder_or_the_file(tmp_path: Path) -> None:
    assert name_of(Path("/data/My Shop/events.csv")) == "My-Shop"
    assert name_of(Path("/srv/data/events.csv.gz")) == "events"


@pytest.mark.parametrize(
    ("encoding", "language", "titles"),
    [
        ("cp1251", "other", ["Беспроводные наушники", "Хлопковая рубашка", "Стальной термос"]),
        ("cp932", "ja", ["ワイヤレスイヤホン", "綿の長袖シャツ", "ステンレスの水筒"]),
        ("gb18030", "zh", ["无线蓝牙耳机", "纯棉长袖衬衫", "不锈钢保温杯", "我们的世界地图"]),
        ("cp949", "other", ["무선 이어폰", "면 셔츠", "스테인리스 물병"]),
        ("cp1252", "es", ["La casa de los sueños", "El niño y la montaña", "Cien años de soledad"]),
        ("cp1252", "fr", ["L'été de nos vingt ans à la mer", "Les misérables", "La crème de la crème"]),
        ("cp1252", "de", ["Bücher für Füße", "Größe und Maß der Häuser", "Straße über den Fluss"]),
    ],
)
def test_encodings(books: Shop, tmp_path: Path, encoding: str, language: str, titles: list[str]) -> None:
    described = [(row[0], titles[at % len(titles)], *row[2:]) for at, row in enumerate(books.items)]
    items = write(tmp_path / "books.csv", ("book", "title", "kinds", "year"), described, encoding=encoding)
    config, text = proposed(tmp_path, write(tmp_path / "ratings.csv", HEADER, books.interactions), items)
    assert config.data.items is not None
    assert (config.data.items.encoding, config.data.texts.language) == (encoding, language)
    (tmp_path / "heads.csv").write_text(f"id;{titles[0]}\n1;a\n2;b\n", encoding=encoding)
    if not titles[0].isascii():
        assert form_of(tmp_path / "heads.csv")["encoding"] == encoding
    assert f"is a guess: it reads {next(title for title in titles if not title.isascii())!r}" in text
