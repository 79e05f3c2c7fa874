"""Calls of jobs to a running service: the API key that they send, and refusals in words.

The key is read from the environment, since options show in lists of processes.
"""

from __future__ import annotations

import os

import httpx2

from offline.data.catalogue import DataError

API_KEY = "LORANK_API_KEY"
"""Environment variable of the key, as ``python -m service keys add`` shows it."""


def authorization() -> dict[str, str]:
    """Headers of a call: with the key of the environment, if there is one. DataError for a key that no header can
    carry; its message does not quote it."""
    key = os.environ.get(API_KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise DataError(f"{API_KEY} holds characters that no HTTP header can carry")
    return {"Authorization": f"Bearer {key}"} if key else {}


def refusal(response: httpx2.Response, scope: str) -> str:
    """An answer that is not what was asked for, in words; where the key may be at fault, with the ``scope`` that the
    call needs. A 200 is the short answer to callers without one."""
    said = f"the service answered {response.status_code} to {response.request.url.path}: {response.text[:300]}"
    if response.status_code not in (200, 401, 403):
        return said
    having = "is not in force there" if response.status_code == 401 else "lacks it"
    fault = f"the key in {API_KEY} {having}" if os.environ.get(API_KEY) else f"{API_KEY} is not set"
    return (
        f"{said}; this call needs an API key with the scope {scope}, and {fault}: "
        f"`python -m service keys add NAME --scope {scope}` makes one"
    )
