"""The column that names an item, by its own name or by its texts."""

from __future__ import annotations

import re
from collections.abc import Sequence

import polars as pl

from offline.proposal.features import DATE, DECIMAL_COMMA, LINK, Column, length_of, share_of

_TITLES = (
    "title", "titel", "titre", "t[ií]tulo", "titolo", "headline", "bezeichnung", "name", "nombre", "nome", "naam",
    "назван", "наименован", "书名", "商品名", "品名", "名", "題", "标题", "제목", "produkt", "artikel", "designation",
    "libell[eé]", "intitul[eé]", "label",
)  # fmt: skip
"""What columns of titles are called, the most certain first."""
_TITLE = re.compile("|".join(_TITLES), re.I)
_NO_TITLE = re.compile(
    r"nummer|number|(?:^|[_\W])(?:no|code|sku|ean|url|link)(?:$|[_\W])|(?:nr|ids?|typ|type|art)$|image|file|brand|marke"
    r"|auth?or|artist|cat[eé]gor|kategorie|group|gruppe|user|description|beschreibung|publisher|seller|vendor"
    r"|hersteller|subtitle|untertitel",
    re.I,
)
_CODE = (
    r"^\s*[^\s\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]*"
    r"\d[^\s\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]*\s*$"
)
"""A word with a digit, for polars; scripts without spaces write several words so."""
_MOST_REPEATS = 0.1
"""Share of repeated texts up to which a column may name items."""


def title_of(columns: Sequence[Column], table: pl.DataFrame) -> tuple[Column | None, str]:
    """The column that names an item, and a remark unless its own name says so: else it is the shortest text that is
    another for almost all, and no code, date or link."""
    texts = [
        column
        for column in columns
        if column.type == "text" and column.field is None and not (column.is_long or column.is_labelled)
        if _names(table[column.column])
    ]
    named = [column for column in texts if _TITLE.search(column.column) and not _NO_TITLE.search(column.column)]
    if named:
        return min(named, key=lambda column: _rank(column.column)), ""
    free = [column for column in texts if _repeats(table[column.column]) <= _MOST_REPEATS]
    if not free:
        return None, "no column names an item: what is told of it does without a name"
    shortest = min(free, key=lambda column: length_of(table[column.column]))
    return shortest, f"no column is called a title or a name: {shortest.column!r} names an item, as the shortest text"


def _rank(name: str) -> tuple[bool, int]:
    """Where a column's name stands among those that speak of titles, the most certain first."""
    at = next(at for at, pattern in enumerate(_TITLES) if re.search(pattern, name, re.I))
    return _TITLE.fullmatch(name) is None, at


def _names(values: pl.Series) -> bool:
    """Whether a column of texts may name items: most are no numbers, dates, codes or links."""
    texts = values.cast(pl.String).drop_nulls()
    patterns = (LINK.pattern, DATE.pattern, _CODE, DECIMAL_COMMA.pattern)
    return all(share_of(texts, pattern) < 0.5 for pattern in patterns)


def _repeats(values: pl.Series) -> float:
    texts = values.drop_nulls()
    return 1 - texts.n_unique() / max(1, len(texts))
