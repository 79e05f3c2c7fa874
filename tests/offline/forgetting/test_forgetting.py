"""A user who is forgotten is in no file and under no key any more; all others are as they were."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from models.contract.forgetting import EVERYTHING_MS, Tombstone
from models.contract.requests import (
    TEXTS_SECONDS,
    JobRequest,
    OwnerTexts,
    Report,
    ReportKind,
    RequestKind,
    RequestState,
)
from offline.__main__ import app
from offline.config import RetentionConfig
from offline.data.catalogue import DataError
from offline.data.dataset import BAD_ROWS, open_dataset
from offline.data.log import MANIFEST, InteractionLog
from offline.forgetting.run import forget_users
from offline.jobs.one_producer import roll_back_one
from offline.jobs.runs import LockedError, Run, exclusive
from offline.jobs.status import status_of
from offline.knowledge.liber.partitions import close_partitions
from offline.knowledge.run import ENCODED, OWNERS, remove_owned
from offline.knowledge.vectors import Produced
from offline.llm.account import CACHE_FILE
from offline.llm.cache import ResponseCache
from offline.publish.archive import archive, read_exposures, read_interactions
from offline.publish.connection import replay_prefix
from offline.publish.erasure import empty, erase_users, rewrite_files
from offline.publish.features import write_histories, write_profiles
from offline.publish.producer import knowledge_publication
from offline.publish.records import WriteCache
from offline.publish.requests import drop_ended, write_request
from offline.publish.rewriting import rewrite_histories
from offline.publish.tombstones import (
    ForgottenUsers,
    TombstoneWatch,
    stored_tombstones,
    write_tombstones,
)
from offline.publish.undo import Journal
from offline.store import ArrayFile, owner_mark, owner_table
from offline.training.report import TrainingReport
from offline.training.retraining import Retraining
from research import replay as driver
from tests.offline.config_file import write_config
from tests.offline.forgetting.conftest import Populated, U, V, populate, show
from tests.offline.forgetting.search import in_redis
from tests.offline.pipeline import LATER_MS, patched, pipeline, source_of, with_groups

STORES = (
    "log/users-", "log-before-", "knowledge/liber/vectors.npz", "knowledge/encoded.npz", "knowledge/owners.sqlite3",
    "knowledge/marc/states/", "llm/answers.sqlite3", "undo.sqlite", "exposures/exposures/part-",
    "exposures/interactions/part-", "replay/exposures/exposures/part-", "imported.json", "raw/bad_rows.csv",
    "models/.report.json.abcd_123", "exposures/exposures/.part-", "exposures/interactions/.part-",
    "replay/exposures/exposures/.part-", "replay/exposures/interactions/.part-", "ledger.jsonl",
    "replay/undo.sqlite", "replay/.undo.json.abcd_123",
)  # fmt: skip
"""Beginnings of the files of a work folder that hold something of a user."""

KEYS = ("profile", "history", "k:", "arms")


def assert_found(populated: Populated) -> None:
    """The search finds the user in every store: it would see what is left."""
    places = populated.hits()
    for store in STORES:
        assert any(place.startswith(store) for place in places), f"nothing in {store}: {sorted(places)}"
    tags = [place for place in places if place.startswith("redis ")]
    for key in (*(f"}}:{key}" for key in KEYS), ":interactions", ":exposures", ":request:", ":report:dry_run-"):
        assert any(key in tag for tag in tags), f"nothing under {key}: {tags}"


def assert_gone(populated: Populated) -> None:
    """Nothing is left of the user but receipts."""
    with populated.store() as store:
        lists: Any = [store.redis.zrange(each, 0, -1) for each in (store.keys.open_requests, store.keys.done_requests)]
        receipts = {
            f"redis :{{requests}}:request:{request.id}"
            for request in map(populated.stored_request, itertools.chain(*lists))
            if request is not None and request.kind is RequestKind.FORGET
        }
    places = {place: needles for place, needles in populated.hits().items() if place not in receipts}
    assert not places, {place: sorted(needles)[:3] for place, needles in places.items()}


@pytest.mark.own_valkey
@pytest.mark.parametrize("settings", [{}, {"previous": True, "profile": ["age"], "encoder_tokens": 256}])
def test_nothing_is_left_of_a_user(
    tmp_path: Path, valkey: str, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """Also where summaries tell what earlier ones said, and where there are groups of users."""
    installation = pipeline(tmp_path / "all", valkey, "all")
    patched(monkeypatch, installation)
    liber = {**installation.config.knowledge.liber.model_dump(mode="json"), **settings}
    installation = installation.with_config(knowledge={"liber": liber})
    if settings:
        installation = with_groups(installation)
    populated = populate(installation)
    client = installation.redis
    folder: Any = client.config_get("dir")
    on_disk = Path(folder["dir"])
    client.close()
    assert_found(populated)
    before, report = populated.of_v(), TrainingReport.load(installation.job.models / "report.json")
    assert any(U.encode() in path.read_bytes() for path in on_disk.rglob("*.aof"))

    request = populated.ask()
    installation.refresh()

    assert_gone(populated)
    receipt = populated.receipt(request)
    assert receipt.state is RequestState.DONE
    assert receipt.removed["interactions in the log"] == receipt.removed["former logs"] > 0
    for store in ("history", "profile", "knowledge", "arms", "interactions", "exposures", "answers", "encoded texts",
                  "hidden states", "undo journal", "knowledge versions", "imported texts", "bad rows",
                  "archived exposures", "archived interactions", "errors of runs"):  # fmt: skip
        assert receipt.removed[store] > 0, store
    text = b"".join(path.read_bytes() for path in on_disk.rglob("*") if path.is_file())
    assert b"o7q%7B3%7D" not in text  # no key of the user is in Redis' file any more
    assert populated.of_v() == before
    later = TrainingReport.load(installation.job.models / "report.json")
    assert (later.artifact, later.sha256) == (report.artifact, report.sha256)
    assert later.log_rows < report.log_rows
    assert Retraining.load(installation.config.workdir).users == 1

    entry = installation.refresh()  # the source has the user still
    assert entry["status"] == "done"
    assert_gone(populated)
    assert populated.of_v() == before
    assert installation.model.paid() == [*dict.fromkeys(installation.model.paid())]  # nothing was asked twice
    installation.refresh(retrain=True)
    assert Retraining.load(installation.config.workdir).users == 0

    with populated.store() as store:  # once the receipt has ended, nothing of the user is in Redis' files
        store.redis.delete(store.keys.request(request.id))
        assert rewrite_files(store) == ""
    text = b"".join(path.read_bytes() for path in on_disk.rglob("*") if path.is_file())
    assert U.encode() not in text


def test_a_user_who_comes_back_is_known_by_new_events_alone(populated: Populated) -> None:
    installation = populated.pipeline
    populated.ask()
    installation.refresh()
    now = round(time.time() * 1000) + 1000
    installation.stream((U, "i1", 5.0, now - 10_000_000), *((U, f"i{at}", 5.0, now + at) for at in range(3)))
    installation.refresh()
    log = InteractionLog.load(installation.job.log)
    assert log.user_ids.count(U) == 1
    mine = log.by_user().of_user(log.user_ids.index(U))
    assert [log.item_ids[log.item[row]] for row in mine] == ["i0", "i1", "i2"]
    client = installation.redis
    with populated.store() as store:
        assert client.strlen(store.keys.user_history(U)) == 3 * 24
    client.close()
    request = populated.ask(V)  # the tombstone of U stays carried out
    installation.refresh()
    assert populated.receipt(request).removed["interactions in the log"] > 0
    log = InteractionLog.load(installation.job.log)
    assert len(log.by_user().of_user(log.user_ids.index(U))) == 3


def test_a_deletion_in_redis_alone_leaves_the_files_to_the_job(populated: Populated) -> None:
    """What the service did, before any job: nothing in Redis but the receipt, and all files as they were."""
    installation = populated.pipeline
    populated.ask()
    with populated.store() as store:
        erase_users(store, {U: EVERYTHING_MS})
    places = populated.hits()
    by_jobs = (":request:", ":report:")  # which earlier versions of them left
    assert not [place for place in places if place.startswith("redis ") and not any(key in place for key in by_jobs)]
    for beginning in STORES:
        assert any(place.startswith(beginning) for place in places)
    installation.refresh()
    assert_gone(populated)


def test_an_empty_redis_gets_the_tombstones_back(populated: Populated) -> None:
    installation = populated.pipeline
    populated.ask(opt_out=True)
    installation.refresh()
    client = installation.redis
    keys: Any = client.keys(f"{installation.prefix}:*")
    client.delete(*keys)
    client.close()
    installation.refresh()
    with populated.store() as store:
        assert stored_tombstones(store).opted_out(U)
    assert_gone(populated)


def test_a_fresh_work_folder_learns_who_is_forgotten_from_redis(populated: Populated, tmp_path: Path) -> None:
    populated.ask()
    fresh = populated.pipeline.with_config()
    fresh.config = fresh.config.model_copy(update={"workdir": tmp_path / "fresh"})
    fresh.refresh()
    assert U not in InteractionLog.load(fresh.job.log).user_ids
    assert V in InteractionLog.load(fresh.job.log).user_ids


def test_a_tombstone_of_another_salt_still_counts(populated: Populated) -> None:
    """Redis lost everything, and the service made a new salt before any job came."""
    installation = populated.pipeline
    populated.ask()
    installation.refresh()
    with populated.store() as store:
        store.redis.delete(store.keys.tombstones)
        write_tombstones(store, {"somebody": Tombstone(forgotten_ms=1)})
    installation.stream((U, "i1", 5.0, LATER_MS))  # as old as what is forgotten
    installation.refresh(retrain=True)
    assert U not in InteractionLog.load(installation.job.log).user_ids
    assert len(ForgottenUsers.load(installation.config.workdir).salts) == 2
    with populated.store() as store:
        store.redis.delete(store.keys.interactions)
    assert_gone(populated)


def test_a_publication_deletes_what_it_wrote_of_a_user_forgotten_meanwhile(
    populated: Populated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tombstone is written, and Redis cleaned, while records are under way; nobody else cleans them."""
    installation = populated.pipeline
    installation.refresh()
    with populated.store() as store:
        erase_users(store, {U: EVERYTHING_MS})
        store.redis.delete(store.keys.generation)  # so that everything is looked at
    look = TombstoneWatch.look
    asked: list[Any] = []

    def late(watch: TombstoneWatch, owners: Sequence[str]) -> list[int]:
        if U in owners and not asked:
            asked.append(populated.ask())
        return look(watch, owners)

    monkeypatch.setattr(TombstoneWatch, "look", late)
    log = InteractionLog.load(installation.job.log)
    produced = Produced.load(installation.job.knowledge / "liber")
    with populated.store() as store, knowledge_publication(store, installation.config, log) as publication:
        assert publication.write("liber", produced, None)["user/liber"].written == 1
        assert asked
        assert not store.redis.keys(f"{installation.prefix}:{{u:{U.replace('{', '%7B').replace('}', '%7D')}}}:*")
        assert publication.write("liber", produced, None)["user/liber"].written == 0
        watch, empty = publication.watch, np.full(len(log.user_ids), 2**33)
        catalogue = open_dataset(installation.config.data, installation.job.raw).catalogue()
        profiles = write_profiles(store, catalogue, log, publication.write_cache, None, watch, empty)
        assert profiles.written == len(log.user_ids) - 1
    installation.refresh()
    assert_gone(populated)


@pytest.mark.parametrize("what", ["profiles", "histories", "rewritten"])
def test_other_records_of_a_user_forgotten_meanwhile_go_too(
    populated: Populated, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    installation = populated.pipeline
    with populated.store() as store:
        erase_users(store, {U: EVERYTHING_MS})
        log = InteractionLog.load(installation.job.log)
        catalogue = open_dataset(installation.config.data, installation.job.raw).catalogue()
        watch, cache = TombstoneWatch(store, installation.config.workdir), WriteCache(store, installation.folder / "no")
        populated.ask()
        if what == "profiles":
            write_profiles(store, catalogue, log, cache, None, watch)
        elif what == "histories":
            write_histories(store, log, 100, cache, None, watch)
        else:
            rewrite_histories(store, log, 100, cache, watch)
        left: Any = store.redis.keys(f"{installation.prefix}:{{u:*o7q*")
        assert not left
        others: Any = store.redis.keys(f"{installation.prefix}:{{u:{V}}}:*")
        assert others


def test_a_rollback_does_not_bring_back_what_was_forgotten(populated: Populated) -> None:
    """Before the job came, and while it was away: the journal still has the user's former record."""
    installation = populated.pipeline
    populated.ask()
    with populated.store() as store:
        erase_users(store, {U: EVERYTHING_MS})
        run = Run(installation.job, "rollback")
        with run.working():
            roll_back_one(run, store, "liber")
        left: Any = store.redis.keys(f"{installation.prefix}:{{u:*o7q*")
        assert not left
    installation.refresh()
    assert_gone(populated)


class Killed(BaseException):
    """In place of a signal: nothing of the program handles it."""


@pytest.mark.parametrize("moment", [1, 4, 8, 12, 16, 22])
def test_a_kill_anywhere_leaves_what_the_next_run_completes(
    populated: Populated, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    installation, before, count = populated.pipeline, populated.of_v(), 0
    populated.ask()

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == moment:
                raise Killed
            return call(*arguments, **options)

        return wrapped

    with pytest.MonkeyPatch.context() as patch, populated.store() as store:
        patch.setattr("offline.data.files.os.replace", dying(os.replace))
        patch.setattr(Journal, "remove", dying(Journal.remove))
        patch.setattr(ResponseCache, "remove_owner", dying(ResponseCache.remove_owner))
        patch.setattr(InteractionLog, "save", dying(InteractionLog.save))
        run = Run(installation.job, "forget")
        with suppress(Killed), run.working():
            forget_users(run, store)
    assert count >= moment
    installation.refresh()
    assert_gone(populated)
    assert populated.of_v() == before


def test_a_text_of_two_owners_goes_with_the_last(tmp_path: Path) -> None:
    store = ArrayFile(tmp_path / ENCODED)
    store.add({"shared": np.zeros(2), "own": np.ones(2), "item": np.full(2, 2.0)})
    with owner_table(tmp_path / OWNERS) as owners:
        owners.note([("shared", "u"), ("shared", "v"), ("own", "u")])
    assert remove_owned(tmp_path, ["u"]) == {("u", "encoded texts"): 1}
    assert set(store.read()) == {"shared", "item"}
    assert remove_owned(tmp_path, ["u", "v"]) == {("v", "encoded texts"): 1}
    assert set(store.read()) == {"item"}


def test_answers_of_before_there_were_owners_are_found(populated: Populated) -> None:
    """As an earlier version left them: the prompts are made again before the rows go."""
    installation = populated.pipeline
    for path in (installation.job.llm / CACHE_FILE, installation.job.knowledge / OWNERS):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DELETE FROM owners")
            connection.commit()
    shutil.rmtree(installation.job.knowledge / "marc")
    paid = len(installation.model.paid())
    request = populated.ask()
    installation.refresh()
    assert_gone(populated)
    assert populated.receipt(request).removed["answers"] >= 4
    assert len(installation.model.paid()) == paid


def test_exported_answers_do_not_bring_a_user_back(populated: Populated, tmp_path: Path) -> None:
    installation = populated.pipeline
    with ResponseCache(installation.job.llm / CACHE_FILE) as cache:
        count = cache.export_jsonl_gz(tmp_path / "answers.jsonl.gz")
        removed = cache.remove_owner(owner_mark(U))
        assert removed >= 4
        assert cache.import_jsonl_gz(tmp_path / "answers.jsonl.gz") == 0
        assert cache.totals()[0] == count - removed


def test_what_a_request_asks_for(populated: Populated) -> None:
    installation = populated.pipeline
    plan, close = JobRequest.new(RequestKind.DRY_RUN), JobRequest.new(RequestKind.CLOSE_PARTITION, V)
    with populated.store() as store:
        for request in (plan, close):
            write_request(store, request)
        now = round(time.time() * 1000)
        installation.stream(*((V, f"i{at}", 5.0, now + at) for at in range(2)))
        installation.refresh()
        assert populated.receipt(plan).state is RequestState.DONE
        document: Any = store.redis.get(store.keys.report(populated.receipt(plan).note))
        report = Report.model_validate_json(document)
        assert report.kind is ReportKind.DRY_RUN
        assert "producers" in report.body
        assert store.redis.zscore(store.keys.reports, report.name) == report.made_ms
        closed = populated.receipt(close)
        assert (closed.state, "closed, with" in closed.note) == (RequestState.DONE, True)
        log = InteractionLog.load(installation.job.log)
        trigger = installation.config.knowledge.liber.trigger
        versions = close_partitions(log, trigger).start
        user = log.user_ids.index(V)
        before = close_partitions(replace(log, closings=()), trigger).start
        assert versions[user + 1] - versions[user] == before[user + 1] - before[user] + 1
        again, unknown = (JobRequest.new(RequestKind.CLOSE_PARTITION, name) for name in (V, "never-seen"))
        for request in (again, unknown):
            write_request(store, request)
        assert installation.refresh()["status"] == "done"
        assert "nothing to close" in populated.receipt(again).note
        assert populated.receipt(unknown).state is RequestState.FAILED


def test_no_word_of_a_failed_run_or_a_dry_run_names_anybody(populated: Populated) -> None:
    """Neither before the user is forgotten nor later: the source files have the user still."""
    installation, work = populated.pipeline, populated.pipeline.config.workdir
    users, interactions = installation.folder / "users.csv", installation.folder / "interactions.csv"
    described, observed = users.read_text(), interactions.read_text()

    def dry_run(state: RequestState) -> JobRequest:
        request = JobRequest.new(RequestKind.DRY_RUN)
        with populated.store() as store:
            write_request(store, request)
        with suppress(DataError):
            installation.refresh()
        answered = populated.receipt(request)
        assert answered.state is state
        return answered

    for again in (False, True):
        users.write_text(f"{described}{U},99,painter\n")
        with pytest.raises(DataError, match=U.replace("{3}", "")):
            installation.refresh()
        assert dry_run(RequestState.FAILED).note.startswith("DataError: the data cannot be used: id_repeated: ")
        (reason,) = installation.runs()[-1]["reasons"]
        assert reason.endswith(f"{users}, row 25, column 'id'")
        users.write_text("".join(line for line in described.splitlines(keepends=True) if U not in line))
        interactions.write_text(f"{observed}{U},i1,1,{LATER_MS + 10 + again}\n")
        with populated.store() as store:
            note = dry_run(RequestState.DONE).note
            document: Any = store.redis.get(store.keys.report(note))
        assert any("user_undescribed" in line for line in Report.model_validate_json(document).body["lines"])
        assert U.encode() not in document
        if not again:
            populated.ask()
            installation.refresh()
            assert (work / "ledger.jsonl").read_text().count("id_repeated") == 0  # of before, only kinds are left
            with populated.store() as store:
                assert not store.redis.exists(store.keys.report(note))
        else:
            assert_gone(populated)


def test_rows_of_a_wrong_shape_are_listed_without_what_stands_in_them(populated: Populated) -> None:
    tolerant = {**source_of(populated.pipeline.folder)["interactions"], "bad_rows_at_most": 0.2}
    installation = populated.pipeline.with_config(data={"interactions": tolerant})
    path = installation.folder / "interactions.csv"
    path.write_text(f"{path.read_text()}{U},i1\n{U},i1,5.0,1,2,3\ni1,i1,5.0,{U}\n")
    listed = installation.job.raw / BAD_ROWS
    for _ in range(2):
        installation.refresh()
        assert [line.split(",")[0] for line in listed.read_text().splitlines()] == [
            "rule", "row_shape", "row_shape", "time_value"
        ]  # fmt: skip
        assert U not in listed.read_text()
        populated.ask()
        installation.refresh()
        assert_gone(populated)
        path.write_text(path.read_text() + f"{V},i2,5.0,{LATER_MS}\n")  # the files are read again


@pytest.mark.parametrize("damaged", [True, False])
def test_a_copy_of_a_former_log_that_is_damaged_or_half_made_goes(populated: Populated, damaged: bool) -> None:
    installation = populated.pipeline
    (copy,) = installation.config.workdir.glob("log-before-*")
    if damaged:
        (copy / MANIFEST).write_text("{")
    else:
        (copy / MANIFEST).unlink()
    request = populated.ask()
    installation.refresh()
    assert populated.receipt(request).state is RequestState.DONE
    assert not copy.exists()
    assert_gone(populated)


def test_one_dry_run_answers_all_that_wait_and_what_has_ended_leaves_the_list(
    populated: Populated, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation, calls = populated.pipeline, list[str]()
    for module, name in (("offline.jobs.dry_run", "dry_run"), ("offline.jobs.requests", "close_partitions")):
        whole = getattr(import_module(module), name)

        def counted(*arguments: Any, whole: Any = whole, name: str = name) -> Any:
            calls.append(name)
            return whole(*arguments)

        monkeypatch.setattr(f"{module}.{name}", counted)
    now = round(time.time() * 1000)
    installation.stream(*((V, f"i{at}", 5.0, now + at) for at in range(2)))
    plans = [JobRequest.new(RequestKind.DRY_RUN) for _ in range(3)]
    closings = [JobRequest.new(RequestKind.CLOSE_PARTITION, user) for user in (V, V, U)]
    with populated.store() as store:
        for request in (*plans, *closings):
            write_request(store, request)
        store.redis.zadd(store.keys.open_requests, {"0" * 32: 1, "1" * 32: now})
        installation.refresh()
        assert calls == ["dry_run", "close_partitions"]
        (note,) = {populated.receipt(request).note for request in plans}
        assert store.redis.exists(store.keys.report(note))
        of_v = " ".join(populated.receipt(request).note for request in closings[:2])
        assert "closed, with 2 interactions" in of_v
        assert "nothing to close: the open partition has 0 interactions" in of_v
        assert store.redis.zscore(store.keys.open_requests, "0" * 32) is None
        names = len(store.redis.keys(store.keys.request("*")))
        assert store.redis.zcard(store.keys.open_requests) + store.redis.zcard(store.keys.done_requests) == names


def test_requests_of_a_later_version_go_with_the_user_they_name(populated: Populated) -> None:
    later: dict[str, Any] = {"v": 2, "user_id": U, "kind": "redact", "asked_ms": 5, "since": "2027"}
    others = {"receipt": later | {"kind": "forget"}, "of another": later | {"user_id": V}}
    names = ("open", "done", "damaged", *others)
    with populated.store() as store:
        for at, document in enumerate((later, later, f'{{"user_id":"{U}"', *others.values())):
            index = store.keys.done_requests if at % 2 else store.keys.open_requests
            text: Any = document if isinstance(document, str) else json.dumps(document, ensure_ascii=False)
            store.redis.set(store.keys.request(names[at]), text)
            store.redis.zadd(index, {names[at]: 5})
        populated.ask()
        populated.pipeline.refresh()
        left = [name for name in names if store.redis.exists(store.keys.request(name))]
        assert left == list(others)
        store.redis.delete(*(store.keys.request(name) for name in others))
    assert_gone(populated)


def test_keys_that_are_damaged_stop_no_job(populated: Populated, capsys: pytest.CaptureFixture[str]) -> None:
    """One that is named after nobody is said and left; one of the user goes, whatever it is."""
    with populated.store() as store:
        tag = store.keys.user_profile(U).rpartition(":")[0].encode()
        of_nobody = store.keys.user_profile("").partition("}")[0].encode() + b"\xff}:history"
        of_user = tag + b":k:\xff"
        store.redis.mset({of_nobody: b"x", of_user: b"x"})
        store.redis.hset(store.keys.request("a" * 32), "x", "y")
        store.redis.zadd(store.keys.open_requests, {"a" * 32: 1})
        store.redis.delete(store.keys.user_history(U))
        store.redis.hset(store.keys.user_history(U), "x", "y")
        receipt = populated.ask()
        populated.pipeline.refresh()
        assert populated.receipt(receipt).state is RequestState.DONE
        assert populated.receipt(receipt).removed["history"] == 1
        lines = capsys.readouterr().out
        assert lines.count(r"{u:\xff}:history is: it is left alone") == 1
        assert lines.count(f"{'a' * 32} is damaged") == 1
        assert store.redis.exists(of_nobody)
        assert not store.redis.exists(of_user, store.keys.request("a" * 32))
        store.redis.delete(of_nobody)
    assert_gone(populated)


def test_of_too_many_that_are_done_the_oldest_go(populated: Populated, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for receipts, and for whatever is open."""
    monkeypatch.setattr("offline.publish.requests.MOST_REQUESTS", 2)
    kinds = (RequestKind.FORGET, *[RequestKind.DRY_RUN] * 3)
    requests = [JobRequest.new(kind, V if kind is RequestKind.FORGET else None) for kind in kinds]
    requests = [request.model_copy(update={"asked_ms": at}) for at, request in enumerate(requests)]
    with populated.store() as store:
        store.redis.delete(store.keys.done_requests)
        waiting = JobRequest.new(RequestKind.EXPORT, V)
        for request in (waiting, *(request.changed(RequestState.DONE) for request in requests)):
            write_request(store, request)
        drop_ended(store)
        there = [bool(store.redis.exists(store.keys.request(each.id))) for each in (*requests, waiting)]
        assert there == [True, False, True, True, True]
        assert store.redis.zrange(store.keys.done_requests, 0, -1) == [each.id.encode() for each in requests[2:]]
        assert store.redis.zrange(store.keys.open_requests, 0, -1) == [waiting.id.encode()]


def test_nobody_is_forgotten_while_a_replay_writes_them_anew(
    populated: Populated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job waits for it, and says so if it takes longer; the next one goes on. Without a request none waits."""
    monkeypatch.setattr("offline.forgetting.journal.WAIT_SECONDS", 0.3)
    installation = populated.pipeline
    job, replay = installation.job, installation.config.workdir / "replay"
    with exclusive(replay, "replay"), driver.replay_store(driver.replay_job(job)) as of_replay:
        installation.refresh()
        request = populated.ask()
        with pytest.raises(LockedError, match="`replay`"):
            installation.refresh()
        assert populated.receipt(request).is_open
        driver.begin(driver.replay_job(job), of_replay, 10, 5, 1)
        show(of_replay)
        archive(of_replay, replay / "exposures", ())
    installation.refresh()
    assert populated.receipt(request).state is RequestState.DONE
    assert_gone(populated)
    assert not of_replay_left(populated)


def of_replay_left(populated: Populated) -> list[str]:
    """Keys of replays."""
    with closing(populated.pipeline.redis) as client:
        return [key for key, _ in in_redis(client, replay_prefix(populated.pipeline.config.name))]


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("embedded", [False, True])
def test_what_a_replay_left_goes_with_the_user(
    populated: Populated, monkeypatch: pytest.MonkeyPatch, embedded: bool, killed: bool
) -> None:
    """Also in the files of its own server, where one that ended has deleted it."""
    job, url = driver.replay_job(populated.pipeline.job), os.environ["LORANK_REDIS_URL"]
    if embedded:
        monkeypatch.delenv("LORANK_REDIS_URL")
    with driver.replay_store(job) as store:
        driver.begin(job, store, 10, 5, 1)
        show(store)
        if not killed:
            empty(store, store.keys.prefix)
    monkeypatch.setenv("LORANK_REDIS_URL", url)
    assert bool(of_replay_left(populated)) is (killed and not embedded)
    receipt = populated.ask()
    assert any(place.startswith("replay/valkey") for place in populated.hits()) is embedded
    populated.pipeline.refresh()
    assert populated.receipt(receipt).state is RequestState.DONE
    assert_gone(populated)
    assert not of_replay_left(populated)


def test_texts_are_published_of_those_who_are_remembered(populated: Populated) -> None:
    installation = populated.pipeline.with_config(publish={"texts": True})
    installation.refresh()
    with populated.store() as store:
        document: Any = store.redis.get(store.keys.user_texts(U))
        texts = OwnerTexts.model_validate_json(document).texts
        assert {text.kind for text in texts} == {"summary", "shift"}
        assert all(text.prompt for text in texts)
        assert 0 < store.redis.ttl(store.keys.user_texts(V)) <= TEXTS_SECONDS
    populated.ask()
    installation.refresh()
    assert_gone(populated)
    with populated.store() as store:
        assert not store.redis.exists(store.keys.user_texts(U))
        assert store.redis.exists(store.keys.user_texts(V))


def test_what_is_stored_ends_after_a_while(populated: Populated) -> None:
    """Events of the files are of 2020; those of one user are of now."""
    installation = populated.pipeline
    now = round(time.time() * 1000)
    installation.stream((V, "i1", 5.0, now))
    limited = installation.with_config()
    days = RetentionConfig(history_days=10, profile_days=20, exposure_days=30)
    limited.config = limited.config.model_copy(update={"retention": days})
    with populated.store() as store:
        history, profile = store.keys.user_history(V), store.keys.user_profile(V)
        store.redis.delete(store.keys.user_history("u1"), store.keys.user_profile("u1"))
        limited.refresh()
        for key, length in ((history, 10), (profile, 20)):
            assert abs(store.redis.pexpiretime(key) - now - length * 86_400_000) <= 2000
        assert not store.redis.exists(store.keys.user_history("u1"), store.keys.user_profile("u1"))
        later = now + 11 * 86_400_000
        store.redis.pexpireat(history, later)  # the service knows of a later event
        store.redis.delete(store.keys.generation)
        limited.refresh()
        assert store.redis.pexpiretime(history) == later
    folder = limited.config.workdir / "exposures"
    assert read_exposures(folder).is_empty()
    assert read_interactions(folder).is_empty()


def test_the_job_forgets_and_tells(populated: Populated, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    installation = populated.pipeline
    (tmp_path / "ids").write_text(f"{U}\nnobody-here\n")
    config = tmp_path / "config.toml"
    write_config(installation.config.model_dump(mode="json", exclude_unset=True), config)
    arguments = ["forget", "--file", str(tmp_path / "ids"), "--opt-out", "--config", str(config)]
    result = CliRunner().invoke(app, [*arguments, "--data-dir", str(installation.job.data_dir)])
    assert result.exit_code == 0, result.output
    assert "2 users removed" in result.output
    assert result.output.count("receipt") == 2
    assert json.loads(result.output.splitlines()[-1])["status"] == "done"
    assert_gone(populated)
    with populated.store() as store:
        assert stored_tombstones(store).opted_out(U)
        lines = list(status_of(installation.job, store).lines())
        names: Any = store.redis.zrange(store.keys.reports, 0, -1)
        assert any(name.startswith(b"run-") for name in names)
    assert [line for line in lines if line.startswith("forgotten")] == [
        "forgotten  2 users, 2 of them opted out; 0 to be carried out by the next job; 0 requests open"
    ]
    assert any(line.startswith("retraining 1 user with 15 interactions") for line in lines)
    installation.stream((U, "i1", 5.0, round(time.time() * 1000)))
    installation.refresh()
    assert U not in InteractionLog.load(installation.job.log).user_ids


@pytest.mark.parametrize(
    ("arguments", "words"), [([], "--user ID or --file FILE"), (["--user", "a\tb"], "must hold no control characters")]
)
def test_wrong_calls(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["forget", *arguments])
    assert result.exit_code == 2
    assert words in " ".join(result.output.replace("│", " ").split())


def test_events_of_clocks_that_run_ahead_go_too(populated: Populated) -> None:
    """From the log, the archives and the stream: they arrived before the user was forgotten."""
    installation = populated.pipeline
    ahead = round(time.time() * 1000) + 8 * 3_600_000
    installation.stream((U, "i1", 5.0, ahead))
    installation.refresh()  # which takes it into the log
    installation.stream((U, "i2", 5.0, ahead))
    populated.ask()
    with populated.store() as store:
        store.redis.delete(store.keys.user_history(U))  # which tells no arrivals: the service deletes all of it
    installation.refresh()
    assert_gone(populated)
