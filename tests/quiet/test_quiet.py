"""Service and jobs as processes do nothing but what they are asked to: no connection, no file outside their folders."""

from __future__ import annotations

import ast
import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from models.onnx_runtime import TELEMETRY
from offline.engine.ray import _choose_token
from offline.libraries import QUIET
from tests.conftest import ROOT, clean_environment
from tests.offline.pipeline import write_csv
from tests.quiet.surroundings import Surroundings, surroundings
from tests.service.conftest import eventually
from tests.synthetic import synthetic

_CLOUDS = ("169.254.169.254", "metadata.google.internal")

_WHOLE_SECONDS = 45.0  # ONNX Runtime sends for the first time 10 to 15 s after its import


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    """Surroundings with the files of a small data set, published by a first refresh with the real text encoder."""
    folder = tmp_path_factory.mktemp("quiet")
    data = synthetic(folder / "unused", users=24, items=20, events=12)
    log = data.log
    rows = zip(log.user, log.item, log.value, log.time_ms, strict=True)
    write_csv(
        folder / "interactions.csv",
        ("user", "item", "value", "time"),
        ((log.user_ids[user], log.item_ids[item], value, time_ms) for user, item, value, time_ms in rows),
    )
    users, items = data.catalogue.users.items(), data.catalogue.items.items()
    write_csv(
        folder / "users.csv", ("id", "age", "occupation"), ((name, u["age"], u["occupation"]) for name, u in users)
    )
    write_csv(
        folder / "items.csv",
        ("id", "title", "year", "genres"),
        ((name, i["title"], i["year"], "|".join(i["genres"])) for name, i in items),
    )
    text = (Path(__file__).parent / "tiny.toml").read_text()
    (folder / "tiny.toml").write_text(text.replace("FOLDER", str(folder)))
    with surroundings(folder) as place:
        job(place, "refresh", "--ask-at-once")
        yield place


def job(quiet: Surroundings, *words: str) -> str:
    config = ["--config", str(quiet.folder / "tiny.toml"), "--data-dir", str(quiet.folder / "data")]
    return quiet.run("offline", *words, *config)


def assert_nothing_happened(quiet: Surroundings) -> None:
    assert quiet.asked == []
    assert [act for act in quiet.acts() if act["event"] != "import"] == []
    assert {act["detail"] for act in quiet.acts("import")} <= {"1"}
    assert quiet.left() == []


def test_jobs(quiet: Surroundings) -> None:
    assert "refresh" in quiet.run("offline", "--help")
    assert "live" in job(quiet, "status")
    assert any("offline refresh" in act["program"] for act in quiet.acts("import"))  # parity of the exported model
    assert_nothing_happened(quiet)


@pytest.mark.parametrize(
    ("workers", "seconds"),
    [("1", 0.0), ("2", 0.0), pytest.param("1", _WHOLE_SECONDS, marks=pytest.mark.slow)],
)
async def test_the_service(quiet: Surroundings, workers: str, seconds: float) -> None:
    before = len(quiet.acts("import"))
    with quiet.service(LORANK_WORKERS=workers) as url:
        async with httpx2.AsyncClient(base_url=url, timeout=30.0, trust_env=False) as http:

            async def ready() -> bool:
                try:
                    return bool((await http.get("/readyz")).status_code == 200)
                except httpx2.TransportError:
                    return False

            await eventually(ready, seconds=120.0)
            body = {"user_id": "u1", "candidates": [{"id": "i1"}, {"id": "i2"}]}
            answer = (await http.post("/v1/rank", json=body)).json()
            assert len(answer["items"]) == 2
        await asyncio.sleep(seconds)
    assert len(quiet.acts("import")) > before
    assert_nothing_happened(quiet)


def test_a_chosen_secret_of_ray_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ) | {"RAY_AUTH_TOKEN_PATH": "/run/secrets/ray"})
    _choose_token()
    assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} & set(os.environ)
    del os.environ["RAY_AUTH_TOKEN_PATH"]
    _choose_token()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.slow(small="tests/quiet/test_quiet.py::test_a_chosen_secret_of_ray_stays")
def test_a_cluster_of_its_own() -> None:
    """Ray 2.60 asks which cloud it runs in, also without usage statistics, and has no switch for it."""
    pytest.importorskip("ray", reason="engine 'ray' needs the extra: pip install 'lorank[ray]'")
    with (
        tempfile.TemporaryDirectory(prefix="q") as short,
        surroundings(Path(short)) as place,
    ):  # Ray's sockets lie in it
        assert "[3, 7]" in place.run("tests.quiet.cluster")
        assert [line for line in place.asked if not any(f"http://{host}/" in line for host in _CLOUDS)] == []
        assert place.acts("open") + place.acts("os.mkdir") + place.acts("socket.connect") == []
        assert place.left() == []


def test_what_acts_is_seen(tmp_path: Path) -> None:
    """The test of the test: a process that does what no process of ours may."""
    code = (
        "import contextlib, os, pathlib, socket, tempfile, urllib.request\n"
        "pathlib.Path.home().joinpath('file').write_text('x')\n"
        "tempfile.mkstemp()\n"
        "with contextlib.suppress(OSError): urllib.request.urlopen('http://example.invalid/x', timeout=5)\n"
        "with contextlib.suppress(OSError): socket.getaddrinfo('example.invalid', 80)\n"
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 9))\n"
    )
    with surroundings(tmp_path) as place:
        (tmp_path / "HOME").chmod(0o700)
        subprocess.run([sys.executable, "-c", code], env=place.environment, capture_output=True, check=True)
    assert [line.split()[1] for line in place.asked] == ["http://example.invalid/x"]
    assert {act["event"] for act in place.acts()} == {"open", "socket.getaddrinfo", "socket.connect"}
    assert len(place.left()) == 2


@pytest.mark.parametrize(("chosen", "expected"), [(None, "1"), ("0", "0")])
def test_an_application_of_somebody_elses_server_is_quiet_too(chosen: str | None, expected: str) -> None:
    """Nothing is loaded or set by an import; opening a graph does both, and leaves what the environment says."""
    code = (
        "import os, sys, service.app, models.ctr.export, offline.training.run\n"
        "from models.onnx_runtime import runtime\n"
        f"before = 'onnxruntime' in sys.modules, os.environ.get({TELEMETRY!r})\n"
        "sys.modules['onnxruntime'] = type(sys)('onnxruntime'); sys.modules['onnxruntime'].__version__ = '0'\n"
        f"print(before, runtime(), os.environ[{TELEMETRY!r}])\n"
    )
    environment = {name: value for name, value in clean_environment().items() if name not in QUIET}
    environment |= {} if chosen is None else {TELEMETRY: chosen}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout == f"(False, {chosen!r}) onnxruntime 0 {expected}\n"


def test_weights_are_never_asked_of_a_hub() -> None:
    calls = [
        (str(path.relative_to(ROOT)), node.lineno, {word.arg for word in node.keywords})
        for path in sorted((ROOT / "offline").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained"
    ]
    assert len(calls) > 5
    assert [call[:2] for call in calls if "local_files_only" not in call[2]] == []


def test_the_tests_are_quiet_themselves() -> None:
    assert all(variable in os.environ for variable in QUIET)
