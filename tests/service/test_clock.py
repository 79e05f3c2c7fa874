"""The machine's clock is set days forth or back while the service runs: nothing that takes time may mind."""

from __future__ import annotations

import time
from typing import Any

import pytest

from models.contract.exposures import Exposure
from service.settings import Settings
from tests.service.conftest import Running, eventually, running
from tests.service.tiny import Publisher, TinyItem

DAY = 86_400.0


@pytest.mark.parametrize("days", [3.0, -3.0])
async def test_answers_and_releases_go_on(
    settings: Settings, publisher: Publisher, monkeypatch: pytest.MonkeyPatch, days: float
) -> None:
    publisher.publish()
    publisher.user_knowledge("u", [[1.0, 1.0, 1.0]], expires_at=int(time.time() + DAY))
    wall = time.time
    async with running(settings.model_copy(update={"default_deadline_ms": 5_000.0})) as service:
        before = await service.rank()
        monkeypatch.setattr(time, "time", lambda: wall() + days * DAY)
        after = await service.rank()
        assert (after["degraded"], after["items"]) == ([], before["items"])
        assert 0.0 <= after["timing_ms"]["total"] < 5_000.0
        # What has an end by the calendar is past it, and is used for a week of grace.
        assert (after["knowledge"]["stale"], before["knowledge"]["stale"]) == (1 if days > 0 else 0, 0)
        await service.follows(revision=publisher.revise("r1", TinyItem("a", rating=5.0)))
        assert (await service.status())["last_minute"]["answers"] == 2
        event = {"user_id": "u", "item_id": "a", "value": 5}
        assert (await service.http.post("/v1/feedback", json=event)).status_code == 200
        await _exposed_at(publisher, wall() + days * DAY)


async def test_a_refused_release_is_tried_again(
    service: Running, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.publish("bad", artifact="missing.onnx")
    await eventually(service.refused)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    publisher.publish("bad")
    await service.follows(id="bad")


async def _exposed_at(publisher: Publisher, moment: float) -> None:
    """Wait until the exposure stream's newest entry is of about that moment of the wall's clock."""

    async def written() -> bool:
        entries: Any = publisher.redis.xrevrange(publisher.keys.exposures, count=1)
        return bool(entries) and abs(Exposure.from_stream(entries[0][1]).time_ms / 1000.0 - moment) < 60.0

    await eventually(written)
