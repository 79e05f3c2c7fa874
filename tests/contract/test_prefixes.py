"""Where configurations lie: no two prefixes have a folder in common, and a folder says whose it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.contract.keys import PREFIXES, Keys
from models.contract.prefixes import FORMER_PREFIX, own_folder, prefix_in, prefix_of

SHARED = Path("var/artifacts")
prefixes = st.one_of(
    st.from_regex(r"[A-Za-z0-9._:-]{1,64}", fullmatch=True),
    st.from_regex(r"lorank:[A-Za-z0-9._:-]{1,57}", fullmatch=True),
    st.sampled_from([".", "..", "lorank", "lorank:", "lorank:.", "lorank:..", "a", "lorank:a", "prefix-a"]),
)


@pytest.mark.parametrize(
    ("prefix", "folder"),
    [
        ("lorank:ml-100k", "var/artifacts/ml-100k"),
        ("lorank", "var/artifacts"),
        ("mine", "var/artifacts/prefix=mine"),
        ("..", "var/artifacts/prefix=.."),
        ("lorank:..", "var/artifacts/prefix=lorank:.."),
    ],
)
def test_folders_written_out(prefix: str, folder: str) -> None:
    assert own_folder(SHARED, prefix) == Path(folder)


def test_a_name_gives_the_prefix() -> None:
    assert prefix_of("ml-100k") == "lorank:ml-100k"
    assert not PREFIXES.startswith(f"{prefix_of('prefixes')}:")
    assert Keys(FORMER_PREFIX).live == "lorank:live"


@given(prefixes, prefixes)
def test_no_two_prefixes_share_a_folder(prefix: str, other: str) -> None:
    folder = own_folder(SHARED, prefix)
    assert folder in (SHARED, SHARED / folder.name)
    if prefix != FORMER_PREFIX:
        assert prefix_in(folder) == prefix
    if prefix != other:
        assert folder != own_folder(SHARED, other)
