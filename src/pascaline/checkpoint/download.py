"""Fetching one large file so that an interrupted download goes on where it stopped."""

from __future__ import annotations

import errno
import hashlib
import re
import time
import urllib.error
from pathlib import Path
from typing import Any

from pascaline.checkpoint.web import NETWORK_ERRORS, Url, open_url, reason
from pascaline.core.errors import CheckpointError
from pascaline.core.progress import ProgressCallback, Stage

_CHUNK_BYTES = 1 << 18
_MAX_FRUITLESS_TRIES = 3
_PAUSE_S = 1.0
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


def fetch_file(url: Url, part: Path, sha256: str | None, report: ProgressCallback, stage: str) -> None:
    """Download `url` into `part`, going on from what `part` already holds.

    Connections that break are taken up again as long as each brings something. Whatever stops the
    download, Ctrl-C included, leaves `part` for the next call; only a wrong hash deletes it.

    Raises
    ------
    CheckpointError : no network, the server refuses, no room on the disk, or a wrong hash.
    """
    with Stage(report, stage, 0, "bytes") as progress:
        fruitless = 0
        while True:
            have = part.stat().st_size if part.exists() else 0
            try:
                if _fetch_rest(url, part, have, progress):
                    break
                problem = "the connection broke"
            except NETWORK_ERRORS as error:
                code = error.code if isinstance(error, urllib.error.HTTPError) else None
                if code == 416 and have:
                    part.unlink()  # longer than the server's file
                    continue
                refuse_full_disk(error, part)
                if code is not None and code < 500:
                    fruitless = _MAX_FRUITLESS_TRIES
                problem = reason(error)
            gained = part.exists() and part.stat().st_size > have
            fruitless = 0 if gained else fruitless + 1
            if fruitless < _MAX_FRUITLESS_TRIES:
                time.sleep(_PAUSE_S)
            else:
                raise CheckpointError(
                    f"{url.address} cannot be fetched: {problem}",
                    remedy="Check the network and run the command again; it goes on where it stopped",
                )
    if sha256 is not None:
        seen = sha256_of(part)
        if seen != sha256:
            part.unlink()
            raise CheckpointError(
                f"{url.address} has sha256 {seen}",
                expected=sha256,
                remedy="The download was deleted; run the command again, or use another package index",
            )


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_full_disk(error: Exception, path: Path) -> None:
    """Raise a CheckpointError when `error` says that a file could not be written, else do nothing."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        raise CheckpointError(
            f"{path} cannot be written: {error.strerror}",
            remedy="Make room, or point PASCALINE_CACHE to a folder with room that you may write to",
        ) from error


def _fetch_rest(url: Url, part: Path, have: int, progress: Stage) -> bool:
    """One request for what is missing; whether the file is complete after it."""
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        response = open_url(url, headers)
    except urllib.error.HTTPError as error:
        # "Not satisfiable": nothing is left to send.
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{have}":
            return True
        raise
    with response:
        start, total = _extent(response)
        if start not in (0, have):
            raise OSError(f"the server sent bytes from {start} instead of {have}")
        # The stage counts what is fetched now: what was there already would spoil its rate.
        progress.total = 0 if total is None else total - start
        with part.open("ab" if start else "wb", buffering=0) as file:
            received = _copy(response, file, progress)
    return total is None or start + received == total


def _extent(response: Any) -> tuple[int, int | None]:
    """First byte of the answer and length of the whole file; a server may ignore ranges."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status == 206 and match:
        return int(match[1]), int(match[2])
    length = response.headers.get("Content-Length")
    return 0, int(length) if length and length.isdecimal() else None


def _copy(response: Any, file: Any, progress: Stage) -> int:
    received = 0
    while chunk := response.read1(_CHUNK_BYTES):
        file.write(chunk)
        received += len(chunk)
        progress.advance(len(chunk))
    return received
