"""Arms end to end: what an arm switches off is neither read nor counted, and arms can be forced."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from models.contract.events import Interaction
from models.contract.experiments import ExperimentsError
from models.contract.exposures import Exposure
from models.contract.keys import Keys
from service.app import create_app
from service.settings import Settings
from tests.contract.experiments import TWO_LAYERS
from tests.service.conftest import eventually, running
from tests.service.tiny import ITEMS, Publisher, score_of
from tests.service.tiny_model import PORTRAIT_SPACE

WITHOUT_RERANKING = TWO_LAYERS.replace("rerank_top_n = 20", "rerank_top_n = 0")


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    path = tmp_path / "experiments.toml"
    path.write_text(WITHOUT_RERANKING)
    return settings.model_copy(update={"experiments": path})


async def test_an_arm_without_knowledge(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    publisher.publish()
    publisher.user_knowledge("u", [[1.0, 1.0, 1.0]])
    publisher.user_knowledge("u", [[2.0, 1.0]], space=PORTRAIT_SPACE)
    async with running(settings) as service:
        off = await service.rank("u", ["a"], arms={"ranking": "plain"}, explain=True)
        on = await service.rank("u", ["a"], arms={"ranking": "full"})
        assert off["knowledge"] == {"fresh": 0, "stale": 0, "missing": 0}
        assert on["knowledge"] == {"fresh": 4, "stale": 0, "missing": 0}
        assert off["items"][0]["score"] == pytest.approx(score_of(ITEMS[0], knowledge=False), rel=1e-5)
        assert off["items"][0]["explain"]["score_without_knowledge"] == off["items"][0]["score"]
        assert on["items"][0]["score"] == pytest.approx(
            score_of(ITEMS[0], partitions=3.0, portrait=(2.0, 1.0)), rel=1e-5
        )
        assert off["experiments"][0] == {"layer": "ranking", "experiment": "knowledge", "arm": "plain"}
        store.set(keys.user_knowledge("u", PORTRAIT_SPACE.fingerprint), b"damaged")
        assert (await service.rank("u", ["a"], arms={"ranking": "plain"}))["degraded"] == []
        assert (await service.rank("u", ["a"], arms={"ranking": "full"}))["degraded"] == ["no_knowledge"]
        missing = await service.rank("undefined")
        assert [one["arm"] for one in missing["experiments"]] == ["plain", "none"]
        assert service.metric("lorank_missing_units_total") == 1


def test_an_arm_that_cannot_take_effect_stops_the_start(settings: Settings) -> None:
    assert settings.experiments is not None
    settings.experiments.write_text(TWO_LAYERS)
    with pytest.raises(ExperimentsError, match="no reranker"):
        create_app(settings)


ARMS = """
[[layers]]
name = "ranking"
[[layers.experiments]]
name = "e"
{more}
[[layers.experiments.arms]]
name = "plain"
weight = 1
knowledge = "off"
[[layers.experiments.arms]]
name = "other"
weight = 0
{other}
"""


def with_arms(settings: Settings, other: str = "", more: str = "") -> Settings:
    assert settings.experiments is not None
    settings.experiments.write_text(ARMS.format(other=other, more=more))
    return settings


async def exposed(store: redis.Redis, keys: Keys, count: int = 1) -> list[Exposure]:
    entries = await eventually(lambda: (found := store.xrange(keys.exposures)) and len(found) >= count and found)
    return [Exposure.from_stream(fields) for _, fields in entries]


async def test_an_arm_can_pin_a_release(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    publisher.publish("old", items=[replace(one, rating=6.0 - one.rating) for one in ITEMS])
    publisher.publish()
    async with running(with_arms(settings, 'release = "old"')) as service:
        live = await service.rank(arms={"ranking": "plain"})
        pinned = await service.rank(arms={"ranking": "other"})
        assert (live["release"], pinned["release"]) == ("r1", "old")
        assert [one["id"] for one in live["items"]] != [one["id"] for one in pinned["items"]]
        assert [one.release for one in await exposed(store, keys, 2)] == ["r1", "old"]
        assert (await service.status())["pinned"] == {"old": {"loaded": True, "refused": None}}
        publisher.publish("r2")  # another live release leaves the pinned one alone

        async def follows() -> bool:
            found: bool = (await service.rank(arms={"ranking": "plain"}))["release"] == "r2"
            return found

        await eventually(follows)
        assert (await service.rank(arms={"ranking": "other"}))["release"] == "old"


async def test_a_release_that_is_not_there_is_told_and_the_live_one_answers(
    settings: Settings, publisher: Publisher
) -> None:
    publisher.publish()
    async with running(with_arms(settings, 'release = "gone"')) as service:
        answer = await service.rank(arms={"ranking": "other"})
        assert (answer["release"], answer["degraded"]) == ("r1", ["not_pinned"])
        assert "there is no manifest" in (await service.status())["pinned"]["gone"]["refused"]
        assert (await service.status())["refused"] is None
        publisher.publish("gone", switch=False)

        async def arrives() -> bool:
            found: bool = (await service.rank(arms={"ranking": "other"}))["release"] == "gone"
            return found

        await eventually(arrives)


async def test_kept_arms_survive_a_change_of_weights(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    publisher.publish()
    async with running(with_arms(settings, more="sticky_days = 2")) as service:
        assert (await service.rank("u", unit="device 1"))["experiments"][0]["arm"] == "plain"
        await eventually(lambda: store.hgetall(keys.unit_arms("device 1")) == {b"e__0": b"plain"})
        assert 0 < int(store.ttl(keys.unit_arms("device 1"))) <= 2 * 86_400
    settings.experiments.write_text(  # type: ignore[union-attr]
        ARMS.format(other="", more="sticky_days = 2")
        .replace("weight = 0", "weight = 2")
        .replace("weight = 1", "weight = 0")
    )
    async with running(settings) as service:
        assert (await service.rank("u", unit="device 1"))["experiments"][0]["arm"] == "plain"
        assert (await service.rank("u", unit="device 2"))["experiments"][0]["arm"] == "other"
        found = {one.unit: one.arms[0].how for one in await exposed(store, keys, 3)}
        assert found == {"device 1": "sticky", "device 2": "split"}
        store.delete(keys.unit_arms("device 1"))
        store.set(keys.unit_arms("device 1"), b"damaged")
        assert (await service.rank("u", unit="device 1"))["experiments"][0]["arm"] == "other"
        assert (await exposed(store, keys, 4))[-1].arms[0].how == "unread"


async def test_shadow_scores_are_those_of_the_other_arm(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    publisher.publish()
    publisher.user_knowledge("u", [[5.0, 5.0, 5.0]])
    async with running(with_arms(settings, 'shadow = "plain"')) as service:
        full = await service.rank("u", arms={"ranking": "other"}, request_id="full", top_k=3)
        plain = await service.rank("u", arms={"ranking": "plain"}, request_id="plain")
    scores = {one["id"]: one["score"] for one in plain["items"]}
    found = {one.request_id: one for one in await exposed(store, keys, 2)}
    assert found["plain"].shadow == ()
    assert found["full"].shadow_arm == "plain"
    assert found["full"].shadow == pytest.approx([scores[one["id"]] for one in full["items"]])
    assert found["full"].scores != pytest.approx(found["full"].shadow)


async def test_an_experiment_can_log_what_was_not_shown(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    publisher.publish()
    publisher.user_knowledge("u", [[5.0, 5.0, 5.0]])
    async with running(with_arms(settings, 'shadow = "plain"', 'log = "all"')) as service:
        whole = await service.rank("u", arms={"ranking": "other"})
        plain = await service.rank("u", arms={"ranking": "plain"})
        await service.rank("u", arms={"ranking": "other"}, top_k=2, request_id="cut")
    scores = {one["id"]: one["score"] for one in plain["items"]}
    found = {one.request_id: one for one in await exposed(store, keys, 3)}
    cut, full = found["cut"], found[whole["request_id"]]
    assert (full.unshown, full.unshown_scores, full.unshown_shadow) == ((), (), ())
    assert ((*cut.items, *cut.unshown), cut.candidates) == (full.items, 5)
    assert (*cut.scores, *cut.unshown_scores) == pytest.approx(full.scores)
    assert cut.unshown_shadow == pytest.approx([scores[one] for one in cut.unshown])
    assert len(cut.shadow) == 2


async def test_drawn_orders_carry_propensities(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    publisher.publish()
    async with running(with_arms(settings, 'explore = { kind = "plackett-luce", positions = 2 }')) as service:
        orders = set()
        for at in range(20):
            answer = await service.rank(arms={"ranking": "other"}, request_id=f"r{at}", top_k=3)
            orders.add(tuple(one["id"] for one in answer["items"]))
        again = await service.rank(arms={"ranking": "other"}, request_id="r19", top_k=3)
        assert tuple(one["id"] for one in again["items"]) == tuple(one["id"] for one in answer["items"])
    assert len(orders) > 3
    for one in await exposed(store, keys, 21):
        assert len(one.propensities) == 3
        assert 0 < one.propensities[0] < 1
        assert one.propensities[2] == 1.0


async def test_interleaved_orders_carry_teams(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    publisher.publish(items=[replace(one, vector=(9.0 - 3 * at, 0.0, 0.0)) for at, one in enumerate(ITEMS)])
    third = '\n[[layers.experiments.arms]]\nname = "mixed"\nweight = 0\ninterleave = ["plain", "other"]'
    async with running(with_arms(settings, third)) as service:
        orders = [await service.rank(arms={"ranking": name}) for name in ("plain", "other", "mixed")]
    plain, other, mixed = ([one["id"] for one in answer["items"]] for answer in orders)
    assert plain != other
    (exposure,) = [one for one in await exposed(store, keys, 3) if one.teams]
    assert exposure.arms[0].arm == "mixed"
    for team, order in (("plain", plain), ("other", other)):
        picked = [item for item, by in zip(mixed, exposure.teams, strict=True) if by == team]
        assert len(picked) in (2, 3)
        assert picked == [item for item in order if item in picked]
        scores = {one["id"]: one["score"] for one in orders[0 if team == "plain" else 1]["items"]}
        for item, score in zip(exposure.items, exposure.scores, strict=True):
            if item in picked:
                assert score == pytest.approx(scores[item])


async def test_an_empty_unit_gets_the_control_and_is_not_exposed(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    publisher.publish()
    async with running(with_arms(settings)) as service:
        assert (await service.rank("u", unit=""))["experiments"][0]["arm"] == "plain"
        assert service.metric("lorank_missing_units_total") == 1
        await service.rank("somebody")
    assert [one.user_id for one in await exposed(store, keys)] == ["somebody"]


async def test_an_exposure_that_cannot_be_made_is_counted_and_the_answer_stands(
    settings: Settings, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.publish()
    monkeypatch.setattr("service.ranking.answer_log.exposure_of", lambda *_: 1 / 0)
    async with running(with_arms(settings)) as service:
        assert len((await service.rank())["items"]) == 5
        assert service.metric("lorank_exposures_dropped_total", reason="invalid") == 1
        assert (await service.status())["exposures"]["dropped"] == 1


async def test_shadow_scores_say_what_the_arm_would_put_last(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    publisher.publish()
    packed = Interaction(user_id="u", item_id="b", value=4, time_ms=1).pack()
    store.append(keys.user_history("u"), packed)
    third = '\nshadow = "unseen"\n[[layers.experiments.arms]]\nname = "unseen"\nweight = 0\nexclude_seen = true'
    async with running(with_arms(settings, third)) as service:
        await service.rank("u", arms={"ranking": "other"})
    (exposure,) = await exposed(store, keys)
    shadow = dict(zip(exposure.items, exposure.shadow, strict=True))
    assert shadow["b"] < 0 < min(score for item, score in shadow.items() if item != "b")


async def test_a_pinned_release_stays_when_it_is_live_no_more(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    publisher.publish("first")
    async with running(with_arms(settings, 'release = "first"')) as service:
        assert store.zscore(keys.pins, "first") is not None, "the jobs are told"
        publisher.publish("second")

        async def follows() -> bool:
            answer = await service.rank(arms={"ranking": "other"})
            assert (answer["release"], answer["degraded"]) == ("first", [])
            live: str = (await service.rank(arms={"ranking": "plain"}))["release"]
            return live == "second"

        await eventually(follows)
        assert (await service.rank(arms={"ranking": "other"}))["release"] == "first"


@pytest.mark.parametrize("user", [None, "", "null"])
async def test_nobody_gets_the_control_and_is_not_exposed(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys, user: str | None
) -> None:
    publisher.publish()
    async with running(with_arms(settings)) as service:
        answer = await service.rank(user)  # type: ignore[arg-type]
        assert answer["experiments"] == [{"layer": "ranking", "experiment": "e", "arm": "plain"}]
        assert len(answer["items"]) == 5
        assert service.metric("lorank_missing_units_total") == 1
        await service.rank("somebody")
    assert [one.user_id for one in await exposed(store, keys)] == ["somebody"]


async def test_a_shadow_that_cannot_be_scored_is_left_out_and_degrades_nothing(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    publisher.publish()
    third = '\nshadow = "pinned"\n[[layers.experiments.arms]]\nname = "pinned"\nweight = 0\nrelease = "gone"'
    async with running(with_arms(settings, third)) as service:
        assert (await service.rank(arms={"ranking": "other"}))["degraded"] == []
        (exposure,) = await exposed(store, keys)
        assert (exposure.shadow_arm, exposure.shadow) == ("pinned", ()), "not the live release's scores in its name"
        assert service.metric("lorank_shadows_skipped_total") == 1


@pytest.mark.parametrize("more", ["", "sticky_days = 2"])
async def test_knowledge_that_an_arm_does_without_degrades_nothing(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys, more: str
) -> None:
    publisher.publish()
    store.set(keys.user_knowledge("u", PORTRAIT_SPACE.fingerprint), b"damaged")
    async with running(with_arms(settings, more=more)) as service:
        assert (await service.rank("u", arms={"ranking": "plain"}))["degraded"] == []
        assert (await service.rank("u", arms={"ranking": "other"}))["degraded"] == ["no_knowledge"]


async def test_boosts_hold_for_scores_with_and_without_knowledge(settings: Settings, publisher: Publisher) -> None:
    publisher.publish()
    boost = 'boosts = [{ field = "genre", value = "horror", add = 2.0 }]'
    async with running(with_arms(settings, boost)) as service:
        plain = await service.rank("u", ["a", "d"], arms={"ranking": "plain"}, explain=True)
        boosted = await service.rank("u", ["a", "d"], arms={"ranking": "other"}, explain=True)
    before, after = (
        {one["id"]: one["explain"]["score_without_knowledge"] for one in answer["items"]} for answer in (plain, boosted)
    )
    ratio = {one: (after[one] / (1 - after[one])) / (before[one] / (1 - before[one])) for one in ("a", "d")}
    assert ratio == pytest.approx({"a": 1.0, "d": math.exp(2.0)}, rel=1e-4)


async def test_a_short_lived_arm_does_not_shorten_others(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    publisher.publish()
    store.hset(keys.unit_arms("u"), "older__0", "x")
    store.expire(keys.unit_arms("u"), 30 * 86_400)
    async with running(with_arms(settings, more="sticky_days = 2")) as service:
        await service.rank("u")
        await eventually(lambda: store.hget(keys.unit_arms("u"), "e__0") == b"plain")
    assert int(store.ttl(keys.unit_arms("u"))) > 29 * 86_400


async def test_a_unit_keeps_its_arm_without_a_user(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    publisher.publish()
    store.hset(keys.unit_arms("device"), "e__0", "other")
    async with running(with_arms(settings, more="sticky_days = 2")) as service:
        answer = await service.rank("", unit="device")
    assert answer["experiments"][0]["arm"] == "other"
    assert (await exposed(store, keys))[0].arms[0].how == "sticky"
