"""Habits of other people's libraries on a job's machine, and how they are ended before the libraries are loaded.

A job connects to what its configuration names, and writes into the folders that it names. docs/operations.md lists what
each library would do.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from models.cores import limit_threads
from models.onnx_runtime import TELEMETRY

QUIET: Mapping[str, str] = MappingProxyType(
    {
        TELEMETRY: "1",
        "HF_HUB_OFFLINE": "1",  # weights come from packages and folders
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",  # read by vLLM, and by convention by others
    }
)
"""Environment variables by which libraries send nothing and ask nobody."""

_CACHES: Mapping[str, str] = MappingProxyType({"MPLCONFIGDIR": "matplotlib", "TORCHINDUCTOR_CACHE_DIR": "torch"})
"""Variables that say where libraries write without being asked, and a subfolder of the process for each: matplotlib a
list of fonts, by default into HOME; torch an empty folder into the temporary one."""


def wait_without_spinning() -> None:
    """Let torch's OpenMP threads sleep while they wait; call it before the first import of torch.

    By default they spin. On a machine that something else also uses (cron jobs beside a service), a spinning thread
    keeps the core from the one it waits for: measured with SmolLM2, batch 64, on 2 cores that were busy elsewhere,
    20 tokens/s spinning against 390 sleeping. A choice made in the environment is kept.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def quiet_libraries() -> None:
    """Set the environment of a process, and of those it starts, so that libraries act on request only.

    A program calls it once, before it loads them. What the environment has set already stays.
    """
    wait_without_spinning()
    limit_threads(os.environ)
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    unset = [variable for variable in _CACHES if variable not in os.environ]
    if unset:
        folder = Path(tempfile.gettempdir()) / f"lorank-{secrets.token_hex(8)}"  # made by the library that needs it
        for variable in unset:
            os.environ[variable] = str(folder / _CACHES[variable])
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def quiet_variables() -> dict[str, str]:
    """The variables of ``QUIET`` for a process with an environment of its own, as this process has them."""
    return {variable: os.environ.get(variable, value) for variable, value in QUIET.items()}
