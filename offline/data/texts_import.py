"""Import of ready-made knowledge texts: a team brings what another language model wrote about its items and users.

A file of .jsonl, .csv or .parquet (text formats also with .gz) holds the columns ``item`` and ``text``, or ``user``,
``text`` and, if a text is about one closed partition of the user, ``partition`` (from 0, oldest first).

An item's text replaces what a language model here would be asked. A user's text becomes a version that holds from the
moment of its import, the end of the log at that time, and never earlier: nobody knows which behaviour its author had
seen, so a training sample before that moment must not see it. Which behaviour a partition's number stands for depends
on what closes partitions, so that is noted with the text; under another trigger the text waits unused.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from models.contract.ids import id_fault
from models.contract.prompts import clean
from offline.data.catalogue import DataError
from offline.data.config import TableConfig
from offline.data.files import read_json, write_json
from offline.data.rules import Findings, Place, Problems
from offline.data.tables import read

MAX_TEXT_CHARS = 8000

_JSON_LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")


@dataclass(frozen=True, slots=True)
class UserText:
    """One version of a user's text. A sample at log row r may see it if ``from_row`` <= r; as a knowledge version, it
    closed at row ``from_row`` - 1. ``trigger`` says what closed the partition, in the words of
    ``knowledge_texts.closing``; None of a text about the user as a whole."""

    user: str
    partition: int | None
    text: str
    from_row: int
    trigger: str | None = None


@dataclass(frozen=True, slots=True)
class ImportedTexts:
    """All texts that were imported: by item, and the users' versions, oldest first."""

    items: Mapping[str, str]
    users: tuple[UserText, ...]

    def with_items(self, texts: Mapping[str, str]) -> ImportedTexts:
        return replace(self, items={**self.items, **texts})

    def with_users(self, texts: Mapping[tuple[str, int | None], str], log_rows: int, trigger: str) -> ImportedTexts:
        """The texts and versions that hold from the current end of the log, about partitions as ``trigger`` closes
        them. An unchanged text is no new version."""
        newest = {(version.user, version.partition, version.trigger): version.text for version in self.users}
        added = []
        for (user, partition), text in texts.items():
            closed = None if partition is None else trigger
            if newest.get((user, partition, closed)) != text:
                added.append(UserText(user, partition, text, log_rows, closed))
        return replace(self, users=(*self.users, *added))

    def held_back(self, log_rows: int) -> ImportedTexts:
        """The same texts, of which no sample among the first ``log_rows`` rows may see one about a user: of a log that
        was loaded anew nobody can tell which rows came before them."""
        return replace(self, users=tuple(replace(version, from_row=log_rows) for version in self.users))

    def left_out(self, trigger: str) -> Counter[str]:
        """Numbers of partitions that have texts which say nothing of partitions as ``trigger`` closes them, by what
        did. Users who have others that do were imported again and are not counted."""
        current = {version.user for version in self.users if version.trigger == trigger}
        others = {(text.user, text.partition, text.trigger) for text in self.users if text.user not in current}
        return Counter(closed for _, _, closed in others if closed is not None and closed != trigger)

    def save(self, path: Path) -> None:
        write_json(path, {"items": dict(self.items), "users": [astuple(version) for version in self.users]})

    def placed(self) -> ImportedTexts:
        """The texts without those about partitions that do not say what closed them: earlier versions did not note it,
        and nobody can tell which behaviour those are about."""
        placed = (text for text in self.users if text.partition is None or text.trigger is not None)
        return replace(self, users=tuple(placed))

    @classmethod
    def load(cls, path: Path) -> ImportedTexts:
        """The texts that ``save`` wrote, also in an earlier version; none if there is no such file."""
        if not path.is_file():
            return cls({}, ())
        document = read_json(path)
        try:
            return cls(dict(document["items"]), tuple(UserText(*version) for version in document["users"]))
        except (TypeError, KeyError) as error:
            raise DataError(f"{path} cannot be read: it holds no imported texts") from error


@dataclass(frozen=True, slots=True)
class _Record:
    """One row of a file of texts, and the collection of what is wrong with it."""

    place: Place
    values: Mapping[str, Any]
    problems: Problems

    def flag(self, rule: str, column: str, value: object, note: str = "") -> None:
        self.problems.add(rule, replace(self.place, column=column, value=value, note=note))

    def identifier(self, column: str) -> str | None:
        value = self.values.get(column)
        if value is None or value == "":
            self.flag("id_empty", column, "")
        elif not isinstance(value, (str, int)):
            self.flag("id_type", column, value)
        elif fault := id_fault(str(value)):
            self.flag(fault, column, value)
        else:
            return str(value)
        return None

    def text(self) -> str | None:
        """The text as one line without control characters."""
        value = self.values.get("text")
        text = clean(value, MAX_TEXT_CHARS + 1) if isinstance(value, str) else ""
        if not text:
            self.flag("text_empty", "text", "" if value is None else value)
        elif len(text) > MAX_TEXT_CHARS:
            self.flag("text_long", "text", text, f"{len(str(value))} characters")
        else:
            return text
        return None

    def partition(self) -> int | None:
        value = self.values.get("partition")
        if value is None or value == "":
            return None
        try:
            return int(str(value))
        except ValueError:
            self.flag("text_owner", "partition", value)
            return None


def read_item_texts(path: Path, item_ids: Collection[str]) -> tuple[dict[str, str], Findings]:
    """Texts by item id, and facts and warnings; DataError names every rule that the file breaks, and where."""
    problems = Problems()
    texts: dict[str, str] = {}
    known = set(item_ids)
    for record in _records(path, ("item", "text"), problems):
        item, text = record.identifier("item"), record.text()
        if item is None:
            continue
        if item not in known or item in texts:
            record.flag("text_repeated" if item in texts else "text_owner", "item", item)
        elif text is not None:
            texts[item] = text
    return texts, _checked(problems, f"{len(texts)} of {len(known)} items have a text")


def read_user_texts(
    path: Path, closed_partitions: Mapping[str, int]
) -> tuple[dict[tuple[str, int | None], str], Findings]:
    """Texts by user and partition (None: about the user as a whole), and facts and warnings; DataError as above.

    ``closed_partitions`` tells how many each known user has.
    """
    problems = Problems()
    texts: dict[tuple[str, int | None], str] = {}
    for record in _records(path, ("user", "text"), problems):
        user, text, partition = record.identifier("user"), record.text(), record.partition()
        if user is None:
            continue
        if user not in closed_partitions:
            record.flag("text_owner", "user", user)
        elif partition is not None and not 0 <= partition < closed_partitions[user]:
            record.flag("text_owner", "partition", partition, f"user {user} has {closed_partitions[user]} closed")
        elif (user, partition) in texts:
            record.flag("text_repeated", "user", user)
        elif text is not None:
            texts[user, partition] = text
    owners = len({user for user, _ in texts})
    return texts, _checked(problems, f"{len(texts)} texts of {owners} of {len(closed_partitions)} users")


def _checked(problems: Problems, fact: str) -> Findings:
    findings = problems.findings([fact])
    findings.raise_if_broken()
    return findings


def _records(path: Path, columns: tuple[str, ...], problems: Problems) -> Iterator[_Record]:
    """Every row of a file that has these columns."""
    if path.name.endswith(_JSON_LINES):
        yield from _json_lines(path, problems)
        return
    for part in read(TableConfig(paths=(str(path),)), problems):
        present = [part.cells(column, problems) is not None for column in columns]  # every absence is noted
        if all(present):
            for row, values in zip(part.rows.to_list(), part.frame.iter_rows(named=True), strict=True):
                yield _Record(Place(part.file, row), values, problems)


def _json_lines(path: Path, problems: Problems) -> Iterator[_Record]:
    if not path.is_file():
        problems.add("file_absent", Place(str(path)))
        return
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for row, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                values = _object(line)
                if values is None:
                    problems.add("record", Place(str(path), row, None, line[:60].decode(errors="replace")))
                else:
                    yield _Record(Place(str(path), row), values, problems)
    except (OSError, EOFError, zlib.error) as error:
        problems.add("file_damaged", Place(str(path), note=str(error)))


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    flat = isinstance(record, dict) and all(
        value is None or (isinstance(value, (str, int)) and not isinstance(value, bool)) for value in record.values()
    )
    return record if flat else None
