"""BentoML around the plain model.

usage: PLAIN=FOLDER PLAIN_REDIS=URL python -m bentoml serve bench.serving.peers.bento:Plain --port PORT
"""

from __future__ import annotations

import os
from pathlib import Path

import bentoml
from redis.asyncio import Redis

from bench.serving.plain_features import item_key, user_key
from bench.serving.plain_model import Candidate, PlainModel, Ranked


# It is only here that 1.4 takes this setting from: the one of the API server in BENTOML_CONFIG_OPTIONS is overwritten.
@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Plain:
    def __init__(self) -> None:
        self._model = PlainModel(Path(os.environ["PLAIN"]))
        self._redis = Redis.from_url(os.environ["PLAIN_REDIS"])

    @bentoml.api(route="/rank")
    async def rank(self, user_id: str, candidates: list[Candidate], top_k: int | None = None) -> Ranked:
        ids = [candidate.id for candidate in candidates]
        user, *items = await self._redis.mget([user_key(user_id), *map(item_key, ids)])
        return self._model.rank(ids, user, items, top_k)
