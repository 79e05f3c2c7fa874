"""MARC: the language model's own states of the texts it wrote, compressed for the CTR task.

Texts of items and the tastes of closed partitions go through the language model once; the compression is founded on
interactions of the training period and then frozen. Only the compressed vector is published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.contract.knowledge import FloatArray
from models.contract.schema import fingerprint
from offline.data.catalogue import DataError
from offline.data.log import InteractionLog
from offline.engine.vectors import states_on
from offline.knowledge.liber.partitions import Rows
from offline.knowledge.marc.frozen import Compressor
from offline.knowledge.sources import Sources, space, text_form
from offline.knowledge.vectors import ItemVectors, Produced, UserVectors

if TYPE_CHECKING:
    from offline.knowledge.marc.pairs import Pairs


@dataclass(frozen=True, slots=True)
class States:
    """Hidden states of all texts: ``items`` [items, D], zeros where ``known`` [items] is false, and ``users`` [V, D].

    A version's row is the mean of its user's texts so far; ``start`` and ``since`` are as in ``UserVectors``. ``id``
    names model, layer and texts.
    """

    items: FloatArray
    known: npt.NDArray[np.bool_]
    users: FloatArray
    start: Rows
    since: Rows
    id: Mapping[str, str]

    def pairs(self, log: InteractionLog, trained_rows: int, liked_above: float) -> Pairs:
        """What a compression is trained on: interactions of the training period that people had."""
        from offline.knowledge.marc.pairs import pairs_before

        every = np.ones(len(self.users), np.bool_)
        liked = log.value > liked_above
        found = pairs_before(trained_rows, log.user, log.item, liked, self.start, self.since, every, self.known)
        return found.at(~log.sampled[found.row])


def read_states(sources: Sources) -> States:
    """Run the language model over the texts that it has not read yet, where the engine runs it."""
    from offline.knowledge.marc.pairs import so_far
    from offline.knowledge.marc.states import LanguageModelStates
    from offline.knowledge.marc.store import StateStore

    config, interests = sources.config.marc, sources.interests
    # absolute: a worker of the engine may start in another folder
    model = None if config.model is None else config.model.absolute()
    reader = states_on(
        sources.engine, partial(LanguageModelStates, sources.checkpoints.absolute(), model, config.max_tokens)
    )
    store = StateStore(sources.folder / "states", reader)
    versions, known = interests.versions, interests.items.known
    of_users = versions.texts if config.titles else versions.tastes
    texts = [interests.items.texts[at] for at in np.flatnonzero(known)] + list(of_users)
    read = store.states(texts, [config.depth])[config.depth]
    items = np.zeros((len(known), read.shape[1]), np.float32)
    items[known] = read[: int(known.sum())]
    users = so_far(read[int(known.sum()) :], versions.start)
    made_of = {
        "llm": sources.llm,
        "prompt": text_form(sources),
        "states": f"{reader.id}/{config.depth}",
        "users": f"mean so far, {'with' if config.titles else 'without'} titles",
    }
    return States(items, known, users, versions.start, versions.since, made_of)


def produce(sources: Sources) -> Produced:
    """Vectors of the spaces "user/marc" and "item/marc"."""
    user, item = sources.spec("marc", "user"), sources.spec("marc", "item")
    if user is None or item is None or user.dim != item.dim:
        raise DataError("marc needs a space of users and one of items, of the same dim")
    if user.dim % 8:
        raise DataError(
            f"marc needs a dim that is a multiple of 8, not {user.dim}: its matching network reads tokens of 8"
        )
    config, states = sources.config.marc, read_states(sources)
    components = {
        **states.id,
        "dim": str(user.dim),
        "compression": fingerprint(config.compression.model_dump(mode="json")),
    }
    compressor = _founded(sources, components, states)
    components["compressor"] = compressor.digest
    vectors = np.zeros((len(states.known), item.dim), np.float32)
    vectors[states.known] = compressor.compress(states.items[states.known], "item")
    of_users = compressor.compress(states.users, "user")
    return Produced(
        users=UserVectors(space(user, config.dtype, components), of_users, states.start, states.since),
        items=ItemVectors.of_texts(space(item, config.dtype, components), vectors, states.known),
    )


def _founded(sources: Sources, components: dict[str, str], states: States) -> Compressor:
    """The compressor founded under these components, or a new one, fitted on the training period."""
    path = sources.folder / f"compressor-{fingerprint(components)}.npz"
    if path.is_file():
        return Compressor.load(path)
    sources.need_training_texts()
    from offline.knowledge.marc.train import fit_compression

    pairs = states.pairs(sources.log, sources.trained_rows, sources.schema.liked_above)
    config = sources.config.marc.compression.model_copy(update={"dim": int(components["dim"])})
    fitted = fit_compression(config, pairs, states.users, states.items)
    print(
        f"  marc: held-out AUC {fitted.held_out_auc:.4f} after {fitted.epochs} epochs of {len(pairs)} pairs", flush=True
    )
    fitted.compressor.save(path)
    return fitted.compressor
