"""The language of a catalogue, by its scripts and function words, and words for its items that no branch owns.

The defaults of ``[data.texts]`` speak of films, in every language; what is sold is known here by a file's name at most,
and that is English as a rule.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, pairwise
from types import MappingProxyType

import polars as pl

from offline.data.languages.chinese import CHINESE
from offline.data.languages.english import ENGLISH
from offline.data.languages.function_words import FUNCTION_WORDS
from offline.data.languages.japanese import JAPANESE
from offline.data.languages.registry import LANGUAGES, OTHER
from offline.llm.wording import kana_share, scripts
from offline.proposal.features import Column

_TEXTS = 2000
"""Texts that are looked at, of each column."""
_LEAST_SHARE = 0.3
"""Share of letters of one script, or of two, from which it is the catalogue's own: names may stay Latin."""
_LEAST_WORDS = 3
_FOREIGN = 0.1
"""Share of words with accents that no English catalogue has."""
_ACCENT = 0.5
"""What a word with letters of several languages counts for each."""
_WORD = re.compile(r"[^\W\d_]+'?")
_ALPHABETS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = MappingProxyType(
    {
        code: (frozenset(letters), frozenset(own))
        for code, letters, own in (
            ("de", "äöüß", "üß"),
            ("es", "áéíóúüñ", "ñ"),
            ("fr", "àâæçéèêëîïôœùûüÿ", "œ"),
            ("it", "àèéìíîòóù", "ì"),
            ("nl", "áéèëïóöü", ""),
            ("pt", "áâãàçéêíóôõúü", "ãõ"),
        )
    }
)
"""The letters of languages beyond a to z, and those of them that tell it from most others."""

WORDS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "de": {
            "noun": "Artikel",
            "plural": "Artikel",
            "user": "Person",
            "topics": "Merkmale",
            "aspects": "Art und Zweck, Eigenschaften und die Menschen, denen es gefällt",
            "tastes": "welche Arten und Eigenschaften ihr gefallen",
            "unnamed": "ein Artikel ohne Namen",
        },
        "zh": {
            "noun": "商品",
            "plural": "商品",
            "user": "用户",
            "topics": "类型",
            "aspects": "种类与用途、特点，以及喜欢它的人群",
            "tastes": "喜欢什么样的种类和特点",
            "unnamed": "一件无名商品",
        },
        "ja": {
            "noun": "商品",
            "plural": "商品",
            "user": "利用者",
            "topics": "種類",
            "aspects": "種類と用途、特徴、どのような人に好まれるか",
            "tastes": "どのような種類や特徴を好むか",
            "unnamed": "無名の商品",
        },
        "es": {"noun": "item", "thing": "un artículo", "unnamed": "un artículo sin nombre"},
        "fr": {"noun": "item", "thing": "un article", "unnamed": "un article sans nom"},
        "it": {"noun": "item", "thing": "un articolo", "unnamed": "un articolo senza nome"},
        "nl": {"noun": "item", "thing": "een artikel", "unnamed": "een artikel zonder naam"},
        "pt": {"noun": "item", "thing": "um artigo", "unnamed": "um artigo sem nome"},
        OTHER: {"noun": "item", "thing": "an item", "unnamed": "an unnamed item"},
    }
)
"""Words of [data.texts] for any goods, by language: those of questions, English where they are asked in English; and
what stands for an item without a title (``unnamed``), and where items have none (``thing``, else the noun)."""

GOODS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        code: frozenset(words.split())
        for code, words in (
            (
                "en",
                "black white red blue green brown men mens women womens kids leather wood size small new",
            ),
            (
                "de",
                "schwarz weiss weiß rot blau gruen grün braun herren damen kinder leder holz größe fuer ueber",
            ),
            (
                "es",
                "negro negra blanco blanca rojo azul verde hombre mujer niños niño niña cuero madera años noche",
            ),
            (
                "fr",
                "noir noire blanc blanche rouge bleu bleue vert homme femme enfant cuir bois taille nuit vie",
            ),
            (
                "it",
                "nero nera bianco bianca rosso azzurro uomo donna bambini pelle legno taglia cotone notte amore",
            ),
            ("nl", "zwart wit rood blauw groen bruin heren dames kinderen leer hout maat katoen nieuw nieuwe groot"),
            ("pt", "preto preta branco branca vermelho homem mulher crianças couro madeira tamanho novo noite vida"),
        )
    }
)
"""Words that are frequent among goods, whose names have few function words: colours, materials, for whom."""


def language_of_items(table: pl.DataFrame, columns: Sequence[Column]) -> str:
    """The code of the language that a table's texts are in: "en" also where nothing speaks against it."""
    return language_of_texts(text for column in columns if column.type == "text" for text in _texts(table, column))


def language_of_texts(texts: Iterable[str]) -> str:
    """A code of ``GOODS``, "zh" or "ja"; "other" for another script than the Latin, and where words have accents and
    none of these languages explains them; else "en"."""
    text = unicodedata.normalize("NFC", "\n".join(texts))
    letters = scripts(text)
    if letters["CJK"] > _LEAST_SHARE * letters.total():
        assert JAPANESE.kana is not None
        return JAPANESE.code if kana_share(text) >= JAPANESE.kana[0] else CHINESE.code
    if letters["LATIN"] < (1 - _LEAST_SHARE) * letters.total():
        return OTHER
    spoken = _WORD.findall(text.lower().replace("’", "'"))
    words = Counter(word for word, _ in set(pairwise([*spoken, ""])))  # a name that comes again says nothing new
    least = max(_LEAST_WORDS, 0.03 * words.total())
    points = {code: _points(code, words) for code in GOODS}
    best = max(points, key=lambda code: (points[code], code == ENGLISH.code))
    if best != ENGLISH.code and points[best] >= max(least, points[ENGLISH.code] + 1):
        return best
    accented = sum(count for word, count in words.items() if not word.isascii())
    is_foreign = accented >= max(_LEAST_WORDS, _FOREIGN * words.total()) and accented > points[ENGLISH.code]
    return OTHER if is_foreign else ENGLISH.code


def _points(code: str, words: Counter[str]) -> float:
    """How many words speak for a language: frequent ones, each divided by the languages that share it, and those with
    letters of its own; less those with letters that it lacks. A single frequent word may be part of a name."""
    known = [word for word in words if word in _KNOWN[code]]
    points = sum(words[word] / _OWNERS[word] for word in known) if len(known) > 1 else 0.0
    if code == ENGLISH.code:
        return points
    alphabet, own = _ALPHABETS[code]
    accented = [word for word in words if not word.isascii()]
    points += sum(words[word] for word in accented if word not in _KNOWN[code] and not own.isdisjoint(word))
    if points:  # others may share these letters, such as Finnish those of German
        shared = (word for word in accented if word not in _KNOWN[code] and own.isdisjoint(word))
        points += _ACCENT * sum(words[word] for word in shared if _signs(word) <= alphabet)
    return points - sum(words[word] for word in accented if not _signs(word) <= alphabet)


def _signs(word: str) -> set[str]:
    return {sign for sign in word if not sign.isascii()}


def _texts(table: pl.DataFrame, column: Column) -> Iterable[str]:
    return islice((text for text in table[column.column].cast(pl.String).to_list() if text), _TEXTS)


_KNOWN: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        code: goods | (LANGUAGES[code].function_words if code in LANGUAGES else FUNCTION_WORDS[code])
        for code, goods in GOODS.items()
    }
)
_OWNERS = Counter(word for known in _KNOWN.values() for word in known)
