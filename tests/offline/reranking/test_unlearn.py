"""Unlearning, on a tiny random model: the loss by hand, what it does to losses of forgotten and other samples, and the
job that writes the result beside the reranker it comes from."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from models.contract.arrays import FloatArray, IntArray
from models.contract.prompts import PromptParts, Rated
from models.contract.reranker import FILE, ITEMS_FILE, RerankerManifest
from offline.data.catalogue import DataError
from offline.data.files import write_json
from offline.jobs.runs import Run
from offline.reranking import teachers
from offline.reranking.calibrate import fit_mix, probability_of
from offline.reranking.framing import label_ids, tokens_of
from offline.reranking.prepared import Prepared
from offline.reranking.run import VALIDATION, ctr_of
from offline.reranking.teachers import divergences, forget_teacher, unlearn
from offline.reranking.tune import ADAPTER, DONE, MODEL, save_tuned, tune
from offline.reranking.unlearn import REPORT, losses_of, read_users, unlearn_reranker, unseen_samples
from tests.offline.reranking.conftest import Tuned
from tests.offline.reranking.fakes import PROMPT, TUNING, labeller, model

FILMS = 24
FORGOTTEN = np.arange(FILMS) % 3 == 0
"""Films with odd numbers are liked; of the forgotten, the even ones: nothing but their own samples says so."""


def test_the_forget_teacher_loses_what_more_tuning_raises() -> None:
    original, augmented = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.5, 1.0, 3.0]])
    assert forget_teacher(original, augmented).tolist() == [[0.0, 2.0, 3.0]]


def test_divergences_are_from_the_teacher_to_the_scores() -> None:
    teacher = torch.log(torch.tensor([[0.5, 0.25, 0.25]])) + 7.0
    scores = torch.log(torch.tensor([[0.25, 0.25, 0.5]])) - 3.0
    assert divergences(teacher, scores).tolist() == pytest.approx([0.5 * math.log(2) - 0.25 * math.log(2)])
    assert divergences(teacher, teacher + 1.0).tolist() == pytest.approx([0.0], abs=1e-6)


CONFIG = TUNING.model_copy(update={"epochs": 40, "rank": 4, "dropout": 0.0})


class Memory:
    """A tuned model that knows by heart which films are liked: chance decided it."""

    def __init__(self, folder: Path) -> None:
        self.base, self.folder = model(folder / "base"), folder / "tuned"
        untuned = labeller(self.base)
        self.labels = label_ids(untuned.tokenizer, PROMPT)
        self.prompts = [PROMPT.parts({}, [Rated("Film 1", 3.0)], f"Film {at}") for at in range(2 * FILMS)]
        self.liked = np.random.default_rng(3).random(2 * FILMS) < 0.5
        self.tokens = tokens_of(untuned.tokenizer, self.prompts)[:FILMS]
        self.answers = np.where(self.liked, *self.labels).astype(np.int64)[:FILMS]
        tune(untuned, self.tokens, self.answers, CONFIG, 1, self.folder)

    def losses(self, folder: Path) -> FloatArray:
        """Of all films [2 FILMS]; the second half was never told to the model."""
        odds = np.zeros(len(self.prompts))
        for rows, scores in labeller(folder).log_odds(self.prompts, self.labels):
            odds[rows] = scores
        return np.logaddexp(0.0, np.where(self.liked, -odds, odds))

    def unlearned(self, target: Path) -> list[float]:
        base = labeller(self.base)
        forgot, divergence = unlearn(base, self.folder / ADAPTER, self.tokens, self.answers, FORGOTTEN, CONFIG, 1)
        save_tuned(base, forgot, target)
        return divergence


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Memory:
    return Memory(tmp_path_factory.mktemp("memory"))


def test_forgotten_samples_come_nearer_to_unseen_ones_and_the_others_stay(memory: Memory, tmp_path: Path) -> None:
    divergence = memory.unlearned(tmp_path)
    before, after = memory.losses(memory.folder / MODEL), memory.losses(tmp_path / MODEL)
    forgotten, retained = before[:FILMS][FORGOTTEN].mean(), before[:FILMS][~FORGOTTEN].mean()
    unseen = before[FILMS:].mean()
    print(forgotten, retained, unseen, after[:FILMS][FORGOTTEN].mean(), after[:FILMS][~FORGOTTEN].mean(), after[FILMS:].mean(), divergence)
