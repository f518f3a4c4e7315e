"""A file mapped into memory, read without copies."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Protocol

from pascaline.core.errors import CheckpointError

# Linux' value (asm-generic/mman.h); Python's mmap module does not name it in every version.
_MAP_NORESERVE = 0x4000
_LFS_POINTER = b"version https://git-lfs"


class FileBytes(Protocol):
    """A file's bytes, here or on a server: `buffer` holds those that were required, `nbytes` counts all."""

    path: Path
    nbytes: int

    @property
    def buffer(self) -> mmap.mmap | bytearray: ...

    def require(self, start: int, stop: int) -> int:
        """Have the bytes start … stop, as far as the file has them; returns the end of what follows them."""
        ...

    def view(self, start: int, nbytes: int) -> memoryview: ...

    def release(self, start: int, nbytes: int) -> None: ...

    def close(self) -> None: ...


class MappedFile:
    """The bytes of one file.

    The mapping is private and copy-on-write: torch and numpy then accept views of it as they are
    (they warn about read-only ones), nothing can write to the file, and no memory is taken or
    reserved until someone writes.

    Raises
    ------
    CheckpointError : the file cannot be opened, is empty, or is a Git LFS pointer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
            raise CheckpointError(f"{path} cannot be read: it is not a file")
        try:
            with path.open("rb") as file:
                self.nbytes = os.fstat(file.fileno()).st_size
                if self.nbytes == 0:
                    raise CheckpointError(f"{path} is empty", remedy="Fetch the file again")
                self.buffer = mmap.mmap(
                    file.fileno(),
                    self.nbytes,
                    flags=mmap.MAP_PRIVATE | _MAP_NORESERVE,
                    prot=mmap.PROT_READ | mmap.PROT_WRITE,
                )
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
        if self.buffer[: len(_LFS_POINTER)] == _LFS_POINTER:
            raise CheckpointError(
                f"{path} is a Git LFS pointer, not the file itself",
                remedy="Run `git lfs pull` in its folder, or download the file",
            )

    def require(self, start: int, stop: int) -> int:  # noqa: ARG002 - all is there
        """The file's end: all of it is there."""
        return self.nbytes

    def view(self, start: int, nbytes: int) -> memoryview:
        """Bytes start … start + nbytes of the file; the caller has checked that they are inside."""
        return memoryview(self.buffer)[start : start + nbytes]

    def release(self, start: int, nbytes: int) -> None:
        """Drop the range's pages from this process; touching them again reads them again."""
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        if nbytes > 0:
            self.buffer.madvise(mmap.MADV_DONTNEED, first, start + nbytes - first)

    def close(self) -> None:
        """Unmap now, or with the last view that is still in use."""
        try:
            self.buffer.close()
        except BufferError:
            del self.buffer
