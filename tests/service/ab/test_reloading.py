"""The experiments file while the service runs: a good change takes effect, a bad one changes nothing and is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.contract.experiments import ExperimentsError
from service.ab.reloading import ReloadingExperiments
from service.settings import Settings
from tests.contract.experiments import experiment
from tests.service.ab.test_assignment import NOW
from tests.service.conftest import eventually, running
from tests.service.tiny import Publisher
from tests.service.tiny_model import SCHEMA

LAYER = '[[layers]]\nname = "ranking"\n'
FIRST = LAYER + experiment("first", weights=(1.0,))
SECOND = LAYER + experiment("second", weights=(1.0,))
RERANKED = f"{SECOND}rerank_top_n = 5"


def reloading(path: Path | None) -> ReloadingExperiments:
    return ReloadingExperiments(path, 1.0, reranks=False)


def taken(experiments: ReloadingExperiments) -> str:
    return experiments.current.assign("u", {}, NOW).arms[0].experiment


def test_a_good_change_takes_effect(tmp_path: Path) -> None:
    path = tmp_path / "experiments.toml"
    path.write_text(FIRST)
    experiments = reloading(path)
    before = experiments.status()
    experiments.refresh()
    assert experiments.status() == before, "nothing changed"
    path.write_text(SECOND)
    experiments.refresh()
    assert taken(experiments) == "second"
    assert experiments.status()["digest"] != before["digest"]


def test_boosts_that_no_item_can_get_are_told(tmp_path: Path) -> None:
    path = tmp_path / "experiments.toml"
    boosts = ", ".join(
        f'{{ field = "{field}", value = "{value}", add = 1.0 }}'
        for field, value in (("genre", "horror"), ("genres", "horror"), ("genre", "Horror"))
    )
    path.write_text(f"{FIRST}\nboosts = [{boosts}]")
    without_effect = reloading(path).status(SCHEMA)["without_effect"]
    assert without_effect == ["first/a: no item has genres = 'horror'", "first/a: no item has genre = 'Horror'"]


@pytest.mark.parametrize(
    "content", ["a = " + "[" * 5000, "[[layers", FIRST.replace("weight", "weigth"), None, RERANKED]
)
def test_a_bad_change_keeps_what_is_in_force_until_it_is_mended(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "experiments.toml"
    path.write_text(FIRST)
    experiments = reloading(path)
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    for _ in range(2):
        experiments.refresh()
        assert taken(experiments) == "first"
        assert experiments.status()["error"]
    path.write_text(FIRST)
    experiments.refresh()
    assert experiments.status()["error"] is None


@pytest.mark.parametrize("content", ["[[layers", RERANKED, None])
def test_a_bad_file_stops_the_start(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "experiments.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ExperimentsError, match=r"experiments\.toml"):
        reloading(path)


def test_without_a_file_nothing_is_watched() -> None:
    experiments = reloading(None)
    experiments.refresh()
    assert experiments.current.assign("u", {}, NOW).arms == ()
    assert experiments.status()["file"] is None


async def test_the_running_service_follows_its_file(settings: Settings, publisher: Publisher, tmp_path: Path) -> None:
    publisher.publish()
    path = tmp_path / "experiments.toml"
    path.write_text(FIRST)
    async with running(settings.model_copy(update={"experiments": path})) as service:

        async def in_force() -> str:
            name: str = (await service.rank())["experiments"][0]["experiment"]
            return name

        async def error() -> str | None:
            problem: str | None = (await service.status())["experiments"]["error"]
            return problem

        assert await in_force() == "first"
        path.write_text("nonsense")
        assert "nonsense" not in str(await eventually(error))
        assert await in_force() == "first"
        path.write_text(SECOND)

        async def follows() -> bool:
            return await in_force() == "second"

        await eventually(follows)
        assert await error() is None
