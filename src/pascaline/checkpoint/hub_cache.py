"""The hub's cache on this machine, laid out as the hub's own client does, and shared with it.

HF_HUB_CACHE/models--OWNER--NAME/refs/REVISION             the commit of a branch or tag
                                 blobs/DIGEST              a file's bytes
                                 snapshots/COMMIT/PATH     a link to a blob
PASCALINE_CACHE/hub/models--OWNER--NAME/COMMIT.json        what a commit holds: it never changes
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from huggingface_hub import constants

from pascaline.checkpoint.hub_listing import HubFile, Listing, is_version, parse_listing
from pascaline.core.env import cache_dir
from pascaline.core.errors import CheckpointError, ConfigError
from pascaline.core.files import write_atomically


class HubCache:
    """One repository's files; `repository` is owner/name."""

    def __init__(self, repository: str) -> None:
        name = f"models--{repository.replace('/', '--')}"
        root = Path(constants.HF_HUB_CACHE)
        self.folder = root / name
        self._locks = root / ".locks" / name
        self._listings = cache_dir() / "hub" / name

    def commit_of(self, revision: str) -> str | None:
        """The commit that a branch or tag was at, when it was last used here."""
        try:
            commit = (self.folder / "refs" / revision).read_text().strip()
        except (OSError, ValueError):
            return None
        return commit if is_version(commit) else None

    def remember(self, revision: str, commit: str) -> None:
        """Note a branch's commit; a cache that cannot be written to is no error."""
        if commit in (revision, self.commit_of(revision)):
            return
        path = self.folder / "refs" / revision
        with contextlib.suppress(OSError, ConfigError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, commit.encode())

    def snapshot(self, commit: str) -> Path:
        """The folder of a commit, which need not exist."""
        return self.folder / "snapshots" / commit

    def listing(self, commit: str) -> Listing | None:
        """What a commit holds, if that was asked before."""
        try:
            listing = parse_listing((self._listings / f"{commit}.json").read_bytes())
        except (OSError, CheckpointError):
            return None
        return listing if listing.commit == commit else None

    def save_listing(self, listing: Listing, data: bytes) -> None:
        """Keep the API's answer; a cache that cannot be written to is no error."""
        with contextlib.suppress(OSError, ConfigError):
            self._listings.mkdir(parents=True, exist_ok=True)
            write_atomically(self._listings / f"{listing.commit}.json", data)

    def files_here(self, commit: str) -> Listing:
        """What is here of a commit, where nobody can say what it holds."""
        snapshot = self.snapshot(commit)
        paths = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]
        return Listing(commit, {path: HubFile(path, None, None) for path in paths})

    def has(self, commit: str, file: HubFile) -> bool:
        """Whether a commit's file is here; a blob that another commit brought is taken over."""
        if (self.snapshot(commit) / file.path).is_file():
            return True
        if file.digest is None or not self.blob(file.digest).is_file():
            return False
        self.link(commit, file.path, file.digest)
        return True

    def blob(self, digest: str) -> Path:
        """Where a file's bytes belong."""
        return self.folder / "blobs" / digest

    def part(self, digest: str) -> Path:
        """Where a file's bytes are while they come in."""
        return self.folder / "blobs" / f"{digest}.incomplete"

    def lock(self, digest: str) -> Path:
        """The file that the hub's client locks, too, while it fetches a blob."""
        return self._locks / f"{digest}.lock"

    def prepare(self) -> None:
        """Make the folders that a download needs."""
        for folder in (self.folder / "blobs", self._locks):
            folder.mkdir(parents=True, exist_ok=True)

    def link(self, commit: str, path: str, digest: str) -> None:
        """Give a blob its name in a snapshot; where links are not possible, the name gets the file."""
        link = self.snapshot(commit) / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)  # a link to a blob that was deleted
        blob = self.blob(digest)
        try:
            link.symlink_to(os.path.relpath(blob, link.parent))
        except FileExistsError:  # another process was faster
            pass
        except OSError:
            blob.replace(link)

    def free_bytes(self) -> int:
        """Room on the cache's disk."""
        folder = self.folder
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return shutil.disk_usage(folder).free
