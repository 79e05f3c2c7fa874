"""``python -m service.prepare RELEASE REVISION``: makes the shared folders of a release, for services to map.

A process of its own, because reading a large catalogue takes the interpreter from the requests for seconds; and of low
priority, because it may have to share a core with them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from models.contract.artifact import ArtifactError
from models.contract.keys import Keys
from service.arrays import SharedArrays
from service.errors import RedisUnavailable, ScoringError
from service.features.connection import RedisLink
from service.loading import Loader
from service.settings import Settings
from service.telemetry import METRICS_FOLDER, Telemetry

_ROOT = Path(__file__).parents[1]

_NICENESS = 19

Prepare = Callable[[str, str], Awaitable[None]]


def apart(settings: Settings, url: str) -> Prepare:
    """What prepares a release and revision in another process. ArtifactError if the release cannot be served,
    RedisUnavailable if Redis does not answer."""
    foreign = {name: one for name, one in os.environ.items() if name != METRICS_FOLDER}
    environment = settings.model_copy(update={"redis_url": url}).to_environment(foreign)

    async def prepare(release: str, revision: str) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "service.prepare", release, revision,
            env=environment, cwd=_ROOT, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode == 0:
            return
        try:
            kind, reason = json.loads(output)
        except ValueError:
            kind, reason = "", f"release {release}: preparing it ended with status {process.returncode}"
        raise RedisUnavailable(reason) if kind == RedisUnavailable.__name__ else ArtifactError(reason)

    return prepare


def loader_of(settings: Settings, link: RedisLink, keys: Keys, telemetry: Telemetry) -> Loader:
    """The same for a service and for what it has prepared apart."""
    return Loader(
        link,
        keys,
        telemetry,
        artifacts=settings.artifact_folder,
        arrays=SharedArrays(settings.table_folder),
        threads=settings.onnx_threads,
    )


async def _prepare(settings: Settings, release: str, revision: str) -> int:
    assert settings.redis_url is not None
    link = RedisLink(settings.redis_url, 2)
    loader = loader_of(settings, link, Keys(settings.key_prefix), Telemetry())
    try:
        await loader.prepare(release, revision)
    except (ArtifactError, ScoringError, RedisUnavailable) as error:
        print(json.dumps([type(error).__name__, str(error)]))  # noqa: T201 - read by the service
        return 1
    finally:
        await link.close()
    return 0


def main() -> int:
    """Exit status 1 and a line of JSON, kind and reason, if the release cannot be prepared."""
    os.nice(_NICENESS)
    settings = Settings.from_environment(os.environ)
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    return uvloop.run(_prepare(settings, *sys.argv[1:3]))


if __name__ == "__main__":
    sys.exit(main())
