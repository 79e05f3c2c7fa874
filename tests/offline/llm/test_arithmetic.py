"""The choice of an arithmetic: by instructions and by a measurement, never by a name in what is stored."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from models.contract.arrays import FloatArray
from offline.knowledge.encoder import TextEncoder, VectorStore
from offline.knowledge.projection import Projection
from offline.llm import arithmetic
from offline.llm.arithmetic import SAME_SPACE_COSINE, choose_arithmetic, cpu_flags
from offline.llm.cache import ResponseCache, cache_key, stored_answers
from offline.llm.protocol import Completion, Prompt
from tests.conftest import ROOT
from tests.offline.knowledge.fakes import HashEncoder

ENCODER = "all-MiniLM-L6-v2"
AVX2_ONLY = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
"""Settings that hold torch down to the instructions of an ordinary CPU."""


@pytest.fixture(autouse=True)
def no_earlier_choice() -> Iterator[None]:
    arithmetic._of_cpu.cache_clear()
    yield
    arithmetic._of_cpu.cache_clear()


@pytest.fixture(scope="module")
def films() -> list[str]:
    words = ("robots", "a heist", "two sisters", "the desert", "jazz", "a trial", "pirates", "winter", "chess")
    plots = [f"{name} meets {other}" for name in words for other in words if name != other]
    return [f"A film in which {plot}." * (1 + at % 3) for at, plot in enumerate(plots)]


@pytest.fixture(scope="module")
def float32(films: list[str]) -> FloatArray:
    return TextEncoder(ENCODER, 64, "float32").encode(films)


@pytest.fixture(scope="module")
def bfloat16(films: list[str]) -> FloatArray:
    return TextEncoder(ENCODER, 64, "bfloat16").encode(films)


def test_a_cpu_without_the_instructions_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "cpu_flags", lambda: frozenset({"avx2", "fma"}))
    monkeypatch.setattr(arithmetic, "_timed_products", lambda: pytest.fail("there is nothing to measure"))
    chosen = choose_arithmetic()
    assert chosen.dtype == "float32"
    assert "no bfloat16 instructions" in str(chosen)


@pytest.mark.parametrize(("seconds", "dtype"), [(0.5, "bfloat16"), (2.0, "float32")])
def test_instructions_that_are_slow_do_not_decide(monkeypatch: pytest.MonkeyPatch, seconds: float, dtype: str) -> None:
    monkeypatch.setattr(arithmetic, "cpu_flags", lambda: frozenset({"avx512_bf16"}))
    monkeypatch.setattr(arithmetic, "_timed_products", lambda: {"float32": 1.0, "bfloat16": seconds})
    assert choose_arithmetic().dtype == dtype


def test_where_the_kernel_tells_nothing_the_measurement_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "cpu_flags", lambda: None)
    monkeypatch.setattr(arithmetic, "_timed_products", lambda: {"float32": 1.0, "bfloat16": 0.1})
    assert choose_arithmetic().dtype == "bfloat16"


def test_a_configured_arithmetic_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "_timed_products", lambda: pytest.fail("nothing is to be chosen"))
    assert choose_arithmetic("bfloat16").dtype == "bfloat16"


def test_flags_of_x86_and_of_arm_are_read(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu avx2 avx512_bf16\nprocessor : 1\nflags\t\t: fpu\n")
    assert cpu_flags(cpuinfo) == frozenset({"fpu", "avx2", "avx512_bf16"})
    cpuinfo.write_text("processor : 0\nFeatures\t: fp asimd bf16\n")
    assert cpu_flags(cpuinfo) == frozenset({"fp", "asimd", "bf16"})
    assert cpu_flags(tmp_path / "absent") is None


def test_torch_held_down_to_an_ordinary_cpu_is_not_asked_for_bfloat16() -> None:
    """A machine that has the instructions must see by its measurement that torch may not use them."""
    script = "from offline.llm.arithmetic import choose_arithmetic; print(choose_arithmetic().dtype)"
    command = [sys.executable, "-c", script]
    environment = {**os.environ, **AVX2_ONLY}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "float32"


def test_vectors_of_two_arithmetics_are_of_one_space(float32: FloatArray, bfloat16: FloatArray) -> None:
    cosine = (float32 * bfloat16).sum(axis=1)
    assert (float32 != bfloat16).any(), "the two arithmetics are to differ"
    assert cosine.min() > SAME_SPACE_COSINE
    # the nearest other text is much farther away than the same text in the other arithmetic
    among = float32 @ float32.T - 2 * np.eye(len(float32), dtype=np.float32)
    assert (1 - cosine).max() < (1 - among.max(axis=1)).min()


def test_a_space_fitted_in_one_arithmetic_goes_on_in_the_other(
    films: list[str], float32: FloatArray, bfloat16: FloatArray, tmp_path: Path
) -> None:
    """The store, the id and the frozen projection are those of the first machine; new texts come from the second."""
    first = TextEncoder(ENCODER, 64, "float32")
    second = TextEncoder(ENCODER, 64, "bfloat16")
    assert first.id == second.id
    known, new = films[:40], films[40:]
    fitted = VectorStore(tmp_path / "vectors.npz", first).vectors(known)
    projection = Projection.fit(fitted, 16)
    continued = VectorStore(tmp_path / "vectors.npz", second).vectors(films)
    np.testing.assert_array_equal(continued[:40], fitted)
    here, there = projection.apply(continued[40:]), projection.apply(float32[40:])
    assert len(new) == len(here)
    assert _cosine(here, there).min() > 0.99  # a centred space shows the difference more than the texts do


def _cosine(first: FloatArray, second: FloatArray) -> FloatArray:
    cosine: FloatArray = (first * second).sum(axis=1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    return cosine


def test_vectors_stored_under_an_id_with_an_arithmetic_are_read(tmp_path: Path) -> None:
    class Earlier(HashEncoder):
        id = "hash/bfloat16/16"

    before = VectorStore(tmp_path / "vectors.npz", Earlier()).vectors(["a", "b"])
    encoder = HashEncoder()
    assert encoder.former_ids == ("hash/bfloat16/16",)
    after = VectorStore(tmp_path / "vectors.npz", encoder).vectors(["b", "a", "c"])
    assert encoder.asked == ["c"]
    np.testing.assert_array_equal(after[:2], before[::-1])


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_answers_stored_under_a_key_with_an_arithmetic_hold(tmp_path: Path, precision: str) -> None:
    prompts = [Prompt((("user", text),), 8) for text in ("a", "b", "c")]
    keys = {cache_key("tiny", prompt): prompt for prompt in prompts}
    with ResponseCache(tmp_path / "answers.sqlite3") as cache:
        cache.put_many({cache_key(f"tiny/{precision}", prompts[0]): Completion("earlier", 1, 1)})
        cache.put_many({cache_key("tiny", prompts[1]): Completion("today's", 1, 1)})
        answers = stored_answers(cache, "tiny", keys)
    assert {keys[key].messages[0][1]: answer.text for key, answer in answers.items()} == {
        "a": "earlier",
        "b": "today's",
    }


def test_an_encoder_of_ones_own_is_named_by_its_content_and_not_by_its_place(tmp_path: Path) -> None:
    for place in ("here", "there"):
        (tmp_path / place / "mine").mkdir(parents=True)
        (tmp_path / place / "mine" / "config.json").write_text("{}")
    here, there = (TextEncoder(str(tmp_path / place / "mine"), 64) for place in ("here", "there"))
    assert here.id == there.id
    (tmp_path / "there" / "mine" / "config.json").write_text('{"hidden_size": 1}')
    assert TextEncoder(str(tmp_path / "there" / "mine"), 64).id != here.id


def test_a_configured_arithmetic_is_told_without_torch() -> None:
    program = """
import sys
sys.modules["torch"] = None
from offline.llm.arithmetic import arithmetic_line
print(arithmetic_line("float32"))
"""
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert printed == "float32 (as configured)\n"
