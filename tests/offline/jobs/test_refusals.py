"""What would keep a refresh from ending well is told before a prompt is asked, by ``validate`` and by the refresh."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from models.contract.schema import FeatureSchema, KnowledgeSpec
from offline.data.catalogue import DataError
from offline.data.dataset import Dataset
from offline.data.rules import Findings
from offline.data.texts import TextsConfig
from offline.jobs.dry_run import dry_run
from offline.jobs.refusals import of_everything, of_log, of_settings
from offline.jobs.steps import Job
from offline.llm.openai import server_fault
from tests.offline.pipeline import LATER_MS, Pipeline, source_of, write_csv
from tests.synthetic import SCHEMA, Synthetic, synthetic


def schema_with(*knowledge: dict[str, Any]) -> dict[str, Any]:
    specs = [KnowledgeSpec.model_validate(spec).model_dump() for spec in knowledge]
    return {**SCHEMA.model_dump(mode="json"), "knowledge": specs}


def test_nothing_is_said_of_settings_that_can_be_followed(fresh: Pipeline) -> None:
    findings = of_settings(fresh.job)
    assert (findings.errors, findings.warnings) == ([], [])


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"llm": {"model": "no/such/model"}}, "llm.model: there is nothing at no/such/model"),
        ({"knowledge": {"marc": {"model": "nowhere"}}}, "knowledge.marc.model: there is nothing at nowhere"),
        (
            {"feature_schema": schema_with({"name": "text", "side": "user", "dim": 4})},
            "feature_schema.knowledge: text makes knowledge of items: list just that",
        ),
        (
            {"feature_schema": schema_with({"name": "liber", "side": "user", "dim": 1})},
            "liber needs a dim of at least 2",
        ),
        ({"feature_schema": schema_with({"name": "crystal", "side": "user", "dim": 4})}, "no producer makes crystal"),
        (
            {
                "feature_schema": schema_with(
                    *({"name": "autograph", "side": side, "dim": 4} for side in ("user", "item"))
                )
            },
            "autograph needs dim = 32 on both sides",
        ),
        (
            {"feature_schema": schema_with(*({"name": "marc", "side": side, "dim": 12} for side in ("user", "item")))},
            "marc needs the same dim on both sides, a multiple of 8",
        ),
    ],
)
def test_a_setting_that_cannot_be_followed_ends_a_refresh_before_it_costs_anything(
    fresh: Pipeline, changes: dict[str, Any], error: str
) -> None:
    broken = fresh.with_config(**changes)
    assert any(error in line for line in of_settings(broken.job).errors)
    with pytest.raises(DataError) as raised:
        broken.refresh()
    assert error in str(raised.value)
    assert fresh.model.paid() == []
    assert not broken.job.raw.exists()


def test_a_folder_that_cannot_be_written_to(fresh: Pipeline) -> None:
    (fresh.folder / "file").touch()
    job = Job(fresh.config.model_copy(update={"workdir": fresh.folder / "file" / "work"}), fresh.folder / "file")
    assert [line.partition(" = ")[0] for line in of_settings(job).errors] == ["workdir", "--data-dir"]


def test_a_key_that_is_not_set_is_a_warning_because_answers_may_be_stored(
    fresh: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("THE_KEY", raising=False)
    server = {"backend": "openai", "base_url": "http://127.0.0.1:1", "model": "m", "api_key_env": "THE_KEY"}
    findings = of_settings(fresh.with_config(llm=server).job)
    assert findings.errors == []
    assert findings.warnings == ["llm.api_key_env: the variable THE_KEY is not set, so no new prompt can be asked"]


def test_no_samples_are_told_before_a_prompt_is_asked(fresh: Pipeline) -> None:
    with pytest.raises(DataError, match=r"samples\.min_history = 1000 leaves 0 samples of 288 interactions"):
        fresh.with_config(samples={"min_history": 1000}).refresh()
    assert fresh.model.paid() == []


def test_a_producer_that_cannot_be_founded_asks_nothing(fresh: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    large = fresh.with_config(knowledge={"liber": {"partition_size": 100}})
    assert [producer.name for producer in dry_run(large.job).producers if producer.waits] == ["liber"]
    assert dry_run(large.job).total.to_ask == 0
    entry = large.refresh()
    assert (entry["status"], fresh.model.paid()) == ("done", [])
    reason = (
        "liber needs 2 summaries of the training period, there can be 0 (a user gets one after every 100 interactions, "
        "the longest history has 12 interactions): lower knowledge.liber.partition_size"
    )
    assert entry["producers"]["liber"]["reason"].startswith(reason)
    output = capsys.readouterr().out
    assert "warning: knowledge of users is as good as off: 0 of 24 users have the 100 interactions that" in output
    large.refresh()
    assert "warning" not in capsys.readouterr().out, "nothing changed since it was told"


def test_items_without_a_description_are_told_before_the_gate_refuses_them(fresh: Pipeline) -> None:
    with (fresh.folder / "items.csv").open() as file:
        header, *rows = csv.reader(file)
    write_csv(fresh.folder / "items.csv", header, [[*row[:1], "", *row[2:]] for row in rows[:10]] + rows[10:])
    nameless = fresh.with_config(data={**source_of(fresh.folder), "texts": {"item": "{title}"}})
    with pytest.raises(DataError, match="10 of 20 items can have knowledge, a new release needs 99%"):
        nameless.with_config(feature_schema=schema_with({"name": "text", "side": "item", "dim": 4})).refresh()
    assert fresh.model.paid() == []


def data_of(folder: Path, change: Callable[[np.ndarray], None]) -> tuple[Synthetic, Job]:
    data = synthetic(folder)
    value = data.log.value.copy()
    change(value)
    return replace(data, log=replace(data.log, value=value)), Job(data.config, folder / "data")


def test_one_label_in_a_part_is_a_warning(tmp_path: Path) -> None:
    def newest(value: np.ndarray) -> None:
        value[-200:] = 5.0

    data, job = data_of(tmp_path, newest)
    findings = of_log(job, data.catalogue, data.log)
    assert (findings.errors, len(findings.warnings)) == ([], 1)
    assert "test samples are liked: their AUC is undefined" in findings.warnings[0]


def test_validate_says_all_of_it(fresh: Pipeline) -> None:
    findings = of_everything(fresh.job)
    assert (findings.errors, findings.warnings) == ([], [])
    assert "24 users and 20 items are described" in findings.facts
    assert any(": 172 train, 21 validation, 23 test; interactions with 3 or more" in line for line in findings.facts)
    findings = of_everything(fresh.with_config(samples={"min_history": 50}).job)
    assert "leaves 0 samples" in findings.errors[0]
    assert not fresh.job.config.workdir.exists(), "it looks and changes nothing"


def test_a_check_reads_once_and_leaves_nothing_behind(fresh: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    checks, check = [], Dataset.check

    def counted(source: Dataset, schema: FeatureSchema) -> Findings:
        checks.append(source)
        return check(source, schema)

    monkeypatch.setattr(Dataset, "check", counted)
    before = sorted(fresh.folder.rglob("*"))
    facts = of_everything(fresh.job, measured=True).facts
    assert len(checks) == 1
    assert sorted(fresh.folder.rglob("*")) == before
    assert fresh.model.paid() == []
    assert [line.split(", about ")[0].split(": ")[1] for line in facts[-3:-1]] == [
        "92, none of them twice or stored already",
        "72, none of them twice or stored already",
    ]
    fresh.refresh()
    facts = of_everything(fresh.job, measured=True).facts
    assert [line.split(": ")[1] for line in facts[-3:-1]] == ["none that is not stored already"] * 2


def test_a_refresh_tells_what_the_data_break_and_does_not_mend(
    fresh: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    with (fresh.folder / "interactions.csv").open("a") as file:
        file.write(f"u3,i1,5,{LATER_MS}\n" * 2)
    (line,) = [line for line in dry_run(fresh.job).lines() if "interaction_repeated" in line]
    fresh.refresh()
    assert capsys.readouterr().out.count(line) == 1
    fresh.refresh()
    assert "warning" not in capsys.readouterr().out, "nothing changed since it was told"


def test_a_language_that_parts_do_not_know_is_said_once(fresh: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    texts = TextsConfig(language="other")
    fresh.config = fresh.config.model_copy(update={"data": fresh.config.data.model_copy(update={"texts": texts})})
    words = 'warning: language "other": the text encoder all-MiniLM-L6-v2 reads English alone'
    fresh.refresh()
    assert capsys.readouterr().out.count(words) == 1
    fresh.refresh()
    assert words not in capsys.readouterr().out, "nothing changed since it was told"
    assert any(words.removeprefix("warning: ") in line for line in of_everything(fresh.job).warnings)


@pytest.mark.parametrize(("language", "model"), [("en", ""), ("other", ", with an [llm] that writes the language")])
def test_users_without_knowledge_are_a_fact(fresh: Pipeline, language: str, model: str) -> None:
    words = "users have no knowledge beyond their histories"
    assert not any(words in line for line in of_everything(fresh.job).facts)
    only = fresh.with_config(feature_schema=schema_with({"name": "text", "side": "item", "dim": 4}))
    data = only.config.data.model_copy(update={"texts": TextsConfig(language=language)})
    only.config = only.config.model_copy(update={"data": data})
    (line,) = [line for line in of_everything(only.job).facts if words in line]
    assert f'liber (side = "user") would{model}' in line
    assert bool(model) == ("[llm]" in line)


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (httpx2.Response(200, json={"data": [{"id": "served"}]}), ""),
        (httpx2.Response(404, text="nothing here"), ""),
        (httpx2.Response(200, json={"data": [{"id": "other"}]}), "does not serve 'served'; it serves other"),
        (httpx2.Response(401, json={}), "refuses the key (401)"),
        (httpx2.ConnectError("refused"), "does not answer: ConnectError refused"),
    ],
)
def test_a_model_server_is_asked_what_it_serves(monkeypatch: pytest.MonkeyPatch, reply: Any, fault: str) -> None:
    def get(url: str, **_: object) -> httpx2.Response:
        assert url == "http://server/v1/models"
        if isinstance(reply, Exception):
            raise reply
        assert isinstance(reply, httpx2.Response)
        return reply

    monkeypatch.setattr(httpx2, "get", get)
    found_fault = server_fault("http://server", "served", None)
    assert found_fault.endswith(fault)
    assert bool(found_fault) is bool(fault)


def test_validate_refuses_what_is_another_configurations(installed: Pipeline) -> None:
    other = replace(installed.job, config=installed.config.model_copy(update={"name": "other"}))
    errors = of_everything(other).errors
    assert len(errors) == 2
    assert "is that of the configuration 'small'" in errors[0]
    assert "of configuration small is live under the key prefix" in errors[1]
    assert of_everything(installed.job).errors == []


def test_validate_warns_of_a_redis_that_does_not_answer(fresh: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORANK_REDIS_URL", "redis://127.0.0.1:1")
    findings = of_everything(fresh.job)
    assert findings.errors == []
    (warning,) = (line for line in findings.warnings if "Redis" in line)
    assert warning.startswith("Redis at redis://127.0.0.1:1 does not answer: ")
    assert warning.endswith("; a refresh needs it")


def test_validate_refuses_a_prefix_that_cannot_be(fresh: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORANK_KEY_PREFIX", "a b")
    (error,) = of_everything(fresh.job).errors
    assert error.startswith("LORANK_KEY_PREFIX: ")
