"""The columns of ids: contents speak first (ids that a table describes), names second."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from offline.data.catalogue import DataError
from offline.data.spellings import common_spelling

_PERSON = re.compile(
    r"user|customer|client|reader|visitor|member|buyer|person|account|uid$|reviewer|viewer|listener|player|author_id"
    r"|cookie|device_?id|fingerprint|e-?mail|subscriber|guest"
    r"|benutzer|nutzer|kund|leser|besucher|spieler|usuari|usu[aá]rio|(?:^|_)lector|comprador|utilisateur|lecteur|abonn"
    r"|acheteur|visiteur|utilizador|leitor|utente|lettore|gebruiker|klant|lezer",
    re.I,
)
_VISIT = re.compile(
    r"session|order|basket|cart|visit(?!or|eur)|invoice|transaction|sitzung|bestell|sesi[oó]n|s[eé]ance|sess[aã]o"
    r"|pedido|commande|ordine",
    re.I,
)
_THING = re.compile(
    r"item|product|movie|film|book|track|song|artist|game|artic|sku|asin|isbn|iid|^pid$|news|video|offer|artikel|buch"
    r"|produ[kit]|prodott|spiel(?!er)|libro|livr[eo]|boek|pel[ií]cula|artigo|juego|jogo",
    re.I,
)
_AMOUNT = re.compile(
    r"quantity|qty|price|amount|menge|anzahl|preis|betrag|dauer|cantidad|precio|importe|duraci|quantit|prix|montant"
    r"|dur[eé]e|quantid|pre[cç]o|dura[cç]|prezzo|importo|durata|aantal|prijs|duration|dwell|seconds|minutes",
    re.I,
)
_OTHER = re.compile(r"position|rank|index|(?<!ac)count(?!ry)|rating|stars?$|score|time|stamp|^ts$", re.I)
"""Names of numbers that may look like ids of a small table."""
_NO_USER = re.compile(r"page|unnamed|store|shop|branch|gift|discount", re.I)

_FIRST, _SECOND = "column_1", "column_2"
"""Names of columns in a file without a header, where the user commonly comes first."""

_IS_ID = re.compile(r"id$|_no$|nr$|number$|key$|code$", re.I)
_MOST_VALUES = 21
_LEAST_OVERLAP = 0.5
_MOSTLY_UNIQUE, _OFTEN_UNIQUE = 0.9, 0.4
"""Different ids of a table that describes them, as a share of its rows: first the one is asked for, then the other."""
_ALIKE = 0.05
"""Shares of overlap that differ by less are alike."""

_COMPARED = 20_000
"""Ids of a column that are compared in other spellings."""


@dataclass(frozen=True, slots=True)
class Side:
    """Users or items: a word for it, names of its columns, and names of the other side's."""

    word: str
    names: re.Pattern[str]
    others: re.Pattern[str]

    def excludes(self, column: str) -> bool:
        """Whether a column is named like something else."""
        if _is_number(column):
            return True
        return not self.names.search(column) and any(pattern.search(column) for pattern in (self.others, _VISIT))


USER, ITEM = Side("user", _PERSON, _THING), Side("item", _THING, _PERSON)


@dataclass(frozen=True, slots=True, order=True)
class _Match:
    """A column of a table and an id column of the table that describes it; the greatest fits best."""

    fits: bool
    score: float
    overlap: float
    column: str
    id_column: str


def matching(table: pl.DataFrame, described: pl.DataFrame, side: Side, remarks: list[str]) -> tuple[str, str]:
    """The column of ``table`` and the id column of ``described`` that fit best. DataError if none does."""
    matches, best = [], None
    for unique in (_MOSTLY_UNIQUE, _OFTEN_UNIQUE):  # some tables describe many of their ids twice
        if best is None or best.overlap < _LEAST_OVERLAP:
            matches = _matches(table, described, side, unique)
            best = max(matches, default=best)
    if best is None or best.overlap < _LEAST_OVERLAP:
        raise DataError(_no_match(table, described, side, best))
    if side is ITEM and best.column == _FIRST:
        best = _in_order(best, matches)
    if best.overlap < 1.0:
        remarks.append(_note_on_undescribed(table[best.column], described[best.id_column], side, best.overlap))
    others = {
        match.column: match.overlap
        for match in sorted(matches)
        if match.column != best.column and (match.fits or match.overlap >= best.overlap - _ALIKE)
    }
    shown = ", ".join(f"{name!r} ({overlap:.0%})" for name, overlap in others.items() if overlap >= _LEAST_OVERLAP)
    if shown:
        remarks.append(f"{best.column!r} is taken for the {side.word}; ids that are described are in {shown}, too")
    return best.column, best.id_column


def is_amount(name: str) -> bool:
    """Whether a column is named like a price, a quantity or a duration."""
    return bool(_AMOUNT.search(name))


def _is_number(name: str) -> bool:
    return (is_amount(name) or bool(_OTHER.search(name))) and not _IS_ID.search(name)


def user_column(interactions: pl.DataFrame, names: Sequence[str], remarks: list[str]) -> str:
    """The column of users, by its name, or else the column of ids that repeat most evenly. DataError if no column will
    do."""
    candidates = []
    for name in names:
        ids = _as_ids(interactions[name])
        rank = _user_rank(name)
        if ids is None or rank < 0 or not len(ids) or (rank < 2 and len(ids) < 0.99 * len(interactions)):
            continue
        share = ids.n_unique() / len(ids)
        repeats = 0.0 < share < 0.9 and not (_is_number(name) or _NO_USER.search(name))
        if rank or repeats:
            candidates.append((rank, bool(_IS_ID.search(name)), repeats, share, name))
    if not candidates:
        raise DataError(
            f"no column of the interactions ({', '.join(names)}) looks like users': name it user, or give --users"
        )
    candidates.sort(key=lambda candidate: (candidate[-1] == _FIRST, candidate), reverse=True)
    best = candidates[0][-1]
    plausible = [name for rank, *_, name in candidates[1:] if rank >= min(1, candidates[0][0])]
    shown = ", ".join(repr(name) for name in plausible if interactions[name].n_unique() > _MOST_VALUES)
    if shown:
        remarks.append(f"{best!r} is taken for the user; it could be {shown}, too")
    return best


def _user_rank(name: str) -> int:
    """3 for an id of a person, 2 for a person's name, 1 for an id of a visit, -1 for any other name, else 0."""
    if _VISIT.search(name):
        return 1
    if _PERSON.search(name):
        return 2 if re.search("name", name, re.I) else 3
    return -1 if re.search(r"name|title", name, re.I) else 0


def _as_ids(values: pl.Series) -> pl.Series | None:
    """The ids of a column as text; None if it holds no text and no whole numbers."""
    if not (values.dtype == pl.String or values.dtype.is_integer()):
        return None
    return values.cast(pl.String).drop_nulls()


def _note_on_undescribed(used: pl.Series, described: pl.Series, side: Side, overlap: float) -> str:
    """How many ids have no description, and the spelling in which more of them would."""
    known, names = _in_any_spelling(described), _in_any_spelling(used)
    unknown = names.filter(~names.is_in(known.implode())).head(_COMPARED).to_list()
    spelling = common_spelling(unknown, known.to_list())
    note = f", such as {unknown[0]!r}; of those {spelling}: write both alike" if spelling else ""
    return f"{1 - overlap:.1%} of the {side.word}s of interactions are not described{note}"


def _matches(table: pl.DataFrame, described: pl.DataFrame, side: Side, unique: float) -> list[_Match]:
    matches = []
    for id_column in described.columns:
        ids = _as_ids(described[id_column])
        if ids is None or not len(ids) or ids.n_unique() < unique * len(described):
            continue
        known = ids.unique()
        for column in table.columns:
            used = _as_ids(table[column])
            if used is None or not len(used):
                continue
            used = used.unique()
            common = int(used.is_in(known.implode()).sum())
            overlap, coverage = common / len(used), common / len(known)
            if len(used) <= _MOST_VALUES and coverage < 0.5:  # stars from 1 to 5 are not the first five items
                continue
            named = 0.4 * (column == id_column) + 0.3 * bool(side.names.search(column))
            fits = overlap >= _LEAST_OVERLAP and not side.excludes(column)
            matches.append(_Match(fits, overlap + 0.5 * coverage + named, overlap, column, id_column))
    return matches


def _in_order(best: _Match, matches: Sequence[_Match]) -> _Match:
    """The match of the second column of a file without a header, if the first, which is ``best``, fits no better."""
    second = [match for match in matches if match.column == _SECOND and match.id_column == best.id_column]
    return second[0] if second and second[0].overlap >= best.overlap - _ALIKE else best


def _no_match(table: pl.DataFrame, described: pl.DataFrame, side: Side, nearest: _Match | None) -> str:
    message = (
        f"no column of the interactions ({', '.join(table.columns)}) holds ids that the {side.word}s' table describes "
        f"({', '.join(described.columns)})"
    )
    if nearest is not None and nearest.overlap:
        message += f"; the nearest is {nearest.column!r} with {nearest.overlap:.0%} of its ids"
    for column in sorted(table.columns, key=lambda name: (side.excludes(name), not side.names.search(name))):
        used = _in_any_spelling(table[column])
        for id_column in described.columns:
            known = _in_any_spelling(described[id_column])
            if len(used) <= _MOST_VALUES or known.n_unique() < _OFTEN_UNIQUE * len(described):
                continue
            unknown = used.filter(~used.is_in(known.implode()))
            if note := common_spelling(unknown.head(_COMPARED).to_list(), known.to_list()):
                return f"{message}; of the ids of {column!r} in {id_column!r}, {note}: write both alike"
    return f"{message}: are ids written alike, 12 and not 12.0, 7 and not 007?"


def _in_any_spelling(values: pl.Series) -> pl.Series:
    """Different ids, also those that became numbers with a point."""
    if values.dtype != pl.String and not values.dtype.is_numeric():
        return pl.Series(dtype=pl.String)
    return values.drop_nulls().unique(maintain_order=True).cast(pl.String)
