"""A configuration for the files of somebody who has written none: `python -m offline init`."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import polars as pl

from offline.data.catalogue import DataError
from offline.data.config import TableConfig
from offline.data.rules import Problems
from offline.data.tables import read
from offline.proposal.document import Described, Proposal
from offline.proposal.features import features_of, title_of
from offline.proposal.forms import form_of
from offline.proposal.roles import roles_of
from offline.proposal.settings import Amounts, Labels
from offline.proposal.texts import Texts


def propose(interactions: Path, items: Path, users: Path | None, name: str | None) -> Proposal:
    """The configuration that fits the files. DataError names the file that is not understood, and why."""
    tables = {path: _described(path) for path in (interactions, items, users) if path is not None}
    of_interactions, of_items = tables[interactions], tables[items]
    of_users = None if users is None else tables[users]
    roles = roles_of(of_interactions.table, of_items.table, None if of_users is None else of_users.table)
    of_items = _with_features(of_items, roles.item_id, "items")
    if of_users is not None:
        of_users = _with_features(of_users, roles.user_id or "", "users")
    title, remark = title_of(of_items.features.columns, of_items.table)
    return Proposal(
        name=name or name_of(interactions),
        interactions=of_interactions,
        items=of_items,
        users=of_users,
        roles=roles,
        labels=Labels.of(of_interactions.table, roles.value),
        amounts=Amounts.of(of_interactions.table, roles, of_items.table[roles.item_id]),
        texts=Texts.of(of_items.table, of_items.features.columns, title, remark, of_items.path),
    )


def name_of(path: Path) -> str:
    """A name for a configuration: of the folder that the file lies in, or of the file."""
    stem = path.resolve().parent.name if path.resolve().parent.name not in ("", "data") else path.name.split(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:40] or "mine"


def _described(path: Path) -> Described:
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    form = form_of(path)
    problems = Problems()
    parts = read(TableConfig.model_validate({"paths": (str(path),), **form}), problems)
    problems.raise_if_broken()
    table = pl.concat([part.frame for part in parts]) if parts else pl.DataFrame()
    if not len(table):
        raise DataError(f"{path} has no rows")
    return Described(path, form, table)


def _with_features(described: Described, id_column: str, owners: str) -> Described:
    return replace(described, features=features_of(described.table, id_column, owners))
