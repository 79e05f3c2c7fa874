"""gunicorn's worker with our server in it: what would be left of ours (docs/decisions/0022-supervisor.md)."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import ClassVar

from uvicorn_worker import UvicornWorker

from bench.supervised import CONNECTION, DRAIN_SECONDS
from service.server.draining import DrainingServer


class DrainingWorker(UvicornWorker):
    """Drains, ends with its parent, and if it fails it is started again in place of stopping the others."""

    CONFIG_KWARGS: ClassVar = {"loop": "asyncio", "http": CONNECTION, "proxy_headers": False}

    def init_process(self) -> None:
        try:
            super().init_process()
        except Exception:
            logging.exception("the application cannot be imported")
            self._fail()

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        server = DrainingServer(self.config, DRAIN_SECONDS, self._beat)
        self._install_sigquit_handler()
        try:
            await server.serve(sockets=self.sockets)
        except SystemExit:
            self._fail()

    def _beat(self) -> None:
        self.notify()
        if os.getppid() != self.ppid:
            os.kill(self.pid, signal.SIGTERM)

    def _fail(self) -> None:
        sys.exit(3 if self.age <= self.cfg.workers else 1)  # gunicorn stops at 3
