"""A service as a team would write it in an afternoon: FastAPI with pydantic, redis-py and ONNX Runtime, one blob per
key.

usage: PLAIN=FOLDER python -m uvicorn bench.serving.plain:app
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from redis.asyncio import Redis

from bench.serving.plain_features import item_key, user_key
from bench.serving.plain_model import Body, PlainModel, Ranked

model = PlainModel(Path(os.environ["PLAIN"]))
redis = Redis.from_url(os.environ["PLAIN_REDIS"])
app = FastAPI()


@app.post("/rank")
async def rank(body: Body) -> Ranked:
    ids = [candidate.id for candidate in body.candidates]
    values: Any = await redis.mget([user_key(body.user_id), *map(item_key, ids)])
    return model.rank(ids, values[0], values[1:], body.top_k)
