"""Measures of the wording of an answer, without understanding it: reasoning, sentences, loops, copies, language.

Plain measures; which value is too much is decided elsewhere. All are linear in the text. What a language alone can tell
(its function words, how it declines) comes from offline/data/languages.
"""

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from offline.data.languages.english import ENGLISH
from offline.data.languages.language import Language

_REASONING_TAG = re.compile(r"<(/?)(?:think|thinking|reasoning)>", re.IGNORECASE)

# Scripts without spaces count by the character, so that an unbroken line is not one word: Thai, Lao, Burmese, Khmer,
# kana (also of half width), Chinese characters. Marks (accents, vowels of Hebrew, Arabic and Indian scripts) are parts
# of words.
_SPACELESS = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f"
    r"\U00020000-\U0003ffff"
)
_MARK = r"\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0900-\u0963\u0966-\u0dff"
_WORD = re.compile(rf"[{_SPACELESS}]|(?:[^\W_{_SPACELESS}]|[{_MARK}])+(?:['’]\w+)*")
_CHARACTER = re.compile(f"[{_SPACELESS}]")
_SENTENCE_END = re.compile(r"[.!?…؟۔।]+[\"'”’“‘»«›‹)\]*_]*(?=\s|$)|[。！？｡]+[\"”’」』》）]*")
_NO_END = re.compile(
    r"(?:(?:^|[\s(.\"“])(?:[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|Lt|Col|Gen|Sgt|Capt|No|Vol|vs|cf|ca|approx)|^\s*\d+|"
    r"\b(?:bzw|usw|Nr|Bd|Hrsg|evtl|ggf|inkl|geb|gest|sog|Jh))\.$",
    re.MULTILINE,
)
_ORDINAL = re.compile(r"\b\d{1,2}\.$")
_LIST_ITEM_END = re.compile(r"^[ \t]*(?:[-*•]|\d+[.)])[ \t]+\S[^\n]*(?=\n)", re.MULTILINE)

_CONTROL_TOKEN = re.compile(r"<\|[^|>\s]{1,40}\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>|<(?:pad|unk|eos|bos)>")
_BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_SAME_CHARACTER = re.compile(r"([^\W_])\1{9,}")
_LONGEST_PERIOD = 30  # words in a phrase whose repetition is looked for; longer loops show in the trigrams
_KANA = ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA")  # first words of their names


def without_reasoning(text: str) -> str:
    """Drop closed blocks of reasoning, and what stands before a closing tag whose opening was in the chat template.

    Blocks do not nest: the first closing tag ends the reasoning. A block that stays open is left in place.
    """
    outside: list[str] = []
    opened, at = -1, 0
    for tag in _REASONING_TAG.finditer(text):
        if not tag[1]:
            if opened < 0:
                outside.append(text[at : tag.start()])
                opened = tag.start()
        else:
            if opened < 0:
                outside.clear()
            opened, at = -1, tag.end()
    outside.append(text[at if opened < 0 else opened :])
    return "".join(outside).strip()


def reasons_without_end(text: str) -> bool:
    """Whether a block of reasoning opens and never closes; for text from ``without_reasoning``."""
    return _REASONING_TAG.search(text) is not None


def complete_sentences(text: str, language: Language = ENGLISH) -> str:
    """``text`` up to its last complete sentence or list item; "" if there is none.

    An abbreviation or an initial ends no sentence, and neither does a mark that a lower-case word or a bracket
    follows ("Oliver!" (1968) is ...), nor the dot of an ordinal number where the ``language`` has them.
    """
    ends = [0, *(item.end() for item in _LIST_ITEM_END.finditer(text) if len(words(item[0])) > 3)]
    for end in _SENTENCE_END.finditer(text):
        following, before = text[end.end() :].lstrip()[:1], text[max(0, end.end() - 20) : end.end()]
        is_ordinal = language.has_ordinal_dots and _ORDINAL.search(before)
        if not (following.islower() or following == "(" or is_ordinal or _NO_END.search(before)):
            ends.append(end.end())
    return text[: max(ends)].strip()


def words(text: str) -> list[str]:
    """Lower-case words; characters where a script has no spaces. Accents are composed (NFC)."""
    return _WORD.findall(unicodedata.normalize("NFC", text.lower()))


def characters_per_word(spoken: Sequence[str]) -> int:
    """How many of the words ``spoken`` say as much as an English word: 2 where most are characters, otherwise 1."""
    characters = sum(_CHARACTER.fullmatch(word) is not None for word in spoken)
    return 2 if 2 * characters > len(spoken) else 1


def has_control_characters(text: str) -> bool:
    """Whether there is a control or replacement character, one that turns the direction, or a token of a template."""
    characters = set(text) - set("\n\r\t")
    categories = {unicodedata.category(character) for character in characters}
    return (
        _CONTROL_TOKEN.search(text) is not None
        or not categories.isdisjoint({"Cc", "Co", "Cs"})
        or not characters.isdisjoint({"\ufffd", *_BIDIRECTIONAL})
    )


def refuses(text: str, language: Language = ENGLISH) -> bool:
    """Whether a sentence declines, apologises for not knowing, or asks back, in English or in the ``language``."""
    plain = text.strip().replace("’", "'")
    refusals = {known.refusal for known in (ENGLISH, language) if known.refusal is not None}
    return any(refusal.search(plain) for refusal in refusals)


def most_repeats(spoken: Sequence[str]) -> int:
    """How often the most repeated run of words stands in a row; 1 where nothing repeats. A single character of a script
    without spaces may repeat ("哈哈哈哈"); ``compressed_share`` sees a long row of it."""
    most = 1
    for period in range(1, min(_LONGEST_PERIOD, len(spoken) // 2) + 1):
        streak = longest = 0
        for earlier, later in zip(spoken, spoken[period:], strict=False):
            if earlier != later or (period == 1 and _CHARACTER.fullmatch(earlier)):
                streak = 0
                continue
            streak += 1
            longest = max(longest, streak)
        most = max(most, 1 + longest // period)
    return most


def distinct_trigrams(spoken: Sequence[str]) -> float:
    """Share of different runs of three words, in (0, 1]; 1 for a text too short to tell."""
    trigrams = list(zip(spoken, spoken[1:], spoken[2:], strict=False))
    return len(set(trigrams)) / len(trigrams) if len(trigrams) >= 10 else 1.0


def compressed_share(text: str) -> float:
    """Size that zlib leaves of a text, in (0, 1]; 1 for a text too short to tell, 0 for ten equal letters in a row."""
    if _SAME_CHARACTER.search(text):
        return 0.0
    raw = text.encode("utf-8", "replace")
    return len(zlib.compress(raw)) / len(raw) if len(raw) >= 200 else 1.0


def copied(spoken: Sequence[str], source: Sequence[str], run: int = 6) -> tuple[int, float]:
    """Of the words ``spoken``: the longest piece copied from ``source``, and the share in pieces of ``run`` or more."""
    known = {tuple(source[at : at + run]) for at in range(len(source) - run + 1)}
    longest = streak = covered = 0
    for at in range(len(spoken) - run + 1):
        if tuple(spoken[at : at + run]) in known:
            covered += run if streak == 0 else 1
            streak += 1
            longest = max(longest, streak + run - 1)
        else:
            # copies that overlap without touching are counted twice by at most run - 1 words
            streak = 0
    return longest, min(1.0, covered / len(spoken)) if spoken else 0.0


def scripts(text: str) -> Counter[str]:
    """How many letters of each writing system a text has."""
    if text.isascii():
        return Counter(LATIN=sum(map(str.isalpha, text)))
    return Counter(_script(letter) for letter in text if letter.isalpha())


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    """The first word of a letter's Unicode name; Chinese characters and kana are "CJK", and full and half width count
    as the usual width."""
    name = unicodedata.name(unicodedata.normalize("NFKC", letter)[:1], "UNNAMED").split()[0]
    return "CJK" if name in ("IDEOGRAPHIC", *_KANA) else name


def script_share(spoken: Sequence[str], script: str) -> float:
    """Share of a script among the words that begin with a letter; 1 if none does."""
    written = [_script(word[0]) for word in spoken if word[0].isalpha()]
    return written.count(script) / len(written) if written else 1.0


def kana_share(text: str) -> float:
    """Share of kana among kana and Chinese characters; 0 without any."""
    letters = [unicodedata.name(letter, "") for letter in unicodedata.normalize("NFKC", text) if letter.isalpha()]
    kana = sum(name.startswith(_KANA) for name in letters)
    characters = sum(name.startswith(("CJK", "IDEOGRAPHIC")) for name in letters)
    return kana / (kana + characters) if kana else 0.0


def function_word_share(spoken: Sequence[str], function_words: frozenset[str]) -> float:
    """Share of the function words of a language, about 0.3 in English prose; 0 if it is a single one, by chance
    perhaps."""
    known = [word for word in spoken if word in function_words]
    return len(known) / len(spoken) if len(set(known)) > 1 else 0.0
