"""A model server and a reranker of four films, whose verdicts can be computed by hand."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from models.contract.prompts import RerankPrompt
from models.contract.rerank_items import RerankItems
from models.contract.reranker import FILE, ITEMS_FILE, Canary, HistoryBand, Platt, RerankerManifest
from service.reranking.server import ModelServer
from tests.service.reranking.model_server import NO, YES, ModelServerDouble, model_server

IDS = ("a", "b", "c", "d")
LIKES = {"film a": 0.2, "film b": 0.4, "film c": 0.6, "film d": 0.8}
PROMPT = RerankPrompt(profile_fields=("gender",), history=2)


def likes(prompt: str) -> float:
    """By the candidate, which is the last film of a prompt."""
    return LIKES[prompt[prompt.rindex("film ") :][:6]]


def items(vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]] | None = None) -> RerankItems:
    names, texts = [f"F {item}" for item in IDS], [f"film {item}" for item in IDS]
    return RerankItems.of(IDS, names, texts, np.eye(4, dtype=np.float32) if vectors is None else vectors)


def manifest(**changes: object) -> RerankerManifest:
    asked = (PROMPT.parts({}, [], "film d"), PROMPT.parts({}, [], "film a"))
    fields: dict[str, object] = {
        "name": "tiny-reranker",
        "model": "tiny",
        "base": "tiny",
        "dtype": "float32",
        "prompt": PROMPT,
        "label_ids": (YES, NO),
        "calibration": Platt(),
        "weight": 0.5,
        "band": HistoryBand(),
        "canaries": (Canary(prompts=asked, probabilities=(0.8, 0.2)),),
        "items": hashlib.sha256(items().pack()).hexdigest(),
        "trained_until_ms": 0,
    }
    return RerankerManifest.model_validate(fields | changes)


def written(folder: Path, **changes: object) -> Path:
    """As ``tune-reranker`` writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(manifest(**changes).model_dump_json())
    (folder / ITEMS_FILE).write_bytes(items().pack())
    return folder


@pytest.fixture
def double() -> Iterator[ModelServerDouble]:
    with model_server(likes) as server:
        yield server


@pytest.fixture
async def server(double: ModelServerDouble) -> AsyncIterator[ModelServer]:
    server = ModelServer(f"{double.url}/v1", "tiny", at_once=4)
    yield server
    await server.close()
