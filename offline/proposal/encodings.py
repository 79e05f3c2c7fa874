"""The encoding of a text file that does not say it: UTF-8 or UTF-16 can be proven, every other is a likely guess."""

from __future__ import annotations

import codecs
import gzip
import re
from pathlib import Path
from typing import IO

HEAD = 1 << 20
_ABSENT_IN_CP1252 = frozenset((0x81, 0x8D, 0x8F, 0x90, 0x9D))
_FULL_KANA = re.compile("[\u3041-\u30fe]")
_NOT_ASCII = re.compile("[^\x00-\x7f]")
_RUN = re.compile(rb"[\x80-\xff]+")
_PAIR = re.compile(rb"([\xa1-\xfe])[\xa1-\xfe]")

_LEAST_KANA = 0.2
_LEAST_LETTERS = 0.9
_LONG_RUN = 2.0
"""Bytes beyond ASCII in a row: Western texts have one, two at times; words of other scripts consist of them."""


def opened(path: Path) -> IO[bytes]:
    """A file, unpacked if it is packed."""
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def encoding_of(path: Path) -> str:
    """UTF-8 or UTF-16 if the whole file is; else the one that the first megabyte with such letters looks like."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    seen: set[int] = set()
    is_utf8, sample = True, b""
    with opened(path) as file:
        first = file.read(HEAD)
        if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        chunk = first
        while chunk:
            if is_utf8:
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError:
                    is_utf8 = False
            if not (sample or chunk.isascii()):
                sample = chunk if chunk is first else chunk[chunk.find(b"\n") + 1 :]
            seen |= set(chunk)
            chunk = file.read(HEAD)
    if is_utf8:
        return "utf-8"
    return _guessed(sample) or ("latin-1" if seen & _ABSENT_IN_CP1252 else "cp1252")


def _guessed(sample: bytes) -> str | None:
    """An encoding of Japanese, Korean, Chinese or Russian; None of Western texts."""
    lines = sample[: sample.rfind(b"\n") + 1] or sample
    if _kana_share(lines) >= _LEAST_KANA:
        return "cp932"
    runs = _RUN.findall(lines)
    if not runs or sum(map(len, runs)) < _LONG_RUN * len(runs):
        return None
    leads = [ord(lead) for lead in _PAIR.findall(b"\n".join(run for run in runs if len(run) % 2 == 0))]
    frequent = sum(0xB0 <= lead <= 0xD7 for lead in leads)  # GB 2312 begins with the characters that are in use
    even = sum(len(run) % 2 == 0 for run in runs)
    if leads and even >= _LEAST_LETTERS * len(runs) and frequent >= _LEAST_LETTERS * len(leads):
        # Korean syllables end at 0xC8; a fourth of Chinese text lies beyond
        korean = sum(0xB0 <= lead <= 0xC8 for lead in leads)
        return "cp949" if korean >= _LEAST_LETTERS * len(leads) else "gb18030"
    cyrillic = sum(byte >= 0xC0 or byte in (0xA8, 0xB8) for run in runs for byte in run)
    return "cp1251" if cyrillic >= _LEAST_LETTERS * sum(map(len, runs)) else None


def _kana_share(lines: bytes) -> float:
    """Share of kana of full width among what is not ASCII, read as Japanese; 0 if it is not."""
    try:
        text = lines.decode("cp932")
    except UnicodeDecodeError:
        return 0.0
    return len(_FULL_KANA.findall(text)) / max(1, len(_NOT_ASCII.findall(text)))
