"""Names of factors: groups that share words are nameable, random groups are not."""

from __future__ import annotations

import numpy as np

from offline.knowledge.autograph.quantise import fit_quantiser
from offline.knowledge.config import QuantiserConfig
from research.autograph.factors import Factor, Word, factor_table, name_factors, quantiser_report
from tests.offline.knowledge.autograph.small import GENRES, texts_like

WORDS = (("space", "robots"), ("wedding", "laughter"), ("detective", "murder"), ("ranch", "sheriff"))


def sentences(genre: list[int]) -> list[str]:
    fillers = ("early", "late", "quiet", "loud", "long", "short")
    return [f"A film about {' and '.join(WORDS[number])}, {fillers[at % 6]}" for at, number in enumerate(genre)]


def test_groups_that_share_words_are_named_by_them() -> None:
    genre = [0] * 9 + [1] * 7 + [2] * 5
    factors = name_factors(np.array(genre), sentences(genre))
    assert [(factor.code, factor.members, factor.nameable) for factor in factors] == [
        (0, 9, True),
        (1, 7, True),
        (2, 5, True),
    ]
    assert {word.text for word in factors[0].words if word.names} == {"space", "robots"}
    assert factors[0].words[0].inside == 1.0
    assert factors[0].words[0].outside == 0.0


def test_random_groups_and_tiny_groups_are_not_nameable() -> None:
    genre = [at % 4 for at in range(120)]
    shuffled = np.random.default_rng(0).integers(6, size=120)
    assert not any(factor.nameable for factor in name_factors(shuffled, sentences(genre)))
    assert not any(factor.nameable for factor in name_factors(np.arange(120) // 2, sentences(genre)))


def test_a_word_that_chance_explains_names_nothing() -> None:
    """Half of all texts say "space": five of five do by chance, twenty of twenty do not."""
    texts = ["space robots"] * 60 + ["wedding laughter"] * 60
    few = np.where(np.arange(120) < 5, 1, 0)
    many = np.where(np.arange(120) < 20, 1, 0)
    assert {factor.code: factor.nameable for factor in name_factors(few, texts)}[1] is False
    assert {factor.code: factor.nameable for factor in name_factors(many, texts)}[1] is True


def test_one_word_is_not_a_name() -> None:
    assert not Factor(0, 9, (Word("a", 1.0, 0.0, True), Word("b", 0.3, 0.0, False))).nameable


def test_the_table_is_for_people() -> None:
    genre = [0] * 12 + [1] * 9
    table = factor_table(name_factors(np.array(genre), sentences(genre)), limit=1).splitlines()
    assert len(table) == 3
    assert "**robots** (100% : 0%)" in table[2]
    assert table[2].startswith("| 0 | 12 | yes |")


def test_the_report_counts_codes_and_errors() -> None:
    genre = np.arange(160) % GENRES
    texts = texts_like(genre, np.random.default_rng(0))
    config = QuantiserConfig(size=8, hidden=16, dim=4, steps=120, batch=64, kmeans_iterations=10)
    report = quantiser_report(fit_quantiser(texts, config, seed=1), texts, sentences(genre.tolist()))
    assert (report.vectors, report.size, len(report.usage)) == (160, 8, 3)
    assert all(0 < share <= 1 for share in report.usage)
    assert all(1 <= codes <= 8 for codes in report.perplexity)
    assert report.nameable > 0.8
    assert report.nameable_by_chance == 0.0
    assert 0 < report.pca_l1 < report.l1
    assert 0.5 < report.cosine < report.pca_cosine <= 1
