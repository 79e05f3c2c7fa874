"""The process of one user's values: both of its forms against the textbook, in double precision and solved densely."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from models.ctr.gaussian_process import UserProcess

DIM = 5
LENGTHS = (0, 1, 2, 7, 300)


def process_of(events: int = 300, *, noise: float = 0.3, scale: float = 20.0) -> UserProcess:
    """A process whose four parameters all matter."""
    process = UserProcess(events)
    with torch.no_grad():
        for parameter, value in (
            (process.log_mean, 0.4), (process.log_drift, 0.2), (process.log_noise, noise), (process.log_scale, scale)
        ):  # fmt: skip
            parameter.fill_(math.log(value))
    process.prepare()
    return process


def textbook(process: UserProcess, factors: Tensor, residual: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation [C] after one history [T, d]: Rasmussen and Williams (2006), equations 2.25 and 2.26."""
    mean, drift, noise, scale = (
        float(log.detach().double().exp())
        for log in (process.log_mean, process.log_drift, process.log_noise, process.log_scale)
    )
    past, after = factors.double(), candidates.double()
    at, then = torch.arange(len(past), dtype=torch.float64), float(len(past))

    def covariance(left: Tensor, right: Tensor, distance: Tensor) -> Tensor:
        return left @ right.T + mean + drift * torch.exp(-distance.abs() / scale)

    own = covariance(past, past, at.unsqueeze(1) - at) + noise * torch.eye(len(past), dtype=torch.float64)
    cross = covariance(past, after, (then - at).unsqueeze(1))
    solved = torch.linalg.solve(own, cross)
    variance = after.square().sum(dim=1) + mean + drift + noise - (solved * cross).sum(dim=0)
    return solved.T @ residual.double(), variance.sqrt()


def random_history(length: int, seed: int = 0, size: float = 0.7) -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng([length, seed])
    factors = torch.from_numpy(generator.normal(size=(length, DIM)).astype(np.float32) * size)
    return factors, torch.from_numpy(generator.normal(size=length).astype(np.float32))


def padded(histories: list[tuple[Tensor, Tensor]], width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Histories as one batch; what is padding is noise."""
    factors, residual = torch.randn(len(histories), width, DIM), torch.randn(len(histories), width)
    present = torch.zeros(len(histories), width)
    for at, (f, r) in enumerate(histories):
        factors[at, : len(f)], residual[at, : len(r)], present[at, : len(r)] = f, r, 1.0
    return factors, residual, present


def close(moments: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], within: float = 2e-5) -> None:
    for actual, reference in zip(moments, expected, strict=True):
        torch.testing.assert_close(actual.detach().double(), reference.detach().double(), rtol=0, atol=within)


@pytest.mark.parametrize("lengths", [(1,), (7,), (5, 1, 12, 3), (60, 2)], ids=str)
def test_one_step_ahead_is_the_textbook_prediction_of_every_event(lengths: tuple[int, ...]) -> None:
    process = process_of()
    histories = [random_history(length) for length in lengths]
    mean, deviation = process.one_step_ahead(*padded(histories, max(lengths) + 2))
    for at, (factors, residual) in enumerate(histories):
        for step in range(len(residual)):
            expected = textbook(process, factors[:step], residual[:step], factors[step : step + 1])
            close((mean[at, step : step + 1], deviation[at, step : step + 1]), expected)
    assert torch.isfinite(mean).all()
    assert torch.isfinite(deviation).all()


@pytest.mark.parametrize("step", [0, 4, 9])
def test_an_event_says_nothing_of_itself_and_of_earlier_ones(step: int) -> None:
    process = process_of()
    factors, residual = (column.unsqueeze(0) for column in random_history(10))
    present = torch.ones_like(residual)
    mean, deviation = process.one_step_ahead(factors, residual, present)
    others, values = factors.clone(), residual.clone()
    values[0, step:] += 3.0
    others[0, step + 1 :] *= -2.0
    after, spread = process.one_step_ahead(others, values, present)
    torch.testing.assert_close(after[0, : step + 1], mean[0, : step + 1], rtol=0, atol=1e-5)
    torch.testing.assert_close(spread[0, : step + 1], deviation[0, : step + 1], rtol=0, atol=1e-5)
    assert step == 9 or (after[0, step + 1 :] - mean[0, step + 1 :]).abs().max() > 0.1


@pytest.mark.parametrize("width", [0, 9], ids=["as long as it is", "padded"])
@pytest.mark.parametrize("length", LENGTHS)
def test_one_user_and_many_candidates_are_as_in_the_textbook(length: int, width: int) -> None:
    process = process_of(320)
    factors, residual = random_history(length)
    candidates, _ = random_history(40, seed=1)
    moments = process(*padded([(factors, residual)], max(length, 1) + width), candidates)
    close(moments, textbook(process, factors, residual, candidates))


def test_aligned_pairs_of_different_lengths_are_as_in_the_textbook() -> None:
    process = process_of()
    histories = [random_history(length) for length in LENGTHS]
    candidates, _ = random_history(len(LENGTHS), seed=1)
    mean, deviation = process(*padded(histories, 300), candidates)
    for at, (factors, residual) in enumerate(histories):
        expected = textbook(process, factors, residual, candidates[at : at + 1])
        close((mean[at : at + 1], deviation[at : at + 1]), expected)


@pytest.mark.parametrize("length", LENGTHS)
def test_both_forms_agree_on_the_last_event(length: int) -> None:
    process = process_of()
    factors, residual = random_history(length + 1)
    mean, deviation = process.one_step_ahead(*padded([(factors, residual)], length + 1))
    moments = process(*padded([(factors[:-1], residual[:-1])], max(length, 1)), factors[-1:])
    close(moments, (mean[:, -1], deviation[:, -1]))


def test_without_events_the_prior_is_what_is_known() -> None:
    process = process_of()
    candidates, _ = random_history(6)
    mean, deviation = process(*padded([random_history(0)], 3), candidates)
    assert not mean.any()
    expected = torch.sqrt(candidates.square().sum(dim=1) + 0.4 + 0.2 + 0.3)
    torch.testing.assert_close(deviation.detach(), expected)


def test_further_events_make_the_process_surer_but_never_certain() -> None:
    process = process_of()
    factors, residual = random_history(300)
    candidates, _ = random_history(20, seed=1)
    with torch.no_grad():
        deviations = torch.stack(
            [process(*padded([(factors[300 - n :], residual[300 - n :])], 300), candidates)[1] for n in LENGTHS]
        )  # longer and longer looks back from the same moment
    assert (deviations.diff(dim=0) < 0).all()
    assert (deviations > math.sqrt(0.3)).all()


def test_an_old_event_says_less_of_the_drift() -> None:
    """Items that have nothing in common but the user: what they share is the mean and the drift."""
    process = process_of(scale=2.0)
    with torch.no_grad():
        means = process(torch.zeros(8, 8, DIM), torch.eye(8), torch.ones(8, 8), torch.zeros(8, DIM))[0]
    assert (means[-4:].diff() > 0.01).all()
    assert means.min() > 0


def test_all_gradients_are_finite_and_none_is_missing() -> None:
    process = process_of()
    factors, residual, present = padded([random_history(length) for length in (1, 30, 12)], 30)
    factors.requires_grad_()
    mean, deviation = process.one_step_ahead(factors, residual, present)
    loss = (deviation.log() + ((residual - mean) / deviation).square())[present > 0].sum()
    loss.backward()  # type: ignore[no-untyped-call]
    for tensor in (factors, *process.parameters()):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.any()
    assert factors.grad is not None
    assert not factors.grad[present == 0].any()


def test_one_film_seen_three_hundred_times() -> None:
    """Hardly anything but one direction: the worst case of the inverse, far from any data that there is."""
    process = process_of(noise=0.5, scale=50.0)
    event, _ = random_history(1)
    factors = (event / event.norm() * 3.0).expand(300, DIM)
    residual = random_history(300)[1] + 0.3
    candidates = torch.cat([factors[:1], random_history(20, seed=1, size=1.3)[0]])
    expected = textbook(process, factors, residual, candidates)
    close(process(*padded([(factors, residual)], 300), candidates), expected, within=1e-3)
    both = torch.cat([factors, factors[:1]]), torch.cat([residual, torch.zeros(1)])
    mean, deviation = process.one_step_ahead(*padded([both], 301))
    close((mean[0, -1:], deviation[0, -1:]), (expected[0][:1], expected[1][:1]), within=1e-3)


def test_what_serving_needs_is_computed_anew_by_prepare() -> None:
    process = process_of()
    factors, residual = random_history(7)
    candidates, _ = random_history(3, seed=1)
    arguments = (*padded([(factors, residual)], 7), candidates)
    with torch.no_grad():
        process.log_noise.add_(1.0)
    before = process(*arguments)[0]
    process.prepare()
    close(process(*arguments), textbook(process, factors, residual, candidates))
    assert (process(*arguments)[0] - before).abs().max() > 1e-3
    again = process_of()
    again.load_state_dict(process.state_dict())
    close(again(*arguments), process(*arguments))
