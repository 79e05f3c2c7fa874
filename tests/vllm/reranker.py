"""A reranker of the packaged model as it comes, for the items of the tiny release, with answers of the transformers
library to compare a server's with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from models.contract.arrays import FloatArray
from models.contract.prompts import PromptParts, Rated, RerankPrompt
from models.contract.rerank_items import RerankItems
from models.contract.reranker import FILE, ITEMS_FILE, Canary, HistoryBand, RerankerManifest
from offline.reranking.framing import frame_as_chat, label_ids, spell_answers
from offline.reranking.scoring import Labeller

IDS = ("a", "b", "c", "d", "e")
FILMS = (
    "Toy Story (1995), Animation, Children's, Comedy",
    "Alien (1979), Action, Horror, Sci-Fi",
    "Pulp Fiction (1994), Crime, Drama",
    "Sense and Sensibility (1995), Drama, Romance",
    "Die Hard (1988), Action, Thriller",
)
PEOPLE = ((5.0, 1.0, 4.0, 2.0), (1.0, 5.0, 2.0, 4.0), (3.0, 3.0, 5.0, 1.0))


@dataclass(frozen=True)
class Reference:
    """The model in this process."""

    prompt: RerankPrompt
    labels: tuple[int, int]
    model: Labeller

    def probabilities(self, prompts: list[PromptParts]) -> FloatArray:
        log_odds = np.zeros(len(prompts), np.float64)
        for rows, odds in self.model.log_odds(prompts, self.labels):
            log_odds[rows] = odds
        return (1.0 / (1.0 + np.exp(-log_odds))).astype(np.float32)


def reference(checkpoint: Path) -> Reference:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    prompt = frame_as_chat(RerankPrompt(history=3), tokenizer, "You judge whether a viewer will like a film.")
    prompt = spell_answers(tokenizer, prompt)
    model = Labeller.load("smollm2", checkpoint, "float32", 4096)
    return Reference(prompt, label_ids(tokenizer, prompt), model)


def name_of(film: str) -> str:
    return film.partition(" (")[0]


def write(folder: Path, model: Reference) -> Path:
    """A folder as ``tune-reranker`` writes it."""
    canaries = []
    for values in PEOPLE:
        events = [Rated(name_of(film), value) for film, value in zip(FILMS, values, strict=False)]
        asked = [model.prompt.parts({}, events, film) for film in FILMS]
        probabilities = model.probabilities(asked)
        best, worst = int(probabilities.argmax()), int(probabilities.argmin())
        canaries.append(
            Canary(
                prompts=(asked[best], asked[worst]),
                probabilities=(float(probabilities[best]), float(probabilities[worst])),
            )
        )
    vectors = np.eye(len(IDS), dtype=np.float32)
    items = RerankItems.of(IDS, [name_of(film) for film in FILMS], FILMS, vectors).pack()
    manifest = RerankerManifest(
        name="smollm2-reranker",
        model=model.model.id,
        base="smollm2",
        dtype="float32",
        prompt=model.prompt,
        label_ids=model.labels,
        weight=1.0,
        band=HistoryBand(),
        canaries=tuple(canaries),
        items=hashlib.sha256(items).hexdigest(),
        trained_until_ms=0,
    )
    folder.mkdir(parents=True)
    (folder / FILE).write_text(manifest.model_dump_json())
    (folder / ITEMS_FILE).write_bytes(items)
    return folder
