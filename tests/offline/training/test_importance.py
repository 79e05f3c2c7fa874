"""Importance: what a model reads costs quality when it is exchanged, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.contract.encoding import HISTORY_INPUTS, Tensors
from models.contract.schema import RunningSpec
from models.ctr.build import Architecture
from offline.training.bootstrap import Difference
from offline.training.candidates import ModelSpec
from offline.training.fit import new_model
from offline.training.importance import _exchanged, bounds, importance
from offline.training.samples import SampleEncoder, split_samples
from tests.synthetic import SCHEMA, Synthetic, synthetic

RUNNING = SCHEMA.model_copy(update={"running": RunningSpec(half_lives_days=(1.0, 30.0))})


class Rule(nn.Module):
    """Logits by a rule that a test writes down."""

    def __init__(self, rule: Callable[[dict[str, Tensor]], Tensor]) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.rule(inputs)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return synthetic(tmp_path_factory.mktemp("importance"))


@pytest.fixture(scope="module")
def encoder(data: Synthetic) -> SampleEncoder:
    return SampleEncoder(RUNNING, data.catalogue, data.log, data.knowledge, 1200)


def rows_of(data: Synthetic) -> np.ndarray:
    return split_samples(data.config.samples, data.log).rows["validation"]


def test_what_a_rule_reads_is_what_costs(data: Synthetic, encoder: SampleEncoder) -> None:
    """The rule of the data set: a user's number says which genre is liked, but the model knows it by item alone."""
    liked = torch.from_numpy(encoder.labels.astype(np.float32))
    by_item = torch.zeros(len(data.log.item_ids) + 1)
    for row in rows_of(data):
        by_item[int(data.log.item[row]) + 1] += liked[row] - 0.5
    model = Rule(lambda inputs: by_item[inputs["item_index"]])
    table = importance(model, "din", encoder, rows_of(data))
    first, *others = table
    assert first["group"] == "item id"
    assert first["auc"][1] > 0
    assert first["logloss"][1] > 0
    assert all(row["auc"] == [0.0, 0.0, 0.0] == row["logloss"] for row in others)


def test_a_whole_history_is_exchanged_with_its_length(data: Synthetic, encoder: SampleEncoder) -> None:
    model = Rule(lambda inputs: inputs["history_mask"].sum(dim=1) - 5.0)
    table = {row["group"]: row for row in importance(model, "din", encoder, split_samples_all(data))}
    assert table["whole history"]["logloss"][0] != 0
    assert all(row["logloss"] == [0.0, 0.0, 0.0] for name, row in table.items() if name != "whole history")


def split_samples_all(data: Synthetic) -> np.ndarray:
    return np.concatenate(list(split_samples(data.config.samples, data.log).rows.values()))


def test_parts_of_a_history_keep_its_length_and_begin_again() -> None:
    own: Tensors = {
        "history_mask": np.array([[1, 1, 1, 1], [1, 0, 0, 0]], np.float32),
        "history_value": np.zeros((2, 4), np.float32),
        "history_vectors": np.zeros((2, 4, 1), np.float32),
    }
    other: Tensors = {
        "history_mask": np.array([[1, 1, 0], [0, 0, 0]], np.float32),
        "history_value": np.array([[0.1, 0.2, 0.0], [0.0, 0.0, 0.0]], np.float32),
        "history_vectors": np.array([[[1], [2], [0]], [[0], [0], [0]]], np.float32),
    }
    exchanged = _exchanged(own, other, ["history_value", "history_vectors"])
    assert exchanged["history_value"].tolist() == [pytest.approx([0.1, 0.2, 0.1, 0.2]), [0, 0, 0, 0]]
    assert exchanged["history_vectors"][..., 0].tolist() == [[1, 2, 1, 2], [0, 0, 0, 0]]
    assert exchanged["history_value"].dtype == np.float32
    assert set(_exchanged(own, other, ["history_mask", "history_value"])) == {"history_mask", "history_value"}


@pytest.mark.parametrize("architecture", ["din", "dcnv2", "deepfm", "lifelong", "tree"])
@pytest.mark.parametrize("schema", [SCHEMA, RUNNING], ids=["plain", "running"])
def test_every_architecture_names_the_groups_that_it_reads(
    data: Synthetic, architecture: Architecture, schema: object
) -> None:
    if architecture == "tree" and schema is SCHEMA:
        return
    of_schema = RUNNING if schema is RUNNING else SCHEMA
    reader = SampleEncoder(of_schema, data.catalogue, data.log, data.knowledge, 1200)
    model = new_model(ModelSpec("", architecture), data.config.training, reader)
    table = importance(model, architecture, reader, rows_of(data), 40)
    groups = {row["group"] for row in table}
    assert {"item fields", "item statistics", "user fields", "whole history", "values of the history"} <= groups
    assert ("times and repeats" in groups) == (schema is RUNNING)
    assert ("item id" in groups) == (architecture != "tree") == ("item knowledge" in groups)
    assert ("user statistics" in groups) == (architecture != "lifelong" or schema is RUNNING)
    losses = [row["logloss"][0] for row in table]
    assert losses == sorted(losses, reverse=True)
    assert importance(model, architecture, reader, rows_of(data), 40) == table, "the exchange is the same each time"


def test_samples_of_one_label_have_no_auc(data: Synthetic, encoder: SampleEncoder) -> None:
    rows = rows_of(data)
    model = Rule(lambda inputs: inputs["item_numeric"][:, 0])
    for row in importance(model, "din", encoder, rows[encoder.labels[rows] > 0]):
        assert row["auc"] is None
        assert row["logloss"] is not None
    assert bounds(Difference(float("nan"), float("nan"), float("nan"))) is None


def test_whole_users_are_drawn(data: Synthetic, encoder: SampleEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer samples where histories are long; the mask of a history is read at every length."""
    scored: list[int] = []

    def count(inputs: dict[str, Tensor]) -> Tensor:
        scored.append(len(inputs["item_index"]))
        return inputs["item_numeric"][:, 0]

    rows = rows_of(data)
    importance(Rule(count), "din", encoder, rows, 30)
    assert 30 <= sum(scored) / (1 + len(importance(Rule(count), "din", encoder, rows, 30))) < len(rows)
    scored.clear()
    monkeypatch.setattr("offline.training.importance._MOST_EVENTS", 10 * SCHEMA.history_length)
    groups = len(importance(Rule(count), "din", encoder, rows))
    assert 10 <= sum(scored) / (1 + groups) < 30
    assert set(HISTORY_INPUTS) >= {"history_mask", "history_value"}
