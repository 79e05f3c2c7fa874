"""What a row needs: servers, a tiny release with users, and service processes; all of it ends with the row."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import redis

from models.contract.events import EVENT_DTYPE, Interaction
from models.contract.keys import Keys
from models.contract.prefixes import own_folder
from offline.child import child_python
from tests.chaos.rows import Outcome
from tests.chaos.traffic import Teller, Traffic, User, users
from tests.servers import Server, free_ports
from tests.service.tiny import Publisher
from tests.service.tiny_model import PORTRAIT_SPACE

ROOT = Path(__file__).parents[2]
PREFIX = "lorank:chaos"
READY_SECONDS = 120.0
USERS = 20


class TroubleError(RuntimeError):
    """A row cannot be made here, or the service never came to where the trouble begins. The message says which."""


@dataclass
class Service:
    """``python -m service``, its port, and the file of its output. ``wrapper`` is a command that becomes it."""

    environment: dict[str, str]
    output: Path
    wrapper: Sequence[str] = ()
    port: int = field(init=False)
    popen: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.port = int(self.environment["LORANK_PORT"])
        self.start()

    def start(self) -> None:
        """Start it, for the first time or after it has ended."""
        with self.output.open("ab") as file:
            command = [*self.wrapper, *child_python("-m", "service")]
            self.popen = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=file, stderr=file)

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body; 0 if there is no answer."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            client.request("GET", path)
            response = client.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            client.close()

    def status(self) -> dict[str, Any]:
        """/v1/status."""
        document: dict[str, Any] = json.loads(self.get("/v1/status")[1])
        return document

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.get("/metrics")[1].decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def becomes_ready(self) -> float:
        """Seconds that it took."""
        began = time.monotonic()
        while self.get("/readyz")[0] != 200:
            if self.popen.poll() is not None:
                raise TroubleError(f"the service ended: {self.output.read_text()[-2000:]}")
            if time.monotonic() - began > READY_SECONDS:
                raise TroubleError("the service is not ready: " + self.output.read_text()[-2000:])
            time.sleep(0.02)
        return time.monotonic() - began

    def signal(self, number: int) -> None:
        os.kill(self.popen.pid, number)

    def end(self) -> int:
        """Tell it to stop; its exit status."""
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGCONT)
        self.popen.terminate()
        try:
            return self.popen.wait(60)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()


@dataclass
class Stand:
    """The servers and processes of a row, in a ``folder`` of its own. ``short`` rows take half the time."""

    folder: Path
    short: bool
    stack: ExitStack
    users: list[User] = field(default_factory=lambda: users(USERS))

    def seconds(self, seconds: float) -> float:
        """So long, or half as long in the short form."""
        return seconds / 2 if self.short else seconds

    def wait(self, seconds: float) -> None:
        time.sleep(self.seconds(seconds))

    def valkey(self, *options: str) -> Server:
        """A server that writes each change to its file at once."""
        (port,) = free_ports(1)
        lasting = ("--appendonly", "yes", "--appendfsync", "always", *options)
        server = Server(self.folder / f"valkey-{port}", port, lasting)
        self.stack.callback(server.close)
        return server

    def publisher(self, client: redis.Redis) -> Publisher:
        """Of what the services of this stand serve. The artifact folder is theirs."""
        return Publisher(client, Keys(PREFIX), own_folder(self.folder / "data/artifacts", PREFIX))

    def install(self, client: redis.Redis) -> Publisher:
        """A release, and the users with their histories and knowledge."""
        publisher = self.publisher(client)
        publisher.publish()
        self.store_users(publisher)
        return publisher

    def store_users(self, publisher: Publisher) -> None:
        for user in self.users:
            event = Interaction(user_id=user.id, item_id="a", value=user.value, time_ms=1)
            publisher.redis.set(publisher.keys.user_history(user.id), event.pack())
            publisher.user_knowledge(user.id, [[user.partition, 0.0, 0.0]])
            publisher.user_knowledge(user.id, [[0.0, 0.0]], space=PORTRAIT_SPACE)

    def serve(self, url: str, wrapper: Sequence[str] = (), *, ready: bool = True, **settings: object) -> Service:
        """A service on a free port; values of ``LORANK_*`` variables by name, the last word on each."""
        (port,) = free_ports(1)
        bare = {name: value for name, value in os.environ.items() if not name.startswith("LORANK_")}
        chosen = {
            "redis_url": url, "key_prefix": PREFIX, "data_dir": self.folder / "data", "port": port,
            "default_deadline_ms": 250, "queue_ms": 10_000, "release_poll_seconds": 0.2,
        } | settings  # fmt: skip
        environment = bare | {f"LORANK_{name.upper()}": str(value) for name, value in chosen.items()}
        environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        service = Service(environment, self.folder / f"service-{port}.log", wrapper)
        self.stack.callback(service.end)
        if ready:
            service.becomes_ready()
        return service

    def traffic(self, service: Service, **more: Any) -> Traffic:
        """Callers of all users; they call before this returns, so that there is a calm to compare with."""
        traffic = self.stack.enter_context(Traffic(service.port, self.users, **more))
        self.wait(3.0)
        return traffic

    def tests(self, *ids: str, slow: bool = False) -> Outcome:
        """What came of tests: files, or FILE::TEST. TroubleError if they cannot be run."""
        which = () if slow else ("-m", "not slow")  # and no -q, of which pyproject.toml has one: two tell no counts
        command = child_python("-m", "pytest", "-p", "no:cacheprovider", *which, "-rs", *ids)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        lines = ended.stdout.splitlines()
        counts = {word: int(count) for count, word in re.findall(r"(\d+) ([a-z]+)", lines[-1] if lines else "")}
        failed = counts.get("failed", 0) + counts.get("error", 0) + counts.get("errors", 0)
        if ended.returncode not in (0, 1) or not counts:
            raise TroubleError(f"these tests cannot be run: {ended.stdout[-2000:]}{ended.stderr[-2000:]}")
        if failed:
            print(ended.stdout, file=sys.stderr)
        left_out = [line.removeprefix("SKIPPED ").split(": ", 1)[-1] for line in lines if line.startswith("SKIPPED")]
        remark = f"not done here: {'; '.join(dict.fromkeys(left_out))}" if left_out else ""
        return Outcome(tests=counts.get("passed", 0) + failed, tests_failed=failed, remark=remark)


def url_of(server: Server) -> str:
    return f"redis://127.0.0.1:{server.port}"


def lost(teller: Teller, publisher: Publisher) -> int:
    """How many interactions were accepted and are not in the histories of their users."""
    missing = set(teller.accepted)
    for user in {user for user, _ in teller.accepted}:
        history: Any = publisher.redis.get(publisher.keys.user_history(user)) or b""
        missing -= {(user, int(time_ms)) for time_ms in np.frombuffer(history, EVENT_DTYPE)["time_ms"]}
    return len(missing)


def eventually(condition: Callable[[], Any], trouble: str, seconds: float = 60.0) -> Any:
    """The first true value of ``condition``. TroubleError, with what did not happen, after ``seconds``."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > until:
            raise TroubleError(f"after {seconds:g} s: {trouble}")
        time.sleep(0.05)
    return value


@contextlib.contextmanager
def new_stand(folder: Path, *, short: bool) -> Iterator[Stand]:
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        yield Stand(folder, short, stack)
