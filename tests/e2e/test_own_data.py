"""docs/data.md, followed word by word in an empty folder: two files of somebody's become ranked answers."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx2

from offline.child import child_python
from tests.conftest import ROOT, clean_environment
from tests.offline.proposal.shops import shop, write

PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line.removeprefix("$ "))
    for block in re.findall(r"```console\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]
PARTIAL = 3
"""Exit status of a first refresh: what the language model has to be asked is left."""


def test_the_page_begins_with_init_refresh_and_serve() -> None:
    assert [command[:4] for command in COMMANDS[:2]] == [
        ["python", "-m", "offline", name] for name in ("init", "refresh")
    ]
    assert COMMANDS[2] == ["python", "-m", "service"]


def test_two_files_become_ranked_answers(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    books = shop(users=100, items=150, events=2_500)
    write(data / "ratings.csv", ("reader_id", "book_id", "stars", "rated_at"), books.interactions)
    write(data / "books.csv", ("book_id", "title", "subjects", "published"), books.items)
    shown = [
        (reader, at, place + 1, book, int(place == at % 5))
        for reader, _, _, at in books.interactions[-500:]
        for place, book in enumerate(f"b{(at // 600 * 7 + place * 11) % 150}" for place in range(5))
    ]
    write(tmp_path / "impressions.csv", ("reader_id", "shown_at", "position", "book_id", "clicked"), shown)
    answers = [json.loads(output) for output in followed(tmp_path, COMMANDS)]
    assert answers, "the page asks the service for something"
    for answer in answers:
        assert answer["items"]
        assert answer["model"] is not None
        assert len({item["score"] for item in answer["items"]}) == len(answer["items"])


def followed(folder: Path, commands: Sequence[Sequence[str]]) -> Iterator[str]:
    """The service's answers to the page's requests, with its commands carried out in ``folder``, in their order."""
    environment = clean_environment() | {"PYTHONPATH": str(ROOT), "LORANK_PORT": str(free_port())}
    url = f"http://127.0.0.1:{environment['LORANK_PORT']}"
    with ExitStack() as stack:
        for command in commands:
            if command[0] == "curl":
                yield answered(url, command)
            elif command[:3] == ["python", "-m", "service"]:
                service = subprocess.Popen(child_python("-m", "service"), cwd=folder, env=environment)
                stack.callback(service.wait)
                stack.callback(service.terminate)
                await_ready(url, service)
            elif command[0] == "python":
                job = child_python(*command[1:])
                result = subprocess.run(job, cwd=folder, env=environment, capture_output=True, text=True, check=False)
                assert result.returncode in (0, PARTIAL), result.stdout + result.stderr


def answered(url: str, request: Sequence[str]) -> str:
    path = next(word for word in request if word.startswith("http")).removeprefix("http://127.0.0.1:8000")
    response = httpx2.post(f"{url}{path}", content=request[request.index("-d") + 1], timeout=30.0)
    assert response.status_code == 200, response.text
    return response.text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def await_ready(url: str, service: subprocess.Popen[bytes]) -> None:
    while service.poll() is None:
        with suppress(httpx2.TransportError):
            if httpx2.get(f"{url}/readyz", timeout=5.0).status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"the service ended with status {service.returncode}")
