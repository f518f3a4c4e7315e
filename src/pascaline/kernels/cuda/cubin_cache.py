"""Machine code on disk, so that a kernel is compiled once on a machine.

An entry is a file named by its key. It is written beside and renamed, so it is there whole or not at all,
whatever ends the process and however many write it at once: all write the same. A digest at its start tells
what was cut off or changed later; such an entry is as good as none, and is replaced.

A disk that is full, read-only or not there costs compile time, never an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from pascaline.core.errors import ConfigError
from pascaline.core.files import write_atomically

MOST_BYTES = 256 << 20
"""A model's kernels take 2 to 5 MB for each chip and NVRTC."""

_MAGIC = b"pascaline cubin 1\n"
_DIGEST_BYTES = hashlib.sha256().digest_size
_SUFFIX = ".cubin"
_USED_EVERY_S = 24 * 3600.0
"""An entry's time of modification is that of its latest use, as precise as this."""
_ABANDONED_AFTER_S = 3600.0
_KEEP = 0.75
"""Of `most_bytes`, when entries are removed: else every new one would remove an old one."""


class CubinCache:
    """The entries in `folder`, at most `most_bytes` of them after each `prune`."""

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self.trouble: str | None = None
        """Why something could not be kept or read, in words; None while all is well."""

    def get(self, key: str) -> bytes | None:
        """The machine code, None if it is not here whole."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._note(f"cannot read {path}: {error.strerror}")
            return None
        start = len(_MAGIC) + _DIGEST_BYTES
        cubin = content[start:]
        if content[:start] != _MAGIC + _digest(key, cubin):
            return None
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _USED_EVERY_S:
                os.utime(path)
        return cubin

    def put(self, key: str, cubin: bytes) -> None:
        """Keep it, if the disk lets."""
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, _MAGIC + _digest(key, cubin) + cubin)
        except OSError as error:
            self._note(f"cannot write {path}: {error.strerror}")
        except ConfigError as error:
            self._note(error.seen)

    def prune(self) -> None:
        """Remove what killed processes left, and where there is too much, what was not used the longest.

        A process that reads an entry meanwhile has it to the end.
        """
        entries: list[tuple[float, int, Path]] = []
        for entry in self._files():
            with contextlib.suppress(OSError):  # another process may have removed it
                status = entry.stat()
                if entry.name.endswith(_SUFFIX):
                    entries.append((status.st_mtime, status.st_size, Path(entry)))
                elif f"{_SUFFIX}." in entry.name and time.time() - status.st_mtime > _ABANDONED_AFTER_S:
                    Path(entry).unlink()
        total_bytes = sum(nbytes for _, nbytes, _ in entries)
        if total_bytes <= self._most_bytes:
            return
        for _, nbytes, path in sorted(entries):
            if total_bytes <= _KEEP * self._most_bytes:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total_bytes -= nbytes

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{_SUFFIX}"

    def _files(self) -> Iterator[os.DirEntry[str]]:
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            yield from entries

    def _note(self, trouble: str) -> None:
        self.trouble = self.trouble or trouble


def _digest(key: str, cubin: bytes) -> bytes:
    """Of the name too: an entry under another one is none."""
    return hashlib.sha256(key.encode() + b"\0" + cubin).digest()
