"""What each process of the service sets for itself: its log, and how its threads share the interpreter."""

from __future__ import annotations

import logging
import sys

from service.settings import Settings

_SWITCH_SECONDS = 0.0005


def configure_process(settings: Settings) -> None:
    """Log everything to stderr, one line each; and let the event loop have the interpreter soon."""
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # A request would otherwise wait 5 ms for a thread that loads a release, each time that it wants to go on.
    sys.setswitchinterval(_SWITCH_SECONDS)
