"""The certificate and key for TLS, as the user brings them. Looked at before anything is loaded."""

import ssl
from pathlib import Path

from errors import Refused
from service.private import private_file


def check_certificate(certificate: Path, key: Path) -> None:
    """Return if the two files can be served with.

    Raises:
        Refused: ``unsafe_file``, if others may read the key; ``no_file``, if one cannot be read; ``bad_certificate``,
            if they are no pair, or the key wants a password.
    """
    private_file(key, "the key")
    for path, what in ((certificate, "certificate"), (key, "key")):
        try:
            path.open("rb").close()
        except OSError as error:
            raise Refused(f"the {what} {path} cannot be read: {error.strerror}", code="no_file") from None
    try:
        # A password is given, or OpenSSL would ask for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError, ValueError):
        raise Refused(
            f"{certificate} and {key} are no certificate and its key, in PEM and without a password",
            code="bad_certificate",
        ) from None
