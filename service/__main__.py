"""``python -m service``: the service under uvicorn, settings from the environment, until SIGINT or SIGTERM."""

from __future__ import annotations

import os
import sys

from models.contract.experiments import ExperimentsError
from service.app import create_app
from service.configuration import with_prefix
from service.server.workers import configure_process, run_alone, run_workers
from service.settings import PREFIX, Settings, SettingsError


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
        return 0 if run_workers(app, settings) else 1
    return 0 if run_alone(app, settings) else 1


if __name__ == "__main__":
    sys.exit(main())
