"""A model that people deploy, behind plain FastAPI: one MGET, one row of inputs per candidate, ONNX Runtime.

usage: DEPLOYED=FOLDER DEPLOYED_REDIS=URL python -m uvicorn bench.serving.deployed_app:app
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from redis.asyncio import Redis

from bench.serving.plain_model import Body, Item, Ranked
from models.onnx_runtime import onnx_runtime

folder = Path(os.environ["DEPLOYED"])
onnxruntime = onnx_runtime()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
name, blobs = pickle.loads((folder / "blobs.pickle").read_bytes())
redis = Redis.from_url(os.environ["DEPLOYED_REDIS"])
app = FastAPI()


@app.post("/rank")
async def rank_deployed(body: Body) -> Ranked:
    ids = [candidate.id for candidate in body.candidates]
    values: Any = await redis.mget([f"{name}:user:{body.user_id}", *(f"{name}:item:{item}" for item in ids)])
    (scores,) = session.run(["score"], blobs.feed(values[0], values[1:]))
    order = np.argsort(-scores)[: body.top_k]
    return Ranked(
        items=[
            Item(id=ids[at], score=float(scores[at]), rank=rank_deployed)
            for rank_deployed, at in enumerate(order.tolist(), start=1)
        ]
    )
