"""The export of a user is all that is stored, and nothing of others."""

from __future__ import annotations

from typing import Any

import redis

from models.contract.keys import Keys
from models.contract.requests import JobRequest, RequestKind, UserExport
from tests.service.conftest import Running, eventually
from tests.service.forgetting.traces import OTHER, WHO, behave, texts_in
from tests.service.tiny import Publisher
from tests.service.tiny_model import USER_SPACE


async def test_the_export_is_all_that_is_stored_and_readable(
    service: Running, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    for user in (WHO, OTHER):
        await behave(service, publisher, store, keys, user)
    answer = await service.http.get(f"/v1/users/{WHO}/export")
    stored = answer.json()["stored"]
    assert [event["item_id"] for event in stored["history"]] == ["a", "b"]
    assert stored["profile"] == {"age": 47}
    assert stored["knowledge"][USER_SPACE.fingerprint]["vectors"] == [[0.5, 0.5]]
    assert [event["item_id"] for event in stored["interactions"]] == ["a", "b"]
    assert stored["exposures"][0]["unit"] == f"tablet-of-{WHO}"
    assert sorted(arms["layer__1"] for arms in stored["arms"].values()) == ["control", "treatment"]
    assert OTHER not in answer.text
    assert answer.json()["work_folder"] is None
    assert "export-user" in answer.json()["elsewhere"][0]
    nobody = (await service.http.get("/v1/users/never-seen/export")).json()
    assert nobody["stored"] == {"history": [], "profile": None, "knowledge": {}, "arms": {}, "texts": None,
                                "interactions": [], "exposures": [], "served_lists": 0}  # fmt: skip


async def test_what_a_job_told_is_in_the_export_until_the_user_is_forgotten(
    service: Running, store: redis.Redis, keys: Keys
) -> None:
    asked = await service.http.post(f"/v1/users/{WHO}/export")
    assert asked.status_code == 202
    assert (asked.json()["kind"], asked.json()["user_id"], asked.json()["state"]) == ("export", WHO, "waiting")
    answer: Any = store.get(keys.request(asked.json()["id"]))
    assert JobRequest.model_validate_json(answer).kind is RequestKind.EXPORT
    exports = {user: UserExport(owner=user, made_ms=5, configuration="c", stored={"answers": [{"text": f"of {user}"}]})
            for user in (WHO, OTHER)}  # fmt: skip
    for user, export in exports.items():
        store.set(keys.user_export(user), export.pack())
    document = (await service.http.get(f"/v1/users/{WHO}/export")).json()
    assert UserExport.model_validate(document["work_folder"]) == exports[WHO]
    assert "export" not in document["stored"]

    receipt = (await service.http.delete(f"/v1/users/{WHO}")).json()
    assert receipt["removed"]["export"] == 1
    assert not store.exists(keys.user_export(WHO))
    assert store.get(keys.user_export(OTHER)) == exports[OTHER].pack()
    assert (await service.http.get(f"/v1/users/{WHO}/export")).json()["work_folder"] is None


async def test_the_export_has_nothing_of_others(service: Running, store: redis.Redis, keys: Keys) -> None:
    await service.rank(OTHER, unit=WHO)
    await eventually(lambda: texts_in(store, keys.exposures))
    assert (await service.http.get(f"/v1/users/{WHO}/export")).json()["stored"]["exposures"] == []
    assert (await service.http.delete(f"/v1/users/{WHO}")).json()["removed"] == {"exposures": 1}
