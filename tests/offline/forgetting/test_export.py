"""The export of a user has all that forgetting finds of them, and nothing of others."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from models.contract.requests import (
    EXPORT_SECONDS,
    REPORT_BYTES,
    REPORT_SECONDS,
    JobRequest,
    RequestKind,
    RequestState,
    UserExport,
)
from offline.__main__ import app
from offline.data.catalogue import DataError
from offline.data.log import InteractionLog
from offline.forgetting.export import export_of, exports_of
from offline.knowledge.vectors import Produced
from offline.llm.account import CACHE_FILE
from offline.publish.erasure import erase_users
from offline.publish.requests import write_request
from offline.publish.tombstones import TombstoneWatch
from offline.store import owner_mark
from tests.offline.config_file import write_config
from tests.offline.forgetting.conftest import BOTH, UNIT, Populated, U, V, answers_of
from tests.offline.forgetting.test_forgetting import assert_gone


def exported(populated: Populated, user: str = U) -> tuple[dict[str, Any], str]:
    """The document, and its text."""
    with populated.store() as store:
        document = export_of(populated.pipeline.job, store, user)
    return document, json.dumps(document, ensure_ascii=False)


def numbers(document: dict[str, Any]) -> dict[str, int]:
    """Numbers of records of the work folder, without stores that have none."""
    return {name: len(records) for name, records in document["work_folder"]["stored"].items() if records}


def fill_reranker_scores(populated: Populated) -> None:
    folder = populated.pipeline.config.workdir / "reranker" / "scores"
    folder.mkdir(parents=True)
    (folder / "some.npz").write_bytes(b"scores")


def test_the_export_has_what_forgetting_removes_and_nothing_of_others(populated: Populated) -> None:
    installation = populated.pipeline
    fill_reranker_scores(populated)
    (document, text), (_, of_v) = exported(populated), exported(populated, V)
    stored, before = document["work_folder"]["stored"], numbers(document)
    assert (document["user_id"], document["tombstone"]) == (U, None)
    assert document["work_folder"]["configuration"] == installation.config.name
    assert len(document["work_folder"]["aggregates"]) == 5
    assert document["work_folder"]["notes"] == []

    answers, of_producer = (
        answers_of(installation.job.llm / CACHE_FILE, U),
        Produced.load(installation.job.knowledge / "liber"),
    )
    assert {answer["key"]: answer["text"] for answer in stored["answers"]} == answers
    for answer in stored["answers"]:
        assert "like" in answer["prompt"] or "taste" in answer["prompt"], answer["prompt"]
    assert {"producer": "liber", "text": of_producer.texts[U]} in stored["knowledge texts"]
    log = InteractionLog.load(installation.job.log)
    mine = log.by_user().of_user(log.user_ids.index(U))
    assert [(row["item_id"], row["value"], row["time_ms"]) for row in stored["interactions in the log"]] == [
        (log.item_ids[log.item[row]], float(log.value[row]), int(log.time_ms[row])) for row in mine.tolist()
    ]
    assert [row["unit"] for row in stored["archived exposures"]] == [U, UNIT, U, UNIT]  # in two archives
    assert stored["archived exposures"][0]["context"] == {"note": f"shown to {U}"}
    assert stored["imported texts"][0]["text"] == f"A reader of {U} and of much else."
    assert [row["value"] for row in stored["bad rows"]] == [U, f"['{U}', 'i1']"]
    assert [line["run"] for line in stored["errors of runs"]] == ["of-w"]
    assert len(stored["files of killed archive runs, of whomever"]) == 4
    assert stored["owner marks"][0]["mark"] == owner_mark(U)
    assert all("numbers" in row["vector"] for row in stored["encoded texts"] + stored["hidden states"])
    in_redis = document["stored"]
    assert all(event["item_id"] for event in in_redis["history"])
    assert in_redis["profile"]
    assert all(record["vectors"] for record in in_redis["knowledge"].values())
    assert [entry["unit"] for entry in in_redis["exposures"]] == [U, UNIT]
    assert len(in_redis["interactions"]) > 0
    assert len(in_redis["arms"]) == 2

    own = {name for name in populated.needles[V] if name not in populated.needles[U]}
    assert V not in text
    assert BOTH not in text
    assert not [needle for needle in own if len(needle) > 8 and needle in text.encode()]
    assert U not in of_v
    assert UNIT not in of_v

    request = populated.ask()
    installation.refresh()
    removed = dict(populated.receipt(request).removed)
    # One list of stores: what is counted there was told here, under the same name.
    of_redis = {"history", "profile", "knowledge", "arms", "interactions", "exposures", "texts"}
    assert removed.keys() - of_redis <= before.keys()
    for name in removed.keys() - of_redis - {"interactions in the log", "former logs", "undo journal"}:
        assert removed[name] == before[name], name
    assert removed["interactions in the log"] == before["interactions in the log"]
    assert removed["undo journal"] <= before["undo journal"]  # keys, not publications

    after, text = exported(populated)
    assert numbers(after) == {}
    assert after["work_folder"]["aggregates"] == []
    assert after["tombstone"]["opted_out"] is False
    empty: dict[str, Any] = {
        "history": [],
        "profile": None,
        "knowledge": {},
        "arms": {},
        "texts": None,
        "served_lists": 0,
    }
    assert after["stored"] == {**empty, "interactions": [], "exposures": []}
    assert text.count(U) == 2  # user_id, and the owner of work_folder


def test_every_file_with_something_of_a_user_is_told(populated: Populated) -> None:
    """The search by bytes finds no more stores than the export does."""
    document, _ = exported(populated)
    told_by = {
        "log/": "interactions in the log", "log-before-": "former logs", "knowledge/encoded.npz": "encoded texts",
        "knowledge/owners.sqlite3": "owner marks", "knowledge/marc/states/": "hidden states",
        "knowledge/": "knowledge versions", "llm/answers.sqlite3": "answers", "undo.sqlite": "undo journal",
        "replay/undo.sqlite": "undo journal", "replay/.": "files of killed runs, of whomever",
        "exposures/exposures/.": "files of killed archive runs, of whomever", "ledger.jsonl": "errors of runs",
        "exposures/exposures/": "archived exposures", "exposures/interactions/": "archived interactions",
        "replay/exposures/": "archived exposures", "imported.json": "imported texts", "raw/bad_rows.csv": "bad rows",
        "models/.report": "files of killed runs, of whomever",
    }  # fmt: skip
    present = numbers(document)
    places = [place for place in populated.hits() if not place.startswith("redis ")]
    assert places
    for place in places:
        names = [name for beginning, name in told_by.items() if place.startswith(beginning)]
        assert names, f"{place} is told by no store"
        assert present.get(names[0]), place
    assert present["predictions"] > 0
    assert present["digests of publications"] > 0


def test_a_request_is_answered_by_the_next_refresh_and_forgotten_with_the_user(populated: Populated) -> None:
    installation = populated.pipeline
    asked, close = JobRequest.new(RequestKind.EXPORT, U), JobRequest.new(RequestKind.CLOSE_PARTITION, U)
    with populated.store() as store:
        for request in (asked, close):
            write_request(store, request)
        installation.refresh()
        done, key = populated.receipt(asked), store.keys.user_export(U)
        assert done.state is RequestState.DONE
        assert U not in done.note
        blob: Any = store.redis.get(key)
        export = UserExport.model_validate_json(blob)
        assert 0 < store.redis.ttl(key) <= EXPORT_SECONDS <= REPORT_SECONDS
        assert (export.owner, export.left_out) == (U, {})
        assert len(export.stored["answers"]) >= 4
        assert V not in blob.decode()
        assert export_of(installation.job, store, U)["work_folder"]["made_ms"] > export.made_ms
        again = installation.refresh()
        assert again["status"] == "done"
        assert store.redis.get(key) == blob  # nobody asked again

        receipt = populated.ask()
        installation.refresh()
        assert not store.redis.exists(key)
        assert populated.receipt(receipt).removed["export"] == 1
        for request in (asked, close):
            assert not store.redis.exists(store.keys.request(request.id))
            assert store.redis.zscore(store.keys.open_requests, request.id) is None
            assert store.redis.zscore(store.keys.done_requests, request.id) is None
    assert_gone(populated)


def test_a_request_about_a_user_who_opted_out_tells_nothing(populated: Populated) -> None:
    populated.ask(opt_out=True)
    populated.pipeline.refresh()
    request = JobRequest.new(RequestKind.EXPORT, U)
    with populated.store() as store:
        write_request(store, request)
        populated.pipeline.refresh()
        assert populated.stored_request(request.id.encode()) is None  # it names the user, and nobody has more to tell
        assert not store.redis.exists(store.keys.user_export(U))
    assert_gone(populated)


def test_what_a_clock_ahead_asked_for_before_the_user_was_forgotten_is_not_done(populated: Populated) -> None:
    """Of whom no service said that it removed the requests that were there; what is asked for later is done."""
    kinds, users = (RequestKind.EXPORT, RequestKind.CLOSE_PARTITION), (U, V)
    requests = {(kind, user): JobRequest.new(kind, user) for kind in kinds for user in users}
    with populated.store() as store:
        for name, request in requests.items():
            requests[name] = request.model_copy(update={"asked_ms": request.asked_ms + 3_600_000})
            write_request(store, requests[name])
        populated.ask()
        populated.pipeline.refresh()
        for (_, user), request in requests.items():
            assert (populated.stored_request(request.id.encode()) is None) is (user == U)
        assert_gone(populated)
        assert store.redis.exists(store.keys.user_export(V))
        receipt = populated.ask()
        write_request(store, receipt.model_copy(update={"remaining": ("the service did its part",)}))
        later = JobRequest.new(RequestKind.EXPORT, U)
        late = later.model_copy(update={"id": "0" * 32, "asked_ms": receipt.asked_ms - 1000})  # by a slow service
        write_request(store, later.model_copy(update={"asked_ms": receipt.asked_ms + 1}))
        populated.pipeline.refresh()
        assert populated.receipt(later).state is RequestState.DONE
        write_request(store, late)
        populated.pipeline.refresh()
        assert populated.stored_request(late.id.encode()) is None


def test_what_is_published_of_a_user_forgotten_meanwhile_goes_again(
    populated: Populated, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = TombstoneWatch.look
    calls: list[Any] = []

    def late(watch: TombstoneWatch, owners: Any) -> list[int]:
        if not calls:
            calls.append(populated.ask())
            with populated.store() as store:
                erase_users(store, {})
        return look(watch, owners)

    request = JobRequest.new(RequestKind.EXPORT, U)
    with populated.store() as store:
        write_request(store, request)
        monkeypatch.setattr(TombstoneWatch, "look", late)
        populated.pipeline.refresh()
        assert calls
        assert not store.redis.exists(store.keys.user_export(U))
        assert populated.stored_request(request.id.encode()) is None


def test_a_large_export_has_the_last_records_and_counts_the_others() -> None:
    rows = [{"item_id": f"i{at}", "value": 1.0, "time_ms": at} for at in range(60_000)]
    export = UserExport(
        owner="u", made_ms=1, configuration="c", stored={"interactions in the log": rows, "bad rows": [{"value": "u"}]}
    )
    packed = export.pack()
    assert REPORT_BYTES / 2.5 < len(packed) <= REPORT_BYTES
    less = UserExport.model_validate_json(packed)
    assert less.stored["bad rows"] == [{"value": "u"}]
    assert less.stored["interactions in the log"][-1] == rows[-1]
    assert less.left_out == {"interactions in the log": 60_000 - len(less.stored["interactions in the log"])}
    texts = {"answers": [{"text": "x" * 2 * REPORT_BYTES}, {"text": "y"}], "bad rows": [{"value": "é" * 300_000}]}
    largest = UserExport.model_validate_json(export.model_copy(update={"stored": {**export.stored, **texts}}).pack())
    assert largest.stored["answers"] == [{"text": "y"}]
    assert largest.stored["bad rows"] == texts["bad rows"]
    assert 0 < len(largest.stored["interactions in the log"]) < len(less.stored["interactions in the log"])
    assert largest.left_out.keys() == {"answers", "interactions in the log"}
    with pytest.raises(ValueError, match="without records"):
        UserExport(owner="u", made_ms=1, configuration="c", stored={}, notes=("x" * REPORT_BYTES,)).pack()


def test_an_export_that_fails_fails_its_request_alone(populated: Populated) -> None:
    installation = populated.pipeline
    request = JobRequest.new(RequestKind.EXPORT, U)
    part = next((installation.config.workdir / "exposures" / "exposures").glob("part-*"))
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    with populated.store() as store:
        write_request(store, request)
    assert installation.refresh()["status"] == "done"
    answered = populated.receipt(request)
    assert answered.state is RequestState.FAILED
    assert answered.note.startswith(f"DataError: {part} cannot be read")
    receipt = populated.ask()
    with pytest.raises(DataError, match="put back a copy of it, or remove it"):
        installation.refresh()
    part.unlink()
    installation.refresh()
    assert populated.receipt(receipt).state is RequestState.DONE
    assert_gone(populated)


def test_answers_of_before_there_were_owners_are_told_too(populated: Populated) -> None:
    import sqlite3

    path = populated.pipeline.job.llm / CACHE_FILE
    before = exports_of(populated.pipeline.job, [U])[U].stored["answers"]
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM owners")
    connection.close()
    assert exports_of(populated.pipeline.job, [U])[U].stored["answers"] == before


def test_the_job_writes_a_file_for_its_owner_alone(populated: Populated, tmp_path: Path) -> None:
    installation = populated.pipeline
    config, to = tmp_path / "config.toml", tmp_path / "user.json"
    to.write_text("former")
    to.chmod(0o644)
    write_config(installation.config.model_dump(mode="json", exclude_unset=True), config)
    options = ["--config", str(config), "--data-dir", str(installation.job.data_dir), "--user", U]
    result = CliRunner().invoke(app, ["export-user", str(to), *options])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output.splitlines()[-1])["status"] == "done"
    assert U not in result.output
    assert "15 interactions in the log" in result.output
    document = json.loads(to.read_text(encoding="utf-8"))
    assert document["user_id"] == U
    assert any("source files" in words for words in document["elsewhere"])
    assert stat.S_IMODE(to.stat().st_mode) == 0o600
    inside = installation.config.workdir / "user.json"
    for arguments, words in (([str(inside), *options], "work folder"), ([str(to), *options[:-1], "a\tb"], "control")):
        result = CliRunner().invoke(app, ["export-user", *arguments])
        assert result.exit_code == 2
        assert words in " ".join(result.output.replace("│", " ").split())
    assert not inside.exists()


def test_a_stranger_has_nothing(populated: Populated) -> None:
    document, _ = exported(populated, "never-seen")
    assert all(name.endswith("of whomever") for name in numbers(document))
    assert document["work_folder"]["aggregates"] == []
