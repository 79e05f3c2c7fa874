"""A language model of random weights that can read prompts about films, and a small data set as its prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.contract.prompts import RerankPrompt
from models.contract.rerank_items import RerankItems
from offline.config import RerankingConfig, TuningConfig
from offline.data.texts import TextsConfig
from offline.reranking.prompting import PromptBuilder, items_of
from offline.reranking.scoring import Labeller
from offline.training.samples import split_samples
from tests.offline.knowledge.fakes import HashEncoder
from tests.offline.knowledge.marc.fakes import tiny_model
from tests.synthetic import GENRES, OCCUPATIONS, Synthetic

WORDS = (
    "Yes", "No", "Film", "Viewer", "Candidate", "Answer", "stars", "rated", "like", "the", ":", ".", ",", "(", ")", ";",
    *GENRES, *OCCUPATIONS, *(str(number) for number in range(60)),
)  # fmt: skip

PROMPT = RerankPrompt(profile_fields=("occupation",), history=4, heading="rated:", question="like?")
TUNING = TuningConfig(samples=40, batch_size=8, learning_rate=1e-2, rank=2, save_every=2)
SETTINGS = RerankingConfig(
    frame="plain",
    prompt=PROMPT,
    vector_dim=4,
    padded_tokens=256,
    tuning=TUNING,
    validation_rows=60,
    test_rows=60,
    canaries=2,
    candidates=4,
)


def model(folder: Path) -> Path:
    return tiny_model(folder, words=WORDS)


def labeller(folder: Path) -> Labeller:
    return Labeller.load("tiny", folder, "float32", SETTINGS.padded_tokens)


def prompts(data: Synthetic, folder: Path, **changes: Any) -> PromptBuilder:
    """Of the small data set, with cheap vectors."""
    trained = split_samples(data.config.samples, data.log).trained_rows
    items: RerankItems = items_of(
        data.catalogue,
        data.log,
        TextsConfig(),
        160,
        trained,
        SETTINGS.vector_dim,
        HashEncoder().encode,
        folder / "projection.npz",
    )
    return PromptBuilder(data.catalogue, data.log, items, **{"longest": 8, **changes})
