"""What containers run beside the service: the check of their health."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

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
