"""Writing files so that nothing is ever half there."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from pascaline.core.env import cache_dir
from pascaline.core.errors import ConfigError


def writable_folder(folder: Path) -> Path:
    """Make the folder, and return it: nobody measures for minutes what cannot be saved then.

    Raises
    ------
    ConfigError : it cannot be made or written.
    """
    named = "Point PASCALINE_CACHE to" if folder.is_relative_to(cache_dir()) else "Name"
    remedy = f"{named} a folder that you may write to"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {folder}: {error.strerror}", remedy=remedy) from None
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder} cannot be written to", remedy=remedy)
    return folder


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside, fsync, rename; what is no regular file (a pipe, /dev/stdout) is written to directly.

    Raises
    ------
    ConfigError : the folder does not exist or cannot be written, or the path has no file's name.
    """
    if not path.name:  # "" and "/"
        raise ConfigError(f"cannot write {str(path)!r}: it names a folder", expected="a file's name")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
