"""Requests as the model reads them: what samples of a training see at the same moment, and nothing of the future."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.contract.encoding import ItemBatch, UserBatch, encode
from models.contract.events import EVENT_DTYPE
from offline.data.log import InteractionLog
from offline.impressions.scoring import LoggedRequest, RequestEncoder
from offline.training.report import TrainingReport
from offline.training.samples import RELEASES, SampleEncoder, split_samples
from tests.offline.training.test_leaks import SCHEMA, encoder_of, graph_slices
from tests.synthetic import Synthetic, knowledge_of, synthetic


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return synthetic(tmp_path_factory.mktemp("synthetic"), seed=11, users=25, items=15, events=30)


def encoders(data: Synthetic, trained_rows: int) -> tuple[SampleEncoder, RequestEncoder]:
    """Encoders whose items have slices of knowledge, each of the rows before it."""
    samples = encoder_of(data, graph_slices(data, trained_rows), trained_rows)
    report = TrainingReport(
        log_rows=len(data.log), trained_rows=trained_rows, trained_until_ms=int(data.log.time_ms[trained_rows - 1]),
        samples={}, artifact="", sha256="", model_version="", parity=0.0, metrics={}, table=[],
    )  # fmt: skip
    return samples, RequestEncoder(samples, data.catalogue, data.knowledge, report)


def request_at(log: InteractionLog, row: int) -> LoggedRequest:
    """A request of all items, at the moment of a log row and by its user."""
    return LoggedRequest(log.user_ids[log.user[row]], int(log.time_ms[row]), log.item_ids)


def test_a_request_is_read_as_the_sample_of_its_moment(data: Synthetic) -> None:
    splits = split_samples(data.config.samples, data.log)
    samples, encoder = encoders(data, splits.trained_rows)
    for row in splits.rows["test"][::9].tolist():
        request = replace(request_at(data.log, row), items=[data.log.item_ids[data.log.item[row]]])
        expected, read = samples.tensors(np.array([row])), encoder.tensors(request)
        assert expected.keys() == read.keys()
        for name, cells in expected.items():
            np.testing.assert_array_equal(read[name], cells, err_msg=name)


@pytest.mark.parametrize("place", ["before a release", "in training", "after training"])
def test_nothing_of_the_moment_or_later_is_seen(data: Synthetic, place: str) -> None:
    """The rows from the moment on are replaced, and everything is built anew."""
    log, trained_rows = data.log, split_samples(data.config.samples, data.log).trained_rows
    release = trained_rows * 4 // RELEASES
    row = {"before a release": release - 1, "in training": release + 5, "after training": trained_rows + 40}[place]
    later = np.arange(len(log)) >= row
    draw = np.random.default_rng(2)
    changed = replace(
        log,
        item=np.where(later, draw.permutation(log.item), log.item).astype(np.int32),
        value=np.where(later, 6 - log.value, log.value).astype(np.float32),
        user=np.where(later, draw.permutation(log.user), log.user).astype(np.int32),
    )
    future = replace(data, log=changed, knowledge=knowledge_of(data.catalogue, changed))
    (_, before), (_, after) = encoders(data, trained_rows), encoders(future, trained_rows)
    for user in (int(log.user[row]), 3):
        request = replace(request_at(log, row), user=log.user_ids[user])
        expected, read = before.tensors(request), after.tensors(request)
        assert expected["history_mask"].sum() > 0
        for name, cells in expected.items():
            if name != "item_index":  # which items training saw, the model knows by itself
                np.testing.assert_array_equal(read[name], cells, err_msg=name)
        seen = after.tensors(replace(request, time_ms=request.time_ms + 60_000 * 200))
        assert any(not np.array_equal(seen[name], read[name]) for name in ("history_value", "history_index"))


def test_events_of_the_very_moment_are_not_seen_and_late_ones_hide_nothing(data: Synthetic) -> None:
    log = data.log
    _, encoder = encoders(data, split_samples(data.config.samples, log).trained_rows)
    rows = log.by_user().of_user(4)
    moment = int(log.time_ms[rows[5]])
    for shift, events in ((0, 5), (1, 6), (-1, 5)):
        tensors = encoder.tensors(LoggedRequest("u4", moment + shift, ["i1"]))
        assert tensors["history_mask"].sum() == events
        np.testing.assert_array_equal(tensors["history_row"][0], log.item[rows[:events]] + 1)
    assert not encoder.has_history(LoggedRequest("u4", int(log.time_ms[rows[0]]), ["i1"]))
    assert not encoder.has_history(LoggedRequest("nobody", moment, ["i1"]))


def test_what_a_user_met_on_the_day_before_is_noticed(data: Synthetic) -> None:
    log = data.log
    _, encoder = encoders(data, split_samples(data.config.samples, log).trained_rows)
    row = int(log.by_user().of_user(4)[5])
    item, moment = log.item_ids[log.item[row]], int(log.time_ms[row])
    earlier = {log.item_ids[at] for at in log.item[log.by_user().of_user(4)[:5]].tolist()}
    for shift, seen in ((0, item in earlier), (1, True), (10 * 86_400_000, False)):
        assert encoder.seen_lately(LoggedRequest("u4", moment + shift, [item, "new"])) == [seen, False]
    assert encoder.seen_lately(LoggedRequest("stranger", moment, [item])) == [False]


def test_who_and_what_is_unknown_is_what_it_is_to_the_service(data: Synthetic) -> None:
    samples, encoder = encoders(data, split_samples(data.config.samples, data.log).trained_rows)
    table, now = samples.table, int(data.log.time_ms[-1]) + 1
    served = UserBatch.single(SCHEMA, table, {}, np.zeros(0, EVENT_DTYPE), {}, now)
    expected = encode(SCHEMA, table, served, ItemBatch.gather(table, np.array([2, 0])))
    for name, cells in encoder.tensors(LoggedRequest("stranger", now, ["i1", "new"])).items():
        np.testing.assert_array_equal(cells, expected[name], err_msg=name)
