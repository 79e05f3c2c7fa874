"""Lists of items that were shown to a user, by which feedback is told from invention: the last ones, in Redis, in the
user's slot, written behind the back of the requests."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import xxhash

from models.contract.exposures import Exposure
from models.contract.keys import Keys
from service.redis_connection import Command

LISTS_AT_MOST = 64
"""Lists that are remembered of a user: 176 bytes each with twenty items."""

_TIME = struct.Struct("<Q")
_DIGEST_BYTES = 8


def commands_for(keys: Keys, exposure: Exposure, seconds: int) -> list[Command]:
    """Commands that remember what an exposure showed for so many seconds; none of an exposure to nobody."""
    if not exposure.user_id:
        return []
    key = keys.user_served(exposure.user_id)
    return [
        ("LPUSH", key, packed(exposure.request_id, exposure.time_ms, exposure.items)),
        ("LTRIM", key, 0, LISTS_AT_MOST - 1),
        ("EXPIRE", key, seconds),
    ]


def packed(request_id: str, time_ms: int, items: Iterable[str]) -> bytes:
    """A list as it is stored: unix milliseconds, then 8 bytes of digest each of the request's id and of the items'."""
    return _TIME.pack(time_ms) + b"".join(map(_digest, (request_id, *items)))


class ServedLists:
    """The lists of a user that are stored, without those from before ``since_ms``."""

    def __init__(self, entries: Iterable[bytes], since_ms: int) -> None:
        self._digests: dict[bytes, bytes] = {}  # of items, one behind the other, by that of the request
        for entry in entries:
            if len(entry) % _DIGEST_BYTES or len(entry) < _TIME.size + _DIGEST_BYTES:
                continue  # another's; it proves nothing
            (time_ms,) = _TIME.unpack_from(entry)
            if time_ms < since_ms:
                continue
            items = _TIME.size + _DIGEST_BYTES
            request = entry[_TIME.size : items]
            self._digests[request] = self._digests.get(request, b"") + entry[items:]

    def has(self, request_id: str) -> bool:
        """Whether the request was answered with one of the lists."""
        return _digest(request_id) in self._digests

    def showed(self, request_id: str, item_id: str) -> bool:
        """Whether the item was in the list of the request."""
        digests, item = self._digests.get(_digest(request_id), b""), _digest(item_id)
        at = digests.find(item)
        while at % _DIGEST_BYTES and at >= 0:
            at = digests.find(item, at + 1)
        return at >= 0


def _digest(text: str) -> bytes:
    return xxhash.xxh3_64_digest(text.encode("utf-8", "surrogatepass"))
