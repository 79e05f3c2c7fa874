"""How the cells of a column are read as values, and how many of them may be bad."""

from __future__ import annotations

import re
from itertools import pairwise

import polars as pl

from offline.data.notations import COMMA_NUMBER

BAD_SHARE, BAD_ROWS, _BAD_TENTH = 0.01, 3, 0.1
"""Of the cells of a column, so many may be bad: see ``tolerated``."""

MOST_VALUES = 21
"""Different numbers up to which a column may be a scale of ratings: half stars from 0 to 10."""

_TRUTH = {"true": "1", "false": "0"}
_COMMA = re.compile(r"[-+]?\d+,\d{1,2}")
_OPINIONS = {
    "like", "dislike", "liked", "disliked", "positive", "negative", "neutral", "good", "bad", "up", "down", "yes", "no",
}  # fmt: skip


def tolerated(rows: int, share: float = BAD_SHARE) -> float:
    """So many rows or cells may be bad: a share of them, or in small files three, but no more than a tenth."""
    return max(share * rows, min(BAD_ROWS, _BAD_TENTH * rows))


def fits(values: pl.Series, unfit: pl.Series) -> bool:
    """Whether few enough of the cells that are not empty are ``unfit`` [rows]: the others make the form of a column."""
    filled = len(values) - values.null_count()
    return filled > 0 and int((unfit & values.is_not_null()).sum()) <= tolerated(filled) + 1e-9


def no_cells(values: pl.Series) -> pl.Series:
    """False for each row."""
    return pl.repeat(False, len(values), eager=True)


def read_values(values: pl.Series) -> pl.Series:
    """Finite numbers as the cells say them, float64, with true as 1 and false as 0; null for what is none."""
    if values.dtype == pl.String:
        text = values.str.strip_chars()
        values = text.str.to_lowercase().replace(_TRUTH).alias(values.name)
    elif not (values.dtype.is_numeric() or values.dtype == pl.Boolean):
        return pl.repeat(None, len(values), dtype=pl.Float64, eager=True).alias(values.name)
    number = values.cast(pl.Float64, strict=False)
    return number.set(~number.is_finite().fill_null(False), None)


def has_decimal_commas(values: pl.Series) -> bool:
    """Whether a column holds numbers, some of them as 35,37; those with three digits behind each comma may be whole."""
    if values.dtype != pl.String:
        return False
    unfit = values.is_not_null() & ~values.str.contains(COMMA_NUMBER).fill_null(False)
    return fits(values, unfit) and bool(values.str.contains(r",(?:\d{1,2}|\d{4,})\s*$").any())


def has_decimal_points(values: pl.Series) -> bool:
    """Whether a column holds numbers, some of them as 35.37."""
    numbers = read_values(values)
    return fits(values, values.is_not_null() & numbers.is_null()) and bool((numbers.floor() != numbers).any())


def unfit_values(values: pl.Series) -> pl.Series | None:
    """The cells [rows] of a column of values that hold no number; None if too many do not."""
    unfit = values.is_not_null() & read_values(values).is_null()
    return unfit if fits(values, unfit) else None


def off_scale(values: pl.Series) -> pl.Series:
    """Cells [rows] with numbers that lie off the scale of nearly all others, such as 99 among stars from 1 to 5: the
    scale goes on as long as no step is wider than those within. None are where the numbers are no scale."""
    number = read_values(values)
    sound = number.drop_nulls()
    if not len(sound):
        return no_cells(values)
    share = tolerated(len(sound)) / 2 / len(sound)
    low, high = (float(sound.quantile(at, "nearest") or 0.0) for at in (share, 1 - share))
    different = sound.unique().sort().to_list()
    inner = [value for value in different if low <= value <= high]
    if not 1 < len(inner) <= MOST_VALUES:
        return no_cells(values)
    step = max(later - earlier for earlier, later in pairwise(inner)) + 1e-9
    for value in different:
        high = value if high < value <= high + step else high
    for value in reversed(different):
        low = value if low - step <= value < low else low
    off = ~number.is_between(low, high).fill_null(True)
    return off if fits(values, off) else no_cells(values)


def is_opinion(values: pl.Series) -> bool:
    """Whether a column of text holds likes and dislikes in words, or numbers with a decimal comma."""
    if values.dtype != pl.String:
        return False
    words = values.drop_nulls().unique().head(1000).str.strip_chars().str.to_lowercase().to_list()
    if len(words) < 2:
        return False
    commas = sum(_COMMA.fullmatch(word) is not None for word in words)
    return set(words) <= _OPINIONS or (
        commas > 0 and all(_COMMA.fullmatch(word) or word.lstrip("+-").isdigit() for word in words)
    )


def example_of(values: pl.Series, unfit: pl.Series | None = None) -> str:
    """The first cell that is not empty, of those that are ``unfit`` if they are given, cut short."""
    cells = (values if unfit is None else values.filter(unfit)).drop_nulls()
    text = repr(cells[0]) if len(cells) else "nothing"
    return text if len(text) <= 40 else f"{text[:40]}..."
