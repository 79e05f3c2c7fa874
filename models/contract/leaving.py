"""Fields of users and items that prompts carry, and the servers that prompts go to: which of them may read what.

A field is named by its side and column, ``items.title`` or ``users.age``. Two are no columns: ``history`` (which items
a user met and whether they liked them, with all that a language model concluded from it) and ``imported`` (texts about
users that somebody else wrote). Ids are no fields: no prompt carries one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated

from pydantic import StringConstraints

HISTORY, IMPORTED = "history", "imported"

FieldName = Annotated[str, StringConstraints(pattern=r"^(history|imported|(items|users)\.\S(.*\S)?)$", max_length=300)]
"""Type of a field's name in settings."""

_URL = re.compile(
    r"(?P<scheme>https?)://(?:[^/?#@\\\s]*@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?P<port>:\d{1,5})?"
    r"(?P<path>/[^?#\\\s]*)?"
)


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches the host. Of names "localhost" alone is: others may come to mean more."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@dataclass(frozen=True, slots=True)
class Outlet:
    """The way of prompts to a server at ``url``, which may be told the ``allowed`` fields; None: all of them."""

    url: str
    allowed: frozenset[str] | None

    @classmethod
    def to(cls, url: str, may_leave: Iterable[str] | None) -> Outlet:
        """The outlet to a server. Without a list, one on this machine may be told everything, any other nothing."""
        if may_leave is None:
            return cls(url, None if is_on_this_machine(url) else frozenset())
        return cls(url, frozenset(may_leave))

    @property
    def address(self) -> str:
        """The server for people: without user and password."""
        match = _URL.match(self.url)
        return "a server" if match is None else "{scheme}://{host}{port}{path}".format(**match.groupdict(""))

    @property
    def place(self) -> str:
        """Where the server is, in words."""
        return "this machine" if is_on_this_machine(self.url) else "another machine"

    def refusal(self, carried: Iterable[str] | None, setting: str, remedy: str) -> str:
        """Why prompts that carry these fields (None: nothing tells) may not go out, with the ``remedy``, in which
        ``{list}`` and ``{commas}`` stand for all that ``setting`` must name; "" if they may."""
        if self.allowed is None:
            return ""
        to = f"prompts to {self.address} ({self.place})"
        if carried is None:
            return f"{setting}: nothing tells which fields {to} carry, so none is sent: {remedy}"
        if not (missing := set(carried) - self.allowed):
            return ""
        fields = sorted(self.allowed | missing)
        what_to_do = remedy.format(list=json.dumps(fields, ensure_ascii=False), commas=",".join(fields))
        return f"{setting}: {to} would carry {in_words(missing)}, which it does not list, so none is sent: {what_to_do}"


def in_words(fields: Iterable[str] | None) -> str:
    """Fields for people; None: nothing tells."""
    return "nobody knows which fields" if fields is None else ", ".join(sorted(fields)) or "no field"


def is_on_this_machine(url: str) -> bool:
    """Whether an http(s) URL leads to a loopback address or to "localhost". An address that is not plainly one of these
    is elsewhere. What a server does with a prompt is its own affair: a gateway on this machine sends it on."""
    match = _URL.fullmatch(url)
    return match is not None and is_loopback(match["host"].strip("[]"))
