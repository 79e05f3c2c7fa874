"""``--dry-run``: what it says comes true, and it changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from offline.data.log import InteractionLog
from offline.data.texts_import import ImportedTexts, UserText
from offline.jobs.dry_run import dry_run
from offline.knowledge.needs import Supply
from offline.llm.account import CACHE_FILE
from offline.llm.budget import Budget
from offline.llm.cache import ResponseCache
from offline.llm.protocol import TransientError
from tests.offline.pipeline import LATER_MS, Pipeline
from tests.synthetic import PARTITION_SIZE, SCHEMA


def everything(installation: Pipeline) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Every file and every key of an installation."""
    files = {str(path): path.read_bytes() for path in sorted(installation.folder.rglob("*")) if path.is_file()}
    client = installation.redis
    keys: Any = client.keys(f"{installation.prefix}:*")
    values = {key.decode(): client.dump(key) for key in keys}
    client.close()
    return files, values


def test_a_fresh_installation_is_planned_and_stays_fresh(fresh: Pipeline) -> None:
    before = everything(fresh)
    planned = dry_run(fresh.job)
    assert everything(fresh) == before
    assert fresh.model.paid() == []
    text, liber = planned.producers
    assert (text.up_to_date, text.asks.to_ask, text.records) == (False, 0, 20)
    assert (liber.up_to_date, liber.asks.to_ask, liber.records) == (
        False,
        72,
        24,
    )  # shifts of summaries yet unknown too
    assert planned.total == liber.asks
    entry = fresh.refresh()
    assert entry["llm"]["paid"] == planned.total.to_ask
    assert entry["records"]["user/liber"]["written"] == liber.records
    assert entry["records"]["item/text"]["written"] == text.records
    estimated, real = planned.total.prompt_tokens, entry["llm"]["prompt_tokens"]
    assert 0.5 < estimated / real < 2


def test_nothing_to_do_is_a_plan_too(installed: Pipeline) -> None:
    planned = dry_run(installed.job)
    assert [producer.up_to_date for producer in planned.producers] == [True, True]
    assert planned.total.to_ask == 0
    assert [producer.records for producer in planned.producers] == [0, 0]


def test_waiting_events_are_planned_and_wait_on(installed: Pipeline) -> None:
    installed.close_partition_of("u3")
    before = everything(installed)
    planned = dry_run(installed.job)
    assert everything(installed) == before
    assert planned.arrived.added == 3
    assert planned.total.to_ask == 2
    assert planned.producers[1].records == 1
    assert planned.total.cached == 72
    assert planned.total.seconds is not None
    entry = installed.refresh()
    assert entry["llm"]["paid"] == 2
    assert entry["records"]["user/liber"]["written"] == 1


def test_prices_budget_since_and_producers(installed: Pipeline) -> None:
    changed = installed.with_config(
        knowledge={"liber": {"partition_size": 5, "summary_tokens": 65}},
        llm={"price_prompt_per_million": 2.0, "price_completion_per_million": 8.0},
    )
    changed.close_partition_of("u3")
    whole = dry_run(changed.job)
    total = whole.total
    assert total.cost == pytest.approx((2 * total.prompt_tokens + 8 * total.completion_tokens) / 1e6)
    assert total.to_ask > 49
    assert dry_run(changed.job, ["text"]).total.to_ask == 0
    job = changed.job
    recent = dry_run(type(job)(job.config, job.data_dir, since_ms=LATER_MS)).total
    assert 0 < recent.to_ask <= 5
    assert not whole.exceeds_budget
    tight = dry_run(type(job)(job.config, job.data_dir, budget=Budget(max_tokens=10)))
    assert tight.exceeds_budget
    assert any("budget: exceeded" in line for line in tight.lines())
    assert tight.summary()["exceeds_budget"] is True


def test_shipped_answers_count_as_cached(fresh: Pipeline, finished: Pipeline, tmp_path: Path) -> None:
    with ResponseCache(finished.job.llm / CACHE_FILE) as cache:
        cache.export_jsonl_gz(tmp_path / "answers.jsonl.gz")
    shipped = fresh.with_config(knowledge={"shipped_responses": str(tmp_path / "answers.jsonl.gz")})
    before = everything(shipped)
    assert dry_run(shipped.job).total.to_ask == 0
    assert everything(shipped) == before


def test_a_new_space_is_written_for_every_owner(installed: Pipeline) -> None:
    changed = installed.with_config(knowledge={"liber": {"partition_size": PARTITION_SIZE, "summary_tokens": 65}})
    text, liber = dry_run(changed.job).producers
    assert (text.records, liber.records) == (20, 24)  # the control is made again, and comes out as it was
    assert changed.refresh()["records"]["user/liber"]["written"] == liber.records
    assert [producer.records for producer in dry_run(changed.job).producers] == [0, 0]
    (changed.folder / "another").mkdir()
    encoded = changed.with_config(knowledge={"encoder": str(changed.folder / "another")})
    assert [producer.records for producer in dry_run(encoded.job).producers] == [20, 24]
    model = changed.with_config(llm={"model": "another"})
    assert [producer.records for producer in dry_run(model.job).producers] == [0, 24]
    anew = dry_run(replace(changed.job, use_cache=False))
    assert [producer.records for producer in anew.producers] == [20, 24]


def test_a_producer_that_lags_behind_has_no_new_space(installed: Pipeline) -> None:
    """The producer last finished two growths of the log ago."""
    for user in ("u3", "u4"):
        installed.close_partition_of(user)
        installed.model.fails = TransientError("429", retry_after=3600.0)
        assert installed.refresh()["status"] == "partial"
    installed.model.fails = None
    installed.close_partition_of("u5")
    planned = dry_run(installed.job)
    assert planned.producers[1].records == 3
    assert installed.refresh()["records"]["user/liber"]["written"] == 3


def test_interactions_that_came_in_a_file_make_no_new_space(installed: Pipeline) -> None:
    with (installed.folder / "interactions.csv").open("a") as file:
        file.write(f"u3,i1,5,{LATER_MS}\n")
    assert [producer.records for producer in dry_run(installed.job).producers] == [0, 0]
    records = installed.refresh()["records"]
    assert (records["user/liber"]["written"], records["item/text"]["written"]) == (0, 0)


def test_an_imported_text_about_a_user_is_known_to_be_there(installed: Pipeline) -> None:
    texts = ImportedTexts({}, (UserText("u1", None, "Likes trains.", len(InteractionLog.load(installed.job.log))),))
    texts.save(installed.job.imported)
    assert installed.refresh()["status"] == "done"
    installed.close_partition_of("u3")
    assert dry_run(installed.job).producers[1].records == 1


def test_imported_texts_of_items_are_written_and_not_asked_for(
    fresh: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of an item that the catalogue does not describe."""
    monkeypatch.setattr(Supply, "unmet", lambda *_: "")  # so few interactions are too few for MARC
    schema = SCHEMA.with_knowledge(("text", "liber", "marc")).model_dump(mode="json")
    three = fresh.with_config(feature_schema=schema)
    rows = (three.folder / "items.csv").read_text().splitlines(keepends=True)
    (three.folder / "items.csv").write_text("".join(row for row in rows if not row.startswith("i5,")))
    text, _, marc = dry_run(three.job).producers
    assert (text.records, marc.records, marc.asks.to_ask) == (19, 24 + 19, 19)
    ImportedTexts({"i1": "A film about trains.", "i5": "A film about hats."}, ()).save(three.job.imported)
    text, _, marc = dry_run(three.job).producers
    assert (text.records, marc.records, marc.asks.to_ask) == (19, 24 + 20, 18)
