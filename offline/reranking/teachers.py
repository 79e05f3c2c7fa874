"""E2URec (arXiv 2403.03536): tuned updates forget the samples of some users and keep what the others' samples taught.

Two teachers, fixed before the first step, give scores to the first token of an answer. The remembering one is the tuned
model, asked about samples of users who stay. The forgetting one is the tuned model without what more tuning on the
samples to forget would raise: whatever that raises was learned from them.

    forget teacher = original - alpha relu(augmented - original)
    loss = .6 (cross entropy + KL to the original), of samples that stay, + .4 KL to the forget teacher, of the others

The first pass forgets alone. The steps are as many as the samples to forget ask for, each beside as many that stay, so
that forgetting a few costs a few steps. The language head is no part of the updates, so a teacher is the last states it
reads: one model is in memory, where the authors' code has three.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.contract.arrays import BoolArray, IntArray
from offline.config import TuningConfig
from offline.data.catalogue import DataError
from offline.llm.in_process import padded_batches, quiet_transformers, repeatable
from offline.progress import Progress
from offline.reranking.scoring import Labeller, last_states
from offline.reranking.tune import adapted, add_gradient, batches, cross_entropy, descend, optimizer_of

ALPHA = 2.0
REMEMBER_WEIGHT, FORGET_WEIGHT = 0.6, 0.4
AUGMENT_PASSES, FORGET_PASSES, MIXED_PASSES = 2, 1, 2
"""Passes over the samples to forget: of the augmented model's tuning, of forgetting alone, and of the whole loss."""


def unlearn(
    labeller: Labeller,
    adapter: Path,
    tokens: Sequence[list[int]],
    answers: IntArray,
    forgotten: BoolArray,
    config: TuningConfig,
    seed: int,
) -> tuple[Any, list[float]]:
    """(the model of peft whose updates forgot, mean KL to the forget teacher of every pass).

    ``labeller`` is the model as it comes, and is used up; ``adapter`` the folder of the updates that were tuned on the
    prompts ``tokens`` with ``answers`` [n] by ``config``. Those that are ``forgotten`` [n] are some of them, not all.
    DataError if the updates are of the language head, too.
    """
    import torch

    leaving, staying = np.flatnonzero(forgotten), np.flatnonzero(~forgotten)
    to_leave = [tokens[row] for row in leaving.tolist()]
    with repeatable(seed), quiet_transformers():
        model = adapted(labeller, config, adapter)
        head = model.get_base_model().get_output_embeddings()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if any(parameter.requires_grad for parameter in head.parameters()):
            raise DataError("the language head was tuned, too: such a reranker unlearns nothing, tune it again")
        before = [parameter.detach().clone() for parameter in trained]
        original = _states(labeller, model, tokens)
        _augment(labeller, model, to_leave, answers[leaving], config, seed)
        augmented = _states(labeller, model, to_leave)
        with torch.no_grad():
            for parameter, weight in zip(trained, before, strict=True):
                parameter.copy_(weight)
        passes = FORGET_PASSES + MIXED_PASSES
        steps = list(batches(len(leaving), config.model_copy(update={"epochs": passes}), seed))
        optimizer, schedule = optimizer_of(trained, config, len(steps))
        draw, losses = np.random.default_rng([seed, 13]), []
        model.train()
        with Progress("unlearn", len(steps), "steps") as progress:
            for number, places in enumerate(steps):
                forget, remember = leaving[places], draw.permutation(staying)[: len(places)]

                def to_forget(scores: Any, rows: list[int], forget: IntArray = forget, at: IntArray = places) -> Any:
                    teacher = forget_teacher(head(original[forget[rows]]).float(), head(augmented[at[rows]]).float())
                    return divergences(teacher, scores)

                def to_remember(scores: Any, rows: list[int], remember: IntArray = remember) -> Any:
                    teacher = head(original[remember[rows]]).float()
                    return cross_entropy(scores, answers[remember[rows]]) + divergences(teacher, scores)

                prompts = [to_leave[place] for place in places.tolist()]
                losses.append(add_gradient(labeller, model, prompts, to_forget, FORGET_WEIGHT))
                if number >= FORGET_PASSES * len(steps) // passes:
                    prompts = [tokens[row] for row in remember.tolist()]
                    add_gradient(labeller, model, prompts, to_remember, REMEMBER_WEIGHT)
                descend(model, config, optimizer)
                schedule.step()
                progress.advance(note=f"KL {losses[-1]:.4f}")
        model.eval()
    return model, [float(part.mean()) for part in np.array_split(np.array(losses), passes)]


def forget_teacher(original: Any, augmented: Any) -> Any:
    """Scores [n, V] without what more tuning on the samples to forget would raise."""
    return original - ALPHA * (augmented - original).relu()


def divergences(teacher: Any, scores: Any) -> Any:
    """Kullback-Leibler divergences [n], in nats, from the ``teacher``'s scores [n, V], which get no gradient, to
    ``scores``."""
    import torch

    expected = teacher.detach().log_softmax(-1)
    return torch.nn.functional.kl_div(scores.log_softmax(-1), expected, log_target=True, reduction="none").sum(-1)


def _augment(
    labeller: Labeller, model: Any, tokens: Sequence[list[int]], answers: IntArray, config: TuningConfig, seed: int
) -> None:
    """Tune the updates further on the samples to forget, as they were tuned before."""
    steps = list(batches(len(tokens), config.model_copy(update={"epochs": AUGMENT_PASSES}), seed))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, schedule = optimizer_of(trained, config, len(steps))
    model.train()
    with Progress("augment", len(steps), "steps") as progress:
        for places in steps:

            def to_learn(scores: Any, rows: list[int], places: IntArray = places) -> Any:
                return cross_entropy(scores, answers[places[rows]])

            loss = add_gradient(labeller, model, [tokens[row] for row in places.tolist()], to_learn)
            descend(model, config, optimizer)
            schedule.step()
            progress.advance(note=f"loss {loss:.4f}")


def _states(labeller: Labeller, model: Any, tokens: Sequence[list[int]]) -> Any:
    """Last states [n, D] of prompts, as the language head reads them."""
    import torch

    model.eval()
    base, parts, order = model.get_base_model(), [], []
    with torch.no_grad(), Progress("teacher", len(tokens), "prompts") as progress:
        for rows in padded_batches([len(part) for part in tokens], labeller.padded_tokens):
            parts.append(last_states(base, [tokens[row] for row in rows]))
            order.extend(rows)
            progress.advance(len(rows))
    return torch.cat(parts)[torch.from_numpy(np.argsort(order))]
