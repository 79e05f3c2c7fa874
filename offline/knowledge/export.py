"""Encoded texts and hidden states of a job, as the file that ``knowledge.shipped_vectors`` names."""

from __future__ import annotations

from pathlib import Path

from offline.data.catalogue import DataError
from offline.jobs.steps import Job
from offline.knowledge.encoder import TextEncoder, VectorStore
from offline.knowledge.marc.states import LanguageModelStates
from offline.knowledge.marc.store import StateStore, shipped_source
from offline.knowledge.shipped import read_shipped, write_shipped
from offline.llm.session import CHECKPOINTS


def export_vectors(job: Job, path: Path) -> int:
    """Write all that the job computed, and what it was shipped itself; returns the number of vectors. DataError if
    nothing was computed yet."""
    config = job.config.knowledge
    encoder = TextEncoder(config.encoder, config.encoder_tokens)
    reader = LanguageModelStates(job.llm / CHECKPOINTS, config.marc.model, config.marc.max_tokens)
    source = shipped_source(reader.id, config.marc.depth)
    computed = {
        encoder.id: VectorStore(job.knowledge / "encoded.npz", encoder).stored(),
        source: StateStore(job.knowledge / "marc" / "states", reader).stored(config.marc.depth),
    }
    vectors = {name: read_shipped(config.shipped_vectors, name) | of_source for name, of_source in computed.items()}
    if not all(vectors.values()):
        raise DataError(f"there are no vectors in {job.knowledge}: run `refresh` or `knowledge` first")
    return write_shipped(path, vectors)
