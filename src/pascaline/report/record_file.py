"""A file that may hold a record: looked into, decompressed, and read within bounds."""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from pascaline.core.errors import CheckpointError
from pascaline.core.units import format_bytes

MAX_WHOLE_BYTES = 64 << 20
"""Of a file that is read as one piece."""
MAX_STREAMED_BYTES = 2 << 30
"""Of a trace, decompressed, that is read event by event."""
_MAX_VALUES = 1 << 20
_HEAD_BYTES = 1 << 20
_MAX_RATIO = 200
"""Traces shrink to a tenth or a twentieth; what shrinks by more than this is made to fill memory."""
_RATIO_FROM_BYTES = 32 << 20


@dataclass(frozen=True)
class RecordFile:
    """A regular file, gzip taken off. `head` is its first MiB, decompressed."""

    path: Path
    nbytes: int
    is_compressed: bool
    head: bytes

    def open(self) -> BinaryIO:
        """The decompressed content; reading raises CheckpointError where it is damaged or too long."""
        return cast(BinaryIO, io.BufferedReader(_Decompressed(self), 1 << 16))

    def whole(self) -> bytes:
        """All of the content. Raises CheckpointError when it is larger than any record."""
        with self.open() as stream:
            data = stream.read(MAX_WHOLE_BYTES + 1)
        if len(data) > MAX_WHOLE_BYTES:
            raise CheckpointError(
                f"{self.path} is larger than {format_bytes(MAX_WHOLE_BYTES)}",
                expected="a run record or a table of times",
            )
        return data

    @cached_property
    def members(self) -> Mapping[str, msgspec.Raw]:
        """The members of the JSON object that the file is, undecoded; none where it is something else."""
        if not self.head.lstrip(b" \t\r\n\xef\xbb\xbf").startswith(b"{"):
            return {}
        data = self.whole().removeprefix(b"\xef\xbb\xbf")
        values = sum(data.count(mark) for mark in (b",", b"[", b"{"))
        if values > _MAX_VALUES:
            raise CheckpointError(f"{self.path} holds {values} values", expected=f"at most {_MAX_VALUES}")
        try:
            return msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CheckpointError(f"{self.path} is not valid JSON: {error}") from None


def look_into(path: Path) -> RecordFile:
    """Open a file far enough to say what it is.

    Raises
    ------
    CheckpointError : it is missing, no regular file, empty, or its compression is damaged.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise CheckpointError(f"{path} is {what}", expected="a file with a record or a trace")
        with path.open("rb") as opened:
            is_compressed = opened.read(2) == b"\x1f\x8b"
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise CheckpointError(f"cannot read {str(path)!r}: no file can have that name") from None
    if not status.st_size:
        raise CheckpointError(f"{path} is empty", expected="a run record or a trace")
    file = RecordFile(path, status.st_size, is_compressed, b"")
    with file.open() as stream:
        return RecordFile(path, status.st_size, is_compressed, stream.read(_HEAD_BYTES))


class _Decompressed(io.RawIOBase):
    """The content of a file, bounded, its errors in words."""

    def __init__(self, file: RecordFile) -> None:
        self._file = file
        self._count = 0
        try:
            raw = file.path.open("rb")
        except OSError as error:
            raise CheckpointError(f"cannot read {file.path}: {error.strerror}") from None
        self._raw = raw
        self._stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if file.is_compressed else raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer))
        try:
            data = self._stream.read(len(view))
        except (gzip.BadGzipFile, zlib.error, EOFError):
            raise CheckpointError(
                f"{self._file.path} is damaged: its compression ends early or does not check",
                remedy="Copy or record it again",
            ) from None
        except OSError as error:
            reason = error.strerror or os.strerror(error.errno or 0)
            raise CheckpointError(f"cannot read {self._file.path}: {reason}") from None
        self._count += len(data)
        self._check()
        view[: len(data)] = data
        return len(data)

    def _check(self) -> None:
        file, count = self._file, self._count
        is_bomb = file.is_compressed and count > _RATIO_FROM_BYTES and count > _MAX_RATIO * file.nbytes
        if count > MAX_STREAMED_BYTES or is_bomb:
            raise CheckpointError(
                f"{file.path} is larger than {format_bytes(count)} when it is decompressed",
                expected=f"at most {format_bytes(MAX_STREAMED_BYTES)}, and {_MAX_RATIO} times the file",
                remedy="Record fewer steps",
            )

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()
