"""Prompts that a back end refuses for good, by a filter or for their length: asked for ever, one of them would make
every run partial.

A refusal counts only while the back end answers others, and decides only in a second run: what refuses everything (a
parameter that the server does not know, a credit that is used up) is no prompt's fault.
"""

import asyncio
from collections.abc import Awaitable, Callable

from offline.llm.batches import BatchRun, Parameters, parameters
from offline.llm.cache import ResponseCache
from offline.llm.protocol import Prompt

REFUSED_RUNS = 2
"""A prompt that was to blame in so many runs is asked no more."""


async def remember_refusals(
    cache: ResponseCache,
    run: BatchRun,
    run_id: str,
    answered_any: bool,
    still_answers: Callable[[Prompt], Awaitable[bool]],
) -> set[str]:
    """Remember which prompts of ``run`` are to blame for their failures; the keys of those that now are in REFUSED_RUNS
    runs.

    To be noted, it takes any answer in the same run (``answered_any``); to be decided, one that came after the refusal,
    to a prompt of the same parameters. ``still_answers`` is asked where there is none.
    """
    noted = await asyncio.to_thread(cache.refused, list(run.refused), REFUSED_RUNS - 1)
    to_blame = set(run.to_blame)
    answers: dict[Parameters, bool] = {}
    for key, prompt in run.refused.items():
        asked = parameters(prompt)
        if key in to_blame or (key not in noted and answered_any):
            to_blame.add(key)
        elif run.stopped is None:
            if asked not in answers:
                answers[asked] = await still_answers(prompt)
            to_blame |= {key} if answers[asked] else set()
    if to_blame:
        await asyncio.to_thread(cache.put_refusals, to_blame, run_id)
    return await asyncio.to_thread(cache.refused, list(run.refused), REFUSED_RUNS)
