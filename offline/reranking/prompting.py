"""Questions to the reranker: the samples that it learns from, is calibrated on and judged by, with all that each may
see of users and items, and its canaries.

The samples are those of the CTR model (offline/training/samples.py: ReLLa's protocol on MovieLens-1M); a language model
affords only a part of them, drawn by the seed. A sample sees its own user's interactions earlier in the log, and texts
of items, which depend on nobody's behaviour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.contract.arrays import BoolArray, FloatArray, IntArray
from models.contract.prompts import PromptParts, Rated, RerankPrompt, clean
from models.contract.rerank_items import RerankItems
from models.contract.reranker import Canary
from offline.config import RerankingConfig
from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog
from offline.data.texts import TextsConfig
from offline.knowledge.errors import TooFewError
from offline.knowledge.projection import Projection
from offline.training.samples import Split, SplitRows

_FREQUENT = 200
"""So many of the most frequent items are histories of canaries drawn from."""


def draw_samples(splits: SplitRows, split: Split, count: int, seed: int) -> IntArray:
    """Log rows of ``count`` samples of a split, or of all if there are fewer, in the order of the log.

    Of one split and seed, fewer rows are a part of more rows.
    """
    rows = splits.rows[split]
    order = np.random.default_rng([seed, ("train", "validation", "test").index(split)]).permutation(len(rows))
    return np.sort(rows[order[:count]])


@dataclass(frozen=True, slots=True)
class PromptBuilder:
    """The prompts of samples, as the service does with requests. ``items`` has a row for each item of the log.

    ``longest`` bounds the history that relevant events are searched in: the service reads no longer one.
    """

    catalogue: Catalogue
    log: InteractionLog
    items: RerankItems
    longest: int

    def of_rows(self, prompt: RerankPrompt, rows: IntArray) -> list[PromptParts]:
        """The prompt of the sample at each of these log rows."""
        index, candidates = self.log.by_user(), {}
        prompts = []
        for row in rows.tolist():
            user, item = int(self.log.user[row]), int(self.log.item[row])
            history = self.before(index.of_user(user), int(index.position[row]))
            vectors = self.items.vectors[self.log.item[history]]
            chosen = history[prompt.chosen(self.items.vectors[item], vectors)]
            if item not in candidates:
                candidates[item] = prompt.candidate_block(self.items.texts[item])
            profile = self.catalogue.users.get(self.log.user_ids[user], {})
            names = (self.items.names[at] for at in self.log.item[chosen].tolist())
            rated = list(map(Rated, names, self.log.value[chosen].tolist()))
            prompts.append(PromptParts(prompt.user_block(profile, rated), candidates[item]))
        return prompts

    def before(self, of_user: IntArray, position: int) -> IntArray:
        """Log rows of the last ``longest`` of the first ``position`` events of a user."""
        return of_user[max(0, position - self.longest) : position]


def items_of(
    catalogue: Catalogue,
    log: InteractionLog,
    texts: TextsConfig,
    max_chars: int,
    trained_rows: int,
    dim: int,
    encode: Callable[[Sequence[str]], FloatArray],
    projection: Path,
) -> RerankItems:
    """Names, texts and vectors of all items, in the order of ``log.item_ids``. ``encode`` makes vectors [n, width].

    Vectors are of the items' own texts: the encoder's, reduced by a principal component analysis of the items that the
    training period knows, and brought to unit length. ReLLa takes the mean hidden states of its 13 B model and 512
    components, and finds fewer to do as well (64: .7901 of .7927 AUC, .7057 of .7013 zero-shot). The projection stays
    at ``projection`` and is used again if it is there, since another one makes other vectors. Items without any text
    have zeros: they are similar to nothing.
    """
    features = [catalogue.items.get(item, {}) for item in log.item_ids]
    described = np.array([texts.describes(item) for item in features], np.bool_)
    item_texts = [str(texts.item_text(item)) for item in features]
    vectors = encode(item_texts)
    seen = described & (np.bincount(log.item[:trained_rows], minlength=len(features)) > 0)
    projected = _projected(vectors, seen, dim, projection)
    unit = projected / np.maximum(np.linalg.norm(projected, axis=1, keepdims=True), 1e-12) * described[:, None]
    return RerankItems.of(
        log.item_ids,
        [clean(str(texts.item_name(item)), max_chars) for item in features],
        [clean(text, max_chars) for text in item_texts],
        unit.astype(np.float32),
    )


def _projected(vectors: FloatArray, seen: BoolArray, dim: int, path: Path) -> FloatArray:
    """Fitted to the items that the training period knows; a catalogue too small to fit keeps its vectors."""
    if path.is_file():
        projection = Projection.load(path)
        if projection.components.shape == (dim, vectors.shape[1]):
            return projection.apply(vectors)
    try:
        fitted = Projection.fit(vectors[seen], dim, "items")
    except TooFewError:
        return vectors
    if fitted.rank < dim:
        return vectors
    fitted.save(path)
    return fitted.apply(vectors)


def canaries(
    prompts: PromptBuilder,
    prompt: RerankPrompt,
    settings: RerankingConfig,
    answers: Callable[[Sequence[PromptParts]], FloatArray],
) -> tuple[Canary, ...]:
    """Pairs of prompts about made-up users, as many as ``settings`` say, fewer where the model does not tell the two
    users apart. ``answers`` are probabilities of yes [n]; they are measured when a reranker is written.

    Their histories are drawn from the items that most people know, so that no user's history leaves the data. The first
    of a pair rated all of them high, the second the same items low; the candidates that stay are the likeliest of the
    first and the least likely of the second: an order that survives another implementation's rounding.
    """
    log = prompts.log
    frequent = np.argsort(-np.bincount(log.item, minlength=len(log.item_ids)), kind="stable")[:_FREQUENT]
    values = np.unique(log.value[log.observed])
    high, low = values[len(values) // 2 :], values[: max(1, len(values) // 2)]
    draw = np.random.default_rng([settings.seed, 11])
    asked: list[list[PromptParts]] = []
    for _ in range(settings.canaries):
        items = draw.permutation(frequent)
        rest = (
            items[prompt.history :][: settings.candidates]
            if len(items) > prompt.history
            else items[: settings.candidates]
        )
        for part in (high, low):
            rated = [Rated(prompts.items.names[at], float(draw.choice(part))) for at in items[: prompt.history]]
            asked.append([prompt.parts({}, rated, prompts.items.texts[at]) for at in rest])
    chances = answers([parts for pair in asked for parts in pair]).reshape(settings.canaries, 2, -1)
    selected = []
    for liked, disliked, chance in zip(asked[::2], asked[1::2], chances, strict=True):
        best, worst = int(chance[0].argmax()), int(chance[1].argmin())
        yes, no = float(chance[0, best]), float(chance[1, worst])
        if yes > no:
            selected.append(Canary(prompts=(liked[best], disliked[worst]), probabilities=(yes, no)))
    return tuple(selected)
