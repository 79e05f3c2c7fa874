"""Descriptors of a process (``ulimit -n``): how many connections they leave room for.

A server that runs out of them cannot accept a connection, and neither refuse one, nor open the files of a release.
"""

from __future__ import annotations

import logging
import os
import resource
from dataclasses import replace
from pathlib import Path

from service.server.connections import ConnectionLimits

_OPEN = Path("/proc/self/fd")
_FILES = 24
"""Files that a release, metrics or a log may open at once."""
_MOST_ACCEPTED, _TURNS = 2048, 4

log = logging.getLogger(__name__)


def accepted_at_once() -> int:
    """Connections that wait to be accepted, at most. asyncio accepts them all in one turn of its loop, and it takes
    ``_TURNS`` until one of them is refused and closed. Once descriptors ran out, it would not accept for a second, and
    fill the log (Python 3.11)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_ACCEPTED if hard == resource.RLIM_INFINITY else max(4, min(_MOST_ACCEPTED, hard // 16))


def raise_limit(most: int) -> None:
    """Let this process open ``most`` descriptors, or as many as it may (the hard limit). Shells and containers begin
    with a soft limit of 1,024 for programs that use select; servers raise it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < most:
        raised = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))


def fitting(limits: ConnectionLimits, own: int) -> ConnectionLimits:
    """The limits with no more connections than there are descriptors left for, once the service has its ``own``
    connections and files; of few the service has a half. If they are fewer, one line of the log says so."""
    spare = own + _FILES + _TURNS * accepted_at_once()
    raise_limit(limits.connections + spare + open_descriptors())
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return limits
    left = max(0, most - open_descriptors())
    connections = max(1, left - min(spare, left // 2))
    if connections >= limits.connections:
        return limits
    log.warning(
        "descriptors are short: with %d (ulimit -n) this process takes %d connections at once and not "
        "LORANK_MAX_CONNECTIONS=%d; further ones are refused",
        most, connections, limits.connections,
    )  # fmt: skip
    return replace(limits, connections=connections)


def open_descriptors() -> int:
    """How many this process has open; 0 where the system does not say."""
    return len(os.listdir(_OPEN)) if _OPEN.is_dir() else 0
