"""``python -m service``: the service under uvicorn, settings from the environment, until SIGINT or SIGTERM."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

import uvicorn
from fastapi import FastAPI

from models.contract.experiments import ExperimentsError
from service.app import create_app
from service.configuration import with_prefix
from service.server.connection import Connection
from service.settings import PREFIX, Settings, SettingsError
from service.workers import APP, configure_process, run_workers


def main() -> int:
    """Run until stopped. The exit status:

    0  after a clean stop
    1  it never served: the embedded Redis could not be started, or it was told to stop before; the log says why
    2  the settings or the experiments cannot take effect, or do not say which of several configurations is served;
       one line on stderr says why
    3  it cannot listen on the host and port, which are in use or not this machine's; the log's last error says why
    """
    try:
        settings = with_prefix(Settings.from_environment(os.environ))
        app = create_app(settings)
    except (SettingsError, ExperimentsError) as error:
        print(f"lorank: {error}", file=sys.stderr)  # noqa: T201 - there is no log yet
        return 2
    configure_process(settings)
    if settings.workers > 1:
        os.environ[f"{PREFIX}KEY_PREFIX"] = settings.served_prefix  # all of them serve this one, also if another comes
        return run_workers(_config(APP, settings))
    server = uvicorn.Server(_config(app, settings))
    # For a signal before uvicorn listens to them, and for the same one after it has shut down, when it raises it again;
    # a stop that was asked for is not a failure.
    signal.signal(signal.SIGTERM, lambda *_: setattr(server, "should_exit", True))
    with contextlib.suppress(KeyboardInterrupt):  # raised again by uvicorn after it has shut down
        server.run()
    return 0 if server.started else 1


def _config(app: FastAPI | str, settings: Settings) -> uvicorn.Config:
    """``app`` is the application, or where each worker gets its own."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        workers=settings.workers,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=Connection,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        log_level=settings.log_level,
        server_header=False,
        proxy_headers=False,  # nobody here asks who called
        timeout_keep_alive=75,  # load balancers keep a connection for 60 s; a request may meet one that we just closed
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    sys.exit(main())
