"""Everything that tuning and judging share: the samples, their prompts, and the language model before it is tuned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.contract.arrays import FloatArray, IntArray
from models.contract.prompts import PromptParts, RerankPrompt, Selection
from models.contract.schema import fingerprint
from offline.config import JobConfig, RerankingConfig
from offline.data.catalogue import Catalogue, DataError
from offline.data.log import InteractionLog
from offline.data.log_settings import refuse_other_settings
from offline.jobs.steps import Job
from offline.knowledge.encoder import TextEncoder, VectorStore
from offline.libraries import wait_without_spinning
from offline.llm.arithmetic import choose_arithmetic
from offline.llm.in_process import quiet_transformers
from offline.llm.weights import Weights
from offline.reranking.ctr import trained_report
from offline.reranking.framing import frame_as_chat, label_ids, spell_answers, tokens_of
from offline.reranking.prompting import PromptBuilder, draw_samples, items_of
from offline.reranking.scoring import Labeller, stored_log_odds
from offline.reranking.tune import MODEL
from offline.training.report import TrainingReport
from offline.training.samples import Split, SplitRows
from offline.training.validation import trained_splits

FOLDER = "reranker"
SELECTIONS: tuple[Selection, ...] = ("recent", "relevant")


class TuningSamples(NamedTuple):
    """Prompts [n] that the language model is tuned on: log row, tokens, and the first token of the answer."""

    rows: IntArray
    tokens: list[list[int]]
    answers: IntArray


@dataclass(frozen=True, slots=True)
class Prepared:
    """``report`` is of the CTR model that was trained last, and ``splits`` are its samples. ``labels`` are the tokens
    of yes and no, ``weights`` the language model as it comes and ``checkpoint`` its folder; ``folder`` holds all that
    this package keeps."""

    config: JobConfig
    catalogue: Catalogue
    log: InteractionLog
    report: TrainingReport
    splits: SplitRows
    prompts: PromptBuilder
    prompt: RerankPrompt
    labels: tuple[int, int]
    tokenizer: Any
    weights: Weights
    checkpoint: Path
    folder: Path

    @property
    def settings(self) -> RerankingConfig:
        return self.config.reranking

    def rows(self, split: Split) -> IntArray:
        """Log rows of the samples of a split that a language model is asked about."""
        counts = {
            "train": self.settings.tuning.samples,
            "validation": self.settings.validation_rows,
            "test": self.settings.test_rows,
        }
        return draw_samples(self.splits, split, counts[split], self.settings.seed)

    def tuning_samples(self) -> TuningSamples:
        """All of the training samples' prompts, told in both ways."""
        rows = self.rows("train")
        prompts = [block for how in SELECTIONS for block in self.prompts.of_rows(self.prompt_for(how), rows)]
        yes, no = self.labels
        answers = np.tile(np.where(self.label(rows) > 0.5, yes, no), len(SELECTIONS)).astype(np.int64)
        return TuningSamples(np.tile(rows, len(SELECTIONS)), tokens_of(self.tokenizer, prompts), answers)

    def label(self, rows: IntArray) -> FloatArray:
        return (self.log.value[rows] > self.config.feature_schema.liked_above).astype(np.float32)

    def user(self, rows: IntArray) -> IntArray:
        return self.log.user[rows].astype(np.int64)

    def events(self, rows: IntArray) -> IntArray:
        """Numbers [n] of earlier events of each sample's user."""
        return self.log.by_user().position[rows]

    def prompt_for(self, selection: Selection) -> RerankPrompt:
        return self.prompt.model_copy(update={"selection": selection})

    def log_odds(self, model: Labeller, selection: Selection, rows: IntArray, title: str) -> FloatArray:
        """Raw log-odds [n] of the samples at these log rows; stored on disk."""
        return self.answers(model, self.prompts.of_rows(self.prompt_for(selection), rows), title)

    def answers(self, model: Labeller, prompts: Sequence[PromptParts], title: str) -> FloatArray:
        """Raw log-odds [n] of these prompts, likewise."""
        return stored_log_odds(self.folder / "scores", model, self.labels, prompts, title)

    def base(self) -> Labeller:
        """The model as it comes, loaded anew each time: tuning changes the one it is given."""
        return Labeller.load(self.weights.name, self.checkpoint, self.dtype, self.settings.padded_tokens)

    @property
    def dtype(self) -> str:
        """The arithmetic in which the language model is tuned and asked here."""
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        return choose_arithmetic(self.config.arithmetic, device).dtype

    def beside(self, folder: Path) -> Prepared:
        """The same with another folder, of another model that was tuned on these samples."""
        return replace(self, folder=folder)

    def tuned(self) -> Labeller:
        """The model that was tuned from it."""
        folder = self.folder / MODEL
        if not folder.is_dir():
            raise DataError("nothing is tuned yet: run `tune-reranker` first")
        weights = Weights.find(folder)
        return Labeller.load(weights.name, folder, self.dtype, self.settings.padded_tokens)


def prepare(job: Job, catalogue: Catalogue) -> Prepared:
    """The samples, prompts and model of the job's log and of the split of the CTR model that was trained last.
    DataError if there is no such model, or if it was trained on other samples; errors of what else is absent."""
    report, log = trained_report(job), InteractionLog.load(job.log)
    refuse_other_settings(log, job.config.data)
    splits = trained_splits(job.config.samples, log, report)
    wait_without_spinning()
    from transformers import AutoTokenizer

    config, settings, folder = job.config, job.config.reranking, job.config.workdir / FOLDER
    encoder = TextEncoder(config.knowledge.encoder, config.knowledge.encoder_tokens, config.arithmetic)
    encode, prompt = VectorStore(job.knowledge / "encoded.npz", encoder).vectors, settings.prompt
    path = folder / f"projection-{fingerprint(encoder.id)}.npz"
    items = items_of(
        catalogue, log, config.data.texts, prompt.max_chars, splits.trained_rows, settings.vector_dim, encode, path
    )
    prompts = PromptBuilder(catalogue, log, items, config.feature_schema.history_length)
    weights = Weights.find(settings.model)
    checkpoint = weights.checkpoint(job.checkpoints)
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    if settings.frame == "chat":
        prompt = frame_as_chat(prompt, tokenizer, settings.instruction)
    prompt = spell_answers(tokenizer, prompt)
    labels = label_ids(tokenizer, prompt)
    return Prepared(
        config, catalogue, log, report, splits, prompts, prompt, labels, tokenizer, weights, checkpoint, folder
    )
