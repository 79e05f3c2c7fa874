"""Arms end to end: what an arm switches off is neither read nor counted, and arms can be forced."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from models.contract.keys import Keys
from service.app import create_app
from service.experiments.config import ExperimentsError
from service.settings import Settings
from tests.service.conftest import running
from tests.service.experiments.test_assignment import TWO_LAYERS
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
