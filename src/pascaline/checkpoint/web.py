"""Web requests through urllib, which honours SSL_CERT_FILE and the proxy variables."""

from __future__ import annotations

import base64
import http.client
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from pascaline.core.errors import CheckpointError

TIMEOUT_S = 30.0
NETWORK_ERRORS = (OSError, http.client.HTTPException)


@dataclass(frozen=True)
class Url:
    """An address without its user and password, which are kept aside and never shown."""

    address: str
    credentials: str | None

    @staticmethod
    def parse(text: str) -> Url:
        """Raises CheckpointError for anything but http, https and file addresses."""
        try:
            parts = urlsplit(text)
            scheme, user = parts.scheme, parts.username
        except ValueError:
            scheme, user = "", None
        if scheme not in ("http", "https", "file"):
            raise CheckpointError(f"{text!r} is not a web address", expected="https://…")
        if user is None:
            return Url(text, None)
        secret = f"{unquote(user)}:{unquote(parts.password or '')}"
        address = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        return Url(address, base64.b64encode(secret.encode()).decode())


def open_url(url: Url, headers: dict[str, str]) -> Any:
    """A response, status 200 or 206, to be used in a `with`.

    Raises
    ------
    urllib.error.HTTPError and NETWORK_ERRORS, as urllib does.
    """
    request = urllib.request.Request(url.address, headers={"User-Agent": "pascaline"} | headers)  # noqa: S310
    if url.credentials:
        # Not sent on when the server redirects to another one.
        request.add_unredirected_header("Authorization", f"Basic {url.credentials}")
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310 - Url.parse chose the schemes
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection; code and headers stay
        raise


def reason(error: Exception) -> str:
    """What went wrong, in a few words."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) or type(cause).__name__
