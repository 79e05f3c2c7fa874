"""A user who is forgotten is in no file and under no key any more; all others are as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.contract.requests import RequestState
from offline.data.log import InteractionLog
from offline.training.report import TrainingReport
from offline.training.retraining import Retraining
from tests.offline.forgetting.conftest import Populated, U, V, populate
from tests.offline.pipeline import patched, pipeline

STORES = (
    "log/users-", "log-before-", "knowledge/liber/vectors.npz", "knowledge/encoded.npz", "knowledge/owners.sqlite3",
    "knowledge/marc/states/", "llm/answers.sqlite3", "undo.sqlite", "exposures/exposures/part-",
    "exposures/interactions/part-", "replay/exposures/exposures/part-", "imported.json", "raw/bad_rows.csv",
    "models/.report.json.abcd_123",
)  # fmt: skip
"""Beginnings of the files of a work folder that hold something of a user."""

KEYS = ("profile", "history", "k:", "arms")


def assert_found(populated: Populated) -> None:
    """The search finds the user in every store: it would see what is left."""
    places = populated.hits()
    for store in STORES:
        assert any(place.startswith(store) for place in places), f"nothing in {store}: {sorted(places)}"
    tags = [place for place in places if place.startswith("redis ")]
    for key in (*(f"}}:{key}" for key in KEYS), ":interactions", ":exposures"):
        assert any(key in tag for tag in tags), f"nothing under {key}: {tags}"


def assert_gone(populated: Populated) -> None:
    """Nothing is left of the user but receipts."""
    places = {place: needles for place, needles in populated.hits().items() if not place.startswith("redis :request:")}
    assert not places, {place: sorted(needles)[:3] for place, needles in places.items()}


@pytest.mark.own_valkey
def test_nothing_is_left_of_a_user(tmp_path: Path, valkey: str, monkeypatch: pytest.MonkeyPatch) -> None:
    installation = pipeline(tmp_path / "all", valkey, "all")
    patched(monkeypatch, installation)
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
                  "archived exposures", "archived interactions"):  # fmt: skip
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


def test_a_user_who_comes_back_is_known_by_new_events_alone(populated: Populated) -> None:
    installation = populated.pipeline
    populated.ask()
    installation.refresh()
    import time

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
