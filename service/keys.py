"""``python -m service keys``: makes, lists and revokes the API keys of a file. A running service follows the file."""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from models.contract.unknown_keys import problem_lines
from service.access import (
    EVENTS_PER_MINUTE,
    NEW_USERS_PER_MINUTE,
    PUBLIC_PER_SECOND,
    USER_EVENTS_PER_MINUTE,
    ApiKey,
    KeysFile,
    Scope,
)
from service.settings import PREFIX, SettingsError

_HEADS = ("id", "name", "scopes", "created", "expires", "per second", "limits")
_PER_MINUTE = {
    "bytes_per_minute": "bytes",
    "new_users_per_minute": "new users",
    "user_events_per_minute": "events of a user",
    "events_per_minute": "events",
}


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 done, 1 there is no such key, 2 the arguments or the file are wrong."""
    given = _parser().parse_args(arguments)
    path: Path = given.file or Path(os.environ.get(f"{PREFIX}KEYS") or "keys.json")
    try:
        return {"add": _add, "list": _list, "revoke": _revoke}[given.command](path, given)
    except (SettingsError, OSError) as error:
        print(f"lorank: {path}: {error}", file=sys.stderr)  # noqa: T201 - a command's answer
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service keys", description=__doc__)
    parser.add_argument("--file", type=Path, help=f"of keys; {PREFIX}KEYS unless given, else keys.json")
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="make a key, and print it: it is stored nowhere else")
    add.add_argument("name", help="whose key it is: letters, digits, . _ -")
    scopes = [scope for scope in Scope if scope is not Scope.ARMS]
    add.add_argument("--scope", action="append", default=[], type=Scope, choices=scopes, dest="scopes")
    add.add_argument("--public", action="store_true", help="for pages: it may ask for arms, and for nothing else")
    add.add_argument("--origin", action="append", default=[], dest="origins", help="of pages, https://shop.example")
    add.add_argument("--days", type=float, help="until it expires; unless given, never")
    add.add_argument(
        "--per-second",
        type=float,
        help=f"requests on average, of all workers together; unless given, any, of a public key {PUBLIC_PER_SECOND:g}",
    )
    add.add_argument("--burst", type=int, help="requests at once; unless given, those of a second")
    add.add_argument("--bytes-per-minute", type=int, help="of bodies; unless given, any")
    add.add_argument(
        "--new-users-per-minute",
        type=int,
        help=f"who give feedback and of whom nothing is stored; unless given, {NEW_USERS_PER_MINUTE}",
    )
    add.add_argument(
        "--user-events-per-minute",
        type=int,
        help=f"of one user, that enter the history; unless given, {USER_EVENTS_PER_MINUTE}",
    )
    add.add_argument(
        "--events-per-minute",
        type=int,
        help=f"of all users and types together; unless given, {EVENTS_PER_MINUTE}",
    )
    add.add_argument("--once", action="store_true", help="make none if somebody of this name has one")
    commands.add_parser("list", help="the keys, without their secrets")
    revoke = commands.add_parser("revoke", help="take keys out of force")
    revoke.add_argument("id_or_name", help="of one key its id, of all of a holder the name")
    return parser


def _add(path: Path, given: argparse.Namespace) -> int:
    expires = None if given.days is None else datetime.now(UTC).replace(microsecond=0) + timedelta(days=given.days)
    with _locked(path):
        known = _read(path)
        if given.once and any(key.name == given.name for key in known.keys):
            return 0
        limits = {name: getattr(given, name) for name in ("per_second", "burst", "origins", *_PER_MINUTE)}
        if given.public:
            given.scopes.append(Scope.ARMS)
            limits["per_second"] = PUBLIC_PER_SECOND if given.per_second is None else given.per_second
        try:
            key, text = ApiKey.new(given.name, dict.fromkeys(given.scopes), expires=expires, **limits)
        except ValidationError as error:
            raise SettingsError("; ".join(problem_lines(ApiKey, error))) from error
        _write(path, KeysFile(keys=(*known.keys, key)))
    print(text)  # noqa: T201 - a command's answer
    return 0


def _list(path: Path, given: argparse.Namespace) -> int:
    rows = [
        (key.id, key.name, ",".join(key.scopes), f"{key.created:%Y-%m-%d %H:%M}",
         "never" if key.expires is None else f"{key.expires:%Y-%m-%d %H:%M}",
         "any" if key.per_second is None else f"{key.per_second:g}", _limits(key))
        for key in _read(path).keys
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(_HEADS, *rows, strict=True)]
    for row in (_HEADS, *rows):
        print("  ".join(map(str.ljust, row, widths)).rstrip())  # noqa: T201 - a command's answer
    return 0


def _limits(key: ApiKey) -> str:
    """What else a key is limited to, in words."""
    given = ((words, getattr(key, name)) for name, words in _PER_MINUTE.items())
    limits = [f"{limit} {words}/min" for words, limit in given if limit is not None]
    return ", ".join([*limits, *key.origins])


def _revoke(path: Path, given: argparse.Namespace) -> int:
    with _locked(path):
        known = _read(path)
        left = tuple(key for key in known.keys if given.id_or_name not in (key.id, key.name))
        if len(left) < len(known.keys):
            _write(path, KeysFile(keys=left))
    count = len(known.keys) - len(left)
    print(f"{count} revoked" if count else f"no key has the id or name {given.id_or_name}")  # noqa: T201
    return 0 if count else 1


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Of two commands at once neither loses what the other wrote."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{path}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(path: Path) -> KeysFile:
    return KeysFile.parse(path.read_bytes()) if path.exists() else KeysFile()


def _write(path: Path, keys: KeysFile) -> None:
    """Replace the file; only its owner may read it, as mkstemp has it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(keys.model_dump_json(indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
