"""Every Redis key of the project. No other module spells one.

All keys of one user share the hash tag ``{u:ID}`` and all keys of one item share ``{i:ID}``: on a Redis Cluster
a user's keys lie in one slot (one round trip, atomic scripts), and deleting a user needs no SCAN. Keys of requests
share ``{requests}``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

PREFIXES = "lorank:prefixes"
"""Set of all prefixes under which something was published on this server; the only key that is under none of them."""

_ESCAPES = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D"})


def _escaped(identifier: str) -> str:
    """An id in a form that cannot close or open a hash tag."""
    return identifier.translate(_ESCAPES)


def _unescaped(escaped: str) -> str:
    return escaped.replace("%7B", "{").replace("%7D", "}").replace("%25", "%")


def owners_of(keys: Sequence[str], blank: str) -> list[str]:
    """Ids of users or items in those of ``keys`` that are like ``blank``, the key of an empty id."""
    head, _, tail = blank.partition("}")
    ids = [key[len(head) : -len(tail) - 1] for key in keys if key.startswith(head) and key.endswith(f"}}{tail}")]
    return [_unescaped(escaped) for escaped in ids]


def owner_of(key: str, side: str) -> str | None:
    """The id of the user (``side`` "u") or item ("i") whose key this is; None of any other key."""
    escaped, closed, _ = key.partition(f"{{{side}:")[2].partition("}:")
    return _unescaped(escaped) if closed else None


def of_each(key: Callable[[str], str], ids: Sequence[str]) -> list[str]:
    """The keys of many owners: ``key(owner)`` for each of ``ids``, in a sixth of the time.

    ``key`` names a key of one user or item: the id stands in the hash tag and nowhere else.
    """
    head, _, tail = key("").partition("}")
    if any(sign in "".join(ids) for sign in "%{}"):
        ids = [_escaped(owner) for owner in ids]
    return [f"{head}{owner}}}{tail}" for owner in ids]


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys under one prefix; two prefixes on one server are two installations that do not see each other."""

    prefix: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", self.prefix):
            raise ValueError(f"key prefix {self.prefix!r} must be 1 to 64 letters, digits, '.', '_', ':' or '-'")

    def user_profile(self, user_id: str) -> str:
        """JSON profile features of a user."""
        return f"{self.prefix}:{{u:{_escaped(user_id)}}}:profile"

    def user_history(self, user_id: str) -> str:
        """Packed live history of a user, see ``events``."""
        return f"{self.prefix}:{{u:{_escaped(user_id)}}}:history"

    def user_knowledge(self, user_id: str, space: str) -> str:
        """Packed knowledge record of a user in one space, see ``knowledge``."""
        return f"{self.prefix}:{{u:{_escaped(user_id)}}}:k:{space}"

    def user_texts(self, user_id: str) -> str:
        """JSON texts about a user, see ``requests``."""
        return f"{self.prefix}:{{u:{_escaped(user_id)}}}:texts"

    def user_export(self, user_id: str) -> str:
        """JSON of what the jobs store of a user, see ``requests``."""
        return f"{self.prefix}:{{u:{_escaped(user_id)}}}:export"

    def unit_arms(self, unit: str) -> str:
        """Hash of the arms that a unit keeps, by ``EXPERIMENT__VERSION``. A unit need not be a user."""
        return f"{self.prefix}:{{u:{_escaped(unit)}}}:arms"

    def user_served(self, user_id: str) -> str:
        """List of what was shown to a user of late, newest first, see ``service.served``."""
        return f"{self.prefix}:{{u:{_escaped(user_id)}}}:served"

    def user_event_counts(self, user_id: str) -> str:
        """Hash of the number of events that came of a user in a minute, by the id of the API key; it lives as long."""
        return f"{self.prefix}:{{u:{_escaped(user_id)}}}:counts"

    def item_features(self, item_id: str, release: str) -> str:
        """Packed feature record of an item within one release, see ``items``."""
        return f"{self.prefix}:{{i:{_escaped(item_id)}}}:f:{release}"

    def item_knowledge(self, item_id: str, space: str) -> str:
        """Packed knowledge record of an item in one space."""
        return f"{self.prefix}:{{i:{_escaped(item_id)}}}:k:{space}"

    def item_texts(self, item_id: str) -> str:
        """JSON texts about an item, see ``requests``."""
        return f"{self.prefix}:{{i:{_escaped(item_id)}}}:texts"

    def item_directory(self, release: str, block: int) -> str:
        """JSON list of item ids; the blocks of a release enumerate its catalogue without a SCAN."""
        return f"{self.prefix}:release:{release}:items:{block}"

    def release_manifest(self, release: str) -> str:
        return f"{self.prefix}:release:{release}:manifest"

    def release_revision(self, release: str) -> str:
        """The entry of ``changes`` with which a publication ended that changed item records of a release in place."""
        return f"{self.prefix}:release:{release}:revision"

    def release_pending(self, release: str) -> str:
        """Present while a publication changes records of a release and has not yet raised its revision."""
        return f"{self.prefix}:release:{release}:pending"

    @property
    def live(self) -> str:
        """The release pointer: the id of the release that is served."""
        return f"{self.prefix}:live"

    @property
    def releases(self) -> str:
        """JSON list of the ids of releases that are or were live, oldest first."""
        return f"{self.prefix}:releases"

    @property
    def pins(self) -> str:
        """Sorted set of the releases that services hold because an arm pins them, with the time of the last look."""
        return f"{self.prefix}:pins"

    @property
    def withdrawn(self) -> str:
        """JSON list of the ids of releases that somebody rolled back from."""
        return f"{self.prefix}:withdrawn"

    @property
    def refused_model(self) -> str:
        """JSON of the model that the gate refused last and that is not live since, see ``artifact``."""
        return f"{self.prefix}:refused"

    @property
    def rolled_back(self) -> str:
        """JSON list of the knowledge spaces that somebody rolled back: ["user/liber:0123456789abcdef"]."""
        return f"{self.prefix}:held"

    @property
    def installation(self) -> str:
        """Random name of what lies under this prefix: the jobs' files tell it from another server's by that."""
        return f"{self.prefix}:installation"

    @property
    def generation(self) -> str:
        """Random name of the state that the last publication left. Absent while records change."""
        return f"{self.prefix}:stamp"

    @property
    def log_settings(self) -> str:
        """The configuration whose log the live histories are of, and a digest of the settings it was loaded with."""
        return f"{self.prefix}:log_settings"

    @property
    def changes(self) -> str:
        """Capped stream of the items whose records were written, see ``snapshot``."""
        return f"{self.prefix}:changes"

    @property
    def interactions(self) -> str:
        """Stream of interactions that the service accepted."""
        return f"{self.prefix}:interactions"

    @property
    def exposures(self) -> str:
        """Capped stream of what was shown to whom."""
        return f"{self.prefix}:exposures"

    @property
    def tombstones(self) -> str:
        """Hash of who was forgotten, see ``forgetting``."""
        return f"{self.prefix}:tombstones"

    @property
    def user_spaces(self) -> str:
        """Set of the fingerprints of all spaces in which users ever had knowledge under this prefix."""
        return f"{self.prefix}:user_spaces"

    def request(self, request_id: str) -> str:
        """JSON of a request to the jobs, see ``requests``."""
        return f"{self.prefix}:{{requests}}:request:{request_id}"

    @property
    def open_requests(self) -> str:
        """Sorted set of the ids of requests that wait or were begun, by the time (unix ms) they were asked for."""
        return f"{self.prefix}:{{requests}}:open:requests"

    @property
    def done_requests(self) -> str:
        """Sorted set, likewise, of the requests that are done or failed."""
        return f"{self.prefix}:{{requests}}:done:requests"

    @property
    def request_places(self) -> str:
        """Hash of what is asked for once at a time, see ``request_places``."""
        return f"{self.prefix}:{{requests}}:places:requests"

    def report(self, name: str) -> str:
        """JSON of a report, see ``requests``."""
        return f"{self.prefix}:report:{name}"

    @property
    def reports(self) -> str:
        """Sorted set of the names of reports, by the time (unix ms) at which they were made."""
        return f"{self.prefix}:reports"
