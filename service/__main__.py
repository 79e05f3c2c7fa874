"""``python -m service``: the service under uvicorn, settings from the environment, until SIGINT or SIGTERM.
``python -m service keys`` makes and revokes API keys."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from models.contract.experiments import ExperimentsError
from models.cores import limit_threads
from models.valkey.embedded import EmbeddedRedisError, embedded_redis
from service.settings import PREFIX, Settings, SettingsError


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
    with contextlib.ExitStack() as stack:
        try:
            return _run(Settings.from_environment(os.environ), stack)
        except (SettingsError, ExperimentsError) as error:
            return _refuse(error, 2)
        except EmbeddedRedisError as error:
            return _refuse(error, 1)
        except KeyboardInterrupt:  # before it served; later ones end in a clean stop
            return 1


def _run(settings: Settings, stack: contextlib.ExitStack) -> int:
    """Serve with these settings; ``stack`` stops what was started. SettingsError, ExperimentsError and
    EmbeddedRedisError before anything is served."""
    limit_threads(os.environ, settings.workers)
    # Only now, because numpy counts its threads when it is loaded.
    from service.app import create_app
    from service.configuration import with_prefix
    from service.server.workers import configure_process, run_alone, run_workers

    settings = with_prefix(settings)
    app = create_app(settings)
    configure_process(settings)
    if settings.redis_url is None:  # which would otherwise end with its last worker
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is stopped
        stack.enter_context(_embedded(settings))
    if settings.workers > 1:
        os.environ[f"{PREFIX}KEY_PREFIX"] = settings.served_prefix  # all of them serve this one, also if another comes
        return 0 if run_workers(app, settings) else 1
    return 0 if run_alone(app, settings) else 1


def _embedded(settings: Settings) -> contextlib.AbstractContextManager[str]:
    """The embedded Redis. SettingsError if its folder cannot be written to."""
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


def _refuse(error: Exception, status: int) -> int:
    line = " ".join(str(error).split())
    print(f"lorank: {line}", file=sys.stderr)  # noqa: T201 - there is no log yet
    return status


if __name__ == "__main__":
    sys.exit(main())
