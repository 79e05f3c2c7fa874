"""Who may call which route: API keys with scopes, hashed, in a file that is read again when it changes.

A key is ``lorank_ID_SECRET``. The file knows its id and the SHA-256 of the whole key. A secret has 256 random bits, so
that a hash made to be slow would protect nothing more, and would cost each request its time.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.contract.unknown_keys import problem_lines
from service.errors import Forbidden, RateLimited, Unauthenticated
from service.reloading import ReloadingFile
from service.settings import PREFIX, SettingsError

_KEY = re.compile(rb"(?i:bearer) +(lorank_([0-9a-f]{8})_[A-Za-z0-9_-]{43})")
_NOBODYS = hashlib.sha256(b"").hexdigest()
"""Compared with the key of an unknown id, so that this takes as long as a known one."""


class Scope(StrEnum):
    """What a key lets its holder do. No scope includes another one.

    publish  ask the next job for something; jobs themselves publish to Redis, and need no key
    """

    RANK = "rank"
    FEEDBACK = "feedback"
    PUBLISH = "publish"
    METRICS = "metrics"
    ADMIN = "admin"


class ApiKey(BaseModel):
    """A key as the file has it. ``name`` is the operator's word for its holder; ``sha256`` is of the whole key, in
    hexadecimal digits; the key is refused from ``expires`` on. ``per_second`` requests it may make on average, of all
    workers of a service together, and ``burst`` of them at once; None: as many as the service can answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: AwareDatetime
    expires: AwareDatetime | None = None
    per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    burst: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _burst_has_a_rate(self) -> ApiKey:
        if self.burst is not None and self.per_second is None:
            raise ValueError("a burst goes with a rate: say how many requests per second")
        return self

    @classmethod
    def new(cls, name: str, scopes: Iterable[Scope], **limits: Any) -> tuple[ApiKey, str]:
        """A key and its text, which is nowhere else. ``limits``: ``expires``, ``per_second``, ``burst``."""
        number = secrets.token_hex(4)
        text = f"lorank_{number}_{secrets.token_urlsafe(32)}"
        digest = hashlib.sha256(text.encode()).hexdigest()
        created = datetime.now(UTC).replace(microsecond=0)
        return cls(id=number, name=name, scopes=tuple(scopes), sha256=digest, created=created, **limits), text


class KeysFile(BaseModel):
    """The keys that are in force. Several may have one name: the former and the next one, while holders change over."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[ApiKey, ...] = ()

    @model_validator(mode="after")
    def _ids_differ(self) -> KeysFile:
        if len({key.id for key in self.keys}) < len(self.keys):
            raise ValueError("two keys have one id")
        return self

    @classmethod
    def parse(cls, raw: bytes) -> KeysFile:
        """SettingsError if the bytes are no file of keys. No message quotes them."""
        try:
            return cls.model_validate_json(raw)
        except ValidationError as error:
            raise SettingsError("; ".join(problem_lines(cls, error))) from error


@dataclass(slots=True)
class _Bucket:
    """Tokens of a key in this worker: a request takes one, and they come back with time, up to the burst."""

    tokens: float
    filled: float

    def wait(self, now: float, per_second: float, burst: float) -> float:
        """Seconds until the next request is allowed; 0 if this one is, which takes its token."""
        self.tokens = min(burst, self.tokens + (now - self.filled) * per_second)
        self.filled = now
        if self.tokens < 1.0:
            return (1.0 - self.tokens) / per_second
        self.tokens -= 1.0
        return 0.0


class Access(ReloadingFile[Mapping[str, ApiKey]]):
    """The keys in force, by id. Without a file everybody may do everything: then the service listens on loopback alone,
    or its operator has said that its network is private."""

    name, failure = "file of keys", SettingsError

    def __init__(self, path: Path | None, poll_seconds: float, workers: int = 1) -> None:
        """Of one of so many ``workers``, each of which allows its part of a key's requests. SettingsError if the file
        cannot be read or is not valid."""
        self._workers = workers
        self._buckets: dict[str, _Bucket] = {}
        if path is not None and not path.exists():
            raise SettingsError(
                f"{PREFIX}KEYS: there is no file {path}; `python -m service keys add NAME --scope rank` makes it"
            )
        super().__init__(path, poll_seconds, {})

    def parse(self, raw: bytes) -> Mapping[str, ApiKey]:
        return {key.id: key for key in KeysFile.parse(raw).keys}

    @property
    def is_required(self) -> bool:
        return self.path is not None

    def status(self) -> dict[str, Any]:
        """For ``/v1/status``."""
        names = sorted(f"{key.name} ({key.id})" for key in self.current.values())
        return {"keys": names if self.is_required else None, "error": self.error or None}

    def check(self, headers: Iterable[tuple[bytes, bytes]], scope: Scope) -> None:
        """Unauthenticated for a request without a key that is in force, Forbidden for a key without the scope,
        RateLimited for one that has made too many requests."""
        if not self.is_required:
            return
        given = authorization(headers)
        if given is None:
            raise Unauthenticated("an API key is required: Authorization: Bearer lorank_...", field="Authorization")
        key = self._key(given)
        if key is None:
            raise Unauthenticated("this API key is none, or not in force any more", field="Authorization")
        if scope not in key.scopes:
            raise Forbidden(f"the API key {key.name} ({key.id}) does not have the scope {scope}", field="Authorization")
        if key.per_second is not None:
            self._take(key, key.per_second)

    def holder(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Name and id of the key of a request; "" without one that is in force."""
        given = authorization(headers)
        key = None if given is None else self._key(given)
        return "" if key is None else f"{key.name} ({key.id})"

    def _take(self, key: ApiKey, per_second: float) -> None:
        """RateLimited if the key's part of this worker is used up."""
        now, own = time.monotonic(), per_second / self._workers
        burst = max(1.0, (key.burst or per_second) / self._workers)
        bucket = self._buckets.setdefault(key.id, _Bucket(burst, now))
        wait = bucket.wait(now, own, burst)
        if wait:
            raise RateLimited(
                f"the API key {key.name} ({key.id}) may make {per_second:g} requests a second",
                per_second=per_second,
                retry_after_ms=math.ceil(wait * 1000),
            )

    def _key(self, given: bytes) -> ApiKey | None:
        match = _KEY.fullmatch(given.strip())
        if match is None:
            return None
        key = self.current.get(match[2].decode())
        digest = hashlib.sha256(match[1]).hexdigest()
        is_right = hmac.compare_digest(digest, _NOBODYS if key is None else key.sha256)
        if key is None or not is_right or (key.expires is not None and key.expires <= datetime.now(UTC)):
            return None
        return key


def authorization(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The header Authorization of a request; None without one. Of several the last counts, as no proxy adds one."""
    given = None
    for name, value in headers:
        if name == b"authorization":
            given = value
    return given
