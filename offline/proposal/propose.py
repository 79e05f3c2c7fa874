"""A configuration for the files of somebody who has written none: `python -m offline init`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from offline.data.catalogue import DataError
from offline.data.config import TableConfig
from offline.data.notations import with_point
from offline.data.rules import Problems
from offline.data.tables import Part, read
from offline.proposal.document import Described, Proposal
from offline.proposal.features import features_of
from offline.proposal.forms import form_of
from offline.proposal.owners import with_empty_words, with_one_row_of_each
from offline.proposal.roles import roles_of
from offline.proposal.settings import Amounts, Coverage, Labels
from offline.proposal.texts import Texts
from offline.proposal.titles import title_of
from offline.proposal.values import has_decimal_commas, has_decimal_points, read_values, tolerated

_MOST_BAD_ROWS = 0.05
"""Share of a file's rows that may be broken, or three in a small one; more, and the file is not understood."""

_SHOWN = 40

_NULLS = ("\\N", "NA", "N/A", "n/a", "NULL", "Null", "null", "None", "nan", "NaN", "-")
"""Cells by which exports say that there is nothing."""


def propose(interactions: Path, items: Path, users: Path | None, name: str | None) -> Proposal:
    """The configuration that fits the files. DataError names the file that is not understood, and why."""
    remarks: list[str] = []
    tables = {path: read_described(path, remarks) for path in (interactions, items, users) if path is not None}
    of_interactions, of_items = tables[interactions], tables[items]
    of_users = None if users is None else tables[users]
    roles = roles_of(of_interactions.table, of_items.table, None if of_users is None else of_users.table)
    roles.remarks[:0] = remarks
    of_interactions = _allowing(of_interactions, roles.bad)
    of_items = _with_features(of_items, roles.item_id, "items", roles.remarks)
    if of_users is not None and roles.user_id is not None:
        of_users = _with_features(of_users, roles.user_id, "users", roles.remarks)
    sound = of_interactions.table.filter(~roles.bad)
    values = sound.select([] if roles.value is None else read_values(sound[roles.value]))
    title, remark = title_of(of_items.features.columns, of_items.table)
    texts = Texts.of(of_items.table, of_items.features.columns, title, remark, of_items.path)
    return Proposal(
        name=name or name_of(interactions),
        interactions=of_interactions,
        items=of_items,
        users=of_users,
        roles=roles,
        labels=Labels.of(values, roles.value),
        amounts=Amounts.of(sound, roles, of_items.table[roles.item_id]),
        texts=texts,
        coverage=Coverage.of(of_items.table, roles.item_id, texts.columns_of_template, sound[roles.item]),
    )


def name_of(path: Path) -> str:
    """A name for a configuration: of the folder that the file lies in, or of the file."""
    stem = path.resolve().parent.name if path.resolve().parent.name not in ("", "data") else path.name.split(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:40] or "mine"


def read_described(path: Path, remarks: list[str]) -> Described:
    """A file whose form nobody has said, read; remarks on what was guessed. DataError names what keeps it from being
    read."""
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    form = form_of(path)
    if "header" in form:
        remarks.append(f"{path} has no row of column names: write some in header, and wherever column_1 and others are")
    parts, broken = _read(path, form)
    if broken:
        form["bad_rows_at_most"] = _a_bit_above(broken)
        remarks.append(f"{broken:.2%} of the rows of {path} are broken and left out: `validate` lists them")
    table = pl.concat([part.frame for part in parts]) if parts else pl.DataFrame()
    if not len(table):
        raise DataError(f"{path} has no rows")
    if form.get("encoding", "utf-16") != "utf-16":
        remarks.append(_note_on_encoding(path, form["encoding"], table))
    if path.suffix.lower() in {".parquet", ".pq"}:
        return Described(path, form, table)
    cells = pl.concat([table[name] for name in table.columns]).unique()
    nulls = [null for null in _NULLS if null in cells] + _escaped_null(path, form, table)
    if nulls:
        form["nulls"] = ["", *nulls]
        shown = ", ".join(map(repr, nulls))
        remarks.append(f"cells of {path} that are {shown} count as empty: take one out of nulls if it means something")
        table = table.with_columns(pl.when(pl.all().is_in(nulls)).then(None).otherwise(pl.all()).name.keep())
    return _with_points(Described(path, form, table))


def _note_on_encoding(path: Path, encoding: str, table: pl.DataFrame) -> str:
    cells = (cell for name in table.columns for cell in table[name].unique(maintain_order=True).to_list() if cell)
    example = next((cell for cell in (*table.columns, *cells) if not cell.isascii()), "")
    shown = repr(example if len(example) <= _SHOWN else f"{example[:_SHOWN]}...")
    return f"{path} is not UTF-8, and {encoding!r} is a guess: it reads {shown}; set encoding if that looks wrong"


def _with_points(described: Described) -> Described:
    """The same file with its decimal commas understood, unless other columns of it have decimal points."""
    table = described.table
    cells = {name: table[name].replace("", None) for name in table.columns}
    commas = [name for name, values in cells.items() if has_decimal_commas(values)]
    points = [name for name, values in cells.items() if name not in commas and has_decimal_points(values)]
    if not commas or points:
        return described
    read = [pl.coalesce(with_point(table[name]), pl.col(name)).alias(name) for name in commas]
    return replace(described, form={**described.form, "decimal": ","}, table=table.with_columns(read))


def _read(path: Path, form: Mapping[str, Any]) -> tuple[list[Part], float]:
    """The parts of a file, and the share of its rows that are broken and left out. DataError if it is unreadable."""
    problems = Problems()
    parts = read(TableConfig.model_validate({"paths": (str(path),), **form}), problems)
    if not problems.broken:
        return parts, 0.0
    lenient = Problems()
    parts = read(TableConfig.model_validate({"paths": (str(path),), **form, "bad_rows_at_most": 1.0}), lenient)
    count, sound = len(lenient.bad_rows.of(str(path))), sum(len(part.frame) for part in parts)
    if lenient.broken or count > tolerated(count + sound, _MOST_BAD_ROWS):
        problems.raise_if_broken()
    return parts, count / (count + sound)


def _escaped_null(path: Path, form: Mapping[str, Any], table: pl.DataFrame) -> list[str]:
    r"""``\N`` in a list, if a file with escapes has such cells: without this setting, they are read as a mere N."""
    if form.get("escape") != "\\":
        return []
    parts, _ = _read(path, {**form, "nulls": ["", _NULLS[0]]})
    again = pl.concat([part.frame for part in parts])
    return [_NULLS[0]] if again.null_count().sum_horizontal()[0] > table.null_count().sum_horizontal()[0] else []


def _allowing_empty(described: Described, id_column: str, remarks: list[str]) -> Described:
    empty = described.table[id_column].is_null()
    if empty.any():
        remarks.append(f"{int(empty.sum()):,} rows of {described.path} have no {id_column!r} and are left out")
    return _allowing(described, empty)


def _allowing(described: Described, bad: pl.Series) -> Described:
    """The same file with a share of bad rows that takes in those [rows] whose cells are ``bad``."""
    share = float(bad.mean() or 0.0)  # type: ignore[arg-type]
    if not share:
        return described
    broken = described.form.get("bad_rows_at_most", 0.0)
    form = {**described.form, "bad_rows_at_most": min(1.0, round(broken + _a_bit_above(share), 4))}
    return replace(described, form=form)


def _a_bit_above(share: float) -> float:
    """Half as much again, at most two hundredths more, in thousandths: the files of another day pass as well."""
    return min(1.0, max(0.001, math.ceil(1000 * (share + min(share / 2, 0.02))) / 1000))


def _with_features(described: Described, id_column: str, owners: str, remarks: list[str]) -> Described:
    """A table of users or items as the configuration has it: settings for what is amiss, and features."""
    described = _allowing_empty(described, id_column, remarks)
    described = with_empty_words(described, id_column, remarks)
    described = replace(described, features=features_of(described.table, id_column, owners))
    return with_one_row_of_each(described, id_column, remarks)
