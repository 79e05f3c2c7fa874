"""The cache: stable keys, durable answers, exports that are equal byte for byte."""

import gzip
import json
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offline.llm.cache import CacheError, ResponseCache, cache_key
from offline.llm.protocol import Completion, Prompt

PROMPT = Prompt((("system", "Be brief."), ("user", "Wer führt „Fargo“ vor?")), max_tokens=48, repetition_penalty=1.1)
KEY = "0" * 64


def test_key_never_changes() -> None:
    # golden: another value would make users pay again for everything they have
    assert cache_key("smollm2/bfloat16", PROMPT) == "525f3e23f2c914db1fd531a88d1b853bcc67937394d1f89c0abe781f91bb3a47"


def test_key_reads_every_part_of_the_question() -> None:
    messages = PROMPT.messages
    variants = [
        ("m", PROMPT),
        ("n", PROMPT),
        ("m", Prompt(messages[1:], 48, 0.0, 1.1)),
        ("m", Prompt(messages[::-1], 48, 0.0, 1.1)),
        ("m", Prompt((("user", "Be brief."), messages[1]), 48, 0.0, 1.1)),
        ("m", Prompt(messages, 49, 0.0, 1.1)),
        ("m", Prompt(messages, 48, 0.5, 1.1)),
        ("m", Prompt(messages, 48, 0.0, 1.0)),
    ]
    assert len({cache_key(model, prompt) for model, prompt in variants}) == len(variants)


def test_key_does_not_tell_integers_from_floats() -> None:
    assert cache_key("m", Prompt(PROMPT.messages, 48, 0, 1)) == cache_key("m", Prompt(PROMPT.messages, 48, 0.0, 1.0))


def test_answers_come_back(cache: ResponseCache) -> None:
    answers = {f"{n:064x}": Completion(f"text {n}\n\0\u2028", n, 2 * n) for n in range(1200)}
    cache.put_many(answers)
    assert cache.get_many([*answers, "f" * 64]) == answers
    assert cache.get_many([]) == {}
    assert cache.totals() == (1200, sum(range(1200)), 2 * sum(range(1200)))


def test_a_later_answer_replaces_the_earlier(cache: ResponseCache) -> None:
    cache.put_many({KEY: Completion("old", 1, 1)})
    cache.put_many({KEY: Completion("new", 1, 2)})
    assert cache.get_many([KEY]) == {KEY: Completion("new", 1, 2)}


def test_answers_outlive_the_connection_and_are_synced(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.sqlite3"
    with ResponseCache(path) as cache:
        cache.put_many({KEY: Completion("kept", 1, 1)})
        full = cache._connection.execute("PRAGMA synchronous").fetchone()[0]
        assert full == 2, "synchronous=FULL is what makes a stored answer safe"
    with ResponseCache(path) as cache:
        assert cache.get_many([KEY])[KEY].text == "kept"


def test_the_prompt_is_nowhere_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite3"
    with ResponseCache(path) as cache:
        cache.put_many({cache_key("m", PROMPT): Completion("an answer", 1, 1)})
    content = path.read_bytes()
    assert b"an answer" in content
    assert b"Fargo" not in content
    assert b"Be brief" not in content


def test_processes_share_one_file(tmp_path: Path) -> None:
    """Six processes open the new file at once and write; all answers are there and one key written by all is whole."""
    path = tmp_path / "answers.sqlite3"
    program = """
import sys
from pathlib import Path
from offline.llm.cache import ResponseCache
from offline.llm.protocol import Completion
me = int(sys.argv[2])
with ResponseCache(Path(sys.argv[1])) as cache:
    for n in range(20):
        cache.put_many({f"{me:032x}{n:032x}": Completion(str(me), me, n), "f" * 64: Completion(str(me) * 99, me, me)})
"""
    command = [sys.executable, "-c", program, str(path)]
    running = [subprocess.Popen([*command, str(me)]) for me in range(6)]
    assert [process.wait(timeout=120) for process in running] == [0] * 6
    with ResponseCache(path) as cache:
        assert cache.totals()[0] == 6 * 20 + 1
        shared = cache.get_many(["f" * 64])["f" * 64]
        assert shared.text == str(shared.prompt_tokens) * 99


def test_a_file_that_another_process_is_making_is_waited_for(tmp_path: Path) -> None:
    """SQLite refuses to change the journal mode at once while another connection writes, whatever the timeout."""
    path = tmp_path / "answers.sqlite3"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    end = threading.Timer(0.2, other.execute, ["COMMIT"])
    end.start()
    with ResponseCache(path) as cache:
        assert cache.totals() == (0, 0, 0)
    end.join()
    other.close()


def test_exports_of_equal_caches_are_equal_bytes(tmp_path: Path) -> None:
    answers = {f"{n:064x}": Completion(f"é {n}", n, 1) for n in range(50)}
    written = []
    for name, keys in (("a", sorted(answers)), ("b", sorted(answers, reverse=True))):
        with ResponseCache(tmp_path / name) as cache:
            for key in keys:
                cache.put_many({key: answers[key]})
            assert cache.export_jsonl_gz(tmp_path / f"{name}.out" / "answers.jsonl.gz") == 50
        written.append((tmp_path / f"{name}.out" / "answers.jsonl.gz").read_bytes())
        assert [entry.name for entry in (tmp_path / f"{name}.out").iterdir()] == ["answers.jsonl.gz"]
    assert written[0] == written[1]
    lines = gzip.decompress(written[0]).decode().splitlines()
    assert json.loads(lines[3]) == {"key": f"{3:064x}", "text": "é 3", "prompt_tokens": 3, "completion_tokens": 1}


def test_import_counts_what_was_new_and_keeps_what_was_there(tmp_path: Path, cache: ResponseCache) -> None:
    path = tmp_path / "answers.jsonl.gz"
    cache.put_many({f"{n:064x}": Completion(f"theirs {n}", n, 1) for n in range(5)})
    cache.export_jsonl_gz(path)
    with ResponseCache(tmp_path / "other") as other:
        other.put_many({KEY: Completion("mine", 9, 9)})
        assert other.import_jsonl_gz(path) == 4
        assert other.import_jsonl_gz(path) == 0
        assert other.get_many([KEY])[KEY].text == "mine"


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.integers(0, 2**256 - 1), st.tuples(st.text(), st.integers(0, 2**63 - 1)), max_size=5))
def test_any_text_survives_export_and_import(contents: dict[int, tuple[str, int]]) -> None:
    answers = {f"{key:064x}": Completion(text, count, 0) for key, (text, count) in contents.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answers.jsonl.gz"
        with ResponseCache(Path(folder) / "a") as first, ResponseCache(Path(folder) / "b") as second:
            first.put_many(answers)
            first.export_jsonl_gz(path)
            assert second.import_jsonl_gz(path) == len(answers)
            assert second.get_many(list(answers)) == answers


GOOD = {"key": KEY, "text": "fine", "prompt_tokens": 1, "completion_tokens": 1}


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"\xff\xfe",
        json.dumps({**GOOD, "prompt": "leak"}).encode(),
        json.dumps({key: value for key, value in GOOD.items() if key != "text"}).encode(),
        json.dumps({**GOOD, "key": "A" * 64}).encode(),
        json.dumps({**GOOD, "key": 7}).encode(),
        json.dumps({**GOOD, "text": None}).encode(),
        json.dumps({**GOOD, "text": "\ud800"}).encode(),
        json.dumps({**GOOD, "prompt_tokens": -1}).encode(),
        json.dumps({**GOOD, "prompt_tokens": True}).encode(),
        json.dumps({**GOOD, "completion_tokens": 1.5}).encode(),
        json.dumps({**GOOD, "completion_tokens": 2**63}).encode(),
        b"",
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_imported(tmp_path: Path, cache: ResponseCache, line: bytes) -> None:
    path = tmp_path / "answers.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(GOOD).encode() + b"\n" + line + b"\n"))
    with pytest.raises(CacheError, match=r"answers\.jsonl\.gz, line 2"):
        cache.import_jsonl_gz(path)
    assert cache.totals()[0] == 0


@pytest.mark.parametrize("damage", ["truncated", "flipped", "not gzip"])
def test_a_damaged_file_is_named_and_nothing_is_imported(tmp_path: Path, cache: ResponseCache, damage: str) -> None:
    path = tmp_path / "answers.jsonl.gz"
    content = bytearray(gzip.compress(b"".join(json.dumps(GOOD).encode() + b"\n" for _ in range(9))))
    if damage == "truncated":
        content = content[:-9]
    elif damage == "flipped":
        content[-5] ^= 0xFF  # in the checksum
    else:
        content = bytearray(b"not gzip at all")
    path.write_bytes(content)
    with pytest.raises(CacheError, match=r"answers\.jsonl\.gz"):
        cache.import_jsonl_gz(path)
    assert cache.totals()[0] == 0


def test_a_missing_export_is_an_ordinary_file_error(tmp_path: Path, cache: ResponseCache) -> None:
    with pytest.raises(FileNotFoundError):
        cache.import_jsonl_gz(tmp_path / "absent")


def test_another_file_is_not_taken_for_a_cache(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite3"
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(CacheError, match="not a usable response cache"):
        ResponseCache(path)
    newer = tmp_path / "newer.sqlite3"
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version=7")
    connection.close()
    with pytest.raises(CacheError, match="version 7"):
        ResponseCache(newer)


def test_a_place_that_cannot_hold_a_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "answers.sqlite3").mkdir()
    with pytest.raises(CacheError, match=r"answers\.sqlite3: .*unable to open"):
        ResponseCache(tmp_path / "answers.sqlite3")
