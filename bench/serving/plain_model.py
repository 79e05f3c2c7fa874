"""The model behind the plain servers: the same ONNX file and session options as ours."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from bench.serving.plain_features import Layout
from models.onnx_runtime import onnx_runtime


class Candidate(BaseModel):
    id: str


class Body(BaseModel):
    user_id: str
    candidates: list[Candidate]
    top_k: int | None = None


class Item(BaseModel):
    id: str
    score: float
    rank: int


class Ranked(BaseModel):
    items: list[Item]


class PlainModel:
    """``folder`` holds model.onnx and layout.pickle, which bench/serving/run.py wrote."""

    def __init__(self, folder: Path) -> None:
        onnxruntime = onnx_runtime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
        self._inputs = [node.name for node in self._session.get_inputs()]
        self._layout: Layout = pickle.loads((folder / "layout.pickle").read_bytes())

    def rank(self, ids: Sequence[str], user: bytes, items: Sequence[bytes], top_k: int | None) -> Ranked:
        feed = self._layout.unpack(user, items)
        (scores,) = self._session.run(["score"], {name: feed[name] for name in self._inputs})
        order = np.argsort(-scores)[:top_k]
        return Ranked(
            items=[
                Item(id=ids[at], score=float(scores[at]), rank=rank) for rank, at in enumerate(order.tolist(), start=1)
            ]
        )
