"""Surroundings of processes in which whatever they do by themselves is seen: a proxy that answers nobody, empty
folders, and Python's own account (sitecustomize.py)."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from offline.child import child_python
from tests.conftest import ROOT, clean_environment
from tests.service.conftest import free_port

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_FOLDERS = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
_SETTINGS = ("ORT_", "HF_", "RAY_", "VLLM_", "MPL", "TORCH", "DO_NOT_TRACK", *map(str.upper, _PROXIES), *_PROXIES)
"""Beginnings of variables with which the machine that tests might already have silenced, or turned on, a library."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Below ``folder``: ``data`` and ``work`` are the processes' own; all else must stay empty."""

    folder: Path
    proxy: int
    asked: list[str] = field(default_factory=list)
    """First lines that came in at the proxy."""

    @property
    def environment(self) -> dict[str, str]:
        """Of a process in here."""
        proxy = f"http://127.0.0.1:{self.proxy}"
        proxies = {name: proxy for lower in _PROXIES for name in (lower, lower.upper())}
        local = dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost")
        own = {name: value for name, value in clean_environment().items() if not name.startswith(_SETTINGS)}
        home = ":".join(str(self.folder / name) for name in _FOLDERS if name != "TMPDIR")
        return {
            **own, **proxies, **local, **{name: str(self.folder / name) for name in _FOLDERS},
            "PYTHONPATH": f"{ROOT / 'tests' / 'quiet'}:{ROOT}",
            "ACTS": str(self.folder / "acts"), "FORBIDDEN": home, "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def run(self, *words: str) -> str:
        """What ``python -m WORDS`` says, which ends well."""
        command = child_python("-m", *words)
        result = subprocess.run(
            command, cwd=self.folder / "cwd", env=self.environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    @contextlib.contextmanager
    def service(self, **settings: str) -> Iterator[str]:
        """The URL of ``python -m service`` over ``data``; stopped as an operator would."""
        port = free_port()
        environment = self.environment | {"LORANK_PORT": str(port), "LORANK_DATA_DIR": str(self.folder / "data")}
        with subprocess.Popen(
            child_python("-m", "service"), cwd=self.folder / "cwd", env=environment | settings
        ) as process:
            try:
                yield f"http://127.0.0.1:{port}"
                process.terminate()
                assert process.wait(60) == 0
            finally:
                process.kill()

    def acts(self, event: str = "") -> list[dict[str, str]]:
        """What the hook wrote down, of one kind or of all."""
        lines = (self.folder / "acts").read_text().splitlines()
        return [act for act in map(json.loads, lines) if event in ("", act["event"])]

    def left(self) -> list[str]:
        """Paths in the folders that must stay empty."""
        paths = (path for name in (*_FOLDERS, "cwd") for path in (self.folder / name).rglob("*"))
        return [str(path.relative_to(self.folder)) for path in paths]


@contextlib.contextmanager
def surroundings(folder: Path) -> Iterator[Surroundings]:
    """New ones in an empty folder."""
    for name in (*_FOLDERS, "cwd"):
        (folder / name).mkdir(mode=0o700 if name == "TMPDIR" else 0o500)
    (folder / "acts").touch()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = Surroundings(folder, listener.getsockname()[1])
        threading.Thread(target=_listen, args=(listener, place.asked), daemon=True).start()
        yield place
        listener.shutdown(socket.SHUT_RDWR)  # ends the thread's accept


def _listen(listener: socket.socket, asked: list[str]) -> None:
    with contextlib.suppress(OSError):
        while True:
            caller, _ = listener.accept()
            with caller, contextlib.suppress(OSError):
                asked.append("a connection")
                caller.settimeout(3.0)
                asked[-1] = caller.recv(200).split(b"\r\n")[0].decode(errors="replace")
