"""Bytes that are not quite what a parser expects, for tests by hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

PIECES = (
    b"null", b"-1", b"1e999", b'"', b"[]", b"{}", b"[[[[", b"\\u0000", b"\\ud800", b"9" * 30, b"NaN", b"\xff", b"\n",
)  # fmt: skip
FEW = settings(
    derandomize=True, database=None, deadline=None, max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


def damaged(*samples: bytes) -> st.SearchStrategy[bytes]:
    """Samples of which a part is something else, and bytes of no form."""

    @st.composite
    def strategy(draw: st.DrawFn) -> bytes:
        sample = draw(st.sampled_from(samples))
        start = draw(st.integers(0, len(sample)))
        stop = draw(st.integers(start, min(len(sample), start + 12)))
        return sample[:start] + draw(st.one_of(st.binary(max_size=6), st.sampled_from(PIECES))) + sample[stop:]

    return st.one_of(strategy(), st.binary(max_size=80))


def unless(error: type[Exception], parse: Callable[..., Any], *arguments: Any) -> Any:
    """What ``parse`` gives; None if it refuses by ``error``. Any other exception passes through."""
    try:
        return parse(*arguments)
    except error:
        return None
