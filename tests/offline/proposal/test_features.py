"""Features and texts that are proposed: titles, decimal commas, sums of behaviour, languages, events."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from offline.config import JobConfig, load_config
from offline.data.dataset import open_dataset
from offline.proposal.features import Column, features_of
from offline.proposal.language import language_of_texts
from offline.proposal.propose import propose
from offline.proposal.titles import title_of
from tests.offline.proposal.shops import KINDS, WORDS, shop, write

ROWS = 40
TITLES = [f"The {WORDS[at % 10]} of {WORDS[at // 10 % 10]}" for at in range(ROWS)]
GERMAN = [f"Lampe mit Schirm aus Glas für die Küche und den Flur, Modell {word}" for word in WORDS]


def features(**columns: Sequence[object]) -> dict[str, Column]:
    return {column.name: column for column in features_of(pl.DataFrame(columns), "id", "items").columns}


def title(**columns: Sequence[object]) -> tuple[str | None, str]:
    table = pl.DataFrame(columns)
    column, remark = title_of(features_of(table, "id", "items").columns, table)
    return (None if column is None else column.column), remark


def proposed(
    folder: Path, header: Sequence[str], items: list[list[object]], types: Sequence[str] = ()
) -> tuple[JobConfig, str]:
    """The configuration for a shop of these goods, whose ids are b0, b1, …, and its text. Types take turns."""
    interactions = [[user, item, second] for user, item, _, second in shop(items=len(items)).interactions]
    if types:
        interactions = [[*row, types[at % len(types)]] for at, row in enumerate(interactions)]
    head = ("reader", "book", "at", *(["event"] if types else []))
    text = propose(
        write(folder / "events.csv", head, interactions),
        write(folder / "books.csv", ("book", *header), [[f"b{at}", *row] for at, row in enumerate(items)]),
        None,
        "mine",
    ).text()
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    config = load_config(path)
    assert not open_dataset(config.data, folder / "raw").check(config.feature_schema).errors
    return config, text


def looks(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if line.startswith("# LOOK"))


@pytest.mark.parametrize(
    "name", ["title", "Bezeichnung", "Artikelname", "produkt", "headline", "product_name", "商品名"]
)
def test_titles_by_their_name(name: str) -> None:
    short = [f"x {title}"[:6] + chr(97 + at % 26) * (at // 26 + 1) for at, title in enumerate(TITLES)]
    assert title(motto=short, **{name: TITLES}) == (name, "")


@pytest.mark.parametrize("form", ["東京物語第{}巻", "ワイヤレスイヤホン{}", "หนังสือเล่มที่{}", "无线耳机{}型"])
def test_titles_in_scripts_without_spaces_may_hold_digits(form: str) -> None:
    assert title(名前=[form.format(at) for at in range(ROWS)]) == ("名前", "")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("名前", [f"商-{at}" if at < 3 else f"АБ-{at}" for at in range(ROWS)]),
        ("preis", [f"{at},{at % 90 + 10}" for at in range(ROWS)]),
        ("seit", [f"2024-01-{at % 28 + 1:02}" if at < 28 else f"2023-03-{at - 20:02}" for at in range(ROWS)]),
        ("bild", [f"pictures/{at}.jpg" for at in range(ROWS)]),
        ("ean_code", [f"A-{at:03}" for at in range(ROWS)]),
        ("farbe", [f"{WORDS[at % 10]}{'s' * (at % 3)}" for at in range(ROWS)]),
        ("artikelnummer", [f"nr {chr(97 + at % 26)} {at}" for at in range(ROWS)]),
    ],
)
def test_what_is_no_title(name: str, values: list[str]) -> None:
    column, remark = title(**{name: values}, motto=[f"{text} for everybody" for text in TITLES])
    assert column == ("motto" if name != "artikelnummer" else name)
    assert f"'{column}' names an item" in remark
    if name != "artikelnummer":
        assert title(**{name: values}) == (None, "no column names an item: what is told of it does without a name")


def test_texts_before_numbers_and_nothing_is_dropped_in_silence(tmp_path: Path) -> None:
    header = ("title", "price", "maker", "motto", "about", "weight", "size", "height", "stock")
    items: list[list[object]] = [
        [
            TITLES[at],
            at + 0.5,
            f"{WORDS[at % 7]} works",
            f"made of {TITLES[-at]}",
            f"{'long ' * 40}{at}",
            at,
            at,
            at,
            at,
        ]
        for at in range(ROWS)
    ]
    config, text = proposed(tmp_path, header, items)
    assert config.data.texts.item == (
        '["{title}"|an unnamed book][; {maker}][; {motto}]'
        "[; price {price}][; weight {weight}][; size {size}][. {about}]"
    )
    assert "# left out of the text of an item, which has 6 parts at most: height, stock" in text


def test_items_without_a_title_are_named_by_their_kind(tmp_path: Path) -> None:
    config, text = proposed(
        tmp_path, ("price", "kind"), [[f"{at},{at % 90 + 10}", KINDS[at % 6]] for at in range(ROWS)]
    )
    assert (config.data.texts.item, config.data.texts.name) == ("a book[; {kind}][; price {price}]", "[{kind}|book]")
    assert "no column names an item" in looks(text)


def test_items_of_which_nothing_is_known(tmp_path: Path) -> None:
    config, text = proposed(tmp_path, ("empty",), [[""] for _ in range(ROWS)])
    assert "text" not in {spec.name for spec in config.feature_schema.knowledge}
    assert "no column tells anything of an item" in text


def test_numbers_with_a_decimal_comma(tmp_path: Path) -> None:
    items: list[list[object]] = [[TITLES[at], "" if at == 3 else f"1.0{at % 90 + 10},{at}"] for at in range(ROWS)]
    config, text = proposed(tmp_path, ("title", "price"), items)
    assert config.data.items is not None
    assert (config.data.items.decimal, config.data.items.columns["price"].type) == (",", "float")
    assert "39 of 40 items have one, from 1010" in text
    assert config.feature_schema.item_fields[0].edges[0] > 1010
    source = open_dataset(config.data, tmp_path / "raw")
    assert source.catalogue().items["b7"]["price"] == 1017.7


@pytest.mark.parametrize("other", ["1.5", "12,50 €"])
def test_numbers_with_a_comma_beside_others_are_texts(tmp_path: Path, other: str) -> None:
    items: list[list[object]] = [[TITLES[at], f"{at},{at % 90 + 10}", other] for at in range(ROWS)]
    config, text = proposed(tmp_path, ("title", "price", "weight"), items)
    if other == "1.5":
        assert [field.name for field in config.feature_schema.item_fields] == []
        assert "numbers with a comma, in a file with others" in text
    else:
        assert [field.name for field in config.feature_schema.item_fields] == ["price"]


@pytest.mark.parametrize(
    "cells",
    [
        ['["Drama", "War"]', '["War"]', "[]", ""],
        ["['Drama', 'War']", "['War']", "[]", ""],
        ["[{'id': 1, 'name': 'Drama'}, {'id': 2, 'name': 'War'}]", "[{'id': 2, 'name': 'War'}]", "[]", ""],
    ],
)
def test_arrays_are_lists(tmp_path: Path, cells: list[str]) -> None:
    items: list[list[object]] = [[TITLES[at], cells[at % 4]] for at in range(ROWS)]
    config, _ = proposed(tmp_path, ("title", "genres"), items)
    assert config.data.items is not None
    assert config.data.items.columns["genres"].separator == "[]"
    assert config.feature_schema.item_fields[0].vocab == ("Drama", "War")
    described = open_dataset(config.data, tmp_path / "raw").catalogue().items
    assert [described[f"b{at}"]["genres"] for at in range(4)] == [["Drama", "War"], ["War"], [], []]


@pytest.mark.parametrize(
    ("name", "leaks"),
    [
        ("avg_rating", True),
        ("averageRating", True),
        ("review_count", True),
        ("num_votes", True),
        ("popularity", True),
        ("discount", False),
        ("country", False),
        ("page_count", False),
        ("num_pages", False),
        ("price", False),
    ],
)
def test_sums_of_behaviour_are_left_out(name: str, leaks: bool) -> None:
    table = pl.DataFrame({name: [at / 2 for at in range(ROWS)]})
    seen = features_of(table, "id", "items")
    assert list(seen.sums) == ([name] if leaks else [])
    assert [column.column for column in seen.columns] == ([] if leaks else [name])


def test_sums_of_behaviour_are_said(tmp_path: Path) -> None:
    items: list[list[object]] = [[TITLES[at], at / 2] for at in range(ROWS)]
    config, text = proposed(tmp_path, ("title", "avg_rating"), items)
    assert "avg_rating of books.csv" in looks(text)
    assert 'write avg_rating = "float" into [data.items.columns], and a field of it into item_fields' in looks(text)
    assert "# not used: avg_rating: by its name reckoned from what users did" in text
    assert "avg_rating" not in str(config.data.texts)
    assert not config.feature_schema.item_fields


def test_comments_count_what_is_there() -> None:
    seen = features(
        lists=[[], *([["a", "b"]] * 9)], numbers=[float("nan"), *range(9)], cells=["|", *["a|b"] * 9], whole=[1] * 10
    )
    assert seen["lists"].remark.startswith("9 of 10 items have one")
    assert seen["numbers"].remark.startswith("9 of 10 items have one, from 0 to 8")
    assert seen["cells"].remark.startswith("9 of 10 items have one")
    assert seen["whole"].remark.startswith("all 10 items have one")


def test_yes_and_no_say_nothing_without_a_name() -> None:
    assert features(stock=["Ja", "nein"] * 20)["stock"].is_labelled
    assert not features(colour=["rot", "grau"] * 20)["colour"].is_labelled


def test_dates_are_no_lists() -> None:
    column = features(since=[f"{at % 28 + 1:02}/{at % 12 + 1:02}/{2000 + at % 3}" for at in range(ROWS)])["since"]
    assert (column.type, column.is_labelled) == ("text", True)


@pytest.mark.parametrize(
    ("language", "texts"),
    [
        ("en", TITLES),
        ("en", ["Café Noir", "Über", "Brontë", *TITLES]),
        ("en", [f"Canon EOS {at}" for at in range(20)]),
        ("en", ["Die Hard", "Das Boot", "Toy Story", "The Man of the Hour"]),
        ("en", ["Le Creuset Kettle", "La Sportiva Climbing Shoe", "De'Longhi Machine", "Los Angeles Lakers cap"] * 9),
        ("en", ["T-Shirt L", "T-Shirt M", "Das Keyboard", "El Paso boots", "Las Vegas jersey"] * 9),
        ("other", ["Skor för män i läder"] * 20),
        ("other", ["Erkek için kırmızı ayakkabı gömlek ürün"] * 20),
        ("other", ["Buty męskie skórzane czarne", "Stół drewniany z krzesłami"]),
        ("fr", ["Chaussures de sport pour homme, en cuir et à lacets"] * 20),
        ("fr", ["Le petit prince", "Voyage au bout de la nuit", "L’étranger"]),
        ("es", ["La casa de los sueños", "Cien años de soledad", "El señor de los anillos"]),
        ("es", ["Camisa blanca de algodon para mujer", "Mesa de madera con cajones"]),
        ("it", ["Il nome della rosa", "La divina commedia", "Se questo è un uomo"]),
        ("pt", ["O livro da selva e os meninos", "Uma noite em Lisboa", "Os dias da revolução"]),
        ("nl", ["De ontdekking van de hemel", "Het diner", "De aanslag van een man"]),
        ("de", ["Kuechentisch aus Holz", "Buecherregal weiss fuer Kinder", "Herrenschuhe schwarz"]),
        ("de", ["Herrenschuhe Größe 42", "Küchentisch", "Bücherregal weiß", "Stuhl"]),
        ("de", GERMAN),
        ("zh", ["无线蓝牙耳机 Pro", "纯棉长袖衬衫", "不锈钢保温杯"]),
        ("ja", ["ワイヤレスイヤホン", "綿の長袖シャツ", "ステンレスの水筒"]),
        ("other", ["Беспроводные наушники", "Хлопковая рубашка"]),
        ("other", ["무선 이어폰", "면 셔츠"]),
        ("other", ["Ασύρματα ακουστικά"]),
        ("other", ["سماعات لاسلكية"]),
        ("other", ["वायरलेस हेडफ़ोन"]),
        ("en", []),
    ],
)
def test_language_of_texts(language: str, texts: list[str]) -> None:
    assert language_of_texts(texts) == language


def test_german_goods(tmp_path: Path) -> None:
    items: list[list[object]] = [[f"{GERMAN[at % 10]} Nummer {at}", KINDS[at % 6]] for at in range(ROWS)]
    config, text = proposed(tmp_path, ("Bezeichnung", "Art"), items)
    texts = config.data.texts
    assert (texts.language, texts.noun, texts.plural, texts.liked) == ("de", "Artikel", "Artikel", "gut bewertet")
    assert texts.item == '["{Bezeichnung}"|ein Artikel ohne Namen][; {Art}]'
    assert "English alone" in looks(text)
    assert "LOOK: users have no knowledge beyond their histories: the producer liber stands in a comment" in text
    assert [spec.name for spec in config.feature_schema.knowledge] == ["text"]
    text = text.replace('# { name = "liber"', '{ name = "liber"')
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    assert [spec.name for spec in load_config(tmp_path / "mine.toml").feature_schema.knowledge] == ["text", "liber"]


def test_goods_in_a_language_that_is_asked_in_english(tmp_path: Path) -> None:
    items: list[list[object]] = [[f"La casa de los sueños {at}", KINDS[at % 6]] for at in range(ROWS)]
    config, text = proposed(tmp_path, ("título", "género"), items)
    texts = config.data.texts
    assert (texts.language, texts.noun, texts.plural) == ("es", "item", "items")
    assert texts.item == '["{título}"|un artículo sin nombre][; {género}]'
    assert "questions are asked in English and end with the wish" in looks(text)
    assert '# encoder = "use-multilingual-3"' in text
    assert "the packaged model writes English" in text


def test_english_goods_say_no_language(tmp_path: Path) -> None:
    _, text = proposed(tmp_path, ("title",), [[title] for title in TITLES])
    assert "language" not in tomllib.loads(text)["data"]["texts"]
    assert "LOOK" not in text
    assert "# encoder" not in text


def test_types_of_events(tmp_path: Path) -> None:
    types = ("view", "view", "view", "cart", "purchase", "purchase", "view")
    config, text = proposed(tmp_path, ("title",), [[title] for title in TITLES], types)
    assert config.feature_schema.history_types == ("view", "purchase", "cart")
    assert "holds several types of events (view 57." in looks(text)
    for choice in ('["view"]', '["purchase"]', '["cart"]', '["purchase", "cart"]'):
        assert f"# keep = {{ event = {choice} }}" in text
    assert '# repeated = "last"' in text
    assert "of the rows repeat a user and an item" in text


def test_a_users_column_is_never_a_list() -> None:
    """A profile holds none: "executive/managerial" is one word."""
    words = pl.DataFrame({"id": list(range(60)), "occupation": ["artist", "executive/managerial", "K-12 student"] * 20})
    (column,) = features_of(words, "id", "users").columns
    assert (column.type, column.separator) == ("text", None)
    assert column.field is not None
    lists = pl.DataFrame({"id": [1, 2], "likes": [["a"], ["b", "c"]]})
    assert features_of(lists, "id", "users").remarks == ["likes: of a type that no feature has"]
    assert features_of(lists, "id", "items").columns[0].type == "list"
