"""``python -m service.prepare RELEASE REVISION``: makes the shared folders of a release, for services to map.

A process of its own, because reading a large catalogue takes the interpreter from the requests for seconds; a service
starts it at the lowest priority, because it may have to share a core with them.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable

import uvloop

from models.contract.artifact import ArtifactError
from models.contract.keys import Keys
from service.errors import RedisUnavailable
from service.features.catalogue import REFUSED_KINDS
from service.features.redis import RedisLink
from service.loading import Loader
from service.ranking.degraded import ScoringError
from service.runtime import configure_process
from service.settings import Settings
from service.telemetry import METRICS_FOLDER, Telemetry

PREPARE_SECONDS = 1800.0
"""Beside a busy service on one core, a million items take a minute."""

_START = "import os; os.nice(19); from service.prepare import main; raise SystemExit(main())"
"""Not ``-m``: on one core, a second of imports at the service's own priority holds up its requests by half a second."""

Prepare = Callable[[str, str], Awaitable[None]]


def apart(settings: Settings, url: str, telemetry: Telemetry) -> Prepare:
    """What prepares a release and revision in another process. ArtifactError if the release cannot be served,
    RedisUnavailable if Redis does not answer. Records that it refuses are counted in ``telemetry``."""
    foreign = {name: one for name, one in os.environ.items() if name != METRICS_FOLDER}
    environment = settings.model_copy(update={"redis_url": url}).to_environment(foreign)

    async def prepare(release: str, revision: str) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _START, release, revision, env=environment, stdout=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(PREPARE_SECONDS):
                output, _ = await process.communicate()
        except TimeoutError as error:
            raise ArtifactError(f"release {release}: preparing it took more than {PREPARE_SECONDS:.0f} s") from error
        finally:
            if process.returncode is None:
                process.kill()
                await asyncio.shield(process.wait())  # nobody else would, and it still reads from Redis
        if process.returncode == 0:
            for kind, count in json.loads(output).items():
                telemetry.refused_records.labels(kind).inc(count)
            return
        try:
            kind, reason = json.loads(output)
        except ValueError:
            kind, reason = "", f"release {release}: preparing it ended with status {process.returncode}"
        raise RedisUnavailable(reason) if kind == RedisUnavailable.__name__ else ArtifactError(reason)

    return prepare


async def _prepare(settings: Settings, release: str, revision: str) -> int:
    assert settings.redis_url is not None
    link = RedisLink(settings.redis_url, 2)
    telemetry = Telemetry()
    loader = Loader.of(settings, link, Keys(settings.key_prefix), telemetry)
    try:
        await loader.prepare(release, revision)
    except (ArtifactError, ScoringError, RedisUnavailable) as error:
        print(json.dumps([type(error).__name__, str(error)]))  # noqa: T201 - read by the service
        return 1
    finally:
        await link.close()
    print(json.dumps({kind: telemetry.refused(kind) for kind in REFUSED_KINDS}))  # noqa: T201 - read by the service
    return 0


def main() -> int:
    """A line of JSON: how many records were refused, by kind; or, with exit status 1, why the release is."""
    settings = Settings.from_environment(os.environ)
    configure_process(settings)
    return uvloop.run(_prepare(settings, *sys.argv[1:3]))


if __name__ == "__main__":
    sys.exit(main())
