"""LitServe around the plain model.

usage: PLAIN=FOLDER PLAIN_REDIS=URL python -m bench.serving.peers.lit PORT
"""

# Not "from __future__ import annotations": LitServe hands the annotation itself to FastAPI.
import os
import sys
from pathlib import Path
from typing import Any

import litserve
from redis import Redis

from bench.serving.plain_features import item_key, user_key
from bench.serving.plain_model import Body, PlainModel, Ranked


class Plain(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self._model = PlainModel(Path(os.environ["PLAIN"]))
        self._redis = Redis.from_url(os.environ["PLAIN_REDIS"])

    def decode_request(self, request: Body) -> Body:
        return request

    def predict(self, body: Body) -> Ranked:
        ids = [candidate.id for candidate in body.candidates]
        values: Any = self._redis.mget([user_key(body.user_id), *map(item_key, ids)])
        return self._model.rank(ids, values[0], values[1:], body.top_k)

    def encode_response(self, ranked: Ranked) -> Ranked:
        return ranked


if __name__ == "__main__":
    server = litserve.LitServer(Plain(api_path="/rank"), accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False, log_level="warning")
