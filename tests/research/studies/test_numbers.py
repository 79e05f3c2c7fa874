"""The study of numbers: a planted opinion is found, a preferred letter shows, and later periods are not looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from offline.data.catalogue import Catalogue, DataError
from offline.jobs.steps import Job
from offline.llm.choices import ChoiceAnswer
from offline.llm.protocol import Prompt
from offline.training.samples import split_samples
from research.studies.numbers import Known, ask_numbers
from tests.offline.llm.fakes import FakeBackend
from tests.synthetic import Synthetic, synthetic


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return synthetic(tmp_path_factory.mktemp("synthetic"), users=100, items=14, events=40)


def test_a_planted_opinion_and_a_preferred_letter_are_seen(
    data: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    until = split_samples(data.config.samples, data.log).trained_rows
    known = Known.of(data.log, until)
    numbers = {item: at for at, item in enumerate(data.log.item_ids)}
    titles = {f'"{features["title"]}"': numbers[item] for item, features in data.catalogue.items.items()}
    good = np.argsort(np.argsort(known.value)) / len(known.value)

    def reply(prompt: Prompt) -> str:
        question = prompt.messages[-1][1]
        if "critics" not in question:  # D, whatever it means
            return ChoiceAnswer((0.0, 0.0, 0.1, 0.4), 0.02).text(prompt.choices)
        (item,) = [at for title, at in titles.items() if title in prompt.messages[0][1]]
        high = 0.9 * good[item]
        ends = (0.9 - high, 0.0, 0.0, high)
        return ChoiceAnswer(ends if "A: very bad" in question else ends[::-1]).text(prompt.choices)

    backend = FakeBackend(reply=reply)
    monkeypatch.setattr("offline.llm.session.open_backend", lambda config, workdir, precision: backend)
    job = Job(data.config.model_copy(update={"workdir": tmp_path}), tmp_path)
    result = ask_numbers(job, data.catalogue, data.log, 9, 3, seed=1)
    assert (len(result.items), len(set(result.items.tolist())), result.shown) == (12, 12, 3)
    assert known.rows[result.items[:3]].tolist() == sorted(known.rows, reverse=True)[:3]
    acclaim, appeal, *_ = (dict(zip(_HEADS, row, strict=True)) for row in result._questions())
    assert acclaim["r with mean value"].startswith("+1.00")
    assert acclaim["order bias"] == "+0.000"
    assert acclaim["mass"] == "0.900"
    assert appeal["number"] == "0.500 ± 0.000"
    assert appeal["order bias"] == "+0.867"
    assert appeal["r with mean value"] == "", "what is the same of all items goes with nothing"
    assert appeal["unlisted"] == "0.02"
    assert result.markdown().count("\n| ") == 2 * 1 + 6 + 3
    assert backend.calls == 12 * 12
    ask_numbers(job, data.catalogue, data.log, 9, 3, seed=1)
    assert backend.calls == 12 * 12, "answers are stored"

    value = data.log.value.copy()
    value[until:] = 6 - value[until:]
    again = ask_numbers(job, data.catalogue, replace(data.log, value=value), 9, 3, seed=1)
    assert again.markdown().splitlines()[1:] == result.markdown().splitlines()[1:]


_HEADS = (
    "name",
    "number",
    "spread",
    "mass",
    "unlisted",
    "order bias",
    "orders",
    "r with mean value",
    "r with log rows",
)


def test_nothing_to_compare_with_is_an_error(data: Synthetic, tmp_path: Path) -> None:
    job = Job(data.config.model_copy(update={"workdir": tmp_path}), tmp_path)
    with pytest.raises(DataError, match="no described item has 50 interactions"):
        ask_numbers(job, Catalogue(data.catalogue.users, {}), data.log, 5, 0, seed=1)
