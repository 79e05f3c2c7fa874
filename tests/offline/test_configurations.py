"""Two configurations that share everything they can share: a data folder, or a Redis and an artifact folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from models.contract.events import Interaction
from models.contract.keys import Keys
from models.contract.prefixes import prefix_of
from offline.data.catalogue import DataError
from offline.data.log import InteractionLog
from offline.jobs.runs import Run
from offline.jobs.steps import Job
from offline.publish import release
from offline.publish.connection import Store, open_store
from offline.publish.release import SwitchError, live_release, read_manifest, releases, rollback
from offline.refresh import all_stages
from service.configuration import with_prefix
from service.settings import Settings, SettingsError
from tests.offline.pipeline import LATER_MS, Pipeline, patched, pipeline

NAMES = ("first", "second")


@dataclass(frozen=True)
class Shared:
    """Two installations by name, with files and work folders of their own, and one data folder."""

    data_dir: Path
    installations: dict[str, Pipeline]

    def job(self, name: str, **options: Any) -> Job:
        return replace(Job(self.installations[name].config, self.data_dir), **options)

    def refresh(self, name: str, **options: Any) -> dict[str, Any]:
        run = Run(self.job(name, **options), "refresh")
        with run.working():
            all_stages(run)
        return run.record.document()

    def paid(self) -> list[str]:
        return self.installations["first"].model.paid()


@pytest.fixture
def shared(valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shared:
    installations = {}
    for name, users in zip(NAMES, (24, 23), strict=True):
        installation = pipeline(tmp_path / name, valkey, prefix_of(name), users=users)
        config = installation.config.model_copy(update={"name": name})
        installations[name] = replace(installation, config=config)
    patched(monkeypatch, installations["first"])  # its language model answers both
    for variable in ("LORANK_KEY_PREFIX", "LORANK_ARTIFACTS"):
        monkeypatch.delenv(variable)
    return Shared(tmp_path / "data", installations)


def keys_of(store: Store) -> set[str]:
    keys: Any = store.redis.keys("*")
    return {key.decode() for key in keys}


@pytest.mark.own_valkey
@pytest.mark.parametrize("redis", ["embedded", "external"])
def test_configurations_do_not_meet(shared: Shared, redis: str, valkey: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if redis == "embedded":
        monkeypatch.delenv("LORANK_REDIS_URL")
    settings = Settings(data_dir=shared.data_dir, redis_url=valkey if redis == "external" else None)
    shared.refresh("first")
    assert with_prefix(settings).key_prefix == "lorank:first"
    with open_store(shared.data_dir, "first") as store:
        before = {key: store.redis.dump(key) for key in keys_of(store) if key.startswith("lorank:first:")}
        files = set(store.artifacts.rglob("*"))
        assert before
        assert files
    shared.refresh("second")
    with pytest.raises(SettingsError, match=r"one of lorank:first, lorank:second$"):
        with_prefix(settings)

    with open_store(shared.data_dir, "first") as store, open_store(shared.data_dir, "second") as other:
        for name, opened in (("first", store), ("second", other)):
            live = live_release(opened)
            assert live is not None
            assert live.startswith(f"{name}-")
            assert releases(opened) == [live]
            assert read_manifest(opened, live).configuration == name
        assert {key: store.redis.dump(key) for key in before} == before
        assert set(store.artifacts.rglob("*")) == files, "nothing of it is without a name to the other"
        assert not files & set(other.artifacts.rglob("*"))

        event = Interaction(user_id="u1", item_id="i1", type="rating", value=5.0, time_ms=LATER_MS)
        fields: Any = event.to_stream()
        store.redis.xadd(store.keys.interactions, fields)
        rows = {name: len(InteractionLog.load(shared.job(name).log)) for name in NAMES}
        for name in NAMES:
            shared.refresh(name)
        after = {name: len(InteractionLog.load(shared.job(name).log)) for name in NAMES}
        assert after == {"first": rows["first"] + 1, "second": rows["second"]}


@pytest.mark.own_valkey
def test_a_live_release_of_another_configuration_is_replaced_only_if_that_is_said(
    shared: Shared, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORANK_KEY_PREFIX", "shop")
    shared.refresh("first")
    with open_store(shared.data_dir, "second") as store:
        first, paid = live_release(store), shared.paid()
        assert first is not None
        content = {key: store.redis.dump(key) for key in keys_of(store)}
        with pytest.raises(SwitchError, match=r"of configuration first .* this is configuration second: .*--take-over"):
            shared.refresh("second")
        assert shared.paid() == paid, "it is refused before anything is asked"
        assert {key: store.redis.dump(key) for key in keys_of(store)} == content

        shared.refresh("second", take_over=True)
        second = live_release(store)
        assert second is not None
        assert second.startswith("second-")
        assert read_manifest(store, second).configuration == "second"
        with pytest.raises(SwitchError, match=r"of configuration second .* this is configuration first"):
            shared.refresh("first")

        rollback(store)
        assert live_release(store) == first
        with pytest.raises(SwitchError, match="of configuration first"):
            shared.refresh("second")
        shared.refresh("second", take_over=True)
        assert live_release(store) == second, "taken over again, though it was rolled back"


@pytest.mark.own_valkey
def test_a_release_from_before_manifests_named_a_configuration_is_known_by_its_id(
    shared: Shared, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORANK_KEY_PREFIX", "shop")
    shared.refresh("first")
    with open_store(shared.data_dir, "first") as store:
        live = live_release(store)
        assert live is not None
        manifest = read_manifest(store, live).model_copy(update={"configuration": None})
        assert "configuration" not in manifest.to_json()
        release.write_manifest(store, manifest)
        shared.refresh("first")
        with pytest.raises(SwitchError, match="of configuration first"):
            shared.refresh("second")
        store.redis.rename(Keys("shop").release_manifest(live), Keys("shop").release_manifest("by-hand"))
        store.redis.set(store.keys.live, "by-hand")
        release.refuse_another(store, "second")  # nobody knows whose it is


def test_a_work_folder_is_of_one_configuration(shared: Shared) -> None:
    shared.refresh("first")
    first, second = shared.installations["first"].config, shared.installations["second"]
    shared.installations["second"] = replace(
        second, config=second.config.model_copy(update={"workdir": first.workdir, "data": first.data})
    )
    with pytest.raises(DataError, match=r"is that of the configuration 'first': give 'second' one of its own"):
        shared.refresh("second")
    shared.refresh("second", take_over=True)  # it was renamed
    with pytest.raises(DataError, match=r"is that of the configuration 'second'"):
        shared.refresh("first")
