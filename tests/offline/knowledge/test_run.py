"""A run over the producers: the texts that are waited for, and whether anything is left for the next run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from offline.knowledge import run as producers
from offline.knowledge.errors import NotFittedError, TooFewError
from offline.knowledge.inputs import ProducerInputs, space
from offline.knowledge.knowledge_texts import Domain, KnowledgeTexts
from offline.knowledge.run import Attempt, KnowledgeRun
from offline.knowledge.vectors import ItemVectors, Lineage, Produced
from offline.llm.protocol import Prompt
from offline.store import addresses, owner_mark, owner_table
from tests.offline.knowledge.fakes import EchoModel, HashEncoder
from tests.synthetic import Synthetic, synthetic

TEXTS = {"liber": ("summaries", "shifts"), "marc": ("items", "summaries")}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Synthetic:
    """Twelve users with 17 interactions: 36 closed partitions, 24 with a predecessor; 20 items."""
    monkeypatch.setattr(producers, "TextEncoder", lambda name, tokens, precision: HashEncoder())
    return synthetic(tmp_path / "unused", users=12, items=20, events=17)


def work(data: Synthetic, folder: Path, model: EchoModel) -> KnowledgeRun:
    config = data.config
    domain = Domain(config.knowledge, config.feature_schema, config.data.texts, data.catalogue, data.log)
    return KnowledgeRun(domain, 120, folder, folder, model, "echo")


def shifts(prompt: Prompt) -> bool:
    return prompt.messages[-1][1].startswith("Some time ago")


def items_alone(inputs: ProducerInputs) -> Produced:
    """Reads what MARC reads."""
    spec = inputs.spec("marc", "item")
    assert spec is not None
    known = inputs.texts.items.known & inputs.texts.summaries.known.any()
    return Produced(
        items=ItemVectors.of_texts(space(spec, "int8", {}), np.ones((len(known), spec.dim), np.float32), known)
    )


def test_what_is_made_is_saved_with_the_numbers_that_it_uses(data: Synthetic, tmp_path: Path) -> None:
    attempt = work(data, tmp_path, EchoModel()).produce("liber", TEXTS["liber"])
    assert (attempt.state, attempt.absent, attempt.waits) == ("made", 0, "")
    saved = Produced.load(tmp_path / "liber")
    assert (saved.lineage, saved.partial) == (Lineage.of(data.log), False)


def test_what_is_encoded_of_partitions_may_be_longer(
    data: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders: dict[int, HashEncoder] = {}

    def encoder_of(name: str, tokens: int, precision: str) -> HashEncoder:
        return encoders.setdefault(tokens, HashEncoder(f"cut at {tokens}"))

    monkeypatch.setattr(producers, "TextEncoder", encoder_of)
    usual = work(data, tmp_path / "usual", EchoModel()).produce("liber", TEXTS["liber"]).produced
    liber = data.config.knowledge.liber.model_copy(update={"encoder_tokens": 256})
    knowledge = data.config.knowledge.model_copy(update={"liber": liber})
    longer = replace(data, config=data.config.model_copy(update={"knowledge": knowledge}))
    attempt = work(longer, tmp_path, EchoModel()).produce("liber", TEXTS["liber"])
    assert usual is not None
    assert attempt.produced is not None
    names = [produced.spaces[0].components["encoder"] for produced in (usual, attempt.produced)]
    assert names == ["cut at 128/mean/16", "cut at 256/mean/16"]
    assert encoders[256].asked == encoders[128].asked, "the second run encoded nothing with the usual window"
    with owner_table(tmp_path / producers.OWNERS) as owners:
        keys = owners.keys(owner_mark("u3"))
    mine = [text for text, mark in longer_texts(longer) if mark == owner_mark("u3")]
    assert set(addresses(mine, encoders[256].id)) <= set(keys)


def longer_texts(data: Synthetic) -> list[tuple[str, str]]:
    config = data.config
    domain = Domain(config.knowledge, config.feature_schema, config.data.texts, data.catalogue, data.log)
    return KnowledgeTexts(domain, EchoModel()).owned_texts()


def test_absent_texts_are_counted_for_those_who_read_them(
    data: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert work(data, tmp_path, EchoModel()).produce("liber", TEXTS["liber"]).state == "made"  # founds the space
    run = work(data, tmp_path, EchoModel(absent=shifts))
    attempt = run.produce("liber", TEXTS["liber"])
    assert (attempt.state, attempt.absent) == ("partial", 24)
    assert Produced.load(tmp_path / "liber").partial
    monkeypatch.setattr(producers, "producer", lambda name: items_alone)
    attempt = run.produce("marc", TEXTS["marc"])
    assert (attempt.state, attempt.absent) == ("made", 0)
    assert not Produced.load(tmp_path / "marc").partial


def test_a_text_that_is_absent_for_two_reasons_counts_once(
    data: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a summary there is no shift to ask for."""
    assert work(data, tmp_path, EchoModel()).produce("liber", TEXTS["liber"]).state == "made"
    asked = EchoModel()
    work(data, tmp_path, asked).produce("liber", TEXTS["liber"])
    first_of_last_user, shift = asked.asked["interest summaries"][33], asked.asked["interest shifts"][0]
    model = EchoModel(absent=lambda prompt: prompt in (first_of_last_user, shift))
    assert work(data, tmp_path, model).produce("liber", TEXTS["liber"]).absent == 2
    monkeypatch.setattr(producers, "producer", lambda name: items_alone)
    item = EchoModel(
        absent=lambda prompt: prompt.messages[-1][1].startswith("Describe the") or prompt == first_of_last_user
    )
    assert work(data, tmp_path, item).produce("marc", TEXTS["marc"]).absent == 21


def test_a_producer_that_waits_is_asked_nothing_more(data: Synthetic, tmp_path: Path) -> None:
    summaries: list[Prompt] = []

    def every_second(prompt: Prompt) -> bool:
        summaries.append(prompt)
        return len(summaries) % 2 == 0

    model = EchoModel(absent=every_second)
    attempt = work(data, tmp_path, model).produce("liber", TEXTS["liber"])
    assert attempt.state == "waits"
    assert attempt.absent == 18
    assert "texts of the training period are still missing" in attempt.waits
    assert not attempt.too_little
    assert list(model.asked) == ["interest summaries"]
    assert not (tmp_path / "liber" / "vectors.npz").exists()


@pytest.mark.parametrize("error", [NotFittedError, TooFewError])
def test_a_producer_waits_for_texts_or_for_the_log_to_grow(
    data: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[NotFittedError | TooFewError]
) -> None:
    def produce(inputs: ProducerInputs) -> Produced:
        raise error("12 of 64")

    monkeypatch.setattr(producers, "producer", lambda name: produce)
    attempt = work(data, tmp_path, EchoModel()).produce("liber", TEXTS["liber"])
    waits = "liber needs 12 of 64" if error is TooFewError else "12 of 64"
    assert attempt == Attempt(None, 0, waits, error is TooFewError)
