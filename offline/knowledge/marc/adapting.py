"""A job's language model, adapted to its training period: the model folder that ``knowledge.marc.model`` can name."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from offline.data.catalogue import DataError
from offline.knowledge.marc.adapt import AdaptationConfig, adapt
from offline.knowledge.marc.pairs import pairs_before
from offline.knowledge.sources import Sources
from offline.llm.weights import Weights


def adapt_model(sources: Sources, target: Path, adaptation: AdaptationConfig) -> int:
    """Adapt the model whose states MARC reads, and save it as ``target``; returns the number of pairs it learns from.

    A user is told by the newest partition that closed before a pair, where the published vector is the mean of all: one
    text per pair is what a step can run. Reads nothing after the training period. NotFoundedError if texts of it are
    still to come; DataError if ``target`` is there already, or the package peft is not.
    """
    if target.exists():
        raise DataError(f"{target} is there already")
    sources.need_training_texts()
    marc, log, versions, items = sources.config.marc, sources.log, sources.interests.versions, sources.interests.items
    every = np.ones(len(versions.texts), np.bool_)
    liked = log.value > sources.schema.liked_above
    pairs = pairs_before(
        sources.trained_rows, log.user, log.item, liked, versions.start, versions.since, every, items.known
    )
    pairs = pairs.at(~log.sampled[pairs.row])
    if not len(pairs):
        raise DataError(
            "there is nothing to learn from: no interaction after a closed partition in the training period"
        )
    source = Weights.find(marc.model).checkpoint(sources.checkpoints, adaptation.dtype)
    target.parent.mkdir(parents=True, exist_ok=True)
    of_users = versions.texts if marc.titles else versions.tastes
    try:
        adapt(source, target, adaptation, marc.compression, pairs, of_users, items.texts)
    except ModuleNotFoundError as error:
        raise DataError(f"adapting needs the extra: pip install 'lorank[lora]' ({error})") from error
    return len(pairs)
