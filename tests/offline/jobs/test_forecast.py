"""The forecast: arithmetic on measured means, each figure with what it rests on."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline.data.log import InteractionLog
from offline.jobs.forecast import Forecast, forecast_of, measured
from offline.jobs.steps import Job
from offline.publish.connection import open_store
from tests.offline.pipeline import Pipeline


def look(installation: Pipeline, users: int, *rates: float) -> Forecast | None:
    with open_store(installation.job.data_dir, "small") as store:
        return forecast_of(installation.job, store, users, *rates)


def day_by_day(job: Job) -> InteractionLog:
    """Four users; u0 has 20 events in 10 days, u1 has 4, u2 and u3 have 1 each."""
    rows = [("u0", f"i{at % 3}", 5.0, at * 43_200_000) for at in range(20)]
    rows += [("u1", "i1", 4.0, at * 43_200_000) for at in range(4)]
    rows += [("u2", "i0", 3.0, 0), ("u3", "i2", 2.0, 20 * 43_200_000)]
    log = InteractionLog.sorted_by_time(rows, [], [])
    log.save(job.log)
    return log


def test_means_of_a_log_that_can_be_counted_by_hand(fresh: Pipeline) -> None:
    means = measured(fresh.job, day_by_day(fresh.job))
    assert (means.users, means.events, means.days, means.items) == (4, 26, 10.0, 3)
    assert means.partitions == 1.0  # four of u0, none of the others
    assert means.shifts == 0.75
    assert means.events_per_partition == 5.0
    assert means.daily_events == pytest.approx(0.65)
    assert means.daily_partitions == pytest.approx(0.13)


def test_calls_and_memory_grow_with_users(fresh: Pipeline) -> None:
    day_by_day(fresh.job)
    forecast = look(fresh, 1000)
    assert forecast is not None
    by_name = {figure.name: figure for figure in forecast.figures}
    assert by_name["events"].at_first == pytest.approx(6500)
    assert by_name["events"].per_day == pytest.approx(650)
    assert by_name["calls"].at_first == pytest.approx(1750)  # 1,000 summaries, 750 shifts; liber asks nothing of items
    assert by_name["calls"].per_day == pytest.approx(260)
    assert by_name["tokens"].at_first is None  # nothing was asked yet
    assert by_name["memory"].at_first is None  # nothing is published yet
    assert "no answer is stored yet" in by_name["tokens"].rests_on


def test_tokens_hours_cost_and_memory_rest_on_what_was_measured(installed: Pipeline) -> None:
    priced = installed.with_config(llm={"price_prompt_per_million": 1.0, "price_completion_per_million": 2.0})
    forecast = look(priced, 24_000, 100.0, 1000.0)
    assert forecast is not None
    by_name = {figure.name: figure for figure in forecast.figures}
    first = priced.runs()[0]["llm"]
    both = first["prompt_tokens"] + first["completion_tokens"]
    assert by_name["calls"].at_first == 72_000
    assert by_name["tokens"].at_first == pytest.approx(1000 * both)
    seconds = 1000 * (first["completion_tokens"] / 100 + first["prompt_tokens"] / 1000)
    assert by_name["time"].at_first == pytest.approx(seconds / 3600)
    assert by_name["cost"].at_first == pytest.approx(
        1000 * (first["prompt_tokens"] + 2 * first["completion_tokens"]) / 1e6
    )
    memory = by_name["memory"].at_first
    assert memory is not None
    assert 24_000 * 300 < memory * 1e9 < 24_000 * 3000
    lines = list(forecast.lines())
    assert "24,000 users" in lines[0]
    assert all(":" in line for line in lines[1:])
    assert "100 answer tokens/s per GPU as told, prompts at 1,000" in "\n".join(lines)


def test_spaces_that_are_not_published_yet_are_guessed_and_named(installed: Pipeline) -> None:
    schema = installed.config.feature_schema.model_dump(mode="json")
    spec = {"name": "marc", "side": "user", "rows": 1, "dim": 1000}
    more = installed.with_config(feature_schema={"knowledge": [*schema["knowledge"], spec]})
    before, after = look(installed, 10**9), look(more, 10**9)
    assert before is not None
    assert after is not None
    memory = [figure for forecast in (before, after) for figure in forecast.figures if figure.name == "memory"]
    assert memory[1].at_first == pytest.approx((memory[0].at_first or 0) + 1128, rel=1e-6)  # int8
    assert "user/marc, not published yet" in memory[1].rests_on


def test_without_a_speed_the_measured_one_is_named(installed: Pipeline) -> None:
    forecast = look(installed, 1000)
    assert forecast is not None
    (time,) = (figure for figure in forecast.figures if figure.name == "time")
    assert "as measured here with counting" in time.rests_on
    assert time.at_first is not None


def test_there_is_none_before_there_are_interactions(fresh: Pipeline, tmp_path: Path) -> None:
    assert look(fresh, 1000) is None
