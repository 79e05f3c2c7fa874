"""MARC: the language model's own states of the texts it wrote, compressed for the CTR task.

Texts of items and the tastes of closed partitions go through the language model once; the compression is fitted on
interactions of the training period and then frozen. Only the compressed vector is published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from models.contract.arrays import BoolArray, FloatArray, IntArray
from models.contract.schema import fingerprint
from offline.data.catalogue import DataError
from offline.data.log import InteractionLog
from offline.knowledge.inputs import ProducerInputs, space, text_form
from offline.knowledge.marc import states
from offline.knowledge.marc.frozen import Compressor
from offline.knowledge.marc.pairs import Pairs, so_far, training_pairs
from offline.knowledge.marc.states import EngineStates, StateReader
from offline.knowledge.marc.store import StateStore
from offline.knowledge.vectors import ItemVectors, Produced, UserVectors


@dataclass(frozen=True, slots=True)
class States:
    """Hidden states of all texts: ``items`` [items, D], zeros where ``known`` [items] is false, and ``users`` [V, D].

    A version's row is the mean of its user's texts so far; ``start`` and ``since`` are as in ``UserVectors``.
    """

    items: FloatArray
    known: BoolArray
    users: FloatArray
    start: IntArray
    since: IntArray

    def pairs(self, log: InteractionLog, trained_rows: int, liked_above: float) -> Pairs:
        """The pairs that a compression is trained on."""
        return training_pairs(log, trained_rows, liked_above, self.start, self.since, self.known)


def states_at(inputs: ProducerInputs, depths: Sequence[float]) -> dict[float, States]:
    """States by depth. Runs the language model over the texts that it has not read yet, where the engine runs it.

    NotFittedError unless all texts of the training period are there, since those that come later are read in other
    batches.
    """
    inputs.need_training_texts()
    return _read(inputs, _reader(inputs), depths)


def _read(inputs: ProducerInputs, reader: StateReader, depths: Sequence[float]) -> dict[float, States]:
    config = inputs.config.marc
    store = StateStore(inputs.folder / "states", reader, inputs.shipped)
    versions, of_items = inputs.texts.versions, inputs.texts.items
    known, of_users = of_items.known, versions.texts if config.titles else versions.tastes
    texts = [of_items.texts[at] for at in np.flatnonzero(known)] + list(of_users)
    by_depth: dict[float, States] = {}
    for depth, read in store.states(texts, depths).items():
        items = np.zeros((len(known), read.shape[1]), np.float32)
        items[known] = read[: int(known.sum())]
        users = so_far(read[int(known.sum()) :], versions.start)
        by_depth[depth] = States(items, known, users, versions.start, versions.since)
    return by_depth


def _reader(inputs: ProducerInputs) -> StateReader:
    """The language model where the engine runs it, not loaded yet."""
    config = inputs.config.marc
    # absolute: a worker of the engine may start in another folder
    model = None if config.model is None else config.model.absolute()
    open_reader = partial(
        states.LanguageModelStates,
        inputs.checkpoints.absolute(),
        model,
        config.max_tokens,
        precision=inputs.precision,
    )
    return open_reader() if inputs.engine is None else EngineStates(inputs.engine, open_reader)


def produce(inputs: ProducerInputs) -> Produced:
    """Vectors of the spaces "user/marc" and "item/marc"."""
    user, item = inputs.spec("marc", "user"), inputs.spec("marc", "item")
    if user is None or item is None or user.dim != item.dim:
        raise DataError("marc needs a space of users and one of items, of the same dim")
    if user.dim % 8:
        raise DataError(
            f"marc needs a dim that is a multiple of 8, not {user.dim}: its matching network reads tokens of 8"
        )
    config, reader = inputs.config.marc, _reader(inputs)
    components = {
        "llm": inputs.llm,
        "prompt": text_form(inputs),
        "states": f"{reader.id}/{config.depth}",
        "users": f"mean so far, {'with' if config.titles else 'without'} titles",
        "dim": str(user.dim),
        "compression": fingerprint(config.compression.model_dump(mode="json")),
    }
    path = inputs.folder / f"compressor-{fingerprint(components)}.npz"
    if not path.is_file():
        # before anything is read: texts that come later would be read in other batches, which round differently
        inputs.need_training_texts()
    read = _read(inputs, reader, [config.depth])[config.depth]
    compressor = Compressor.load(path) if path.is_file() else _fit_frozen(inputs, read, user.dim, path)
    components["compressor"] = compressor.digest
    vectors = np.zeros((len(read.known), item.dim), np.float32)
    vectors[read.known] = compressor.compress(read.items[read.known], "item")
    of_users = compressor.compress(read.users, "user")
    return Produced(
        users=UserVectors(space(user, config.dtype, components), of_users, read.start, read.since),
        items=ItemVectors.of_texts(space(item, config.dtype, components), vectors, read.known),
    )


def _fit_frozen(inputs: ProducerInputs, read: States, dim: int, path: Path) -> Compressor:
    """A new compressor, fitted on the training period and kept."""
    from offline.knowledge.marc.train import fit_compression

    pairs = read.pairs(inputs.log, inputs.trained_rows, inputs.schema.liked_above)
    config = inputs.config.marc.compression.model_copy(update={"dim": dim})
    fitted = fit_compression(config, pairs, read.users, read.items)
    print(
        f"  marc: held-out AUC {fitted.held_out_auc:.4f} after {fitted.epochs} epochs of {len(pairs)} pairs", flush=True
    )
    fitted.compressor.save(path)
    return fitted.compressor
