"""Web requests through urllib, which honours SSL_CERT_FILE and the proxy variables."""

from __future__ import annotations

import base64
import functools
import http.client
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import IO, Any, Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from pascaline.core.errors import CheckpointError

TIMEOUT_S = 30.0
NETWORK_ERRORS = (OSError, http.client.HTTPException)


@dataclass(frozen=True)
class Url:
    """An address, and the secret that its server asks for, which is never shown.

    `authorization` is the header's value, "Basic …" or "Bearer …". It is sent to the address's own server
    only, wherever that one redirects to.
    """

    address: str
    authorization: str | None = None

    @staticmethod
    def parse(text: str) -> Url:
        """Takes user and password out of an address.

        Raises
        ------
        CheckpointError : it is no http, https or file address.
        """
        try:
            parts = urlsplit(text)
            scheme, user = parts.scheme, parts.username
        except ValueError:
            scheme, user = "", None
        if scheme not in ("http", "https", "file"):
            raise CheckpointError(f"{text!r} is not a web address", expected="https://…")
        if user is None:
            return Url(text)
        secret = f"{unquote(user)}:{unquote(parts.password or '')}"
        address = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        return Url(address, f"Basic {base64.b64encode(secret.encode()).decode()}")


def open_url(
    url: Url, headers: dict[str, str], timeout_s: float = TIMEOUT_S, *, method: Literal["GET", "HEAD"] = "GET"
) -> Any:
    """A response, status 200 or 206, to be used in a `with`; `timeout_s` bounds each wait for the server.

    Raises
    ------
    urllib.error.HTTPError and NETWORK_ERRORS, as urllib does.
    """
    headers = {"User-Agent": "pascaline"} | headers
    request = urllib.request.Request(url.address, headers=headers, method=method)  # noqa: S310 - `parse` takes no other schemes
    if url.authorization:
        request.add_unredirected_header("Authorization", url.authorization)
    try:
        return _opener().open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection; code and headers stay
        raise


class _SameServerRedirects(urllib.request.HTTPRedirectHandler):
    """Lets a server redirect to itself (a renamed model) without losing who is asking, and what for."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        redirected = super().redirect_request(req, fp, code, msg, headers, newurl)
        if redirected is not None:
            redirected.method = req.get_method()  # Python up to 3.12 makes a GET of a HEAD
        authorization = req.unredirected_hdrs.get("Authorization")
        if redirected is not None and authorization and server_of(newurl) == server_of(req.full_url):
            redirected.add_unredirected_header("Authorization", authorization)
        return redirected


@functools.cache
def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_SameServerRedirects)


def server_of(address: str) -> tuple[str, str]:
    """Scheme and host with port: what a secret is meant for."""
    parts = urlsplit(address)
    return parts.scheme, parts.netloc


def reason(error: Exception) -> str:
    """What went wrong, in a few words."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) or type(cause).__name__
