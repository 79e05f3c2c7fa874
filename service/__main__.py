"""``python -m service``: the service under uvicorn, settings from the environment, until SIGINT or SIGTERM.
``python -m service keys`` makes and revokes API keys, ``python -m service probe`` is for health checks."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.settings import Settings


def main() -> int:
    """Run until stopped. The exit status:

    0  after a clean stop
    1  it never served: the embedded Redis could not be started, or it was told to stop before; one line on stderr, or
       the log, says why
    2  the settings or the experiments cannot take effect, or do not say which of several configurations is served;
       one line on stderr says why
    3  it cannot listen on the host and port, which are in use or not this machine's; the log's last error says why
    """
    if sys.argv[1:2] == ["keys"]:
        from service import keys

        return keys.main(sys.argv[2:])
    if sys.argv[1:] == ["probe"]:
        from service import probe

        return probe.main()
    # As Ctrl-C, from the first moment on: what was started is stopped. Process 1 of a container would not even end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        try:
            return _served(stack)
        except KeyboardInterrupt:  # before it served; later ones end in a clean stop
            return _refuse("stopped before it served", 1)


def _served(stack: contextlib.ExitStack) -> int:
    from models.contract.experiments import ExperimentsError
    from models.valkey.embedded import EmbeddedRedisError
    from service.settings import Settings, SettingsError

    try:
        return _run(Settings.from_environment(os.environ), stack)
    except (SettingsError, ExperimentsError) as error:
        return _refuse(str(error), 2)
    except EmbeddedRedisError as error:
        return _refuse(str(error), 1)


def _run(settings: Settings, stack: contextlib.ExitStack) -> int:
    """Serve with these settings; ``stack`` stops what was started. SettingsError, ExperimentsError and
    EmbeddedRedisError before anything is served."""
    from models.cores import limit_threads

    limit_threads(os.environ, settings.workers)
    # Only now, because numpy counts its threads when it is loaded.
    from service.app import create_app
    from service.configuration import with_prefix
    from service.server.workers import configure_process, run_alone, run_workers
    from service.settings import PREFIX

    settings = with_prefix(settings)
    app = create_app(settings)
    configure_process(settings)
    if settings.redis_url is None:  # which would otherwise end with its last worker
        stack.enter_context(_embedded(settings))
    if settings.workers > 1:
        os.environ[f"{PREFIX}KEY_PREFIX"] = settings.served_prefix  # all of them serve this one, also if another comes
        return 0 if run_workers(app, settings) else 1
    return 0 if run_alone(app, settings) else 1


def _embedded(settings: Settings) -> contextlib.AbstractContextManager[str]:
    """The embedded Redis. SettingsError if its folder cannot be written to."""
    from models.valkey.embedded import embedded_redis
    from service.settings import PREFIX, SettingsError

    folder = settings.embedded_folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "presence").open("a").close()
    except OSError as error:
        raise SettingsError(
            f"{PREFIX}DATA_DIR: the embedded Redis cannot write to {folder} ({error}): name a folder that it can write "
            f"to, or let {PREFIX}REDIS_URL name a Redis"
        ) from error
    return embedded_redis(folder)


def _refuse(words: str, status: int) -> int:
    print(f"lorank: {' '.join(words.split())}", file=sys.stderr)  # noqa: T201 - there is no log yet
    return status


if __name__ == "__main__":
    sys.exit(main())
