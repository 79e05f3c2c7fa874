"""Requests that `verify` sends."""

from __future__ import annotations

import pytest

from offline.data.log import InteractionLog
from offline.jobs.verify import bodies


@pytest.mark.parametrize("items", [1, 4, 60, 200])
def test_requests_ask_for_as_many_items_as_there_are(items: int) -> None:
    log = InteractionLog.sorted_by_time([("u", f"i{at}", 1.0, at) for at in range(items)], [], [])
    sizes = set()
    for body in bodies(log, 300):
        ids = [candidate["id"] for candidate in body["candidates"]]
        known = [item for item in ids if item in log.item_ids]
        assert len(set(ids)) == len(ids)
        assert len(ids) - len(known) in (0, 1)
        sizes.add(len(known))
    assert min(items, 5) <= min(sizes) <= max(sizes) == min(items, 100)
