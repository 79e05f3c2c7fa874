"""Nothing after the validation period reaches calibration, weight or band."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.contract.events import Interaction
from models.contract.reranker import HistoryBand
from offline.data.log import InteractionLog
from offline.data.texts import TextsConfig
from offline.reranking.calibrate import Mix
from offline.reranking.prepared import Prepared
from offline.reranking.prompting import PromptBuilder, items_of
from offline.reranking.run import mix_of
from offline.training.validation import trained_splits
from tests.offline.knowledge.fakes import HashEncoder
from tests.offline.reranking.fakes import PROMPT
from tests.offline.reranking.trained import TrainedJob


def ready_with(original: TrainedJob, log: InteractionLog, folder: Path) -> Prepared:
    """As ``prepared`` makes it of a log, without a language model."""
    config = original.job.config
    splits = trained_splits(config.samples, log, original.report)
    items = items_of(
        original.catalogue, log, TextsConfig(), 160, splits.trained_rows, 4, HashEncoder().encode, folder / "p.npz"
    )
    prompts, nothing = PromptBuilder(original.catalogue, log, items, 8), Path("nothing")
    model: Any = None
    return Prepared(
        config, original.catalogue, log, original.report, splits, prompts, PROMPT, (1, 2), model, model, nothing, folder
    )


def mix(original: TrainedJob, log: InteractionLog, folder: Path) -> Mix:
    """The mix that the job would write. The language model's answers know the label, beside much noise, of the sample
    that they are about: a label that changes shows in them."""
    ready = ready_with(original, log, folder)
    rows = ready.rows("validation")
    noise = np.random.default_rng(5).normal(size=10_000)
    raw = (2.0 * (2.0 * ready.label(rows) - 1.0) + noise[rows]).astype(np.float32)
    return mix_of(ready, raw, original.scores(log).of(rows))


def changed(log: InteractionLog, rows: npt.NDArray[np.int64]) -> InteractionLog:
    """Other items and values at these log rows."""
    item, value = log.item.copy(), log.value.copy()
    item[rows] = (item[rows] + 7) % len(log.item_ids)
    value[rows] = 6.0 - value[rows]
    return replace(log, item=item, value=value)


def test_what_comes_after_the_validation_period_changes_neither_weight_nor_band(
    original: TrainedJob, tmp_path: Path
) -> None:
    log = original.log
    splits = trained_splits(original.job.config.samples, log, original.report)
    before = mix(original, log, tmp_path)
    assert before.weight > 0
    assert before.band == HistoryBand(shortest=5, longest=29)
    after = np.arange(splits.rows["validation"].max() + 1, len(log))
    assert set(splits.rows["test"]) <= set(after)
    assert mix(original, changed(log, after), tmp_path) == before
    assert mix(original, changed(log, after[:1]), tmp_path) == before


def test_what_arrives_later_changes_neither_weight_nor_band(original: TrainedJob, tmp_path: Path) -> None:
    late = [
        Interaction(user_id=f"u{at % 60}", item_id=f"i{at % 40}", value=5.0, time_ms=10**12 + at) for at in range(170)
    ]
    grown, added = original.log.extended(late, "1-0")
    assert added == len(late)
    assert mix(original, grown, tmp_path) == mix(original, original.log, tmp_path)


def test_the_validation_period_does_change_them(original: TrainedJob, tmp_path: Path) -> None:
    """The comparison looks at something."""
    rows = trained_splits(original.job.config.samples, original.log, original.report).rows["validation"]
    assert mix(original, changed(original.log, rows[::2]), tmp_path) != mix(original, original.log, tmp_path)
