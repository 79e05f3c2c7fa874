"""``python -m service probe``: whether the service of these settings answers on this machine; for health checks."""

from __future__ import annotations

import http.client
import os
import ssl

ANSWER_SECONDS = 1.0
"""How long the service may take."""


def main() -> int:
    """The exit status: 0 it answers, 1 it does not.

    Where callers need a certificate, which a probe has not, being asked for one is an answer.
    """
    port = int(os.environ.get("LORANK_PORT") or 8000)
    has_tls, asks_for_certificates = (
        bool(os.environ.get(f"LORANK_TLS_{name}")) for name in ("CERTIFICATE", "CLIENT_CA")
    )
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    if has_tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = (
            False,
            ssl.CERT_NONE,
        )  # the name is another's, and it is this machine
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=ANSWER_SECONDS, context=context)
    try:
        connection.request("GET", "/healthz")
        return 0 if connection.getresponse().status == http.client.OK else 1
    except ssl.SSLError as error:
        return 0 if asks_for_certificates and "CERTIFICATE_REQUIRED" in str(error) else 1
    except (OSError, http.client.HTTPException):
        return 1
    finally:
        connection.close()
