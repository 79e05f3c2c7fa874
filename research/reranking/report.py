"""A judgement of the reranker as Markdown, for docs/reranking.md, between the markers ``reranking NAME``."""

from __future__ import annotations

from collections.abc import Sequence

from offline.metrics import in_words
from research.reranking.evaluation import Line, RerankerEvaluation, SliceLine
from research.tables import difference_cell, table


def marker(evaluation: RerankerEvaluation) -> str:
    """Name of the tables in the page's markers."""
    return f"reranking {evaluation.name}"


def page_section(evaluation: RerankerEvaluation) -> str:
    """All tables, with a sentence on how they came about."""
    how = (
        f"{evaluation.samples:,} samples of {evaluation.users:,} users of the test split, drawn once by a fixed seed, "
        f"{evaluation.positives:.1%} of them positive. Language model: {evaluation.model}, tuned on "
        f"{evaluation.tuned_on:,} samples of the training split told in both ways, K = {evaluation.history}. CTR "
        f"model: {evaluation.ctr}. Calibration and weights come from {evaluation.validation_samples:,} samples of the "
        "validation split. Intervals: 1,000 resamples of users, paired where they are of differences; bold where they "
        "exclude zero. They cover the choice of users, not of seeds. Candidates that were ever scored on this test "
        f"split: {evaluation.test_set_uses}."
    )
    sections = [
        how,
        "The language model alone. LogLoss is of its raw probabilities.",
        _table(evaluation.alone, "tuned against zero-shot"),
        "Mixed with the CTR model. The first mix of either kind has the weight that the validation samples chose.",
        _table(evaluation.mixed, "against the CTR model"),
        f"By the user's earlier events, told {evaluation.served}.",
        _slices(evaluation.slices, evaluation.weights),
    ]
    return "\n\n".join(sections)


def _table(lines: Sequence[Line], against: str) -> str:
    rows = []
    for line in lines:
        low, high = line.auc_interval
        weight = "" if line.weight is None else f"{line.weight:g}"
        area = f"{line.auc:.4f} [{low:.4f}, {high:.4f}]" if line.auc == line.auc else in_words(line.auc)
        rows.append(
            [line.model, weight, area, f"{line.logloss:.4f}", in_words(line.gauc), difference_cell(line.against)]
        )
    return table(["model", "weight", "AUC [95 %]", "LogLoss", "GAUC", f"AUC {against}"], rows)


def _slices(lines: Sequence[SliceLine], weights: Sequence[float]) -> str:
    mixes = [f"mixed with weight {weight:g} against the CTR model" for weight in weights]
    rows = [
        [line.name, f"{line.samples:,}", f"{line.users:,}", f"{line.ctr:.4f}", f"{line.reranker:.4f}"]
        + [difference_cell(gain) for gain in line.gains]
        for line in lines
    ]
    return table(["history", "samples", "users", "CTR model", "reranker alone", *mixes], rows)
