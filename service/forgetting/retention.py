"""The end of entries of the streams: interactions and exposures go after some days, read by a job or not."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from models.contract.keys import Keys
from service.errors import RedisUnavailable
from service.ranking.deadline import Deadline
from service.redis import RedisPort, replies_to
from service.redis_connection import Command

TRIM_PAUSE_SECONDS = 600.0
TRIM_SECONDS = 5.0
"""Between two looks, and the longest duration of one."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Retention:
    """Trims both streams to their last ``days``; None: not at all."""

    link: RedisPort
    keys: Keys
    days: float | None

    async def watch(self) -> None:
        """Trim until cancelled. An outage of Redis ends nothing."""
        while self.days is not None:
            await self.trim(self.days)
            await asyncio.sleep(min(TRIM_PAUSE_SECONDS, self.days * 86_400 / 4))

    async def trim(self, days: float) -> None:
        """Trim once. Exactly, because an entry that is over must be gone."""
        first = round((time.time() - days * 86_400) * 1000)
        trims: list[Command] = [
            ("XTRIM", stream, "MINID", "=", f"{first}-0") for stream in (self.keys.interactions, self.keys.exposures)
        ]
        try:
            await replies_to(self.link, trims, Deadline(TRIM_SECONDS))
        except RedisUnavailable as error:
            log.warning("the streams are not trimmed: %s", error)
