"""The control: items' own texts through the encoder, no language model. LLM knowledge of items has to beat this."""

from __future__ import annotations

import numpy as np

from models.contract.schema import fingerprint
from offline.knowledge.inputs import ProducerInputs, Wide, frozen_projections, projection_components, space
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
    (projection,) = frozen_projections(inputs.folder, [Wide(components, wide, spec.dim)])
    vectors = np.zeros((len(features), spec.dim), np.float32)
    vectors[described] = projection.apply(wide)
    components |= projection_components([projection])
    of_texts = ItemVectors.of_texts(space(spec, inputs.config.text.dtype, components), vectors, described)
    return Produced(items=of_texts)
