"""The configuration as a commented TOML file: every key with what the files said, so that a person can object."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from offline.proposal.features import Column, TableFeatures
from offline.proposal.model import knowledge_lines, note_on_users, samples_lines, schema_lines, training_lines
from offline.proposal.roles import Roles, part_words
from offline.proposal.settings import Amounts, Coverage, Labels
from offline.proposal.texts import Texts
from offline.proposal.toml import commented, key_of, quoted

_MOST_CHOICES = 8


@dataclass(frozen=True, slots=True)
class Described:
    """A file with its form, its rows and its features."""

    path: Path
    form: Mapping[str, Any]
    table: pl.DataFrame
    features: TableFeatures = field(default_factory=TableFeatures)


@dataclass(frozen=True, slots=True)
class Proposal:
    """All that a configuration is written from."""

    name: str
    interactions: Described
    items: Described
    users: Described | None
    roles: Roles
    labels: Labels
    amounts: Amounts
    texts: Texts
    coverage: Coverage

    def text(self) -> str:
        """The file's content."""
        sections = (
            self._head,
            self._interactions,
            self._labels,
            self._users,
            self._items,
            self.texts.lines,
            self._model,
        )
        return "\n".join(line for section in sections for line in section()) + "\n"

    def _head(self) -> Iterator[str]:
        yield f"# Written by `python -m offline init` from {self.interactions.path} and {self.items.path}."
        yield "# Comments say what the files hold: object where they are wrong. docs/data.md explains every key, and"
        yield "# `python -m offline validate --config THIS_FILE` checks it against the files."
        for remark in self.remarks:
            yield f"# LOOK: {remark}."
        yield ""
        yield f"name = {quoted(self.name)}"
        yield commented(f"workdir = {quoted(f'var/{self.name}')}", "all state of the jobs; a refresh builds it again")
        yield ""
        yield "[data]"
        yield 'source = "files"'
        if self.roles.part is None and (self.roles.time is None or self.roles.time.unit == "order"):
            yield commented('split_by = "order"', "training, validation and test follow the order of rows; no times")

    @property
    def remarks(self) -> list[str]:
        """What a person must look at, because it is only guessed or was left out."""
        return [*self.roles.remarks, *self._remarks(), *self.texts.remarks()]

    def _remarks(self) -> Iterator[str]:
        for described in (self.items, self.users):
            if described is not None and described.features.sums:
                table = "items" if described is self.items else "users"
                yield (
                    f"{', '.join(described.features.sums)} of {described.path.name}: left out, as by name reckoned "
                    "from what users did, so that a model would learn what the test holds. For one that is not, "
                    f'write {key_of(described.features.sums[0])} = "float" into [data.{table}.columns], '
                    f"and a field of it into {table[:-1]}_fields"
                )
        if note := note_on_users(self.amounts, self.texts.language):
            yield note
        if self.coverage.is_low:
            yield (
                f"only {self.coverage.described:,} of {self.coverage.items:,} items have anything to tell, "
                f"so min_item_coverage is {self.coverage.least:g}: describe the others, else nothing is known of them"
            )
        if self.roles.type is not None:
            total = len(self.interactions.table)
            shares = ", ".join(f"{name} {count / total:.1%}" for name, count in self._types().items())
            yield f"{self.roles.type!r} holds several types of events ({shares}): all count alike, see keep"

    def _interactions(self) -> Iterator[str]:
        roles, table = self.roles, self.interactions.table
        yield ""
        yield "[data.interactions]"
        yield from _form(self.interactions)
        yield commented(f"user = {quoted(roles.user)}", f"{table[roles.user].drop_nulls().n_unique():,} different")
        yield commented(f"item = {quoted(roles.item)}", f"{table[roles.item].drop_nulls().n_unique():,} different")
        if roles.time is not None:
            yield f"time = {quoted(roles.time.column)}"
            if roles.time.format is not None:
                yield f"time_format = {quoted(roles.time.format)}"
            else:
                yield f"time_unit = {quoted(roles.time.unit or 'iso')}"
        else:
            yield "# no column holds times: the rows lie in order"
        if roles.part is not None:
            words = part_words(table[roles.part])
            yield f"split_column = {quoted(roles.part)}"
            settings = ", ".join(f"{part} = {json.dumps(values, ensure_ascii=False)}" for part, values in words.items())
            yield f"split_values = {{ {settings} }}"
        if roles.value is not None:
            yield commented(f"value = {quoted(roles.value)}", f"from {self.labels.low:g} to {self.labels.high:g}")
        if roles.type is not None:
            yield f"# only these rows count (now all types of {roles.type} do):"
            types = list(self._types())
            choices = [[name] for name in types[:_MOST_CHOICES]] + ([types[1:]] if len(types) > 2 else [])
            for choice in choices:
                yield f"# keep = {{ {key_of(roles.type)} = [{', '.join(map(quoted, choice))}] }}"
        pairs = table.select(roles.user, roles.item).drop_nulls()
        if repeated := len(pairs) - pairs.n_unique():
            share = (
                f"{max(0.001, repeated / len(pairs)):.1%} of the rows repeat a user and an item; only the last counts"
            )
            yield commented('# repeated = "last"', share)
        ignored = set(table.columns) - {roles.user, roles.item, roles.value, roles.type, roles.part}
        ignored -= {roles.time.column} if roles.time is not None else set()
        if ignored:
            yield f"# not used: {', '.join(name or '(unnamed)' for name in table.columns if name in ignored)}"

    def _labels(self) -> Iterator[str]:
        labels = self.labels
        yield ""
        yield "[data.labels]"
        if labels.kind == "implicit":
            yield commented('kind = "implicit"', "no column holds a rating or a label: every row is a positive")
            yield commented("negatives = 4", "drawn for each positive: they train and test the model, nothing else")
        elif labels.kind == "binary":
            yield commented('kind = "binary"', f"{labels.share:.1%} of the interactions are 1")
        else:
            yield commented(
                'kind = "threshold"', f"liked if above {labels.liked_above:g}: {labels.share:.1%} of the interactions"
            )

    def _users(self) -> Iterator[str]:
        if self.users is None:
            return
        yield ""
        yield "[data.users]"
        yield from _form(self.users)
        yield f"id = {quoted(self.roles.user_id or '')}"
        yield from _columns("data.users", self.users)

    def _items(self) -> Iterator[str]:
        yield ""
        yield "[data.items]"
        yield from _form(self.items)
        yield f"id = {quoted(self.roles.item_id)}"
        yield from _columns("data.items", self.items)

    def _types(self) -> dict[str, int]:
        """How many interactions each type of event has, the most frequent first."""
        if self.roles.type is None:
            return {}
        counts = Counter(self.interactions.table[self.roles.type].to_list())
        return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))

    def _model(self) -> Iterator[str]:
        """What samples, model and knowledge are made of."""
        types, columns = list(self._types()), self._fields
        yield from samples_lines(self.amounts)
        yield from schema_lines(self.name, self.labels, self.amounts, types, columns, self.texts)
        yield from knowledge_lines(self.amounts, self.texts.language)
        yield from training_lines(self.coverage)

    @property
    def _fields(self) -> dict[str, list[Column]]:
        """The columns that a model reads, by side."""
        sides = {"user": self.users, "item": self.items}
        return {
            side: [column for column in described.features.columns if column.field] if described is not None else []
            for side, described in sides.items()
        }


def _form(described: Described) -> Iterator[str]:
    yield f"paths = [{quoted(str(described.path))}]"
    for key, value in described.form.items():
        yield f"{key} = {json.dumps(value, ensure_ascii=False)}"


def _columns(section: str, described: Described) -> Iterator[str]:
    for remark in described.features.remarks:
        yield f"# not used: {remark}"
    if not described.features.columns:
        return
    yield ""
    yield f"[{section}.columns]"
    for column in described.features.columns:
        settings = {"column": column.column} if column.column != column.name else {}
        settings |= {"type": column.type}
        if column.separator is not None and column.separator != "|":
            settings["separator"] = column.separator
        value = (
            quoted(column.type)
            if list(settings) == ["type"]
            else "{ " + ", ".join(f"{key} = {quoted(value)}" for key, value in settings.items()) + " }"
        )
        yield commented(f"{key_of(column.name)} = {value}", column.remark)
