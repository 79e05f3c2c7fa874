"""The process with factors of real items: what an item is made of, both forms, and that fitting finds what is there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.contract.encoding import Tensors
from models.contract.schema import FeatureSchema
from models.ctr.gaussian_process import RatingProcess
from tests.models.tiny import DIM, ITEM_ROWS, as_torch, histories_of, served
from tests.plain_inputs import USER_INPUTS
from tests.synthetic import SCHEMA

LENGTHS = (8, 1, 5)

of_every_schema = pytest.mark.parametrize(
    "schema",
    [
        SCHEMA,
        SCHEMA.with_knowledge(()),
        FeatureSchema.model_validate({**SCHEMA.model_dump(), "item_fields": (), "user_fields": (), "knowledge": ()}),
    ],
    ids=["all", "no knowledge", "ids alone"],
)


def process_of(schema: FeatureSchema = SCHEMA) -> RatingProcess:
    """A process whose every parameter shows."""
    torch.manual_seed(3)
    process = RatingProcess(schema, ITEM_ROWS, DIM)
    with torch.no_grad():
        for name, weight in process.named_parameters():
            if not name.startswith("user."):
                weight.add_(torch.randn_like(weight), alpha=0.1)
        for function in (process.factors, process.prior):
            function.ids.weight[0].zero_()  # as training leaves it: no gradient reaches the row of unknown items
    process.user.prepare()
    return process


def of(histories: Tensors, process: RatingProcess) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        moments: tuple[Tensor, Tensor] = process.sequence(as_torch(histories))
    return moments


@of_every_schema
def test_whole_histories_and_served_requests_agree(schema: FeatureSchema) -> None:
    process, histories = process_of(schema), histories_of(LENGTHS, schema)
    mean, deviation = of(histories, process)
    user, at = np.nonzero(histories["present"])
    inputs = served(histories, user, at)
    with torch.inference_mode():
        pairs = process(as_torch(inputs))
        torch.testing.assert_close(pairs[0], mean[user, at], rtol=0, atol=2e-5)
        torch.testing.assert_close(pairs[1], deviation[user, at], rtol=0, atol=2e-5)
        alone = {name: array[7:8] if name in USER_INPUTS else array for name, array in inputs.items()}
        many = process(as_torch(alone))  # one user, all the others' items
        repeated = {name: array.repeat(len(user), 0) if name in USER_INPUTS else array for name, array in alone.items()}
        for actual, expected in zip(many, process(as_torch(repeated)), strict=True):
            assert actual.shape == (len(user),)
            torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5)


def test_without_a_history_it_says_what_everybody_and_users_alike_do() -> None:
    process, histories = process_of(), histories_of((1, 1))
    mean, _ = of(histories, process)
    assert process.profile is not None
    with torch.inference_mode():
        tensors = as_torch(histories)
        factors, everybody = process.factors(tensors, "item")[:, 0], process.prior(tensors, "item")[:, 0]
        alike = process.profile(tensors["user_categorical"]).sum(dim=1)  # a mean, and a taste for factors
        taste = alike[:, :1] + (alike[:, 1:] * factors).sum(dim=1, keepdim=True)
        expected = everybody + taste + process.statistics(tensors["item_numeric"])[:, 0]
    torch.testing.assert_close(mean, expected)
    assert min(everybody.abs().min(), taste.abs().min()) > 0


def test_an_item_without_an_id_has_the_factors_of_its_fields_and_knowledge_alone() -> None:
    process, histories = process_of(), histories_of((6,))
    known = as_torch(histories)
    known["item_index"] = known["item_index"].clamp(min=1)
    new = known | {"item_index": torch.zeros_like(known["item_index"])}
    bare = new | {"item_categorical": torch.zeros_like(new["item_categorical"])}
    silent = new | {"item_vectors": torch.zeros_like(new["item_vectors"])}
    with torch.inference_mode():
        for function in (process.factors, process.prior):
            value = function(new, "item")
            assert function.knowledge is not None
            fields = sum(function.fields.columns(new["item_categorical"]))
            torch.testing.assert_close(value, fields + function.knowledge(new["item_vectors"]))
            torch.testing.assert_close(
                function(known, "item") - value, function.ids(known["item_index"]), atol=1e-6, rtol=0
            )
            assert value.abs().min() > 0
            assert not torch.equal(function(bare, "item"), value)
            torch.testing.assert_close(function(silent, "item"), fields)


def test_no_gradient_reaches_the_row_of_unknown_items() -> None:
    process, histories = process_of(), histories_of(LENGTHS)
    histories["item_index"][:, ::2] = 0
    tensors = as_torch(histories)
    process.loss(tensors, tensors["present"] > 0).backward()  # type: ignore[no-untyped-call]
    for name, weight in process.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
        assert weight.grad.any(), name
        assert not name.endswith("ids.weight") or not weight.grad[0].any(), name


def test_the_loss_is_the_likelihood_of_the_samples_given_what_came_before() -> None:
    process, histories = process_of(), histories_of(LENGTHS)
    mean, deviation = of(histories, process)
    value = torch.from_numpy(histories["value"])
    sample = torch.from_numpy(histories["present"] > 0) & (torch.arange(8) % 2 == 0)
    expected = torch.distributions.Normal(mean, deviation).log_prob(value)[sample]  # type: ignore[no-untyped-call]
    constant = 0.5 * float(np.log(2 * np.pi)) * int(sample.sum())
    loss = process.loss(as_torch(histories), sample)
    assert loss.item() == pytest.approx(-float(expected.sum()) - constant, rel=1e-5)


def drawn(users: int, events: int, seed: int) -> dict[str, Tensor]:
    """Values of users who each have a taste in two hidden properties of the items, which no field tells."""
    generator = np.random.default_rng(seed)
    hidden = np.random.default_rng(99).normal(size=(ITEM_ROWS, 2))
    histories = histories_of([events] * users, BARE, seed=seed)
    item = generator.integers(1, ITEM_ROWS, (users, events))
    taste, mood = generator.normal(size=(users, 1, 2)) * 0.6, generator.normal(size=(users, 1)) * 0.3
    value = (hidden[item] * taste).sum(axis=2) + mood + generator.normal(size=(users, events)) * 0.3
    histories |= {"item_index": item, "value": value.astype(np.float32)}
    for name in ("item_numeric", "history_numeric"):
        histories[name] = np.zeros_like(histories[name])
    return as_torch(histories)


BARE = SCHEMA.with_knowledge(())


def test_fitting_finds_the_model_that_values_were_drawn_from() -> None:
    torch.manual_seed(1)
    process = RatingProcess(BARE, ITEM_ROWS, 4)
    train, others = drawn(150, 20, seed=1), drawn(50, 20, seed=2)
    every = train["present"] > 0
    optimizer = torch.optim.Adam(process.parameters(), lr=0.05)
    before = process.loss(others, others["present"] > 0).item() / 1000
    for _ in range(80):
        optimizer.zero_grad()
        process.loss(train, every).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    after = process.loss(others, others["present"] > 0).item() / 1000
    assert after < before - 0.3  # of users that it has not seen
    mean, deviation = (moment.detach() for moment in process.sequence(others))
    late = mean[:, 10:], others["value"][:, 10:]
    assert torch.corrcoef(torch.stack([values.flatten() for values in late]))[0, 1] > 0.8
    surprise = (late[1] - late[0]) / deviation[:, 10:]
    assert surprise.square().mean().item() == pytest.approx(1.0, abs=0.35)  # it knows how sure it may be
    assert deviation[:, 10:].mean() < 0.7 * deviation[:, 0].mean()
