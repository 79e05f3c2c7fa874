"""Quality of a quantiser and meaning of its factors: code usage, reconstruction, and words for people to read.

A factor (a first-level code) is called nameable if at least two words each occur in 40 % of its members' texts or more,
and more often than a random group of that size would have any word of the vocabulary (hypergeometric test at 5 %,
Bonferroni). One shared word may be a homonym or a habit of the language model; 40 % makes the word describe the group
and not a corner of it. Fixed bounds on the frequencies inside and outside, which were tried first, call a fifth of all
random groups nameable, because most groups are small. The same rule on shuffled groups is part of the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.contract.arrays import Codes, FloatArray
from offline.knowledge.autograph.quantise import Quantiser
from research.tables import table

LEAST_WORDS = 2
INSIDE = 0.4
LEVEL = 0.05
_TOP_WORDS = 8
_WORD = r"(?u)\b[^\W\d_][\w'-]{2,}\b|\b(?:18|19|20)\d0s\b"


@dataclass(frozen=True, slots=True)
class Word:
    """``inside`` and ``outside``: share of the members' and of the other texts that hold the word. ``names``: it is
    frequent inside and not by chance."""

    text: str
    inside: float
    outside: float
    names: bool


@dataclass(frozen=True, slots=True)
class Factor:
    """A first-level code; ``words`` are its top words by mean tf-idf over the members, best first."""

    code: int
    members: int
    words: tuple[Word, ...]

    @property
    def nameable(self) -> bool:
        return sum(word.names for word in self.words) >= LEAST_WORDS


def name_factors(codes: npt.NDArray[np.integer], texts: Sequence[str]) -> list[Factor]:
    """Factors in use, largest first. ``codes`` [n]: first-level code of each text."""
    from scipy.stats import hypergeom  # type: ignore[import-untyped]  # has no types
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        stop_words="english", token_pattern=_WORD, min_df=min(2, len(texts)), sublinear_tf=True
    )
    weights = vectorizer.fit_transform(texts).tocsr()
    present = (weights > 0).astype(np.float64)
    words, total = vectorizer.get_feature_names_out(), np.asarray(present.sum(axis=0)).ravel()
    factors = []
    for code, count in zip(*np.unique(codes, return_counts=True), strict=True):
        rows = np.flatnonzero(codes == code)
        mean = np.asarray(weights[rows].mean(axis=0)).ravel()
        inside = np.asarray(present[rows].sum(axis=0)).ravel()
        top = np.argsort(-mean, kind="stable")[:_TOP_WORDS]
        chance = hypergeom.sf(inside[top] - 1, len(texts), total[top], count)
        names = (inside[top] >= INSIDE * count) & (chance < LEVEL / len(words))
        outside = (total[top] - inside[top]) / max(1, len(texts) - int(count))
        columns = zip(words[top], inside[top] / count, outside, names, strict=True)
        top_words = (Word(str(word), float(share), float(other), bool(name)) for word, share, other, name in columns)
        factors.append(Factor(int(code), int(count), tuple(top_words)))
    return sorted(factors, key=lambda factor: (-factor.members, factor.code))


def factor_table(factors: Sequence[Factor], limit: int = 20) -> str:
    """For people: the largest factors with their top words; the naming ones carry their two shares."""
    rows = []
    for factor in factors[:limit]:
        words = ", ".join(
            f"**{word.text}** ({word.inside:.0%} : {word.outside:.0%})" if word.names else word.text
            for word in factor.words[:5]
        )
        rows.append([str(factor.code), str(factor.members), "yes" if factor.nameable else "no", words])
    return table(["factor", "members", "nameable", "top words (share of members : of others)"], rows)


@dataclass(frozen=True, slots=True)
class QuantiserReport:
    """``usage``: share of codes in use, and ``perplexity``: effective number of codes, per level. Reconstruction error
    as mean absolute difference and mean cosine: from the codes, and from as many principal components as the latent
    space has dimensions (floats, not codes: a yardstick that codes need not reach). ``nameable``: share of the factors
    in use, and of equally large random groups."""

    vectors: int
    size: int
    usage: tuple[float, ...]
    perplexity: tuple[float, ...]
    distinct: int
    l1: float
    cosine: float
    pca_l1: float
    pca_cosine: float
    nameable: float
    nameable_by_chance: float
    note: str


def quantiser_report(quantiser: Quantiser, vectors: FloatArray, texts: Sequence[str]) -> QuantiserReport:
    """Report on ``vectors`` [n, width] and the texts that they encode."""
    from sklearn.decomposition import PCA

    codes, _ = quantiser.assign(vectors)
    usage, perplexity = zip(*(_spread(codes[:, level], quantiser.size) for level in range(codes.shape[1])), strict=True)
    analysis = PCA(min(quantiser.dim, *vectors.shape), svd_solver="covariance_eigh").fit(vectors.astype(np.float64))
    l1, cosine = _error(vectors, quantiser.reconstruct(codes))
    pca_l1, pca_cosine = _error(vectors, analysis.inverse_transform(analysis.transform(vectors.astype(np.float64))))
    shuffled = np.random.default_rng(0).permutation(codes[:, 0])
    return QuantiserReport(
        vectors=len(vectors),
        size=quantiser.size,
        usage=usage,
        perplexity=perplexity,
        distinct=len(np.unique(codes, axis=0)),
        l1=l1,
        cosine=cosine,
        pca_l1=pca_l1,
        pca_cosine=pca_cosine,
        nameable=_share(name_factors(codes[:, 0], texts)),
        nameable_by_chance=_share(name_factors(shuffled, texts)),
        note=quantiser.note,
    )


def _spread(codes: Codes, size: int) -> tuple[float, float]:
    share = np.bincount(codes, minlength=size) / len(codes)
    used = share[share > 0]
    return float((share > 0).mean()), float(np.exp(-(used * np.log(used)).sum()))


def _error(vectors: FloatArray, other: npt.NDArray[np.floating]) -> tuple[float, float]:
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(other, axis=1)
    cosine = (vectors * other).sum(axis=1) / np.maximum(norms, 1e-12)
    return float(np.abs(vectors - other).mean()), float(cosine.mean())


def _share(factors: Sequence[Factor]) -> float:
    return sum(factor.nameable for factor in factors) / max(1, len(factors))
