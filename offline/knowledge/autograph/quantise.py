"""Latent factors: wide text vectors -> 3 codes each, by residual quantisation inside an autoencoder.

The paper's quantiser (arXiv 2412.18241; encoder MLP -> ResidualVQ -> mirrored decoder, L1 reconstruction + 0.25 x
commitment), fitted once on what the training period knows and then kept: fitting again permutes the codes and makes a
new space. The residual quantiser itself is the library ``vector-quantize-pytorch``. Knows vectors only, neither users
nor items nor time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from vector_quantize_pytorch import ResidualVQ

from models.contract.arrays import Array, Codes, FloatArray
from offline.data.catalogue import DataError
from offline.knowledge.config import QuantiserConfig
from offline.knowledge.errors import TooFewError
from offline.knowledge.needs import LEAST_LATENT
from offline.llm.in_process import repeatable

NamedArrays = Mapping[str, Array]
"""Fitted numbers: parameters and buffers of a module by name."""
Module = TypeVar("Module", bound=nn.Module)

ROWS_PER_CODE = 4
"""A codebook has at most one code per this many vectors; with fewer, k-means only repeats vectors."""
_CHUNK = 256


def arrays_digest(arrays: NamedArrays) -> str:
    """16 hex digits of names, shapes, types and contents."""
    whole = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        whole.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        whole.update(array.tobytes())
    return whole.hexdigest()[:16]


def module_arrays(module: nn.Module) -> dict[str, Array]:
    """A module's parameters and buffers, copied."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in module.state_dict().items()}


def rebuilt(new: Callable[[], Module], arrays: NamedArrays) -> Module:
    """The module that ``module_arrays`` took apart, ready for use; ``new`` makes one with any weights.

    DataError if a tensor is missing, unknown, or of another shape. The caller's random numbers stay as they were.
    """
    with torch.random.fork_rng(devices=[]):
        module = new()
    try:
        module.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
    except RuntimeError as error:
        raise DataError(f"these frozen parts are of another version: {error}") from error
    return module.eval()


class _Autoencoder(nn.Module):
    """[n, width] -> latent [n, dim] -> quantised [n, dim] -> [n, width]. Inputs are centred and scaled to unit mean
    square first, so that learning rate and commitment weight mean the same for every encoder."""

    def __init__(self, width: int, config: QuantiserConfig, size: int) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.zeros(width))
        self.scale = nn.Buffer(torch.ones(()))
        self.encoder = nn.Sequential(nn.Linear(width, config.hidden), nn.ReLU(), nn.Linear(config.hidden, config.dim))
        self.decoder = nn.Sequential(nn.Linear(config.dim, config.hidden), nn.ReLU(), nn.Linear(config.hidden, width))
        self.quantiser = ResidualVQ(
            dim=config.dim,
            num_quantizers=config.levels,
            codebook_size=size,
            commitment_weight=config.commitment,
            kmeans_init=True,
            kmeans_iters=config.kmeans_iterations,
        )

    def encode(self, vectors: Tensor) -> Tensor:
        latent: Tensor = self.encoder((vectors - self.mean) * self.scale)
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        vectors: Tensor = self.decoder(latent) / self.scale + self.mean
        return vectors


@dataclass(frozen=True)
class Quantiser:
    """A fitted quantiser. ``arrays`` hold everything; ``note`` says what was reduced ("" if nothing)."""

    arrays: NamedArrays
    note: str = ""

    @property
    def codebooks(self) -> FloatArray:
        """[levels, size, dim]."""
        return np.stack([self.arrays[f"quantiser.layers.{at}._codebook.embed"][0] for at in range(self.levels)])

    @property
    def levels(self) -> int:
        return sum(name.endswith("._codebook.embed") for name in self.arrays)

    @property
    def size(self) -> int:
        return int(self.arrays["quantiser.layers.0._codebook.embed"].shape[1])

    @property
    def width(self) -> int:
        return int(self.arrays["mean"].shape[0])

    @property
    def dim(self) -> int:
        return int(self.arrays["encoder.2.weight"].shape[0])

    def assign(self, vectors: FloatArray) -> tuple[Codes, FloatArray]:
        """[n, width] -> codes [n, levels] and latent vectors [n, dim], of each row whatever the others are.

        Matrix products round differently for different numbers of rows. Therefore every product has the same number of
        rows, and the latent vectors are computed in double precision and then rounded.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.width:
            raise DataError(f"the quantiser takes vectors of width {self.width}, got shape {vectors.shape}")
        codes = np.zeros((len(vectors), self.levels), np.uint16)
        latent = np.zeros((len(vectors), self.dim), np.float32)
        encoder, quantiser = self._modules
        with torch.no_grad():
            for at in range(0, len(vectors), _CHUNK):
                rows = vectors[at : at + _CHUNK]
                block = np.zeros((_CHUNK, self.width), np.float64)
                block[: len(rows)] = rows
                encoded = encoder.encode(torch.from_numpy(block)).float()
                _, indices, _ = quantiser(encoded[None])
                codes[at : at + len(rows)] = indices[0, : len(rows)].numpy()
                latent[at : at + len(rows)] = encoded[: len(rows)].numpy()
        return codes, latent

    def reconstruct(self, codes: Codes) -> FloatArray:
        """Codes [n, levels] -> what the autoencoder makes of them, [n, width]."""
        encoder, quantiser = self._modules
        with torch.no_grad():
            summed = quantiser.get_output_from_indices(torch.from_numpy(codes.astype(np.int64)))
            return np.asarray(encoder.decode(summed.double()).float().numpy())

    @cached_property
    def _modules(self) -> tuple[_Autoencoder, ResidualVQ]:
        """(autoencoder in double precision, quantiser in single precision, which is all that the library computes)."""
        hidden = int(self.arrays["encoder.0.weight"].shape[0])
        config = QuantiserConfig(size=self.size, levels=self.levels, hidden=hidden, dim=self.dim)
        whole = rebuilt(lambda: _Autoencoder(self.width, config, self.size), self.arrays)
        return whole.double(), whole.quantiser.float()


def fit_quantiser(vectors: FloatArray, config: QuantiserConfig, seed: int, what: str = "encoded texts") -> Quantiser:
    """Fit on ``vectors`` [n, width]; the same vectors and seed give the same bytes. TooFewError for less than
    LEAST_LATENT, which are called ``what`` then."""
    if len(vectors) < LEAST_LATENT:
        raise TooFewError(f"{LEAST_LATENT} {what} to fit latent factors, there are {len(vectors)}")
    size = max(2, min(config.size, len(vectors) // ROWS_PER_CODE))
    note = "" if size == config.size else f"{size} codes instead of {config.size}: only {len(vectors)} vectors"
    with repeatable(seed):
        model = _Autoencoder(vectors.shape[1], config, size)
        _train(model, torch.from_numpy(vectors.astype(np.float32)), config)
    return Quantiser(module_arrays(model), note)


def _train(model: _Autoencoder, vectors: Tensor, config: QuantiserConfig) -> None:
    """AdamW on batches drawn without replacement. The first fifth of the steps trains the autoencoder alone, so that
    k-means (on all vectors at once) meets latent vectors that already mean something."""
    model.mean.copy_(vectors.mean(0))
    model.scale.copy_((vectors - model.mean).square().mean().clamp(min=1e-12).rsqrt())
    optimizer = torch.optim.AdamW(
        [*model.encoder.parameters(), *model.decoder.parameters()],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    order, at = torch.randperm(len(vectors)), 0
    for step in range(config.steps):
        if at >= len(order):
            order, at = torch.randperm(len(vectors)), 0
        batch, at = vectors[order[at : at + config.batch]], at + config.batch
        latent, commitment = model.encode(batch), torch.zeros(())
        if step == config.steps // 5:
            with torch.no_grad():
                model.quantiser(model.encode(vectors)[None])
        if step >= config.steps // 5:
            quantised, _, losses = model.quantiser(latent[None])
            latent, commitment = quantised[0], losses.sum()
        loss = ((model.decode(latent) - batch) * model.scale).abs().mean() + commitment
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
