"""Numbers that follow from the data: the producers of knowledge that are written can be fitted on these very data."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from offline.config import load_config
from offline.data.catalogue import Catalogue
from offline.data.dataset import open_dataset
from offline.data.log import InteractionLog
from offline.jobs.events import look_for_events
from offline.jobs.refusals import of_log, waiting
from offline.jobs.steps import Job
from offline.jobs.work import Work, work_of
from offline.knowledge.run import producers_of
from offline.proposal.propose import propose
from offline.proposal.roles import Roles, roles_of
from offline.proposal.settings import Amounts, in_order
from tests.offline.proposal.shops import Shop, shop, write

HEADER = ("reader", "book", "stars", "at")


def arrived(folder: Path, goods: Shop, *, rated: bool = True) -> tuple[Job, Catalogue, InteractionLog]:
    """The job of the configuration that is proposed for a shop, its items and its log."""
    rows = goods.interactions if rated else [(user, item, second) for user, item, _, second in goods.interactions]
    header = HEADER if rated else ("reader", "book", "at")
    text = propose(
        write(folder / "ratings.csv", header, rows),
        write(folder / "books.csv", ("book", "title", "kinds", "year"), goods.items),
        None,
        "mine",
    ).text()
    path = folder / "mine.toml"
    path.write_text(text.replace("var/mine", str(folder / "var")), encoding="utf-8")
    job = Job(load_config(path), folder / "data")
    source = open_dataset(job.config.data, job.raw)
    source.fetch()
    catalogue = source.catalogue()
    return job, catalogue, look_for_events(job, source, catalogue, None).log


@pytest.mark.parametrize("rated", [True, False])
@pytest.mark.parametrize(
    ("users", "items", "events"),
    [
        (20, 3, 100),
        (20, 4, 300),
        (20, 5, 200),
        (50, 40, 1500),
        (50, 200, 600),
        (100, 40, 500),
        (100, 300, 3000),
        (400, 40, 1600),
    ],
)
def test_no_producer_waits(tmp_path: Path, users: int, items: int, events: int, rated: bool) -> None:
    job, catalogue, log = arrived(tmp_path, shop(users=users, items=items, events=events), rated=rated)
    assert not [line for line in of_log(job, catalogue, log).warnings if "will wait" in line]
    assert set(producers_of(job.config.feature_schema)) == {"text", "liber"}


def test_liber_is_left_out_where_nobody_comes_again(tmp_path: Path) -> None:
    job, catalogue, log = arrived(tmp_path, shop(users=400, events=500))
    assert producers_of(job.config.feature_schema) == ("text",)
    assert not [line for line in of_log(job, catalogue, log).warnings if "will wait" in line]


def test_what_waits_is_no_work(tmp_path: Path) -> None:
    job, catalogue, log = arrived(tmp_path, shop(users=100, events=1500))
    liber = job.config.knowledge.liber.model_copy(update={"partition_size": 500})
    knowledge = job.config.knowledge.model_copy(update={"liber": liber})
    job = Job(job.config.model_copy(update={"knowledge": knowledge}), job.data_dir)
    idle = waiting(job, catalogue, log, producers_of(job.config.feature_schema))
    assert set(idle) == {"liber"}
    names = [name for name in producers_of(job.config.feature_schema) if name not in idle]
    assert work_of(job, names, catalogue, log).prompts == []
    assert 0 < len(work_of(job, names, catalogue, log).texts) <= len(log.item_ids)
    assert work_of(job, [], catalogue, log) == Work({}, [], [])


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("position", ["30", "9", "100"]),
        ("at", ["1600000030", "1600000009", "1600000100"]),
        ("at", ["2020-01-02", "2020-01-01T23:00:00Z", "2020-01-02T01:00:00"]),
        ("at", ["13.02.2020", "31.12.2019", "01.03.2020"]),
    ],
)
def test_rows_lie_in_the_order_of_times(name: str, cells: list[str]) -> None:
    users = pl.Series(["a", "b", "c"])
    table = pl.DataFrame({"user": users, "item": ["i1", "i2", "i1"], name: cells})
    roles = roles_of(table, pl.DataFrame({"item": ["i1", "i2"]}), pl.DataFrame({"user": users}))
    assert roles.time is not None
    assert in_order(table, roles)["user"].to_list() == ["b", "a", "c"]


def test_partitions_of_the_training_part() -> None:
    table = pl.DataFrame(
        {
            "user": ["a"] * 30,
            "item": [f"i{at}" for at in range(30)],
            "part": ["test"] * 5 + ["train"] * 20 + ["valid"] * 5,
        }
    )
    amounts = Amounts.of(table, Roles("user", "item", "id", part="part"), pl.Series(["i1", "i2", "other"]))
    assert (amounts.training, amounts.items) == (20, 2)
    assert amounts.early(5) == (4, 3)
