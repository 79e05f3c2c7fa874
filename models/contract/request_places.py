"""Where requests to the jobs lie in Redis, and the scripts by which service and jobs write them.

A request is a document, which ends, on one of two lists: of those that are open, or of those that were carried out. One
of a kind that may be open once at a time has a place besides, and counts for who asked. Each script leaves all of that
as it was, or changes all of it, so that no request is on no list, and none of two that ask at once is forgotten. All
keys share a hash tag, as scripts need it on a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import from_json, to_json

from models.contract.forgetting import EVERYTHING_MS
from models.contract.keys import Keys
from models.contract.requests import OPEN_SECONDS, JobRequest, RequestKind

_USER_FIELDS = ("user_id", "user_ids", "unit")

RedisScript = tuple[str | bytes | int, ...]
"""An EVAL with its keys and arguments. It may be repeated."""

_FREE = """
local document, open, places, done, id = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1]
local function open_of(asker)
  return tonumber(string.match(redis.call('HGET', places, asker) or '', '^%d+$') or 0)
end
local function count(asker, change)
  local left = open_of(asker) + change
  if left <= 0 then redis.call('HDEL', places, asker) return end
  redis.call('HSET', places, asker, string.format('%.0f', left))
end
local function free(id)
  local of_id = redis.call('HGET', places, id)
  if not of_id then return end
  redis.call('HDEL', places, id)
  local is_json, cells = pcall(cjson.decode, of_id)
  if not is_json or type(cells) ~= 'table' then return end -- whoever asks for the same next takes the place
  local place, asker = cells[1], cells[2]
  if type(place) ~= 'string' or type(asker) ~= 'string' then return end
  if redis.call('HGET', places, place) == id then redis.call('HDEL', places, place) end
  count(asker, -1)
end
"""
"""Lua: lets a request have no place any more. In ``places`` a place has its id, an id its place and who asked, and who
asked their number."""

_ASK = (
    _FREE
    + """
local first_ms, place, asker, of_asker, most = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
if redis.call('EXISTS', document) == 1 then return id end
for _, ended in ipairs(redis.call('ZRANGE', open, '-inf', '(' .. first_ms, 'BYSCORE', 'LIMIT', 0, 100)) do
  free(ended)
  redis.call('ZREM', open, ended)
  redis.call('ZADD', done, first_ms, ended) -- where it is found if it has not ended, which a later version may decide
end
if ARGV[10] ~= '' then free(ARGV[10]) end
if place ~= '' then
  local other = redis.call('HGET', places, place)
  if other and other ~= ARGV[10] then return other end
  if open_of(asker) >= of_asker then return 1 end
end
if most and redis.call('ZCARD', open) >= most then return 2 end
if place ~= '' then
  redis.call('HSET', places, place, id, id, cjson.encode({place, asker}))
  count(asker, 1)
end
redis.call('SET', document, ARGV[2], 'EXAT', ARGV[3])
redis.call('ZADD', open, ARGV[4], id)
return id
"""
)

_WRITE = (
    _FREE
    + """
if ARGV[6] == 'XX' and redis.call('EXISTS', document) == 0 then return 0 end
redis.call('SET', document, ARGV[2], 'EXAT', ARGV[3])
if ARGV[5] == 'open' then
  redis.call('ZREM', done, id)
  redis.call('ZADD', open, ARGV[4], id)
else
  free(id)
  redis.call('ZREM', open, id)
  redis.call('ZADD', done, ARGV[4], id)
end
return 1
"""
)

_REMOVE = (
    _FREE
    + """
redis.call('DEL', document)
redis.call('ZREM', open, id)
redis.call('ZREM', done, id)
free(id)
"""
)

OF_ASKER_REFUSED, ALL_REFUSED = 1, 2
"""Replies to ``asking``, in place of an id: as many are open as may be, of who asks, or of all."""


def asking(
    keys: Keys, request: JobRequest, of_asker: int | None, most: int | None, instead_of: str | bytes = ""
) -> RedisScript:
    """Stores a new request; the reply is its id, that of the one for the same, or which limit refused it.

    of_asker    how many of this kind may be open of who asks, each about another user; None for any number, also of the
                same
    most        how many may be open of all; None for any number
    instead_of  id of one for the same that is open no more, and has its place still
    """
    place, asker = f"{request.kind}:{request.user_id or ''}", f"by:{request.kind}:{request.asked_by}"
    first_ms = request.asked_ms - 1000 * OPEN_SECONDS
    places = ("", "", 0) if of_asker is None else (place, asker, of_asker)
    return _script(_ASK, keys, request, first_ms, *places, "" if most is None else most, instead_of)


def writing(keys: Keys, request: JobRequest, *, only_if_there: bool = False) -> RedisScript:
    """Stores a request as it is now, which frees its place unless it is open."""
    state = "open" if request.is_open else ""
    return _script(_WRITE, keys, request, state, "XX" if only_if_there else "")


def removing(keys: Keys, name: bytes) -> RedisScript:
    """Removes all that there is of a request by its name on a list, also of one that has no document."""
    return ("EVAL", _REMOVE, 4, *_keys_of(keys, name), name)


def document_key(keys: Keys, name: bytes) -> bytes:
    """The key of a request by its name on a list, which is its id, or damaged."""
    return keys.request("").encode() + name


def is_damaged(name: bytes) -> bool:
    """Whether a name on a list of requests or reports is nobody's id, as it is no text."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return True
    return False


def types_of_lists(keys: Keys) -> dict[str, bytes]:
    """The keys of the lists of requests and reports, with their types in Redis. What lies there and is of another type
    is removed by whoever finds it: nothing could be asked for, and nobody forgotten."""
    lists = (keys.open_requests, keys.done_requests, keys.reports)
    return {keys.request_places: b"hash"} | dict.fromkeys(lists, b"zset")


def is_about(document: bytes, until_ms: Mapping[str, int]) -> bool:
    """Whether a stored request, of whatever version, is about a user and was asked for until that user's time (unix ms;
    EVERYTHING_MS: whenever); never a receipt. It is about those whom a field ``user_id``, ``user_ids`` or ``unit``
    names, however deep. Without a time that can be told it counts; what is no JSON is about whomever it quotes."""
    try:
        fields = from_json(document)
    except ValueError:  # also of endless nesting, and of what is no UTF-8
        fields = None
    if not isinstance(fields, dict):
        return any(to_json(user) in document for user in until_ms)
    latest_ms = max((until_ms[name] for name in _users_in(fields) if name in until_ms), default=None)
    if latest_ms is None or fields.get("kind") == RequestKind.FORGET:
        return False
    asked_ms: Any = fields.get("asked_ms")
    is_timed = isinstance(asked_ms, int | float) and latest_ms < EVERYTHING_MS
    return not (is_timed and asked_ms > latest_ms)  # NaN, which JSON may hold here, is later than nothing


def _users_in(value: Any, *, named: bool = False) -> Iterator[str]:
    """Whom JSON is about; ``named``: what it is itself stands under one of the names."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _users_in(part, named=name in _USER_FIELDS)
    elif isinstance(value, list):
        for part in value:
            yield from _users_in(part, named=named)
    elif named and value is not None:
        yield str(value)


def _script(script: str, keys: Keys, request: JobRequest, *arguments: str | bytes | int) -> RedisScript:
    document = request.model_dump_json()
    names = _keys_of(keys, request.id.encode())
    return ("EVAL", script, 4, *names, request.id, document, request.ends_at, request.asked_ms, *arguments)


def _keys_of(keys: Keys, name: bytes) -> tuple[bytes, str, str, str]:
    return document_key(keys, name), keys.open_requests, keys.request_places, keys.done_requests
