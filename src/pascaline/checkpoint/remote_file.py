"""The beginning of a file on a server, read in parts: enough for its directory, never its tensors."""

from __future__ import annotations

import time
import urllib.error
from pathlib import Path
from typing import Any

from pascaline.checkpoint.download import Refusal, extent, retry_after_s
from pascaline.checkpoint.web import NETWORK_ERRORS, TIMEOUT_S, Url, open_url, reason
from pascaline.core.errors import CheckpointError
from pascaline.core.units import format_bytes

_FIRST_BYTES = 1 << 16
"""Most safetensors headers; the whole settings of a GGUF without its vocabulary."""
_MOST_AT_ONCE = 1 << 22
_MAX_DIRECTORY_BYTES = 64 << 20
"""A vocabulary of 262 144 tokens and their merges takes 12 MiB."""
_MAX_VIEW_BYTES = 1 << 20
_TRIES = 3
_PAUSE_S = 1.0


class RemoteFile:
    """The members of `MappedFile` over ranged requests; what was read once is kept.

    A server that ignores ranges sends the file from its start: it is cut off where enough has come.

    Parameters
    ----------
    path : what messages call the file.
    nbytes : its length as the hub lists it, None to believe the server.
    refusal : explains the server's refusals.

    Raises
    ------
    CheckpointError : no network, the server refuses, or says another length.
    """

    def __init__(self, url: Url, path: Path, nbytes: int | None, refusal: Refusal) -> None:
        self.path = path
        self.buffer = bytearray()
        self._url = url
        self._refusal = refusal
        # What is in `buffer`: between two neighbours may be zeros that were stepped over.
        self._extents: list[tuple[int, int]] = []
        self._listed = nbytes
        start, self.nbytes = self._fetch(0, _FIRST_BYTES if nbytes is None else min(_FIRST_BYTES, nbytes))
        if self.nbytes == 0:
            raise CheckpointError(f"{path} is empty")
        self._keep(0, start)

    def require(self, start: int, stop: int) -> int:
        """Have the bytes start … stop, as far as the file has them; returns the end of what follows them."""
        while True:
            end = max((end for begin, end in self._extents if begin <= start <= end), default=start)
            if end >= min(stop, self.nbytes):
                return end if start < self.nbytes else self.nbytes
            if stop > _MAX_DIRECTORY_BYTES:
                raise CheckpointError(
                    f"{self.path} has a directory of {format_bytes(stop)} or more",
                    expected=f"at most {format_bytes(_MAX_DIRECTORY_BYTES)}",
                )
            # A directory goes on: each request asks for as much as all before it.
            step = min(max(_FIRST_BYTES, sum(end - begin for begin, end in self._extents)), _MOST_AT_ONCE)
            wanted = min(max(stop, end + step), self.nbytes)
            data, _ = self._fetch(end, wanted)
            self._keep(end, data)

    def view(self, start: int, nbytes: int) -> memoryview:
        """A small tensor's bytes, asked for anew.

        Raises
        ------
        CheckpointError : it is large: weights are not read from afar.
        """
        if nbytes > _MAX_VIEW_BYTES:
            raise CheckpointError(
                f"{format_bytes(nbytes)} of {self.path} are not on this machine", expected="a small tensor"
            )
        return memoryview(self._fetch(start, start + nbytes)[0])

    def release(self, start: int, nbytes: int) -> None:
        """Nothing is kept of tensors."""

    def close(self) -> None:
        """Forget what was read."""
        self.buffer = bytearray()

    def _keep(self, start: int, data: bytes) -> None:
        stop = start + len(data)
        if len(self.buffer) < stop:
            self.buffer.extend(bytes(stop - len(self.buffer)))
        self.buffer[start:stop] = data
        self._extents = [each for each in self._extents if each[1] != start] + [
            (min((begin for begin, end in self._extents if end == start), default=start), stop)
        ]

    def _fetch(self, start: int, stop: int) -> tuple[bytes, int]:
        """The bytes start … stop, and the file's length."""
        tries = 0
        while True:
            tries += 1
            pause_s = _PAUSE_S
            try:
                return self._ask(start, stop)
            except urllib.error.HTTPError as error:
                explained = self._refusal(error)
                if explained is not None:
                    raise explained from error
                if error.code < 500 and error.code not in (408, 429):
                    tries = _TRIES
                pause_s = max(pause_s, retry_after_s(error))
                problem = reason(error)
            except NETWORK_ERRORS as error:
                problem = reason(error)
            if tries >= _TRIES:
                raise CheckpointError(
                    f"{self._url.address} cannot be read: {problem}",
                    remedy="Check the network and run the command again",
                )
            time.sleep(pause_s)

    def _ask(self, start: int, stop: int) -> tuple[bytes, int]:
        with open_url(self._url, {"Range": f"bytes={start}-{stop - 1}"}, TIMEOUT_S) as response:
            begin, total = extent(response)
            if begin not in (0, start):
                raise OSError(f"the server sent bytes from {begin} instead of {start}")
            if begin == 0 and stop > _MAX_DIRECTORY_BYTES:
                raise OSError("the server does not send parts of files")
            length = self._listed if total is None else total
            if length is None or self._listed not in (None, length):
                raise CheckpointError(
                    f"{self._url.address} is {'of unknown length' if length is None else f'{length} bytes'}",
                    expected="what its server lists" if self._listed is None else f"{self._listed} bytes",
                )
            end = min(stop, length)
            data = _read(response, end - begin)
        if len(data) < end - begin:
            raise OSError("the connection broke")
        return data[start - begin :], length


def _read(response: Any, nbytes: int) -> bytes:
    """So many bytes of a response, or as many as come; no more are taken, whatever the server has."""
    pieces: list[bytes] = []
    left = nbytes
    while left > 0 and (piece := response.read1(min(left, 1 << 16))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
