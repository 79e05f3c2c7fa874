"""The configuration as a commented TOML file: every key with what the files said, so that a person can object."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from offline.proposal.features import Column
from offline.proposal.roles import Roles, part_words
from offline.proposal.settings import Amounts, liked_above

_WIDTH = 116


@dataclass(frozen=True, slots=True)
class Described:
    """A file with its form, its rows, its features, and remarks about columns that are none."""

    path: Path
    form: Mapping[str, Any]
    table: pl.DataFrame
    columns: Sequence[Column] = ()
    remarks: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Labels:
    """The kind of labels and the scale of values; ``share`` of interactions are liked."""

    kind: str
    low: float
    high: float
    liked_above: float
    share: float

    @classmethod
    def of(cls, interactions: pl.DataFrame, value: str | None) -> Labels:
        """The labels that a column of values makes; implicit ones without any."""
        if value is None:
            return cls("implicit", 0.0, 1.0, 0.5, 1.0)
        numbers = interactions[value].cast(pl.Float64, strict=False).drop_nulls()
        if set(numbers.unique().to_list()) <= {0.0, 1.0}:
            return cls("binary", 0.0, 1.0, 0.5, float(numbers.mean() or 0.0))  # type: ignore[arg-type]
        bound, share = liked_above(numbers)
        return cls("threshold", float(numbers.min()), float(numbers.max()), bound, share)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Proposal:
    """All that a configuration is written from. ``title`` is the column that names an item, if one does."""

    name: str
    interactions: Described
    items: Described
    users: Described | None
    roles: Roles
    labels: Labels
    amounts: Amounts
    title: Column | None

    def text(self) -> str:
        """The file's content."""
        sections = (self._head, self._interactions, self._labels, self._users, self._items, self._texts, self._rest)
        return "\n".join(line for section in sections for line in section()) + "\n"

    def _head(self) -> Iterator[str]:
        yield f"# Written by `python -m offline init` from {self.interactions.path} and {self.items.path}."
        yield "# Comments say what the files hold: object where they are wrong. docs/data.md explains every key, and"
        yield "# `python -m offline validate --config THIS_FILE` checks it against the files."
        for remark in self.roles.remarks:
            yield f"# LOOK: {remark}."
        yield ""
        yield f"name = {_text(self.name)}"
        yield _commented(f"workdir = {_text(f'var/{self.name}')}", "all state of the jobs; a refresh builds it again")
        yield ""
        yield "[data]"
        yield 'source = "files"'
        if self.roles.part is None and (self.roles.time is None or self.roles.time.unit == "order"):
            yield _commented('split_by = "order"', "training, validation and test follow the order of rows; no times")

    def _interactions(self) -> Iterator[str]:
        roles, table = self.roles, self.interactions.table
        yield ""
        yield "[data.interactions]"
        yield from _form(self.interactions)
        yield _commented(f"user = {_text(roles.user)}", f"{table[roles.user].n_unique():,} different")
        yield _commented(f"item = {_text(roles.item)}", f"{table[roles.item].n_unique():,} different")
        if roles.time is not None:
            yield f"time = {_text(roles.time.column)}"
            if roles.time.format is not None:
                yield f"time_format = {_text(roles.time.format)}"
            else:
                yield f"time_unit = {_text(roles.time.unit or 'iso')}"
        else:
            yield "# no column holds times: the rows lie in order"
        if roles.part is not None:
            words = part_words(table[roles.part])
            yield f"split_column = {_text(roles.part)}"
            settings = ", ".join(f"{part} = {json.dumps(values, ensure_ascii=False)}" for part, values in words.items())
            yield f"split_values = {{ {settings} }}"
        if roles.value is not None:
            yield _commented(f"value = {_text(roles.value)}", f"from {self.labels.low:g} to {self.labels.high:g}")
        if roles.type is not None:
            counts = table[roles.type].value_counts(sort=True)
            shown = ", ".join(f"{name} {count:,}" for name, count in counts.iter_rows())
            yield f"# types of {roles.type}: {shown}"
            yield f"# keep = {{ {_key(roles.type)} = [{_text(counts[roles.type][0])}] }}    # only these rows count"
        ignored = set(table.columns) - {roles.user, roles.item, roles.value, roles.type, roles.part}
        ignored -= {roles.time.column} if roles.time is not None else set()
        if ignored:
            yield f"# not used: {', '.join(name or '(unnamed)' for name in table.columns if name in ignored)}"

    def _labels(self) -> Iterator[str]:
        labels = self.labels
        yield ""
        yield "[data.labels]"
        if labels.kind == "implicit":
            yield _commented('kind = "implicit"', "no column holds a rating or a label: every row is a positive")
            yield _commented("negatives = 4", "drawn for each positive: they train and test the model, nothing else")
        elif labels.kind == "binary":
            yield _commented('kind = "binary"', f"{labels.share:.1%} are 1")
        else:
            yield _commented('kind = "threshold"', f"liked if above {labels.liked_above:g}: {labels.share:.1%} are")

    def _users(self) -> Iterator[str]:
        if self.users is None:
            return
        yield ""
        yield "[data.users]"
        yield from _form(self.users)
        yield f"id = {_text(self.roles.user_id or '')}"
        yield from _columns("data.users", self.users)

    def _items(self) -> Iterator[str]:
        yield ""
        yield "[data.items]"
        yield from _form(self.items)
        yield f"id = {_text(self.roles.item_id)}"
        yield from _columns("data.items", self.items)

    def _texts(self) -> Iterator[str]:
        lists = [column for column in self.items.columns if column.type == "list"]
        noun = _noun(self.items.path)
        yield ""
        yield "# How items are told to the language model and to the text encoder: {column} is a value, [part] left out"
        yield "# if a column in it is missing, [a|b] is the first alternative that has all its columns."
        yield "[data.texts]"
        yield f"item = {_text(self._template(noun))}"
        name = "{" + self.title.name + "}" if self.title is not None else f"{noun}"
        yield f"name = {_text(name)}"
        yield f"noun = {_text(noun)}"
        yield f"plural = {_text(_plural(noun))}"
        yield 'user = "user"'
        yield f"topics_column = {_text(lists[0].name if lists else '')}"
        yield f"topics = {_text(lists[0].name.replace('_', ' ') if lists else 'topics')}"
        yield 'aspects = "its kind and purpose, its qualities, and the people who like it"'
        yield _commented(
            'tastes = "which kinds and qualities the user prefers"', "what a summary of a user is asked for"
        )

    def _template(self, noun: str) -> str:
        others = [column for column in self.items.columns if column is not self.title]
        short = [column for column in others if not column.is_long and (column.field or column.type == "list")]
        long = [column for column in others if column.is_long]
        article = "an" if noun[:1].lower() in "aeiou" else "a"
        head = f'["{{{self.title.name}}}"|an unnamed {noun}]' if self.title is not None else f"{article} {noun}"
        middle = "".join(f"[; {{{column.name}}}]" for column in short[:4])
        return head + middle + "".join(f"[. {{{column.name}}}]" for column in long[:1])

    def _rest(self) -> Iterator[str]:
        amounts, labels = self.amounts, self.labels
        center, scale = (labels.low + labels.high) / 2, (labels.high - labels.low) / 2
        liber = amounts.liber
        yield ""
        yield "[samples]"
        used = amounts.used(amounts.min_history)
        yield _commented(
            f"min_history = {amounts.min_history}", f"{used:.0%} of the interactions have as many earlier ones"
        )
        yield ""
        yield "[feature_schema]"
        yield f"name = {_text(self.name)}"
        yield f"history_length = {amounts.history_length}"
        yield _commented(f"history_types = [{_text(self._event())}]", "types of feedback that enter a user's history")
        for key, value in (("min", labels.low), ("max", labels.high), ("center", center), ("scale", scale)):
            yield f"value_{key} = {value:.6g}" if value != int(value) else f"value_{key} = {value:.1f}"
        yield (
            f"liked_above = {labels.liked_above:.6g}"
            if "." in f"{labels.liked_above:.6g}"
            else (f"liked_above = {labels.liked_above:.1f}")
        )
        for side, described in (("user", self.users), ("item", self.items)):
            fields = [column for column in described.columns if column.field] if described is not None else []
            yield f"{side}_fields = [" + ("" if fields else "]")
            yield from (_field(column) for column in fields)
            yield from ["]"] if fields else []
        yield "knowledge = [                    # which producers run, and what a model reads of each"
        yield f'    {{ name = "text", side = "item", dim = {amounts.text_dim} }},'
        if liber is not None:
            yield f'    {{ name = "liber", side = "user", rows = 8, dim = {liber.dim} }},'
        yield "]"
        yield ""
        yield "[llm]"
        yield _commented(
            'backend = "local"', 'a small model inside a package; "openai" for any server, see configs/TEMPLATE.toml'
        )
        yield ""
        if liber is not None:
            size = liber.partition_size
            covered, asked = amounts.covered(size), amounts.partitions(size)
            yield "[knowledge.liber]"
            yield _commented(
                f"partition_size = {size}",
                f"{covered:.0%} of the users have one or more; {asked:,} summaries to ask for",
            )
            if not liber.shift:
                yield _commented(
                    "shift = false", "too few users have two partitions to learn changes of taste"
                )
        else:
            yield "# No knowledge of users (producer liber): too few have five interactions in time to train."
        yield ""
        yield "[training]"
        yield 'served = "din"'
        yield "compare = false"
        yield ""
        yield "[publish]"
        yield _commented("min_item_coverage = 0.9", "share of items with knowledge that a release needs")

    def _event(self) -> str:
        return {"threshold": "rating", "binary": "label"}.get(self.labels.kind, "interaction")


def _text(value: str) -> str:
    """A TOML string."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if name and name.replace("_", "").replace("-", "").isalnum() and name.isascii() else _text(name)


def _commented(line: str, comment: str) -> str:
    return f"{line.ljust(32)} # {comment}"


def _form(described: Described) -> Iterator[str]:
    yield f"paths = [{_text(str(described.path))}]"
    for key, value in described.form.items():
        yield f"{key} = {json.dumps(value, ensure_ascii=False)}"


def _columns(section: str, described: Described) -> Iterator[str]:
    for remark in described.remarks:
        yield f"# not used: {remark}"
    if not described.columns:
        return
    yield ""
    yield f"[{section}.columns]"
    for column in described.columns:
        settings = {"column": column.column} if column.column != column.name else {}
        settings |= {"type": column.type}
        if column.separator is not None and column.separator != "|":
            settings["separator"] = column.separator
        value = (
            _text(column.type)
            if list(settings) == ["type"]
            else "{ " + ", ".join(f"{key} = {_text(value)}" for key, value in settings.items()) + " }"
        )
        yield _commented(f"{_key(column.name)} = {value}", column.remark)


def _field(column: Column) -> str:
    assert column.field is not None
    parts = [f"name = {_text(column.name)}"]
    parts += [f"{key} = {value}" for key, value in column.field.items() if key == "slots"]
    listed = column.field.get("vocab") or column.field.get("edges") or []
    values = [_text(value) if isinstance(value, str) else f"{value:.10g}" for value in listed]
    opening = f"    {{ {', '.join(parts)}, {'vocab' if 'vocab' in column.field else 'edges'} = ["
    lines, line = [], "        "
    if len(opening) + len(", ".join(values)) + 4 <= _WIDTH:
        return f"{opening}{', '.join(values)}] }},"
    for value in values:
        if len(line) + len(value) + 2 > _WIDTH:
            lines.append(line.rstrip())
            line = "        "
        line += f"{value}, "
    return "\n".join([opening, *lines, line.rstrip(), "    ] },"])


def _noun(path: Path) -> str:
    """A word for an item, from the name of its file: products.csv.gz -> product."""
    stem = path.name.split(".")[0].lower()
    word = "".join(sign for sign in stem if sign.isalpha() or sign == " ")
    if not 3 <= len(word) <= 20 or word in {"data", "items", "item", "catalogue", "catalog", "meta", "metadata"}:
        return "item"
    return word[:-3] + "y" if word.endswith("ies") and word != "movies" else word.removesuffix("s")


def _plural(noun: str) -> str:
    return f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2:-1] not in "aeiou" else f"{noun}s"
