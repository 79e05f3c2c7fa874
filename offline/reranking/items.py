"""Names, texts and vectors of all items of a log, as prompts need them.

Vectors are of the items' own texts: the encoder's, reduced by a principal component analysis of the items that the
training period knows, and brought to unit length. ReLLa takes the mean hidden states of its 13 B model and 512
components, and finds fewer to do as well (64: .7901 of .7927 AUC, .7057 of .7013 zero-shot).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from models.contract.arrays import FloatArray
from models.contract.prompts import clean
from models.contract.rerank_items import RerankItems
from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog
from offline.data.texts import TextsConfig
from offline.knowledge.errors import TooFewError
from offline.knowledge.projection import Projection

Encode = Callable[[Sequence[str]], FloatArray]
"""Texts -> vectors [n, width]."""


def items_of(
    catalogue: Catalogue,
    log: InteractionLog,
    texts: TextsConfig,
    max_chars: int,
    trained_rows: int,
    dim: int,
    encode: Encode,
    projection: Path,
) -> RerankItems:
    """Items in the order of ``log.item_ids``. The projection is kept at ``projection`` and used again if it is there,
    since another one makes other vectors. Items without any text have zeros: they are similar to nothing."""
    features = [catalogue.items.get(item, {}) for item in log.item_ids]
    described = np.array([texts.describes(item) for item in features], np.bool_)
    item_texts = [str(texts.item_text(item)) for item in features]
    vectors = encode(item_texts)
    seen = described & (np.bincount(log.item[:trained_rows], minlength=len(features)) > 0)
    unit = _unit(_projected(vectors, seen, dim, projection)) * described[:, None]
    return RerankItems.of(
        log.item_ids,
        [clean(str(texts.item_name(item)), max_chars) for item in features],
        [clean(text, max_chars) for text in item_texts],
        unit.astype(np.float32),
    )


def _projected(
    vectors: FloatArray, seen: np.ndarray[tuple[int], np.dtype[np.bool_]], dim: int, path: Path
) -> FloatArray:
    """Fitted to the items that the training period knows; a catalogue too small to fit keeps its vectors."""
    if path.is_file():
        projection = Projection.load(path)
        if projection.components.shape == (dim, vectors.shape[1]):
            return projection.apply(vectors)
    try:
        fitted = Projection.fit(vectors[seen], dim, "items")
    except TooFewError:
        return vectors
    fitted.save(path)
    return fitted.apply(vectors)


def _unit(vectors: FloatArray) -> FloatArray:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), np.float32)
