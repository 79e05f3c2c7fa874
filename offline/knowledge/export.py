"""Encoded texts and hidden states of a job, as the file that ``knowledge.shipped_vectors`` names."""

from __future__ import annotations

from pathlib import Path

from offline.data.catalogue import DataError
from offline.knowledge.config import KnowledgeConfig
from offline.knowledge.encoder import TextEncoder, VectorStore
from offline.knowledge.marc.states import LanguageModelStates
from offline.knowledge.marc.store import StateStore, shipped_source
from offline.knowledge.shipped import read_shipped, write_shipped


def export_vectors(config: KnowledgeConfig, folder: Path, checkpoints: Path, path: Path) -> int:
    """Write to ``path`` all vectors in a job's knowledge ``folder``, and those that it was shipped itself.

    Returns their number. DataError if nothing was computed yet. ``checkpoints`` has converted language models.
    """
    encoder = TextEncoder(config.encoder, config.encoder_tokens)
    reader = LanguageModelStates(checkpoints, config.marc.model, config.marc.max_tokens)
    source = shipped_source(reader.id, config.marc.depth)
    computed = {
        encoder.id: VectorStore(folder / "encoded.npz", encoder).read(),
        source: StateStore(folder / "marc" / "states", reader).read(config.marc.depth),
    }
    vectors = {name: read_shipped(config.shipped_vectors, name) | of_source for name, of_source in computed.items()}
    if not all(vectors.values()):
        raise DataError(f"there are no vectors in {folder}: run `refresh` or `knowledge` first")
    return write_shipped(path, vectors)
