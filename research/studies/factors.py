"""Quality and meaning of AutoGraph's latent factors, for people to read: docs/autograph.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from offline.data.catalogue import DataError
from offline.knowledge.autograph.produce import fitted
from offline.knowledge.autograph.quantise import Quantiser
from offline.knowledge.inputs import ProducerInputs
from research.autograph.factors import Factor, QuantiserReport, factor_table, name_factors, quantiser_report
from research.tables import table

ITEM_FACTORS, USER_FACTORS = 20, 10
"""Rows of the two tables of words."""


@dataclass(frozen=True, slots=True)
class Named:
    """The quantiser of a side on the texts that are there today, and its first-level factors, largest first."""

    report: QuantiserReport
    factors: tuple[Factor, ...]


@dataclass(frozen=True, slots=True)
class Factors:
    """Both sides of one fitted space."""

    items: Named
    users: Named

    def markdown(self) -> str:
        """The tables of docs/autograph.md."""
        sides = (self.items.report, self.users.report)
        rows = [
            ("texts", *(f"{side.vectors:,}" for side in sides)),
            ("codes per level", *(_noted(side) for side in sides)),
            ("codes in use, by level", *(", ".join(f"{share:.0%}" for share in side.usage) for side in sides)),
            ("perplexity, by level", *(", ".join(f"{codes:.0f}" for codes in side.perplexity) for side in sides)),
            ("different code triples", *(f"{side.distinct:,}" for side in sides)),
            ("reconstruction, mean absolute error (PCA)", *(f"{side.l1:.4f} ({side.pca_l1:.4f})" for side in sides)),
            ("reconstruction, mean cosine (PCA)", *(f"{side.cosine:.3f} ({side.pca_cosine:.3f})" for side in sides)),
            (
                "nameable factors (random groups)",
                *(f"{side.nameable:.0%} ({side.nameable_by_chance:.0%})" for side in sides),
            ),
            ("texts in nameable factors", *(f"{_covered(side.factors):.0%}" for side in (self.items, self.users))),
        ]
        lines = [table(["", "items", "user versions"], rows)]
        for title, side, limit in (("Items", self.items, ITEM_FACTORS), ("Users", self.users, USER_FACTORS)):
            shown = min(limit, len(side.factors))
            lines += ["", f"{title}: the {shown} largest of {len(side.factors)} first-level factors in use.", ""]
            lines.append(factor_table(side.factors, limit))
        return "\n".join(lines)


def report(inputs: ProducerInputs) -> Factors:
    """Report on the fitted space with its frozen quantisers: nothing is fitted anew, nor asked without an answer.

    DataError if it is not fitted yet, or if a side has no text.
    """
    frozen = fitted(inputs)
    of_items = [text for text in inputs.texts.items.texts if text]
    return Factors(
        items=_named("items", inputs, frozen.items, of_items),
        users=_named("users", inputs, frozen.users, inputs.texts.versions.texts),
    )


def _named(side: str, inputs: ProducerInputs, quantiser: Quantiser, texts: Sequence[str]) -> Named:
    if not texts:
        raise DataError(f"there is no text of {side} to name factors by")
    vectors = inputs.encode(texts)
    codes, _ = quantiser.assign(vectors)
    return Named(quantiser_report(quantiser, vectors, texts), tuple(name_factors(codes[:, 0], texts)))


def _noted(report: QuantiserReport) -> str:
    return f"{report.size} ({report.note})" if report.note else str(report.size)


def _covered(factors: Sequence[Factor]) -> float:
    members = sum(factor.members for factor in factors)
    return sum(factor.members for factor in factors if factor.nameable) / members
