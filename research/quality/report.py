"""An evaluation as Markdown, for the place between the markers ``quality NAME`` of docs/quality.md.

The study command puts it there as it does other tables; prose outside the markers is nobody's but its authors'.
"""

from __future__ import annotations

from collections.abc import Iterator

from research.quality.evaluation import Candidate, CandidateRow, Evaluation, Spread, percent
from research.quality.plot import drawable
from research.quality.published import GOALS, PUBLISHED, SOURCE
from research.tables import difference_cell, spread_cell, table

_FIGURES = {
    "auc-ms": "AUC against the time to score 500 candidates",
    "reliability": "Reliability: share of positives against mean score, in bins of equal mass",
    "share": "AUC against the share of the training rows",
}
_GROUPS = {
    "user": "by the user's training rows",
    "experience": "by the user's earlier interactions, coarsely",
    "item": "by the item's training rows",
    "history": "by the user's earlier interactions",
    "time": "by time, in tenths of the samples",
}


def marker(evaluation: Evaluation) -> str:
    """Name of the table in the page's markers."""
    return f"quality {evaluation.name}"


def page_section(evaluation: Evaluation, figures: str = "figures/quality", ledger: str = "") -> str:
    """All of an evaluation. ``figures``: folder and stem of those that were drawn, ``ledger``: where uses of the test
    split are noted; both as seen from the page."""
    sections = [
        _how(evaluation),
        _goal(evaluation),
        _uses(evaluation, ledger),
        _table(evaluation),
        _legend(evaluation),
        *(f"![{_FIGURES[name]}]({figures}-{name}.svg)" for name in drawable(evaluation)),
        *_slices(evaluation),
        _shares(evaluation),
    ]
    return "\n\n".join(section for section in sections if section)


def _how(evaluation: Evaluation) -> str:
    text = (
        f"{evaluation.samples:,} samples of {evaluation.users:,} users of the {evaluation.split} split, "
        f"{evaluation.positives:.1%} of them positive. Every number of a model is the mean over its seeds, ± their "
        "standard deviation. The epoch of every model trained here was picked on the validation split."
    )
    if evaluation.best_peer:
        text += (
            f" Differences are to {evaluation.best_peer}, the peer that is best on the validation split, with 95 % "
            f"intervals from {evaluation.resamples:,} paired resamples of users; bold where they exclude zero. They "
            "cover the choice of users, not that of seeds, and are not corrected for their number."
        )
    return text


def _goal(evaluation: Evaluation) -> str:
    """Met or not, by the row with frozen statistics of ours that is best on the validation split."""
    goal, row = GOALS.get(evaluation.name), evaluation.row(evaluation.chosen)
    if goal is None or evaluation.split != "test":
        return ""
    goal_text = f"AUC of at least {goal.auc:.4f} and LogLoss of at most {goal.logloss:.4f} with frozen statistics"
    if row is None:
        return f"Goal ({goal_text}): no model of ours with frozen statistics and a validation AUC yet."
    met = "met" if goal.is_met(row.auc.middle, row.logloss.middle) else "not met"
    which = "" if len(_ours(evaluation)) == 1 else ", the best of ours on the validation split,"
    return (
        f"**Goal {met}** ({goal_text}): {row.candidate}{which} has AUC {_spread(row.auc)} and "
        f"LogLoss {_spread(row.logloss)}, with {_seeds(len(row.seeds))}."
    )


def _uses(evaluation: Evaluation, ledger: str) -> str:
    if evaluation.test_set_uses is None:
        return "This is the validation split, on which epochs and models are picked: no result."
    where = f"; they are listed in [{ledger}]({ledger})" if ledger else ""
    text = f"Candidates that were ever scored on this test split: {evaluation.test_set_uses}{where}."
    if evaluation.left_out:
        text += f" Not scored on it: {', '.join(evaluation.left_out)}."
    return text


def _table(evaluation: Evaluation) -> str:
    heads = ["model", "", "statistics", "seeds", "AUC", "LogLoss", "AUC against best peer", "LogLoss against best peer"]
    heads += ["GAUC", "NDCG@10", "ECE", "ms per 500 (quartiles)", "parameters", "training"]
    lines: list[list[str]] = []
    for model in PUBLISHED.get(evaluation.name, ()) if evaluation.split == "test" else ():
        cells = [model.model, "published", "", "", f"{model.auc:.4f}", f"{model.logloss:.4f}"]
        lines.append(cells)
    for row in evaluation.rows:
        name = f"**{row.candidate.model}**" if row.candidate == evaluation.chosen else row.candidate.model
        cells = [name, row.family, row.candidate.statistics, str(len(row.seeds))]
        cells += [_spread(row.auc), _spread(row.logloss)]
        cells += ["best peer"] * 2 if row.candidate == evaluation.best_peer else _differences(row)
        cells += [_spread(row.gauc), _spread(row.ndcg), _spread(row.ece)]
        ms = row.ms_per_500
        cells += [f"{ms.middle:.3g} ({ms.low:.3g} to {ms.high:.3g})" if ms else ""]
        lines.append([*cells, f"{row.parameters:,}", _duration(row.seconds)])
    return table(heads, lines)


def _legend(evaluation: Evaluation) -> str:
    paragraphs = [
        "GAUC: mean AUC within users, weighted by samples. NDCG@10: mean over users. Both over users that have both "
        "labels. ECE: mean distance of scores and outcomes in 15 bins of equal mass."
    ]
    if evaluation.name in PUBLISHED and evaluation.split == "test":
        paragraphs.append(
            f"Published rows are printed as in {SOURCE}. They picked the best epoch on the test split, which flatters "
            "them; we never do. Their predictions are not public, so there are no intervals."
        )
    if any(row.candidate.statistics == "live" for row in evaluation.rows):
        paragraphs.append(
            "Frozen statistics stop at the end of the training period. Live ones go on with what other users did "
            "before the sample, also in the test period; they have rows of their own and do not count for the goal."
        )
    return "\n\n".join(paragraphs)


def _slices(evaluation: Evaluation) -> Iterator[str]:
    """A table per model of ours; all but the chosen model's are folded."""
    if evaluation.slices and _ours(evaluation):
        yield f"### Slices ({evaluation.name})"
        yield "A training row is a sample of the training split. Slices of one label are not judged."
    for row in sorted(_ours(evaluation), key=lambda row: row.candidate != evaluation.chosen):
        table = _slice_table(evaluation, row)
        if row.candidate == evaluation.chosen:
            yield f"{row.candidate}:\n\n{table}"
        else:
            yield f"<details><summary>{row.candidate}</summary>\n\n{table}\n\n</details>"


def _slice_table(evaluation: Evaluation, row: CandidateRow) -> str:
    peer = evaluation.row(evaluation.best_peer)
    heads = ["slice", "samples", "users", *([f"{peer.candidate} AUC"] if peer else []), "AUC", "difference [95 %]"]
    lines: list[list[str]] = []
    group = ""
    for part in evaluation.slices:
        if part.group != group:
            group = part.group
            lines.append([f"*{_GROUPS[group]}*"])
        mine, others = row.slices.get(part.name), peer.slices.get(part.name) if peer else None
        cells = [part.name, f"{part.samples:,}", f"{part.users:,}"]
        if peer:
            cells.append(f"{others.auc:.4f}" if others else "")
        lines.append([*cells, f"{mine.auc:.4f}" if mine else "", difference_cell(mine.against if mine else None)])
    return table(heads, lines)


def _shares(evaluation: Evaluation) -> str:
    """A row per model, a column per share; below it by how much the chosen model is better."""
    if not evaluation.shares:
        return ""
    shares = sorted({point.candidate.share for point in evaluation.shares})
    points_of = {(_whole(point.candidate), point.candidate.share): point for point in evaluation.shares}
    heads = ["AUC with this part of the training rows", *map(percent, shares)]
    lines: list[list[str]] = []
    for candidate in dict.fromkeys(of for of, _ in points_of):
        points = [points_of.get((candidate, share)) for share in shares]
        lines.append([str(candidate), *("" if point is None else _spread(point.auc) for point in points)])
        gains = ["" if point is None else difference_cell(point.chosen_over) for point in points]
        if any(gains):
            lines.append([f"{evaluation.chosen} over {candidate} [95 %]", *gains])
    return f"### Sample efficiency ({evaluation.name})\n\n{table(heads, lines)}"


def _whole(candidate: Candidate) -> Candidate:
    return Candidate(candidate.model, candidate.statistics)


def _ours(evaluation: Evaluation) -> list[CandidateRow]:
    return [row for row in evaluation.rows if row.family == "ours"]


def _differences(row: CandidateRow) -> list[str]:
    return [difference_cell(row.auc_against), difference_cell(row.logloss_against)]


def _spread(spread: Spread) -> str:
    return spread_cell(spread.middle, spread.deviation)


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
