"""AutoGraph: texts of items and partitions -> latent factors -> graph -> vectors and codes of users and items.

Fitted once on the training period; afterwards new and changed users and items are assigned with the frozen parts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.contract.schema import fingerprint
from offline.data.catalogue import DataError
from offline.knowledge.inputs import ProducerInputs, space, text_form
from offline.knowledge.vectors import ItemVectors, Produced, UserVectors

if TYPE_CHECKING:
    from offline.knowledge.autograph.assign import AutoGraph
    from offline.knowledge.autograph.graph import Evidence


def produce(inputs: ProducerInputs) -> Produced:
    """Vectors and codes of the spaces "user/autograph" and "item/autograph"."""
    user, item = inputs.spec("autograph", "user"), inputs.spec("autograph", "item")
    config = inputs.config.autograph
    if user is None or item is None or not user.dim == item.dim == config.network.dim:
        raise DataError(f"autograph needs a space of users and one of items, both of dim {config.network.dim}")
    from offline.knowledge.autograph.assign import AutoGraph

    components, path = _space_and_file(inputs)
    if not path.is_file():
        # before anything is encoded: texts that come later would be encoded in other batches, which round differently
        inputs.need_training_texts()
    evidence = evidence_of(inputs)
    if path.is_file():
        frozen = AutoGraph.load(path)
    else:
        from offline.knowledge.autograph.train import fit_frozen

        frozen = fit_frozen(evidence, inputs.trained_rows, config.frozen_parts)
        frozen.save(path)
        for note in frozen.notes:
            print(f"  autograph: {note}", flush=True)
    components["frozen"] = frozen.digest
    assigned, versions = frozen.assign(evidence), evidence.versions
    known = evidence.known_items.copy()  # by its text, or by who liked it at the fit
    known[: len(frozen.with_id)] |= frozen.with_id
    return Produced(
        users=UserVectors(
            space(user, config.dtype, components),
            assigned.version_vectors(),
            versions.start,
            versions.closed_at,
            assigned.version_codes,
        ),
        items=ItemVectors(
            space(item, config.dtype, components), assigned.item_vectors(), known, frozen.from_row, assigned.item_codes
        ),
    )


def fitted(inputs: ProducerInputs) -> AutoGraph:
    """The frozen parts of the space that these settings name. DataError if they are still to be fitted."""
    from offline.knowledge.autograph.assign import AutoGraph

    _, path = _space_and_file(inputs)
    if not path.is_file():
        raise DataError(f"AutoGraph is not fitted yet for these settings ({path}): run `refresh` or `knowledge` first")
    return AutoGraph.load(path)


def _space_and_file(inputs: ProducerInputs) -> tuple[dict[str, str], Path]:
    """The components of the space that these settings name, and the file of its frozen parts."""
    components = {
        "llm": inputs.llm,
        "prompt": text_form(inputs),
        "encoder": inputs.encoder,
        "founding": fingerprint(inputs.config.autograph.frozen_parts.model_dump(mode="json")),
    }
    return components, inputs.folder / f"autograph-{fingerprint(components)}.npz"


def evidence_of(inputs: ProducerInputs) -> Evidence:
    """All texts as vectors, and the interactions that people had: sampled negatives are no edges."""
    from offline.knowledge.autograph.graph import Evidence, Versions

    items, versions, log = inputs.texts.items, inputs.texts.versions, inputs.log
    wide = inputs.encode([text for text in (*items.texts, *versions.texts) if text])
    known = items.known
    vectors = np.zeros((len(known), wide.shape[1]), np.float32)
    vectors[known] = wide[: int(known.sum())]
    of_users = Versions(wide[int(known.sum()) :], versions.start, versions.since, np.ones(len(versions), np.bool_))
    liked = (log.value > inputs.schema.liked_above) & ~log.sampled
    return Evidence(vectors, known, of_users, log.user, log.item, liked)
