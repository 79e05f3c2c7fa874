"""The language model as producers ask it: what is imported is not asked for, and only what was asked is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from models.contract.schema import KnowledgeSpec
from offline.data.catalogue import DataError
from offline.data.texts import TextsConfig
from offline.data.texts_import import ImportedTexts
from offline.jobs.dry_run import dry_run
from offline.jobs.ledger import RunLedger
from offline.jobs.llm_requests import carried_fields, data_of, inputs_of, kinds_of_texts, language_lines, not_let_out
from offline.jobs.status import _run_line
from offline.llm.config import LLMConfig
from offline.llm.protocol import Completion, Prompt, UnusableBackendError
from tests.offline.pipeline import LATER_MS, Pipeline, answer_to, with_groups


def test_an_imported_text_is_of_its_own_item_whoever_is_told_alike(installed: Pipeline) -> None:
    """Four items are described alike; two have texts, and one more whose description is empty."""
    texts = {"i1": "A film about trains.", "i2": "A film about boats.", "i5": "A film about hats.", "elsewhere": "x"}
    ImportedTexts(texts, ()).save(installed.job.imported)
    catalogue, log = data_of(installed.job)
    alike = dict.fromkeys(("i1", "i2", "i3", "i4"), catalogue.items["i1"])
    items = {name: features for name, features in {**catalogue.items, **alike}.items() if name != "i5"}
    with inputs_of(installed.job, replace(catalogue, items=items), log, "marc") as read:
        text_of = dict(zip(log.item_ids, read.texts.items.texts, strict=True))
        known = dict(zip(log.item_ids, read.texts.items.known.tolist(), strict=True))
        description = read.vocabulary.item_text(catalogue.items["i1"])
    assert text_of["i1"] == f"{description}. A film about trains."
    assert text_of["i2"] == f"{description}. A film about boats."
    assert text_of["i3"] == text_of["i4"] == ""
    assert text_of["i5"] == "A film about hats."
    assert [name for name, is_known in known.items() if is_known] == ["i1", "i2", "i5"]


def test_parts_that_know_english_alone_are_named_before_anything_is_asked(fresh: Pipeline) -> None:
    assert list(language_lines(fresh.job)) == []
    texts = TextsConfig(language="de")
    fresh.config = fresh.config.model_copy(update={"data": fresh.config.data.model_copy(update={"texts": texts})})
    encoder, model, *_ = language_lines(fresh.job)
    assert encoder.startswith('language "de": the text encoder all-MiniLM-L6-v2 reads English alone; set knowledge.enc')
    assert "the packaged language model writes English alone" in model
    assert f"  warning: {encoder}" in list(dry_run(fresh.job).lines())
    knowledge = fresh.config.knowledge.model_copy(update={"encoder": str(fresh.folder)})
    llm = fresh.config.llm.model_copy(update={"model": "elsewhere.gguf"})
    fresh.config = fresh.config.model_copy(update={"knowledge": knowledge, "llm": llm})
    assert not any("encoder" in line or "writes" in line for line in language_lines(fresh.job))


def test_bad_answers_are_counted_in_the_run_that_asked_for_them(installed: Pipeline) -> None:
    installed.model.bad = True
    installed.close_partition_of("u3")
    entry = installed.refresh()
    assert entry["asked_again"] == entry["bad_answers"] == {"repetition": 1}
    installed.model.bad = False
    installed.close_partition_of("u4")
    entry, paid = installed.paid_by()
    assert len(paid) == 2
    assert entry["asked_again"] == entry["bad_answers"] == {}
    entry, paid = installed.paid_by(use_cache=False)  # everything is asked anew, and now all of it is good
    assert len(paid) > 2
    assert entry["asked_again"] == entry["bad_answers"] == {}


def test_new_answers_are_compared_with_their_questions(installed: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    installed.close_partition_of("u3")
    faithful = installed.refresh()["faithfulness"]
    judged = {"answers": 1, "unfaithful": 0, "year": 0, "title": 0, "name": 0}
    assert faithful == {"interest summaries": judged, "interest shifts": judged}
    assert installed.refresh()["faithfulness"] == {}, "answers of the cache are no news"

    monkeypatch.setattr("tests.offline.pipeline.answer_to", lambda text: f"{answer_to(text)} Joel Coen too.")
    installed.close_partition_of("u4")
    entry = installed.refresh()
    assert entry["faithfulness"]["interest summaries"] == judged | {"unfaithful": 1, "name": 1}
    assert entry["bad_answers"] == {}
    line = _run_line(RunLedger(installed.config.workdir).runs()[-1])
    assert "1 of 2 new answers name what their question does not" in line, "the shift quotes the summary"

    knowledge = installed.config.knowledge.model_copy(update={"faithful": True})
    installed.config = installed.config.model_copy(update={"knowledge": knowledge})
    entry = installed.refresh()
    assert entry["asked_again"] == {}, "the answer was there, and its second try is new"
    assert entry["bad_answers"] == {"unfaithful": 1}


def test_bad_answers_of_a_run_with_since_are_counted_once(installed: Pipeline) -> None:
    """The run asks about recent users first and reads everybody's answers from the cache then."""
    installed.model.bad = True
    installed.close_partition_of("u3")
    assert installed.refresh(since_ms=LATER_MS)["bad_answers"] == {"repetition": 1}
    installed.close_partition_of("u4")
    assert installed.refresh(since_ms=LATER_MS)["bad_answers"] == {"repetition": 1}
    installed.model.bad = False
    installed.close_partition_of("u5")
    assert installed.refresh(since_ms=LATER_MS)["bad_answers"] == {}


def test_each_kind_of_text_is_asked_for_once(fresh: Pipeline) -> None:
    assert kinds_of_texts(fresh.job, ["text"]) == ()
    assert kinds_of_texts(fresh.job, ["text", "liber"]) == ("summaries", "shifts")
    assert kinds_of_texts(fresh.job, ["marc", "autograph", "liber"]) == ("summaries", "shifts", "items")
    silent = fresh.with_config(knowledge={"liber": {"partition_size": 5, "shift": False}})
    assert kinds_of_texts(silent.job, ["liber"]) == ("summaries",)


def test_there_is_nothing_before_the_first_run(fresh: Pipeline) -> None:
    with pytest.raises(DataError, match="run `refresh` or `knowledge` first"):
        data_of(fresh.job)


def asking_numbers(fresh: Pipeline) -> Pipeline:
    schema = fresh.config.feature_schema
    with_numbers = schema.model_copy(
        update={"knowledge": (*schema.knowledge, KnowledgeSpec(name="numbers", side="item", dim=12))}
    )
    fresh.config = fresh.config.model_copy(update={"feature_schema": with_numbers})
    return fresh


def test_numbers_are_asked_for_once_published_and_accounted(fresh: Pipeline) -> None:
    fresh = asking_numbers(fresh)
    foreseen = dry_run(fresh.job)
    entry, paid = fresh.paid_by(live_first=False)
    of_numbers = [text for text in paid if "\nA: " in text]
    described = len(fresh.data.catalogue.items)
    assert len(of_numbers) == 12 * described
    assert foreseen.work is None or sum(bool(prompt.choices) for prompt in foreseen.work.prompts) == len(of_numbers)
    assert entry["llm"]["paid"] == len(paid)
    assert entry["producers"]["numbers"]["state"] == "made"
    assert entry["producers"]["numbers"]["items"] == described
    assert len([name for name in fresh.published() if "i:" in name]) >= described
    again, more = fresh.paid_by()
    assert (more, again["producers"]["numbers"]["state"]) == ([], "current")


def test_numbers_of_a_run_that_was_stopped_are_not_paid_twice(fresh: Pipeline) -> None:
    fresh = asking_numbers(fresh)
    answer, count = fresh.model.complete, 0

    async def fails_later(prompts: Sequence[Prompt]) -> list[Completion]:
        nonlocal count
        count += prompts[0].choices != ()
        if count > 30:
            raise UnusableBackendError("the server is gone")
        return await answer(prompts)

    fresh.model.complete = fails_later  # type: ignore[method-assign]
    first, paid = fresh.paid_by()
    assert first["status"] == "partial"
    assert first["producers"]["numbers"]["state"] == "waits"
    fresh.model.complete = answer  # type: ignore[method-assign]
    second, more = fresh.paid_by()
    assert second["producers"]["numbers"]["state"] == "made"
    assert len([text for text in paid if "\nA: " in text]) == 30
    assert len([text for text in more if "\nA: " in text]) == 12 * len(fresh.data.catalogue.items) - 30


def test_numbers_carry_fields_of_items_alone(fresh: Pipeline) -> None:
    job = asking_numbers(fresh).job
    assert carried_fields(job, ["numbers"]) == {"items.title", "items.year", "items.genres"}
    assert carried_fields(job, ["text"]) == frozenset()
    assert "history" in carried_fields(job, ["numbers", "liber"])
    assert kinds_of_texts(job, ["numbers", "liber"]) == ("summaries", "shifts", "numbers")
    to_afar = {"backend": "openai", "base_url": "https://example.com/v1", "model": "m"}
    away = job.config.model_copy(update={"llm": LLMConfig.model_validate(to_afar)})
    assert "items.genres" in not_let_out(replace(job, config=away), ["numbers"])


def test_groups_are_asked_about_once_published_and_accounted(fresh: Pipeline) -> None:
    fresh = with_groups(fresh)
    foreseen = dry_run(fresh.job)
    (planned,) = [producer for producer in foreseen.producers if producer.name == "groups"]
    entry, paid = fresh.paid_by(live_first=False)
    about_groups = [text for text in paid if "of one kind" in text or "Several people" in text]
    summary = entry["producers"]["groups"]
    assert summary == {
        "state": "made",
        "absent": 0,
        "users": summary["users"],
        "versions": summary["versions"],
        "items": 20,
    }
    assert planned.asks.to_ask == 7 >= len(about_groups) >= 5
    assert planned.records == summary["users"] + summary["items"]
    assert entry["records"]["item/groups"]["written"] == 20
    assert entry["records"]["user/groups"]["written"] == summary["users"]
    assert entry["faithfulness"]["groups"]["answers"] == len(about_groups)
    fresh.stream(("somebody new", "i1", 5.0, LATER_MS))
    again, more = fresh.paid_by()
    assert (more, again["producers"]["groups"]["users"]) == ([], summary["users"] + 1), "a new user costs no question"
    assert again["records"]["user/groups"]["written"] == 1
    assert fresh.refresh(since_ms=LATER_MS)["producers"]["groups"]["state"] == "current"


def test_groups_carry_history_where_they_are_of_users(fresh: Pipeline) -> None:
    job = with_groups(fresh).job
    assert carried_fields(job, ["groups"]) == {"history", "items.title", "items.genres"}
    assert kinds_of_texts(job, ["groups"]) == ("groups",)
    schema = job.config.feature_schema
    of_items = tuple(spec for spec in schema.knowledge if (spec.name, spec.side) != ("groups", "user"))
    config = job.config.model_copy(update={"feature_schema": schema.model_copy(update={"knowledge": of_items})})
    assert carried_fields(replace(job, config=config), ["groups"]) == {"items.title", "items.genres"}
