"""Budgets: never exceeded by more than the estimate missed, used up as far as prompts fit, and continued next time."""

import random

import pytest

from offline.llm.batches import Backoff
from offline.llm.budget import Budget, BudgetAccount, BudgetError, Prices, TokenEstimate
from offline.llm.cache import ResponseCache
from offline.llm.client import LLMClient
from offline.llm.protocol import BUDGET, Completion, PermanentError, Prompt
from tests.offline.llm.fakes import FakeBackend, ask, at_once, new_account, usual_tokens


def prompts_of(seed: int, count: int = 60) -> list[Prompt]:
    chance = random.Random(seed)
    return [ask(f"{n:03}" + "x" * 4 * chance.randrange(40), chance.choice((8, 16, 40))) for n in range(count)]


def client(
    backend: FakeBackend,
    cache: ResponseCache,
    budget: Budget,
    concurrency: int = 3,
    prices: tuple[float, float] = (0, 0),
) -> LLMClient:
    return LLMClient(
        backend,
        cache,
        new_account(*prices),
        concurrency,
        2,
        backoff=Backoff(sleep=at_once),
        give_up_after=3,
        budget=budget,
    )


@pytest.mark.parametrize("seed", range(8))
async def test_with_an_exact_estimate_a_budget_is_never_exceeded_and_used_up(cache: ResponseCache, seed: int) -> None:
    chance = random.Random(seed)
    prompts = prompts_of(seed)
    limit = chance.randrange(200, 2500)
    backend = FakeBackend(batch_size=chance.choice((1, 4, 16)))
    answers = await client(backend, cache, Budget(limit), chance.choice((1, 3, 8))).ask_all(prompts, "budget")
    assert 0 < backend.tokens_paid <= limit
    absent = [prompts[at] for at in answers.absent]
    assert absent
    assert set(answers.absent.values()) == {BUDGET}
    assert answers.stopped == BUDGET
    left = limit - backend.tokens_paid
    slack = 2  # the fitted line is rounded up
    assert all(usual_tokens(prompt)[0] + prompt.max_tokens > left - slack for prompt in absent), "one would have fitted"


@pytest.mark.parametrize("seed", range(8))
async def test_a_wrong_estimate_costs_at_most_what_it_missed_on_the_prompts_in_flight(
    cache: ResponseCache, seed: int
) -> None:
    chance = random.Random(seed)
    prompts = prompts_of(seed)
    worst = 25
    noise = {prompt: chance.randrange(-worst, worst + 1) for prompt in prompts}

    def tokens(prompt: Prompt) -> tuple[int, int]:
        return usual_tokens(prompt)[0] + noise[prompt], prompt.max_tokens

    limit, batch_size, concurrency = chance.randrange(300, 2500), chance.choice((1, 5)), chance.choice((1, 4))
    backend = FakeBackend(batch_size, tokens)
    answers = await client(backend, cache, Budget(limit), concurrency).ask_all(prompts, "noise")
    # the line is learnt from noisy prompts, so it may be off by as much as they are, on top of their own noise
    assert backend.tokens_paid <= limit + 2 * worst * batch_size * concurrency
    assert answers.absent


async def test_the_next_runs_go_on_and_pay_every_prompt_once(cache: ResponseCache) -> None:
    prompts = prompts_of(3)
    backend = FakeBackend(batch_size=16)
    for run in range(1, 100):
        answers = await client(backend, cache, Budget(900)).ask_all(prompts, "again and again")
        assert backend.tokens_paid <= run * 900
        if answers.complete:
            break
    assert 3 < run < 30
    assert backend.paid == dict.fromkeys(prompts, 1)


async def test_a_batch_that_does_not_fit_is_cut_and_a_prompt_that_never_fits_stops_no_other(
    cache: ResponseCache,
) -> None:
    long, short = ask("x" * 4000), [ask(f"{n}") for n in range(10)]
    backend = FakeBackend(batch_size=64)
    answers = await client(backend, cache, Budget(400)).ask_all([long, *short], "cut")
    assert answers.absent[0] == BUDGET
    assert backend.most_prompts == 8  # 33 + 16 tokens can be held so often
    assert backend.paid.total() == 9  # 8 answers took 41 each, which leaves enough for one more
    assert sum(text is not None for text in answers.texts) == 9


async def test_a_budget_in_money(cache: ResponseCache) -> None:
    prompts = [ask(f"{n:02}") for n in range(20)]
    backend = FakeBackend()
    answers = await client(backend, cache, Budget(max_cost=0.0005), 4, (1.0, 2.0)).ask_all(prompts, "money")
    paid = backend.paid.total()
    assert paid == len(prompts) - len(answers.absent) > 0
    # 33 prompt tokens at 1 and 8 of 16 completion tokens at 2 per million
    assert paid * 49e-6 <= 0.0005 < paid * 49e-6 + 65e-6


async def test_stored_answers_cost_nothing(cache: ResponseCache) -> None:
    backend = FakeBackend()
    prompts = [ask("a"), ask("b")]
    await client(backend, cache, Budget()).ask_all(prompts, "free")
    nothing = client(backend, cache, Budget(max_tokens=0))
    answers = await nothing.ask_all([*prompts, ask("c")], "broke")
    assert answers.texts == ["answer to <a>", "answer to <b>", None]
    assert answers.absent == {2: BUDGET}
    assert answers.stopped == BUDGET
    with pytest.raises(BudgetError):
        await nothing.complete_live(ask("a"))
    assert backend.paid.total() == 2


async def test_one_budget_serves_all_calls_of_a_run_and_live_calls_too(cache: ResponseCache) -> None:
    backend = FakeBackend()
    run = client(backend, cache, Budget(max_tokens=130))
    await run.complete_live(ask("live"))  # 41 tokens
    assert (await run.ask_all([ask("first")], "first")).complete
    assert (await run.ask_all([ask("other")], "second")).absent == {0: BUDGET}
    assert backend.tokens_paid == 83


async def test_a_failed_call_gives_its_tokens_back(cache: ResponseCache) -> None:
    backend = FakeBackend()
    backend.failing["bad"] = PermanentError("refused")
    answers = await client(backend, cache, Budget(max_tokens=50), 1).ask_all([ask("bad"), ask("a")], "one at a time")
    assert answers.absent == {0: "PermanentError: refused"}


async def test_a_server_that_reports_no_usage_is_charged_what_was_expected(cache: ResponseCache) -> None:
    backend = FakeBackend(tokens=lambda prompt: (0, 0))
    prompts = [ask(f"{n:02}") for n in range(20)]
    answers = await client(backend, cache, Budget(max_tokens=5 * 49)).ask_all(prompts, "mute")
    assert len(answers.absent) == 15


def test_impossible_budgets_are_refused(cache: ResponseCache) -> None:
    with pytest.raises(ValueError, match="negative"):
        Budget(max_tokens=-1)
    with pytest.raises(ValueError, match="negative"):
        Budget(max_cost=-0.5)
    with pytest.raises(ValueError, match="needs price"):
        client(FakeBackend(), cache, Budget(max_cost=1.0))


def test_sums_of_money_do_not_drift() -> None:
    budget = BudgetAccount(Budget(max_cost=1.0), Prices(0.1, 0.3), TokenEstimate())
    for _ in range(10_000):
        reservation = budget.reserve([ask("a"), ask("b")])
        budget.settle(reservation, [Completion("", 3, 1)] * 2)
    assert not budget.has_reservations
    assert budget.cost == pytest.approx(20_000 * (0.3 + 0.3) / 1e6, rel=1e-9)
    assert budget.tokens == 80_000
