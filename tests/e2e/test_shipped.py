"""Answers and vectors that come with the configuration: all that a first refresh needs, and what this code computes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.contract.arrays import FloatArray
from offline.jobs.llm_requests import data_of, inputs_of
from offline.knowledge.encoder import TextEncoder, VectorStore
from offline.knowledge.marc.states import LanguageModelStates
from offline.knowledge.marc.store import StateStore, shipped_source
from offline.knowledge.shipped import read_shipped
from offline.llm.arithmetic import SAME_SPACE_COSINE
from tests.conftest import Installation


def test_the_shipped_answers_are_those_of_this_code(first_ledger: dict[str, Any]) -> None:
    assert first_ledger["paid"] == 0
    assert first_ledger["cache_hits"] == first_ledger["prompts"] - first_ledger["duplicates"] > 6000


@pytest.fixture(scope="module")
def sample_texts(installation: Installation) -> list[str]:
    """Some texts of items and of versions of users."""
    job = installation.job
    with inputs_of(job, *data_of(job), "marc") as inputs:
        texts = [text for text in inputs.texts.items.texts if text][::150]
        texts += inputs.texts.versions.texts[::500]
    assert len(texts) > 15
    return texts


def test_the_shipped_texts_are_all_that_is_needed_and_what_this_machine_would_encode(
    installation: Installation, sample_texts: list[str], tmp_path: Path
) -> None:
    job, knowledge = installation.job, installation.job.config.knowledge
    encoder = TextEncoder(knowledge.encoder, knowledge.encoder_tokens, "float32")
    own = VectorStore(job.knowledge / "encoded.npz", encoder).read()
    assert not own.keys() & read_shipped(knowledge.shipped_vectors, encoder.id).keys()
    assert len(own) < 50, "only what other tests fed back"
    shipped = VectorStore(tmp_path / "encoded.npz", encoder, knowledge.shipped_vectors).vectors(sample_texts)
    assert not (tmp_path / "encoded.npz").exists(), "every one of them is shipped"
    assert cosines(shipped, encoder.encode(sample_texts)).min() > SAME_SPACE_COSINE


def test_the_shipped_states_are_all_that_is_needed_and_what_this_machine_would_compute(
    installation: Installation, sample_texts: list[str], tmp_path: Path
) -> None:
    job, marc = installation.job, installation.job.config.knowledge.marc
    vectors = installation.job.config.knowledge.shipped_vectors
    reader = LanguageModelStates(job.checkpoints, marc.model, marc.max_tokens, precision="float32")
    own = StateStore(job.knowledge / "marc" / "states", reader).read(marc.depth)
    assert not own.keys() & read_shipped(vectors, shipped_source(reader.id, marc.depth)).keys()
    assert len(own) < 50, "only what other tests fed back"
    store = StateStore(tmp_path / "states", reader, vectors)
    shipped = store.states(sample_texts, [marc.depth])[marc.depth]
    assert not store.read(marc.depth), "every one of them is shipped"
    computed = reader.read(sample_texts, [marc.depth])[marc.depth]
    assert cosines(shipped, computed).min() > SAME_SPACE_COSINE


@pytest.mark.slow(
    small="tests/e2e/test_shipped.py::test_the_shipped_states_are_all_that_is_needed_and_what_this_machine_would_compute"
)
def test_a_cold_refresh_computes_what_is_shipped(installation: Installation, tmp_path: Path) -> None:
    """All texts through the encoder and, without titles, through the language model: up to 20 minutes."""
    text, changed = re.subn(r"shipped_vectors = .*\n", "", installation.config.read_text())
    assert changed == 1
    text = text.replace(str(installation.data_dir.parent / "ml-100k"), str(tmp_path / "cold"))
    text = text.replace(
        "[knowledge.marc.compression]", "[knowledge.marc]\ntitles = false\n\n[knowledge.marc.compression]"
    )
    (tmp_path / "cold.toml").write_text(text)
    cold = Installation(tmp_path / "data", tmp_path / "cold.toml")
    entry = json.loads(cold.offline("knowledge").stdout.splitlines()[-1])
    assert (entry["status"], entry["llm"]["paid"]) == ("done", 0)
    assert {producer["state"] for producer in entry["producers"].values()} == {"made"}
    knowledge = cold.job.config.knowledge
    encoder = TextEncoder(knowledge.encoder, knowledge.encoder_tokens)
    computed = VectorStore(cold.job.knowledge / "encoded.npz", encoder).read()
    shipped = read_shipped(installation.job.config.knowledge.shipped_vectors, encoder.id)
    assert computed.keys() == shipped.keys()
    keys = sorted(shipped)
    tables = [np.stack([vectors[key] for key in keys]).astype(np.float32) for vectors in (computed, shipped)]
    assert cosines(*tables).min() > SAME_SPACE_COSINE


def cosines(left: FloatArray, right: FloatArray) -> FloatArray:
    """[n] of the rows."""
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.asarray((left * right).sum(1) / lengths, np.float32)
