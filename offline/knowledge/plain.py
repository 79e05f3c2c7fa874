"""The control: items' own texts through the encoder, no language model. LLM knowledge of items has to beat this."""

from __future__ import annotations

import numpy as np

from models.contract.schema import fingerprint
from offline.knowledge.prompts import plain_text
from offline.knowledge.sources import Sources, Wide, frozen_projections, space
from offline.knowledge.vectors import ItemVectors, Produced


def produce(sources: Sources) -> Produced:
    """Item vectors of the space "item/text"."""
    spec = sources.spec("text", "item")
    assert spec is not None
    features = [sources.catalogue.items.get(item, {}) for item in sources.log.item_ids]
    described = np.array([sources.vocabulary.describes(item) for item in features], np.bool_)
    texts = [plain_text(sources.vocabulary, features[at]) for at in np.flatnonzero(described)]
    components = {"text": fingerprint(sources.vocabulary.form), "encoder": sources.encoder}
    wide = sources.encode(texts)
    (projection,) = frozen_projections(sources.folder, [Wide(components, wide, spec.dim)])
    vectors = np.zeros((len(features), spec.dim), np.float32)
    vectors[described] = projection.apply(wide)
    components["projection"] = projection.digest
    of_texts = ItemVectors.of_texts(space(spec, sources.config.text.dtype, components), vectors, described)
    return Produced(items=of_texts)
