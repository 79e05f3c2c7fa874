"""``python -m service probe``: whether the service of these settings answers on this machine; for health checks."""

from __future__ import annotations

import http.client
import os
import ssl
import sys

PROBE_SECONDS = 1.0
"""How long the service may take."""


def main() -> int:
    """The exit status: 0 it answers, 1 it does not.

    Where callers need a certificate, which a probe has not, the service's part of the handshake is its answer.
    """
    port = int(os.environ.get("LORANK_PORT") or 8000)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_SECONDS)
    if os.environ.get("LORANK_TLS_CERTIFICATE"):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is this machine, whatever its name
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=PROBE_SECONDS, context=context)
    try:
        connection.connect()
        if os.environ.get("LORANK_TLS_CLIENT_CA"):
            return 0
        connection.request("GET", "/healthz")
        return 0 if connection.getresponse().status == http.client.OK else 1
    except (OSError, http.client.HTTPException) as error:
        print(f"lorank: {type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201 - a command's answer
        return 1
    finally:
        connection.close()
