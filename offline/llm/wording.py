"""Measures of the wording of an answer, without understanding it: reasoning, sentences, loops, copies, language.

Plain measures; which value is too much is decided elsewhere. All are linear in the text.
"""

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

_REASONING_TAG = re.compile(r"<(/?)(?:think|thinking|reasoning)>", re.IGNORECASE)

# scripts without spaces count by the character, so that an unbroken line is not one word
_WORD = re.compile(
    r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]|[^\W_\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]+(?:['’]\w+)*"
)
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’»)\]*_]*(?=\s|$)|[。！？]+[\"”’」』）]*")
_NO_END = re.compile(
    r"(?:(?:^|[\s(.\"“])(?:[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|Lt|Col|Gen|Sgt|Capt|No|Vol|vs|cf|ca|approx)|^\s*\d+)\.$",
    re.MULTILINE,
)
_LIST_ITEM_END = re.compile(r"^[ \t]*(?:[-*•]|\d+[.)])[ \t]+\S[^\n]*(?=\n)", re.MULTILINE)

_CONTROL_TOKEN = re.compile(r"<\|[^|>\s]{1,40}\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>|<(?:pad|unk|eos|bos)>")
_BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_SAME_CHARACTER = re.compile(r"([^\W_])\1{9,}")
_LONGEST_PERIOD = 30  # words in a phrase whose repetition is looked for; longer loops show in the trigrams

# first person and lower case as in a sentence: "I Can't Sleep" and "Sorry, Wrong Number" are titles
_DECLINING = (
    r"(?:I am|I'm|We are|We're) (?:\w+ )?sorry",
    r"Sorry,? (?:but )?I\b",
    r"I apologi[sz]e",
    r"Unfortunately,? (?:I\b|as an)",
    r"(?:Sorry, )?I (?:cannot|can't|can not|could not|couldn't|won't|will not)(?! (?:help but|wait|stop))",
    r"(?:I am|I'm) (?:unable|not (?:able|familiar|aware|sure))",
    r"I (?:don't|do not) have (?:\w+ ){0,3}(?:information|access|knowledge|context|details|data)",
    r"(?:Could|Can) you (?:please )?(?:provide|clarify|give|share)",
    r"Please (?:provide|clarify|share)",
    r"As an? (?:AI|artificial intelligence|(?:large )?language model)",
)
_REFUSAL = re.compile(rf"(?:^|[.!?]\s+)(?:{'|'.join(_DECLINING)})\b")

# without those that are frequent in a neighbouring language too (a, in, is, was, on, he, we, no, as, so, over)
_FUNCTION_WORDS = """
about after all also and any are be because been before both but by can could did does each for from had has have her
him his how if into it its might more must my not of one only other our she should some such than that the their them
then there these they this those through to very were what when where which while who whose with would you your
"""
_ENGLISH = frozenset(_FUNCTION_WORDS.split())


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


def complete_sentences(text: str) -> str:
    """``text`` up to its last complete sentence or list item; "" if there is none.

    An abbreviation or an initial ends no sentence, and neither does a mark that a lower-case word or a bracket
    follows ("Oliver!" (1968) is ...).
    """
    ends = [0, *(item.end() for item in _LIST_ITEM_END.finditer(text) if len(words(item[0])) > 3)]
    for end in _SENTENCE_END.finditer(text):
        following = text[end.end() :].lstrip()[:1]
        if not (following.islower() or following == "(" or _NO_END.search(text[max(0, end.end() - 20) : end.end()])):
            ends.append(end.end())
    return text[: max(ends)].strip()


def words(text: str) -> list[str]:
    """Lower-case words; characters where a script has no spaces."""
    return _WORD.findall(text.lower())


def has_control_characters(text: str) -> bool:
    """Whether there is a control or replacement character, one that turns the direction, or a token of a template."""
    characters = set(text) - set("\n\r\t")
    categories = {unicodedata.category(character) for character in characters}
    return (
        _CONTROL_TOKEN.search(text) is not None
        or not categories.isdisjoint({"Cc", "Co", "Cs"})
        or not characters.isdisjoint({"\ufffd", *_BIDIRECTIONAL})
    )


def refuses(text: str) -> bool:
    """Whether a sentence declines, apologises for not knowing, or asks back; English only."""
    return _REFUSAL.search(text.strip().replace("’", "'")) is not None


def most_repeats(spoken: Sequence[str]) -> int:
    """How often the most repeated run of words stands in a row; 1 where nothing repeats."""
    most = 1
    for period in range(1, min(_LONGEST_PERIOD, len(spoken) // 2) + 1):
        streak = longest = 0
        for earlier, later in zip(spoken, spoken[period:], strict=False):
            if earlier != later:
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
    name = unicodedata.name(letter, "UNNAMED").split()[0]
    return "CJK" if name in ("HIRAGANA", "KATAKANA") else name


def english_share(spoken: Sequence[str]) -> float:
    """Share of English function words, about 0.3 in English prose; 0 if it is a single one, by chance perhaps."""
    english = [word for word in spoken if word in _ENGLISH]
    return len(english) / len(spoken) if len(set(english)) > 1 else 0.0
