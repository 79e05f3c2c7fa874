"""TLS of the service's own port, and certificates of those who may call."""

from __future__ import annotations

import ssl

from service.settings import PREFIX, Settings, SettingsError


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS 1.2 or newer with the certificate of the settings; None without one. SettingsError if a file cannot be used.

    Where there is a client CA, whoever has no certificate of it is refused in the handshake.
    """
    certificate, key, client_ca = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
    if certificate is None or key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for name, path in (("TLS_CERTIFICATE", certificate), ("TLS_KEY", key), ("TLS_CLIENT_CA", client_ca)):
        if path is not None:
            try:
                path.open("rb").close()
            except OSError as error:
                raise SettingsError(f"{PREFIX}{name}: {path} cannot be read ({error.strerror})") from error
    try:
        context.load_cert_chain(certificate, key, password="")  # OpenSSL would ask the terminal for one
    except ssl.SSLError as error:
        raise SettingsError(
            f"{PREFIX}TLS_CERTIFICATE and {PREFIX}TLS_KEY: {certificate} and {key} are not PEM files of a certificate "
            f"with its chain and of its key, without a passphrase ({error.reason or error})"
        ) from error
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except ssl.SSLError as error:
            raise SettingsError(
                f"{PREFIX}TLS_CLIENT_CA: {client_ca} is no PEM file of certificates ({error.reason or error})"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context
