"""The page of ranked purchases: tables for each way to draw candidates, and the cost of knowledge beside its gain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from offline.jobs.ledger import RunRecord
from offline.knowledge.run import ProducerState
from offline.knowledge.vectors import Knowledge
from research.quality.drawn import DRAWINGS
from research.studies.ablation import BASE, CONTROL, GROUP_IDS, variants
from research.studies.ranked_purchases import PurchaseSettings, PurchaseSlice, VariantMeasures, absent_methods
from research.tables import difference_cell, table

_MAKING = (ProducerState.MADE, ProducerState.PARTIAL)


@dataclass(frozen=True, slots=True)
class ProducerCost:
    """What runs that made a producer's knowledge, and no other's, asked of a language model, and the seconds that they
    took: ``calls``, prompt and answer ``tokens``."""

    calls: int = 0
    tokens: int = 0
    seconds: float = 0.0


def producer_costs(runs: Iterable[RunRecord]) -> dict[str, ProducerCost]:
    """The cost of each producer by a work folder's ledger. A run of several producers tells nothing of each and counts
    for none: make them by `knowledge --producer NAME`."""
    costs: dict[str, ProducerCost] = {}
    for run in runs:
        working = [name for name, producer in run.producers.items() if producer.state in _MAKING]
        if len(working) != 1:
            continue
        name = working[0]
        before = costs.get(name, ProducerCost())
        calls = 0 if run.llm is None else run.llm.paid
        tokens = 0 if run.llm is None else run.llm.prompt_tokens + run.llm.completion_tokens
        seconds = run.stages.get(f"knowledge: {name}", 0.0)
        costs[name] = ProducerCost(before.calls + calls, before.tokens + tokens, before.seconds + seconds)
    return costs


def purchases_page(
    slices: Sequence[PurchaseSlice], settings: PurchaseSettings, knowledge: Knowledge, costs: Mapping[str, ProducerCost]
) -> str:
    """The section of docs/knowledge.md."""
    producers, absent = variants(knowledge), absent_methods(knowledge)
    producers.pop(GROUP_IDS, None)  # which reads no text, so it has no cost
    parts = []
    for drawn in DRAWINGS:
        whole, *others = [of for of in slices if of.drawn == drawn]
        heads = ["variant", "AUC", "pooled AUC", "NDCG@10", "HR@10", f"AUC against {BASE} [95 %]"]
        heads += [f"NDCG@10 against {BASE} [95 %]", f"AUC against {CONTROL} [95 %]", "calls", "tokens", "seconds"]
        rows = [[*_cells(row), *_cost_cells(producers.get(row.variant, ()), costs)] for row in whole.rows]
        rows += [[method, "not made yet"] for method in absent]
        parts += [
            f"{settings.negatives} candidates of the purchase's coldness, drawn by {drawn}; {whole.purchases:,} "
            f"purchases of {whole.users:,} users of the {settings.part} part, {_seeds(settings.seeds)}:",
            table(heads, rows),
            table(
                ["slice", "purchases", *heads[:2], *heads[3:8]],
                [
                    [of.name, f"{of.purchases:,}", *(cell for at, cell in enumerate(_cells(row)) if at != 2)]
                    for of in others
                    for row in of.rows
                ],
            ),
        ]
    return "\n\n".join(parts)


def _cells(row: VariantMeasures) -> list[str]:
    numbers = (row.auc, row.pooled, row.ndcg, row.hits)
    base, control = row.against.get(BASE, {}), row.against.get(CONTROL, {})
    differences = (base.get("auc"), base.get("ndcg"), control.get("auc"))
    return [row.variant, *(f"{number:.4f}" for number in numbers), *map(difference_cell, differences)]


def _cost_cells(producers: Sequence[str], costs: Mapping[str, ProducerCost]) -> list[str]:
    """Of all of a variant's producers together; empty for a variant without, or of which a cost is not known."""
    if not producers or any(name not in costs for name in producers):
        return []
    each = [costs[name] for name in producers]
    calls, tokens = sum(cost.calls for cost in each), sum(cost.tokens for cost in each)
    return [f"{calls:,}", f"{tokens:,}", f"{sum(cost.seconds for cost in each):,.0f}"]


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"means over {count} seeds"
