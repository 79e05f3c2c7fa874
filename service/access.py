"""Who may call which route, and how much of it: API keys with scopes, hashed, in a file that is read again when it
changes.

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
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.contract.leaving import is_loopback
from models.contract.unknown_keys import problem_lines
from service.errors import Forbidden, InvalidRequest, RateLimited, Unauthenticated
from service.reloading import ReloadingFile
from service.settings import PREFIX, SettingsError

_KEY = re.compile(rb"(?i:bearer) +(lorank_([0-9a-f]{8})_[A-Za-z0-9_-]{43})")
_NOBODYS = hashlib.sha256(b"").hexdigest()
"""Compared with the key of an unknown id, so that this takes as long as a known one."""

NEW_USERS_PER_MINUTE, USER_EVENTS_PER_MINUTE, EVENTS_PER_MINUTE = 1000, 30, 10_000
"""Quotas of a key that says nothing else. Invented users fill Redis at most so fast; what a ranking reads of a user is
some fifty events, which a few calls must not replace; and the stream to the jobs drops its oldest events when it is
full, which a flood of new ones must not make it."""

PUBLIC_PER_SECOND = 50.0
"""The rate of a public key that is made without one."""

_MINUTE = 60


class Scope(StrEnum):
    """What a key lets its holder do. No scope includes another one.

    publish  ask the next job for something; jobs themselves publish to Redis, and need no key
    """

    RANK = "rank"
    FEEDBACK = "feedback"
    PUBLISH = "publish"
    METRICS = "metrics"
    ADMIN = "admin"
    ARMS = "arms"
    """Of public keys alone: they stand in pages, where everybody may read them."""


class ApiKey(BaseModel):
    """A key as the file has it. ``name`` is the operator's word for its holder; ``sha256`` is of the whole key, in
    hexadecimal digits; the key is refused from ``expires`` on. Limits are of all workers of a service together.

    per_second              requests on average, and ``burst`` of them at once; None: as many as the service can answer
    bytes_per_minute        of the bodies of requests; None: any
    new_users_per_minute    users who give feedback and of whom nothing was stored; None: ``NEW_USERS_PER_MINUTE``
    user_events_per_minute  of one user, that enter the history; None: ``USER_EVENTS_PER_MINUTE``
    events_per_minute       of all users and types; None: ``EVENTS_PER_MINUTE``
    origins                 of the pages that a public key is for, "https://shop.example"
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: AwareDatetime
    expires: AwareDatetime | None = None
    per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    burst: Annotated[int, Field(ge=1)] | None = None
    bytes_per_minute: Annotated[int, Field(ge=1)] | None = None
    new_users_per_minute: Annotated[int, Field(ge=1)] | None = None
    user_events_per_minute: Annotated[int, Field(ge=1)] | None = None
    events_per_minute: Annotated[int, Field(ge=1)] | None = None
    origins: tuple[Annotated[str, Field(pattern=r"^https?://[a-z0-9.-]+(:\d{1,5})?$")], ...] = ()

    @model_validator(mode="after")
    def _limits_go_together(self) -> ApiKey:
        if self.burst is not None and self.per_second is None:
            raise ValueError("a burst goes with a rate: say how many requests per second")
        if self.is_public != (Scope.ARMS in self.scopes) or (self.is_public and len(self.scopes) > 1):
            raise ValueError(
                "a public key has the scope arms alone and the origins of its pages, any other has neither"
            )
        if self.is_public and self.per_second is None:
            raise ValueError("a public key needs a rate, because everybody may read it in its page")
        return self

    @property
    def is_public(self) -> bool:
        """Whether it stands in pages, which browsers load from its origins."""
        return bool(self.origins)

    @property
    def is_in_force(self) -> bool:
        return self.expires is None or self.expires > datetime.now(UTC)

    @property
    def new_users(self) -> int:
        """Per minute."""
        return self.new_users_per_minute or NEW_USERS_PER_MINUTE

    @property
    def user_events(self) -> int:
        """Per minute."""
        return self.user_events_per_minute or USER_EVENTS_PER_MINUTE

    @property
    def events(self) -> int:
        """Per minute."""
        return self.events_per_minute or EVENTS_PER_MINUTE

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"

    @classmethod
    def new(cls, name: str, scopes: Iterable[Scope], **limits: Any) -> tuple[ApiKey, str]:
        """A key and its text, which is nowhere else. ``limits`` are the fields with a default."""
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
    """Tokens of a key in this worker: what it does takes some, and they come back with time, up to the most."""

    tokens: float
    filled: float

    def wait(self, now: float, per_second: float, most: float, cost: float) -> float:
        """Seconds until something of that cost is allowed; 0 if it is now, which takes its tokens. What costs more than
        the most is allowed when the bucket is full, and leaves a debt."""
        self.tokens = min(most, self.tokens + (now - self.filled) * per_second)
        self.filled = now
        lack = min(cost, most) - self.tokens
        if lack > 0.0:
            return lack / per_second
        self.tokens -= cost
        return 0.0


@dataclass(frozen=True, slots=True)
class _Quota:
    """So much in so many seconds, and at most ``burst`` at once."""

    limit: float
    seconds: int
    burst: float

    @classmethod
    def per_minute(cls, limit: int) -> _Quota:
        return cls(limit, _MINUTE, limit)


class Access(ReloadingFile[Mapping[str, ApiKey]]):
    """The keys in force, by id. Without a file everybody may do everything: then the service listens on loopback alone,
    or its operator has said that its network is private. Only pages in somebody's browser may not, which run there."""

    name, failure = "file of keys", SettingsError

    def __init__(self, path: Path | None, poll_seconds: float, workers: int = 1, *, is_private: bool = False) -> None:
        """Of one of so many ``workers``, each of which allows its part of a key's requests. ``is_private``: the service
        may be reached from other machines, by the operator's word. SettingsError if the file cannot be read or is not
        valid."""
        self._workers, self._is_private = workers, is_private
        self._buckets: dict[tuple[str, str], _Bucket] = {}
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
        names = sorted(map(str, self.current.values()))
        return {"keys": names if self.is_required else None, "error": self.error or None}

    def check(self, headers: Iterable[tuple[bytes, bytes]], *scopes: Scope) -> ApiKey | None:
        """The key of a request; None where none is required, and then Forbidden for a call by somebody else's page.
        Unauthenticated for a request without a key that is in force, Forbidden for a key with none of the scopes and
        for a public one from another origin than its own, RateLimited for one that has made too many requests."""
        if not self.is_required:
            _refuse_pages(headers, self._is_private)
            return None
        given = header_of(headers, b"authorization")
        if given is None:
            raise Unauthenticated("an API key is required: Authorization: Bearer lorank_...", field="Authorization")
        key = self._key(given)
        if key is None:
            raise Unauthenticated("this API key is none, or not in force any more", field="Authorization")
        if not any(scope in key.scopes for scope in scopes):
            missing = f"the scope {' or '.join(scope for scope in scopes if scope is not Scope.ARMS)}"
            raise Forbidden(f"the API key {key} does not have {missing}", field="Authorization")
        if key.is_public and _text(header_of(headers, b"origin")) not in key.origins:
            raise Forbidden(f"the API key {key} is for pages of {', '.join(key.origins)} alone", field="Origin")
        if key.per_second is not None:
            words = f"make {key.per_second:g} requests a second"
            self._take(key, "requests", _Quota(key.per_second, 1, max(1.0, key.burst or key.per_second)), 1, words)
        return key

    def take_bytes(self, key: ApiKey | None, count: int) -> None:
        """RateLimited if the bodies of the key's requests have had too many bytes, with so many more; InvalidRequest if
        these alone are too many."""
        if key is not None and key.bytes_per_minute is not None:
            words = f"send {key.bytes_per_minute} bytes of bodies a minute (`keys add --bytes-per-minute`)"
            if count > key.bytes_per_minute:  # which waiting would not change
                raise InvalidRequest(f"has {count} bytes: the API key {key} may {words}", field="body")
            self._take(key, "bytes", _Quota.per_minute(key.bytes_per_minute), count, words)

    def take_feedback(self, key: ApiKey, events: int, new_users: int) -> None:
        """RateLimited if the key has told too many events or brought too many new users, with so many more; then
        neither are counted."""
        words = f"tell {key.events} events a minute (`keys add --events-per-minute`)"
        self._take(key, "events", _Quota.per_minute(key.events), events, words)
        if new_users:
            words = f"bring {key.new_users} new users a minute (`keys add --new-users-per-minute`)"
            try:
                self._take(key, "new users", _Quota.per_minute(key.new_users), new_users, words)
            except RateLimited:
                self._buckets[key.id, "events"].tokens += events
                raise

    def shared_with(self, headers: Iterable[tuple[bytes, bytes]], *, beforehand: bool) -> str | None:
        """The origin of a request whose page may read the answer: one of those of the public key that came with it, or
        of any public key when a browser asks ``beforehand``, which it does without. None for all others."""
        origin, given = _text(header_of(headers, b"origin")), header_of(headers, b"authorization")
        keys = self.current.values() if beforehand else filter(None, [self._key(given or b"")])
        return origin if any(origin in key.origins and key.is_in_force for key in keys) else None

    def _take(self, key: ApiKey, kind: str, quota: _Quota, cost: int, words: str) -> None:
        """RateLimited if the key's part of this worker is used up."""
        now, own = time.monotonic(), quota.limit / quota.seconds / self._workers
        most = max(1.0, quota.burst / self._workers)
        wait = float(quota.seconds)
        if cost <= quota.burst:
            bucket = self._buckets.setdefault((key.id, kind), _Bucket(most, now))
            wait = bucket.wait(now, own, most, cost)
        if wait:
            raise RateLimited(
                f"the API key {key} may {words}",
                limit=quota.limit,
                seconds=quota.seconds,
                retry_after_ms=math.ceil(wait * 1000),
            )

    def _key(self, given: bytes) -> ApiKey | None:
        match = _KEY.fullmatch(given.strip())
        if match is None:
            return None
        key = self.current.get(match[2].decode())
        digest = hashlib.sha256(match[1]).hexdigest()
        is_right = hmac.compare_digest(digest, _NOBODYS if key is None else key.sha256)
        return key if key is not None and is_right and key.is_in_force else None


def _refuse_pages(headers: Iterable[tuple[bytes, bytes]], is_private: bool) -> None:
    """Forbidden for a call that a browser sends for a page of another origin than the service's own, which needs no
    permission to send one; and for a page whose own name its owner let point to this machine (DNS rebinding)."""
    host, origin = _text(header_of(headers, b"host")), header_of(headers, b"origin")
    if host and not is_private and not _is_here(host):
        raise Forbidden(
            "without API keys only calls to this machine under its own name are answered: Host must be localhost or a "
            f"loopback address, unless there are keys ({PREFIX}KEYS) or a private network ({PREFIX}PRIVATE_NETWORK=1)",
            field="Host",
        )
    if origin is not None and _text(origin).partition("://")[2] != host:
        raise Forbidden(
            f"without API keys no page of another origin may call: give it a public key ({PREFIX}KEYS)", field="Origin"
        )
    # A page may have an image loaded, which says no Origin.
    if _text(header_of(headers, b"sec-fetch-site")).strip().lower() in ("cross-site", "same-site"):
        raise Forbidden(
            f"without API keys no page of another origin may call: give it a public key ({PREFIX}KEYS)",
            field="Sec-Fetch-Site",
        )


@lru_cache(maxsize=64)
def _is_here(host: str) -> bool:
    """Whether a Host header names this machine, with a port or without."""
    return is_loopback(re.sub(r":\d*$", "", host).strip("[]"))


def header_of(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """A header of a request; None without one. Of several the last counts, as no proxy adds one."""
    given = None
    for header, value in headers:
        if header == name:
            given = value
    return given


def _text(header: bytes | None) -> str:
    return "" if header is None else header.decode("latin-1")
