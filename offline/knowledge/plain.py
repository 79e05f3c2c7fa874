"""The control: items' own texts through the encoder, no language model. LLM knowledge of items has to beat this."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.contract.schema import fingerprint
from offline.knowledge.inputs import ProducerInputs, Wide, in_both_spaces, projection_components, space
from offline.knowledge.projection import Projection
from offline.knowledge.prompts import plain_text
from offline.knowledge.vectors import ItemVectors, Produced


def produce(inputs: ProducerInputs) -> Produced:
    """Item vectors of the space "item/text"."""
    spec = inputs.spec("text", "item")
    assert spec is not None
    features = [inputs.catalogue.items.get(item, {}) for item in inputs.log.item_ids]
    described = np.array([inputs.vocabulary.describes(item) for item in features], np.bool_)
    texts = [plain_text(inputs.vocabulary, features[at]) for at in np.flatnonzero(described)]
    components = {"text": fingerprint(inputs.vocabulary.form), "encoder": inputs.encoder}
    wide = inputs.encode(texts)
    parts = [Wide(components, wide, spec.dim)]

    def projected(projections: Sequence[Projection]) -> Produced:
        vectors = np.zeros((len(features), spec.dim), np.float32)
        vectors[described] = projections[0].apply(wide)
        named = space(spec, inputs.config.text.dtype, components | projection_components(projections))
        return Produced(items=ItemVectors.of_texts(named, vectors, described))

    return in_both_spaces(inputs.folder, parts, projected)
