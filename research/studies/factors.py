"""What AutoGraph's latent factors are worth and what they mean, for people to read: docs/autograph.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from offline.data.catalogue import DataError
from offline.knowledge.autograph.produce import fitted
from offline.knowledge.autograph.quantise import Quantiser
from offline.knowledge.sources import Sources
from research.autograph.factors import Factor, QuantiserReport, factor_table, name_factors, quantiser_report
from research.tables import table

ITEM_FACTORS, USER_FACTORS = 20, 10
"""Rows of the two tables of words."""


@dataclass(frozen=True, slots=True)
class Named:
    """One side's quantiser on the texts that are there today, and its first-level factors, largest first."""

    report: QuantiserReport
    factors: tuple[Factor, ...]


@dataclass(frozen=True, slots=True)
class Factors:
    """Both sides of one founded space."""

    items: Named
    users: Named


def report(sources: Sources) -> Factors:
    """Report on the founded space with its frozen quantisers: nothing is fitted, nothing is asked that has no answer.

    DataError if it is not founded yet, or if a side has no text.
    """
    frozen = fitted(sources)
    of_items = [text for text in sources.texts.items.texts if text]
    return Factors(
        items=_named("items", sources, frozen.items, of_items),
        users=_named("users", sources, frozen.users, sources.texts.versions.texts),
    )


def _named(side: str, sources: Sources, quantiser: Quantiser, texts: Sequence[str]) -> Named:
    if not texts:
        raise DataError(f"there is no text of {side} to name factors by")
    vectors = sources.encode(texts)
    codes, _ = quantiser.assign(vectors)
    return Named(quantiser_report(quantiser, vectors, texts), tuple(name_factors(codes[:, 0], texts)))


def markdown(found: Factors) -> str:
    """The tables of docs/autograph.md."""
    sides = (found.items.report, found.users.report)
    rows = [
        ("texts", *(f"{one.vectors:,}" for one in sides)),
        ("codes per level", *(_noted(one) for one in sides)),
        ("codes in use, by level", *(", ".join(f"{share:.0%}" for share in one.usage) for one in sides)),
        ("perplexity, by level", *(", ".join(f"{codes:.0f}" for codes in one.perplexity) for one in sides)),
        ("different code triples", *(f"{one.distinct:,}" for one in sides)),
        ("reconstruction, mean absolute error (PCA)", *(f"{one.l1:.4f} ({one.pca_l1:.4f})" for one in sides)),
        ("reconstruction, mean cosine (PCA)", *(f"{one.cosine:.3f} ({one.pca_cosine:.3f})" for one in sides)),
        ("nameable factors (random groups)", *(f"{one.nameable:.0%} ({one.nameable_by_chance:.0%})" for one in sides)),
        ("texts in nameable factors", *(f"{_covered(one.factors):.0%}" for one in (found.items, found.users))),
    ]
    lines = [table(["", "items", "user versions"], rows)]
    for title, side, limit in (("Items", found.items, ITEM_FACTORS), ("Users", found.users, USER_FACTORS)):
        shown = min(limit, len(side.factors))
        lines += ["", f"{title}: the {shown} largest of {len(side.factors)} first-level factors in use.", ""]
        lines.append(factor_table(side.factors, limit))
    return "\n".join(lines)


def _noted(one: QuantiserReport) -> str:
    return f"{one.size} ({one.note})" if one.note else str(one.size)


def _covered(factors: Sequence[Factor]) -> float:
    members = sum(one.members for one in factors)
    return sum(one.members for one in factors if one.nameable) / members
