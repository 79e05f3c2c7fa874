"""A job's language model, adapted to its training period: the model folder that ``knowledge.marc.model`` can name."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from offline.data.catalogue import DataError
from offline.knowledge.marc.adapt import AdaptationConfig, adapt
from offline.knowledge.marc.produce import training_pairs
from offline.knowledge.sources import Sources
from offline.llm.weights import Weights


def adapt_model(sources: Sources, target: Path, adaptation: AdaptationConfig) -> int:
    """Adapt the model whose states MARC reads, and save it as ``target``; returns the number of pairs it learns from.

    A user is told by the newest partition that closed before a pair, where the published vector is the mean of all: one
    text per pair is what a step can run. Reads nothing after the training period. NotFittedError if texts of it are
    still to come; DataError if ``target`` is there already, the package peft is not, or the model cannot be adapted.
    """
    if target.exists():
        raise DataError(f"{target} is there already")
    if importlib.util.find_spec("peft") is None:
        raise DataError("adapting needs the extra: pip install 'lorank[lora]'")
    sources.need_training_texts()
    marc, versions, items = sources.config.marc, sources.texts.versions, sources.texts.items
    pairs = training_pairs(
        sources.log, sources.trained_rows, sources.schema.liked_above, versions.start, versions.since, items.known
    )
    if not len(pairs):
        raise DataError(
            "there is nothing to learn from: no interaction after a closed partition in the training period"
        )
    source = Weights.find(marc.model).checkpoint(sources.checkpoints)
    target.parent.mkdir(parents=True, exist_ok=True)
    of_users = versions.texts if marc.titles else versions.tastes
    try:
        adapt(source, target, adaptation, marc.compression, pairs, of_users, items.texts)
    except ValueError as error:
        raise DataError(f"the model at {source} cannot be adapted: {error}") from error
    return len(pairs)
