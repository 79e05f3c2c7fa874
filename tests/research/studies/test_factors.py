"""The report on latent factors: frozen quantisers on today's texts, a table for people, and its place in a page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer.testing

from models.contract.schema import KnowledgeSpec
from offline.data.catalogue import DataError
from offline.knowledge.autograph.produce import produce
from offline.knowledge.config import AutoGraphConfig, FittingConfig, NetworkConfig, QuantiserConfig
from offline.knowledge.inputs import ProducerInputs
from research.__main__ import app
from research.autograph.factors import Factor, QuantiserReport, Word
from research.cli import studies
from research.studies.factors import Factors, Named, report
from tests.offline.knowledge.fakes import EchoModel, inputs
from tests.synthetic import Synthetic, synthetic

DIM, TRAINED, USERS, ITEMS = 4, 360, 20, 16
CONFIG = Path(__file__).parents[3] / "configs" / "ml-100k.toml"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    source = synthetic(tmp_path_factory.mktemp("synthetic"), users=USERS, items=ITEMS, events=20)
    specs = tuple(KnowledgeSpec(name="autograph", side=side, dim=DIM) for side in ("user", "item"))
    codes = QuantiserConfig(size=3, hidden=8, dim=4, steps=5, batch=32)
    small = AutoGraphConfig(
        user_factors=codes,
        item_factors=codes.model_copy(update={"size": 8}),
        network=NetworkConfig(hidden=4, heads=2, dim=DIM, slices=1),
        fitting=FittingConfig(epochs=1, refit=False),
    )
    config = source.config.model_copy(
        update={
            "feature_schema": source.config.feature_schema.model_copy(update={"knowledge": specs}),
            "knowledge": source.config.knowledge.model_copy(update={"autograph": small}),
        }
    )
    return replace(source, config=config)


def inputs_of(data: Synthetic, folder: Path, model: EchoModel | None = None) -> ProducerInputs:
    return inputs(data.config, data.catalogue, data.log, folder, trained_rows=TRAINED, model=model)


def test_the_report_is_of_the_fitted_codes_and_todays_texts(data: Synthetic, tmp_path: Path) -> None:
    first = EchoModel()
    produced = produce(inputs_of(data, tmp_path, first))
    model = EchoModel(bad=lambda prompt: prompt == first.asked["items"][3])  # since the fit, one text went
    factors = report(inputs_of(data, tmp_path, model))
    assert produced.items is not None
    assert produced.items.codes is not None
    assert produced.users is not None
    assert produced.users.codes is not None
    unknown = [at for at, text in enumerate(inputs_of(data, tmp_path, model).texts.items.texts) if not text]
    assert unknown
    of_items = np.bincount(np.delete(produced.items.codes[:, 0], unknown)).tolist()
    assert factors.items.report.vectors == ITEMS - len(unknown)
    assert {factor.code: factor.members for factor in factors.items.factors} == {
        at: n for at, n in enumerate(of_items) if n
    }
    of_users = np.bincount(produced.users.codes[:, 0]).tolist()
    assert factors.users.report.vectors == USERS * 4
    assert {factor.code: factor.members for factor in factors.users.factors} == {
        at: n for at, n in enumerate(of_users) if n
    }
    assert factors.items.report.note.startswith("4 codes instead of 8")


def test_before_the_fit_it_says_what_to_run_and_asks_nothing(data: Synthetic, tmp_path: Path) -> None:
    model = EchoModel()
    with pytest.raises(DataError, match=r"not fitted yet.*run `refresh` or `knowledge` first"):
        report(inputs_of(data, tmp_path, model))
    assert model.asked == {}


def test_a_side_without_a_text_is_named(data: Synthetic, tmp_path: Path) -> None:
    produce(inputs_of(data, tmp_path))
    with pytest.raises(DataError, match="no text of items"):
        report(inputs_of(data, tmp_path, EchoModel(bad=lambda prompt: True)))


def named(count: int, note: str = "") -> Named:
    """The first of ``count`` factors is nameable and has 10 members, the others have 2."""
    words = (Word("space", 0.9, 0.01, True), Word("robots", 0.5, 0.0, True), Word("film", 0.2, 0.2, False))
    factors = [Factor(at, 2 if at else 10, words if not at else words[2:]) for at in range(count)]
    numbers = QuantiserReport(
        vectors=10 + 2 * (count - 1),
        size=256,
        usage=(0.5, 0.99, 1.0),
        perplexity=(100.4, 200.0, 250.0),
        distinct=1234,
        l1=0.03,
        cosine=0.7,
        pca_l1=0.02,
        pca_cosine=0.9,
        nameable=0.25,
        nameable_by_chance=0.01,
        note=note,
    )
    return Named(numbers, tuple(factors))


def test_the_tables_are_for_people() -> None:
    lines = Factors(items=named(26), users=named(6, "256 codes instead of 300")).markdown().splitlines()
    assert "| codes per level | 256 | 256 (256 codes instead of 300) |" in lines
    assert "| codes in use, by level | 50%, 99%, 100% | 50%, 99%, 100% |" in lines
    assert "| perplexity, by level | 100, 200, 250 | 100, 200, 250 |" in lines
    assert "| different code triples | 1,234 | 1,234 |" in lines
    assert "| reconstruction, mean cosine (PCA) | 0.700 (0.900) | 0.700 (0.900) |" in lines
    assert "| nameable factors (random groups) | 25% (1%) | 25% (1%) |" in lines
    assert "| texts in nameable factors | 17% | 50% |" in lines, "10 of 60 texts, 10 of 20"
    assert "Items: the 20 largest of 26 first-level factors in use." in lines
    assert "Users: the 6 largest of 6 first-level factors in use." in lines
    assert lines.count("| 0 | 10 | yes | **space** (90% : 1%), **robots** (50% : 0%), film |") == 2
    assert sum(line.startswith("| 19 | 2 | no |") for line in lines) == 1
    assert not any(line.startswith("| 20 |") for line in lines)


def test_the_command_puts_them_into_a_page(data: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def opened(*_: object) -> Iterator[ProducerInputs]:
        yield inputs_of(data, tmp_path)

    monkeypatch.setattr(studies, "data_of", lambda job: (data.catalogue, data.log))
    monkeypatch.setattr(studies, "inputs_of", opened)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- factors ml-100k -->\nold\n<!-- /factors ml-100k -->\nafter\n")
    call = ["factors", "--config", str(CONFIG), "--data-dir", str(tmp_path), "--write", str(page)]
    runner = typer.testing.CliRunner()
    assert isinstance(runner.invoke(app, call).exception, DataError), "nothing is fitted yet"
    assert "old" in page.read_text()
    produce(inputs_of(data, tmp_path))
    result = runner.invoke(app, call)
    assert result.exit_code == 0, result.output
    written = page.read_text()
    assert written.startswith("before\n<!-- factors ml-100k -->\n| | items | user versions |\n")
    assert written.endswith("|\n<!-- /factors ml-100k -->\nafter\n")
    assert result.output.strip() in written
