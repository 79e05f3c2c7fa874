"""The floating-point arithmetic in which language models and text encoders compute on this machine.

Results of two arithmetics differ in their last bits only, so nothing that is stored names one: an answer, an encoded
text and a space belong to whatever must agree for them to be comparable: the weights (by content), the tokenizer that
comes with them, how tokens become one vector, and the prompt.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from offline.libraries import wait_without_spinning

Precision = Literal["auto", "bfloat16", "float32"]
"""A setting: an arithmetic, or "auto" for the faster one."""

SAME_SPACE_COSINE = 0.999
"""Least cosine between the vectors of one text in two arithmetics, for both to belong to one space. The worst that was
measured against float32: .99992 of encoded texts and .9993 of hidden states less their mean, both in bfloat16
(docs/decisions/0015-arithmetic.md)."""

_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})
"""As the kernel names them on x86 and on ARM: instructions that multiply bfloat16 numbers."""
_ROWS, _WIDTH, _INNER = 512, 384, 1536
"""The product that is timed: a feed-forward layer of all-MiniLM-L6-v2 over 512 tokens, 0.6 GFLOP."""
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """A choice, and its ``reason`` in words."""

    dtype: Literal["bfloat16", "float32"]
    reason: str

    def __str__(self) -> str:
        return f"{self.dtype} ({self.reason})"


def choose_arithmetic(precision: Precision = "auto", device: str = "cpu") -> Arithmetic:
    """The arithmetic of models on ``device``, "cpu" or "cuda". The first "auto" of a process takes up to two seconds
    where the CPU has bfloat16 instructions, because it times them; torch is loaded for that."""
    if precision != "auto":
        return Arithmetic(precision, "as configured")
    return _of_gpu() if device == "cuda" else _of_cpu()


def arithmetic_line(precision: Precision) -> str:
    """The arithmetic of models on this machine, in one line. With "auto", where the CPU and a GPU may differ, it takes
    torch to tell, which takes seconds to load."""
    if precision != "auto":
        return str(choose_arithmetic(precision))
    import torch

    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    return ", ".join(f"{device}: {choose_arithmetic(precision, device)}" for device in devices)


def torch_dtype(precision: Precision, device: str = "cpu") -> Any:
    """The chosen arithmetic as a type of torch."""
    import torch

    return getattr(torch, choose_arithmetic(precision, device).dtype)


@cache
def _of_cpu() -> Arithmetic:
    flags = cpu_flags()
    if flags is not None and not flags & _FLAGS:
        return Arithmetic("float32", "this CPU has no bfloat16 instructions")
    seconds = _timed_products()
    ratio = seconds["float32"] / seconds["bfloat16"]
    if ratio > 1.0:
        return Arithmetic("bfloat16", f"{ratio:.1f} times as fast as float32 here")
    return Arithmetic("float32", f"{1 / ratio:.1f} times as fast as bfloat16 here")


@cache
def _of_gpu() -> Arithmetic:
    import torch

    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Arithmetic("bfloat16", "the GPU computes in it")
    return Arithmetic("float32", "this GPU has no bfloat16 instructions")


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str] | None:
    """Names of this CPU's instruction sets; None where the kernel does not tell them."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    named = [line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features"))]
    return frozenset(named[0]) if named else None


def _timed_products() -> dict[str, float]:
    """Least seconds of one matrix product in each arithmetic; alternating, so that a neighbour slows both."""
    wait_without_spinning()
    import torch

    pairs = {
        name: (torch.ones(_ROWS, _WIDTH, dtype=dtype), torch.ones(_INNER, _WIDTH, dtype=dtype))
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }
    seconds = dict.fromkeys(pairs, float("inf"))
    with torch.inference_mode():
        for timed in [False] + [True] * _ROUNDS:  # the first product also builds its kernel
            for name, (rows, weights) in pairs.items():
                started = time.perf_counter()
                torch.nn.functional.linear(rows, weights)
                if timed:
                    seconds[name] = min(seconds[name], time.perf_counter() - started)
    return seconds
