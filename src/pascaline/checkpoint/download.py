"""Fetching large files so that an interrupted download goes on where it stopped."""

from __future__ import annotations

import errno
import hashlib
import re
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pascaline.checkpoint.web import NETWORK_ERRORS, Url, open_url, reason
from pascaline.core.errors import CheckpointError
from pascaline.core.progress import ProgressCallback, Stage

_CHUNK_BYTES = 1 << 18
_MAX_FRUITLESS_TRIES = 3
_PAUSE_S = 1.0
_MAX_PAUSE_S = 60.0
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_SHA256_DIGITS = 64
_WORTH_ANOTHER_TRY = (408, 429)
_ROOM = "Make room, or point PASCALINE_CACHE to a folder with room that you may write to"

Refusal = Callable[[urllib.error.HTTPError], CheckpointError | None]
"""Says what a server's refusal means, None where it is nothing special."""


def fetch_file(url: Url, part: Path, sha256: str | None, report: ProgressCallback, stage: str) -> None:
    """Download `url` into `part` as a stage of its own; see `Download`.

    Raises
    ------
    CheckpointError : no network, the server refuses, no room on the disk, or a wrong hash.
    """
    with Stage(report, stage, 0, "bytes") as progress:
        Download(url, part, progress).run()
    if sha256 is not None:
        refuse_other_content(part, sha256, url)


class Download:
    """One file on its way into `part`, going on from what `part` already holds.

    Connections that break are taken up again as long as each brings something. Whatever stops the
    download, Ctrl-C included, leaves `part` for the next call.

    Parameters
    ----------
    progress : counts what is fetched now: what was there already would spoil its rate.
    nbytes : the file's length. With it, the caller has counted what is missing into `progress.total`,
        a file of another length is refused, and a finished part costs no request.
    refusal : explains the server's refusals, before the usual messages.
    room : what the user can do about a disk that is full.
    """

    def __init__(
        self,
        url: Url,
        part: Path,
        progress: Stage,
        *,
        nbytes: int | None = None,
        refusal: Refusal = lambda _: None,
        room: str = _ROOM,
    ) -> None:
        self._url = url
        self._part = part
        self._progress = progress
        self._nbytes = nbytes
        self._refusal = refusal
        self._room = room
        self._received = 0

    def run(self) -> None:
        """Fetch until the part is complete.

        Raises
        ------
        CheckpointError : no network, the server refuses, another length, or no room on the disk.
        """
        fruitless = 0
        while True:
            have = self._have()
            if self._nbytes is not None and have > self._nbytes:
                self._start_again(have)
                continue
            pause_s = _PAUSE_S
            try:
                if self._fetch_rest(have):
                    return
                problem = "the connection broke"
            except urllib.error.HTTPError as error:
                if error.code == 416 and have:
                    self._start_again(have)  # longer than the server's file
                    continue
                explained = self._refusal(error)
                if explained is not None:
                    raise explained from error
                if error.code < 500 and error.code not in _WORTH_ANOTHER_TRY:
                    fruitless = _MAX_FRUITLESS_TRIES
                pause_s = max(pause_s, retry_after_s(error))
                problem = reason(error)
            except NETWORK_ERRORS as error:
                refuse_full_disk(error, self._part, self._room)
                problem = reason(error)
            fruitless = 0 if self._have() > have else fruitless + 1
            if fruitless >= _MAX_FRUITLESS_TRIES:
                raise CheckpointError(
                    f"{self._url.address} cannot be fetched: {problem}",
                    remedy="Check the network and run the command again; it goes on where it stopped",
                )
            time.sleep(pause_s)

    def _have(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _start_again(self, have: int) -> None:
        self._part.unlink()
        if self._nbytes is not None and have <= self._nbytes:
            self._progress.total += have

    def _fetch_rest(self, have: int) -> bool:
        """One request for what is missing; whether the file is complete after it."""
        if have == self._nbytes:
            self._part.touch()
            return True
        headers = {"Range": f"bytes={have}-"} if have else {}
        try:
            response = open_url(self._url, headers)
        except urllib.error.HTTPError as error:
            # "Not satisfiable": nothing is left to send.
            if error.code == 416 and self._nbytes is None and _is_whole(error, have):
                return True
            raise
        with response:
            start, total = extent(response)
            if start not in (0, have):
                raise OSError(f"the server sent bytes from {start} instead of {have}")
            if self._nbytes is None:
                self._progress.total = 0 if total is None else self._received + total - start
            elif total not in (None, self._nbytes):
                raise self._other_length(f"{total} bytes")
            elif start < have:
                self._progress.total += have
            with self._part.open("ab" if start else "wb", buffering=0) as file:
                received = self._copy(response, file, start)
        end = total if self._nbytes is None else self._nbytes
        return end is None or start + received == end

    def _copy(self, response: Any, file: Any, start: int) -> int:
        received = 0
        while chunk := response.read1(_CHUNK_BYTES):
            received += len(chunk)
            if self._nbytes is not None and start + received > self._nbytes:
                raise self._other_length("longer")
            file.write(chunk)
            self._received += len(chunk)
            self._progress.advance(len(chunk))
        return received

    def _other_length(self, seen: str) -> CheckpointError:
        return CheckpointError(
            f"{self._url.address} is {seen}",
            expected=f"{self._nbytes} bytes, as its server lists it",
            remedy="Run the command again later, or use another server",
        )


def refuse_other_content(part: Path, digest: str, url: Url) -> None:
    """Delete what is not the file with this hash in hex: SHA-256, or git's (40 digits) of its blobs.

    Raises
    ------
    CheckpointError : it was deleted.
    """
    kind = "sha256" if len(digest) == _SHA256_DIGITS else "git hash"
    seen = sha256_of(part) if kind == "sha256" else _git_hash_of(part)
    if seen != digest:
        part.unlink()
        raise CheckpointError(
            f"{url.address} has {kind} {seen}",
            expected=digest,
            remedy="The download was deleted; run the command again, or use another server",
        )


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_hash_of(path: Path) -> str:
    """What git calls the file: the SHA-1 of its length and its bytes."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: digest).hexdigest()


def refuse_full_disk(error: Exception, path: Path, remedy: str = _ROOM) -> None:
    """Raise a CheckpointError when `error` says that a file could not be written, else do nothing."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        raise CheckpointError(f"{path} cannot be written: {error.strerror}", remedy=remedy) from error


def retry_after_s(error: urllib.error.HTTPError) -> float:
    """How long a server asks to be left alone, 0 where it does not say; never more than a minute."""
    value = error.headers.get("Retry-After") or ""
    return min(float(value), _MAX_PAUSE_S) if value.isdecimal() else 0.0


def _is_whole(error: urllib.error.HTTPError, have: int) -> bool:
    return error.headers.get("Content-Range") == f"bytes */{have}"


def extent(response: Any) -> tuple[int, int | None]:
    """First byte of the answer and length of the whole file; a server may ignore ranges."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status == 206 and match:
        return int(match[1]), int(match[2])
    length = response.headers.get("Content-Length")
    return 0, int(length) if length and length.isdecimal() else None
