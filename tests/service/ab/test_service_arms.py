"""Arms end to end: what an arm switches off is neither read nor counted, and arms can be forced."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import redis

from models.contract.events import Interaction
from models.contract.experiments import ExperimentsError
from models.contract.exposures import Exposure
from models.contract.ids import NOBODY
from models.contract.keys import Keys
from service.app import create_app
from service.settings import Settings
from tests.contract.experiments import TWO_LAYERS
from tests.service.conftest import Running, eventually, running
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
        assert missing["experiments"] == []
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
weight = {weights[0]}
knowledge = "off"
[[layers.experiments.arms]]
name = "other"
weight = {weights[1]}
{other}
"""


@dataclass(frozen=True)
class Arms:
    """An experiment of two arms over the tiny release: ``plain``, without knowledge, and ``other``."""

    settings: Settings
    publisher: Publisher
    store: redis.Redis
    keys: Keys

    @contextlib.asynccontextmanager
    async def service(
        self, other: str = "", more: str = "", weights: tuple[int, int] = (1, 0)
    ) -> AsyncIterator[Running]:
        """The running service, with further lines of the arm ``other`` and ``more`` of the experiment."""
        assert self.settings.experiments is not None
        self.settings.experiments.write_text(ARMS.format(other=other, more=more, weights=weights))
        async with running(self.settings) as service:
            yield service

    async def exposed(self, count: int = 1) -> list[Exposure]:
        """The exposures in the stream, once there are ``count``."""
        await eventually(lambda: self.store.xlen(self.keys.exposures) >= count)
        entries: Any = self.store.xrange(self.keys.exposures)
        return [Exposure.from_stream(fields) for _, fields in entries]


@pytest.fixture
def arms(settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys) -> Arms:
    publisher.publish()
    return Arms(settings, publisher, store, keys)


async def test_an_arm_can_pin_a_release(arms: Arms) -> None:
    arms.publisher.publish("old", switch=False, items=[replace(item, rating=6.0 - item.rating) for item in ITEMS])
    async with arms.service('release = "old"') as service:
        live = await service.rank(arms={"ranking": "plain"})
        pinned = await service.rank(arms={"ranking": "other"})
        assert (live["release"], pinned["release"]) == ("r1", "old")
        assert [item["id"] for item in live["items"]] != [item["id"] for item in pinned["items"]]
        assert [exposure.release for exposure in await arms.exposed(2)] == ["r1", "old"]
        assert (await service.status())["pinned"] == {"old": {"loaded": True, "refused": None}}
        arms.publisher.publish("r2")  # another live release leaves the pinned one alone

        async def follows() -> bool:
            return bool((await service.rank(arms={"ranking": "plain"}))["release"] == "r2")

        await eventually(follows)
        assert (await service.rank(arms={"ranking": "other"}))["release"] == "old"


async def test_a_release_that_is_not_there_is_told_and_the_live_one_answers(arms: Arms) -> None:
    async with arms.service('release = "gone"') as service:
        answer = await service.rank(arms={"ranking": "other"})
        assert (answer["release"], answer["degraded"]) == ("r1", ["not_pinned"])
        assert "there is no manifest" in (await service.status())["pinned"]["gone"]["refused"]
        assert (await service.status())["refused"] is None
        arms.publisher.publish("gone", switch=False)

        async def arrives() -> bool:
            return bool((await service.rank(arms={"ranking": "other"}))["release"] == "gone")

        await eventually(arrives)


async def test_sticky_arms_survive_a_change_of_weights(arms: Arms) -> None:
    async with arms.service(more="sticky_days = 2") as service:
        assert (await service.rank("u", unit="device 1"))["experiments"][0]["arm"] == "plain"
        await eventually(lambda: arms.store.hgetall(arms.keys.unit_arms("device 1")) == {b"e__0": b"plain"})
        assert 0 < int(arms.store.ttl(arms.keys.unit_arms("device 1"))) <= 2 * 86_400
    async with arms.service(more="sticky_days = 2", weights=(0, 2)) as service:
        assert (await service.rank("u", unit="device 1"))["experiments"][0]["arm"] == "plain"
        assert (await service.rank("u", unit="device 2"))["experiments"][0]["arm"] == "other"
        ways = {exposure.unit: exposure.arms[0].how for exposure in await arms.exposed(3)}
        assert ways == {"device 1": "sticky", "device 2": "split"}
        arms.store.delete(arms.keys.unit_arms("device 1"))
        arms.store.set(arms.keys.unit_arms("device 1"), b"damaged")
        assert (await service.rank("u", unit="device 1"))["experiments"][0]["arm"] == "other"
        assert (await arms.exposed(4))[-1].arms[0].how == "unread"


async def test_shadow_scores_are_those_of_the_other_arm(arms: Arms) -> None:
    arms.publisher.user_knowledge("u", [[5.0, 5.0, 5.0]])
    async with arms.service('shadow = "plain"') as service:
        full = await service.rank("u", arms={"ranking": "other"}, request_id="full", top_k=3)
        plain = await service.rank("u", arms={"ranking": "plain"}, request_id="plain")
    scores = {item["id"]: item["score"] for item in plain["items"]}
    exposures = {exposure.request_id: exposure for exposure in await arms.exposed(2)}
    assert exposures["plain"].shadow == ()
    assert exposures["full"].shadow_arm == "plain"
    assert exposures["full"].shadow == pytest.approx([scores[item["id"]] for item in full["items"]])
    assert exposures["full"].scores != pytest.approx(exposures["full"].shadow)


async def test_an_experiment_can_log_what_was_not_shown(arms: Arms) -> None:
    arms.publisher.user_knowledge("u", [[5.0, 5.0, 5.0]])
    async with arms.service('shadow = "plain"', 'log = "all"') as service:
        whole = await service.rank("u", arms={"ranking": "other"})
        plain = await service.rank("u", arms={"ranking": "plain"})
        await service.rank("u", arms={"ranking": "other"}, top_k=2, request_id="cut")
    scores = {item["id"]: item["score"] for item in plain["items"]}
    exposures = {exposure.request_id: exposure for exposure in await arms.exposed(3)}
    cut, full = exposures["cut"], exposures[whole["request_id"]]
    assert (full.unshown, full.unshown_scores, full.unshown_shadow) == ((), (), ())
    assert ((*cut.items, *cut.unshown), cut.candidates) == (full.items, 5)
    assert (*cut.scores, *cut.unshown_scores) == pytest.approx(full.scores)
    assert cut.unshown_shadow == pytest.approx([scores[item] for item in cut.unshown])
    assert len(cut.shadow) == 2


async def test_drawn_orders_carry_propensities(arms: Arms) -> None:
    async with arms.service('explore = { kind = "plackett-luce", positions = 2 }') as service:
        orders = set()
        for at in range(20):
            answer = await service.rank(arms={"ranking": "other"}, request_id=f"r{at}", top_k=3)
            orders.add(tuple(item["id"] for item in answer["items"]))
        again = await service.rank(arms={"ranking": "other"}, request_id="r19", top_k=3)
        assert tuple(item["id"] for item in again["items"]) == tuple(item["id"] for item in answer["items"])
    assert len(orders) > 3
    for exposure in await arms.exposed(21):
        assert len(exposure.propensities) == 3
        assert 0 < exposure.propensities[0] < 1
        assert exposure.propensities[2] == 1.0


async def test_interleaved_orders_carry_teams(arms: Arms) -> None:
    arms.publisher.publish(items=[replace(item, vector=(9.0 - 3 * at, 0.0, 0.0)) for at, item in enumerate(ITEMS)])
    third = '\n[[layers.experiments.arms]]\nname = "mixed"\nweight = 0\ninterleave = ["plain", "other"]'
    async with arms.service(third) as service:
        orders = [await service.rank(arms={"ranking": name}) for name in ("plain", "other", "mixed")]
    plain, other, mixed = ([item["id"] for item in answer["items"]] for answer in orders)
    assert plain != other
    (exposure,) = [exposure for exposure in await arms.exposed(3) if exposure.teams]
    assert exposure.arms[0].arm == "mixed"
    for team, order in (("plain", plain), ("other", other)):
        picked = [item for item, by in zip(mixed, exposure.teams, strict=True) if by == team]
        assert len(picked) in (2, 3)
        assert picked == [item for item in order if item in picked]
        scores = {item["id"]: item["score"] for item in orders[0 if team == "plain" else 1]["items"]}
        for item, score in zip(exposure.items, exposure.scores, strict=True):
            if item in picked:
                assert score == pytest.approx(scores[item])


async def test_an_exposure_that_cannot_be_made_is_counted_and_the_answer_stands(
    arms: Arms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.ranking.answer_log.exposure_of", lambda *_: 1 / 0)
    async with arms.service() as service:
        assert len((await service.rank())["items"]) == 5
        assert service.metric("lorank_exposures_dropped_total", reason="invalid") == 1
        assert (await service.status())["exposures"]["dropped"] == 1


async def test_shadow_scores_say_what_the_arm_would_put_last(arms: Arms) -> None:
    packed = Interaction(user_id="u", item_id="b", value=4, time_ms=1).pack()
    arms.store.append(arms.keys.user_history("u"), packed)
    third = '\nshadow = "unseen"\n[[layers.experiments.arms]]\nname = "unseen"\nweight = 0\nexclude_seen = true'
    async with arms.service(third) as service:
        await service.rank("u", arms={"ranking": "other"})
    (exposure,) = await arms.exposed()
    shadow = dict(zip(exposure.items, exposure.shadow, strict=True))
    assert shadow["b"] < 0 < min(score for item, score in shadow.items() if item != "b")


async def test_a_pinned_release_stays_when_it_is_live_no_more(arms: Arms) -> None:
    arms.publisher.publish("first")
    async with arms.service('release = "first"') as service:
        assert arms.store.zscore(arms.keys.pins, "first") is not None, "the jobs are told"
        arms.publisher.publish("second")

        async def follows() -> bool:
            answer = await service.rank(arms={"ranking": "other"})
            assert (answer["release"], answer["degraded"]) == ("first", [])
            live: str = (await service.rank(arms={"ranking": "plain"}))["release"]
            return live == "second"

        await eventually(follows)
        assert (await service.rank(arms={"ranking": "other"}))["release"] == "first"


NOBODY_ASKS = [
    {"user": None}, {"user": ""}, {"user": " "}, {"unit": ""}, {"unit": "undefined"},
    *({"user": text} for text in NOBODY),
]  # fmt: skip


@pytest.mark.parametrize("who", NOBODY_ASKS, ids=str)
async def test_nobody_is_ranked_as_the_control_in_no_arm_and_is_not_exposed(arms: Arms, who: Any) -> None:
    async with arms.service() as service:
        answer = await service.rank(**who)
        assert answer["experiments"] == []
        assert answer["knowledge"] == {"fresh": 0, "stale": 0, "missing": 0}  # as the control, which does without
        assert len(answer["items"]) == 5
        assert service.metric("lorank_missing_units_total") == 1
        await service.rank("somebody")
    assert [exposure.user_id for exposure in await arms.exposed()] == ["somebody"]


async def test_the_release_says_who_is_nobody(arms: Arms) -> None:
    Publisher(arms.store, arms.keys, arms.settings.artifact_folder).publish(nobody=("0", "-1"))
    async with arms.service() as service:
        for user, is_somebody in (("0", False), (0, False), ("-1", False), ("null", True)):
            answer = await service.rank(user)  # type: ignore[arg-type]  # a number is an id too
            assert bool(answer["experiments"]) == is_somebody
        forced = await service.rank("0", arms={"ranking": "other"})
        assert [taken["arm"] for taken in forced["experiments"]] == ["other"]
    assert [exposure.user_id for exposure in await arms.exposed()] == ["null"]


async def test_nobody_has_no_history(arms: Arms) -> None:
    """That of an earlier version, which took null for a user, holds what everybody did."""
    everybodys = Interaction(user_id="null", item_id="b", value=5, time_ms=1)
    arms.store.append(arms.keys.user_history("null"), everybodys.pack())
    async with arms.service() as service:
        assert (await service.rank("null", ["a"]))["items"] == (await service.rank("", ["a"]))["items"]


async def test_a_shadow_that_cannot_be_scored_is_left_out_and_degrades_nothing(arms: Arms) -> None:
    third = '\nshadow = "pinned"\n[[layers.experiments.arms]]\nname = "pinned"\nweight = 0\nrelease = "gone"'
    async with arms.service(third) as service:
        assert (await service.rank(arms={"ranking": "other"}))["degraded"] == []
        (exposure,) = await arms.exposed()
        assert (exposure.shadow_arm, exposure.shadow) == ("pinned", ()), "not the live release's scores in its name"
        assert service.metric("lorank_shadows_skipped_total") == 1


@pytest.mark.parametrize("more", ["", "sticky_days = 2"])
async def test_knowledge_that_an_arm_does_without_degrades_nothing(arms: Arms, more: str) -> None:
    arms.store.set(arms.keys.user_knowledge("u", PORTRAIT_SPACE.fingerprint), b"damaged")
    async with arms.service(more=more) as service:
        assert (await service.rank("u", arms={"ranking": "plain"}))["degraded"] == []
        assert (await service.rank("u", arms={"ranking": "other"}))["degraded"] == ["no_knowledge"]


async def test_boosts_hold_for_scores_with_and_without_knowledge(arms: Arms) -> None:
    boost = 'boosts = [{ field = "genre", value = "horror", add = 2.0 }]'
    async with arms.service(boost) as service:
        plain = await service.rank("u", ["a", "d"], arms={"ranking": "plain"}, explain=True)
        boosted = await service.rank("u", ["a", "d"], arms={"ranking": "other"}, explain=True)
    before, after = (
        {item["id"]: item["explain"]["score_without_knowledge"] for item in answer["items"]}
        for answer in (plain, boosted)
    )
    ratio = {item: (after[item] / (1 - after[item])) / (before[item] / (1 - before[item])) for item in ("a", "d")}
    assert ratio == pytest.approx({"a": 1.0, "d": math.exp(2.0)}, rel=1e-4)


async def test_a_short_lived_arm_does_not_shorten_others(arms: Arms) -> None:
    arms.store.hset(arms.keys.unit_arms("u"), "older__0", "x")
    arms.store.expire(arms.keys.unit_arms("u"), 30 * 86_400)
    async with arms.service(more="sticky_days = 2") as service:
        await service.rank("u")
        await eventually(lambda: arms.store.hget(arms.keys.unit_arms("u"), "e__0") == b"plain")
    assert int(arms.store.ttl(arms.keys.unit_arms("u"))) > 29 * 86_400


async def test_a_unit_keeps_its_arm_without_a_user(arms: Arms) -> None:
    arms.store.hset(arms.keys.unit_arms("device"), "e__0", "other")
    async with arms.service(more="sticky_days = 2") as service:
        answer = await service.rank("", unit="device")
    assert answer["experiments"][0]["arm"] == "other"
    assert (await arms.exposed())[0].arms[0].how == "sticky"
