"""Files of a release are damaged before a start and in use, releases are switched and broken, folders full or
read-only."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from offline.child import child_python
from offline.publish.connection import Store
from offline.publish.release import record, switch
from tests.chaos.rows import UNHINDERED, Goal, Outcome, row
from tests.chaos.stand import PREFIX, ROOT, Service, Stand, TroubleError, eventually, url_of
from tests.chaos.traffic import ANSWER_SECONDS, Traffic
from tests.servers import Server
from tests.service.releases.test_files import JOB, files_in, flip, put, remove, some_of_each_kind, truncate
from tests.service.releases.test_files import publish as publish_with_every_kind_of_file
from tests.service.test_surroundings import MAY_MOUNT, in_namespace
from tests.service.tiny import ITEMS, Publisher, TinyItem
from tests.service.tiny_model import model_bytes

PART = "Files and releases"
OFFSET = 0.5
PATIENT: Mapping[str, Any] = {"default_deadline_ms": 10_000, "max_deadline_ms": 10_000}
"""Deadlines are not what these rows are about: beside busy neighbours a short one has words of its own."""

NO_MOUNTS = "this machine lets nobody make a mount namespace"


def installed(stand: Stand, server: Server) -> Publisher:
    """A release with a file of every kind, and the users."""
    publisher = stand.publisher(server.client)
    publish_with_every_kind_of_file(publisher)
    stand.store_users(publisher)
    return publisher


def publish_other(
    publisher: Publisher, release: str = "r2", *, items: Sequence[TinyItem] = ITEMS, switch: bool = True
) -> None:
    """A release whose every score is another."""
    publisher.publish(release, items=items, content=model_bytes(offset=OFFSET), switch=switch)


def is_live(service: Service, release: str) -> bool:
    live = service.status()["release"]
    return live is not None and bool(live["id"] == release)


def complaints(service: Service) -> str:
    """All that the status says of files."""
    status = service.status()
    refused = [status["refused"]["reason"]] if status["refused"] else []
    return "; ".join([*refused, *(stage["reason"] or "" for stage in status["stages"].values())])


def together(outcomes: Iterable[Outcome], remark: str) -> Outcome:
    """Several outcomes as one."""
    all_of = list(outcomes)
    counts = ("requests", "refused", "failed", "wrong", "unsaid", "probes_failed")
    return Outcome(
        **{name: sum(getattr(outcome, name) for outcome in all_of) for name in counts},
        probe_seconds=max((outcome.probe_seconds or 0.0 for outcome in all_of), default=None),
        missed=tuple(words for outcome in all_of for words in outcome.missed),
        degraded=tuple(dict.fromkeys(word for outcome in all_of for word in outcome.degraded)),
        remark="; ".join(dict.fromkeys([remark, *(outcome.remark for outcome in all_of if outcome.remark)])),
    )


@row(PART, "4 kB of a served file flipped before a start, files of each kind in turn; written again while it is served",
     Goal(refused=None), short=True)  # fmt: skip
def files_flipped_before_a_start(stand: Stand) -> Outcome:
    server = stand.valkey()
    publisher = installed(stand, server)
    some = some_of_each_kind(files_in(publisher.artifacts))
    if stand.short:
        some = dict(item for item in some.items() if item[0].name.startswith("column-"))
        some = dict([*some.items()][:1])
    outcomes = []
    for path, content in some.items():
        flip(path, content)
        service = stand.serve(url_of(server), ready=False, **PATIENT)
        _comes_up(service)
        eventually(lambda of=service: JOB in complaints(of), f"nothing is said of {path.name}")  # type: ignore[misc]
        with Traffic(service.port, stand.users) as traffic:
            with traffic.trouble():
                stand.wait(1.0)
            put(path, content)
            eventually(lambda of=service: JOB not in complaints(of), f"{path.name}")  # type: ignore[misc]
            traffic.settle()
        outcomes.append(traffic.outcome())
        service.end()
    return together(outcomes, f"{len(some)} files, each said in the status until it was whole")


def _comes_up(service: Service) -> None:
    """Ready or not."""
    eventually(lambda: service.popen.poll() is not None or service.get("/healthz")[0] == 200, "the service never came")
    if service.popen.poll() is not None:
        raise TroubleError(f"the service ended: {service.output.read_text()[-2000:]}")


@row(PART, "each served file flipped, cut, removed or another's: before a start, between revisions, in the next")
def files_damaged(stand: Stand) -> Outcome:
    return stand.tests("tests/service/releases/test_files.py", "tests/offline/publish/test_files.py")


@row(PART, "files of each kind flipped, cut and removed in use, by renaming as every writer does; then read again",
     Goal(added=UNHINDERED))  # fmt: skip
def files_damaged_in_use(stand: Stand) -> Outcome:
    server = stand.valkey()
    publisher = installed(stand, server)
    service = stand.serve(url_of(server), **PATIENT)
    traffic = stand.traffic(service)
    damages: tuple[Callable[[Path, bytes], None], ...] = (flip, truncate, remove)
    with traffic.trouble():
        for path, content in some_of_each_kind(files_in(publisher.artifacts)).items():
            for damage in damages:
                damage(path, content)
                revision = publisher.revise("r1", ITEMS[0])
                eventually(lambda of=revision: service.status()["release"]["revision"] == of, "not revised")  # type: ignore[misc]
                put(path, content)
                eventually(lambda: JOB not in complaints(service), f"{path.name} is whole and not read")
    traffic.settle()
    return traffic.outcome()


@row(PART, "the item table's files cut to nothing in place, by hand, under two workers",
     Goal(failed=10_000, refused=None, probes_failed=1_000, probe_seconds=ANSWER_SECONDS),
     floor="Whoever shortens a mapped file in place has the kernel kill each process that maps it (SIGBUS). Nothing of "
     "ours does: all writers write another file and rename it. The workers are started again and read the items from "
     "Redis; what was under way is lost.")  # fmt: skip
def file_cut_in_place(stand: Stand) -> Outcome:
    server = stand.valkey()
    publisher = installed(stand, server)
    service = stand.serve(url_of(server), workers=2, **PATIENT)
    traffic = stand.traffic(service)
    with traffic.trouble():
        for path in publisher.artifacts.glob("column-*.npy"):
            os.truncate(path, 0)
        stand.wait(3.0)
    traffic.settle()
    if service.popen.poll() is not None:
        raise TroubleError(f"the service ended with {service.popen.returncode}")
    return traffic.outcome()


@row(PART, "20 switches between two releases, forth as a publication does it, back by `python -m offline rollback`; "
     "each answer is of one of them", Goal(added=UNHINDERED), short=True)  # fmt: skip
def releases_switched(stand: Stand) -> Outcome:
    server = stand.valkey()
    publisher = stand.install(server.client)
    publish_other(publisher, switch=False)
    service = stand.serve(url_of(server), **PATIENT)
    traffic = stand.traffic(service, offsets=(0.0, OFFSET))
    turns, store = 4 if stand.short else 20, Store(publisher.redis, publisher.keys, publisher.artifacts, url_of(server))
    record(store, "r1")
    with traffic.trouble():
        for turn in range(turns):
            release = ("r2", "r1")[turn % 2]
            if release == "r2":
                switch(store, "r1", release)
            else:
                roll_back(stand, store)
            eventually(lambda of=release: is_live(service, of), f"{release} is not served")  # type: ignore[misc]
    traffic.settle()
    return traffic.outcome(remark=f"{turns} switches, every other one a rollback")


def roll_back(stand: Stand, store: Store) -> None:
    """The job, in a process of its own. TroubleError if it fails."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("LORANK_")}
    environment = bare | {"LORANK_REDIS_URL": store.url, "LORANK_KEY_PREFIX": PREFIX, "PYTHONPATH": str(ROOT)}
    options = ("--config", "configs/demo.toml", "--data-dir", str(stand.folder / "data"))
    command = child_python("-m", "offline", "rollback", *options)
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise TroubleError(f"the rollback ended with {ended.returncode}: {ended.stdout[-2000:]}{ended.stderr[-2000:]}")


@row(PART, "releases are published that are no model, fail at once, have no file, no manifest, another schema",
     Goal(added=UNHINDERED))  # fmt: skip
def releases_broken(stand: Stand) -> Outcome:
    server = stand.valkey()
    publisher = stand.install(server.client)
    service = stand.serve(url_of(server), **PATIENT)
    traffic = stand.traffic(service, offsets=(0.0, OFFSET))
    with traffic.trouble():
        for number, break_it in enumerate((_no_model, _failing, _no_file, _no_manifest, _foreign)):
            release = f"broken-{number}"
            break_it(publisher, release)
            publisher.redis.set(publisher.keys.live, release)
            eventually(lambda of=release: release_refused(service) == of, f"{break_it.__name__} is not refused")  # type: ignore[misc]
            if not is_live(service, "r1"):
                raise TroubleError(f"{break_it.__name__}: the former release is not served any more")
        publish_other(publisher)
        eventually(lambda: is_live(service, "r2"), "the next good release is not served")
    traffic.settle()
    return traffic.outcome(remark="the former one is served, the status names what is refused, and the next goes live")


def release_refused(service: Service) -> str:
    refused = service.status()["refused"]
    return str(refused["release"]) if refused else ""


def _no_model(publisher: Publisher, release: str) -> None:
    publisher.publish(release, content=b"no model", split=False, switch=False)


def _failing(publisher: Publisher, release: str) -> None:
    publisher.publish(release, content=model_bytes(user_rows=0), split=False, switch=False)


def _no_file(publisher: Publisher, release: str) -> None:
    publisher.publish(release, split=False, switch=False)
    (publisher.artifacts / f"{release}.onnx").unlink()


def _no_manifest(publisher: Publisher, release: str) -> None:
    publisher.publish(release, switch=False)
    publisher.redis.set(publisher.keys.release_manifest(release), b'{"id": ')


def _foreign(publisher: Publisher, release: str) -> None:
    publisher.publish(release, switch=False, schema_fingerprint="0" * 16)


@row(PART, "the data folder is full at the start and at a switch, with two workers", Goal(added=UNHINDERED))
def data_folder_full(stand: Stand) -> Outcome:
    full = stand.folder / "full"
    full.mkdir()
    script = f"mount -t tmpfs -o size=64k none {full} && ! head -c 1m /dev/zero > {full}/zeros || exit 77\n"
    return _served_in(stand, script, data_dir=full, workers=2)


@row(PART, "the artifact folder is read-only; a switch", Goal(added=UNHINDERED))
def artifacts_read_only(stand: Stand) -> Outcome:
    folder = stand.folder / "data/artifacts"
    return _served_in(stand, f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder} || exit 77\n")


def _served_in(stand: Stand, script: str, **settings: Any) -> Outcome:
    """A start and a switch in the surroundings that a shell script makes."""
    if not MAY_MOUNT:
        return Outcome(done=False, remark=NO_MOUNTS)
    server = stand.valkey()
    publisher = stand.install(server.client)
    settings = {"artifacts": stand.folder / "data/artifacts", **PATIENT, **settings}
    service = stand.serve(url_of(server), in_namespace(script + 'exec "$@"'), **settings)
    traffic = stand.traffic(service, offsets=(0.0, OFFSET))
    with traffic.trouble():
        publish_other(publisher)
        eventually(lambda: is_live(service, "r2"), "the next release is not served")
    traffic.settle()
    return traffic.outcome()
