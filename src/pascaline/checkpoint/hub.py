"""Models from the Hugging Face hub, in the hub's cache.

The transfer is our own: the hub's client (2.4) throws an interrupted file away, and here gigabytes go
on where they stopped, even after a kill. What lies in the cache is used without asking the hub where a
commit is pinned, and after one short try where there is no network.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from pascaline.checkpoint.download import Download, refuse_other_content
from pascaline.checkpoint.file_lock import alone
from pascaline.checkpoint.hub_cache import HubCache
from pascaline.checkpoint.hub_listing import (
    COMMIT,
    HubFile,
    Listing,
    NoSuchRevisionError,
    Patience,
    ask_for_file,
    explain_refusal,
    fetch_listing,
    file_url,
    parse_listing,
)
from pascaline.checkpoint.hub_reference import HubReference
from pascaline.checkpoint.hub_selection import gguf_names, settings_names, weight_names
from pascaline.core.errors import CheckpointError
from pascaline.core.progress import ProgressCallback, Stage
from pascaline.core.units import format_bytes

_SHORT = Patience(timeout_s=5.0, tries=1)
_LONG = Patience(timeout_s=30.0, tries=3)
_ROOM = "Make room, or point HF_HOME to a folder with room that you may write to"


def fetch_model(wanted: HubReference, report: ProgressCallback, *, with_weights: bool) -> Path:
    """The folder of a hub model, or its GGUF file, downloaded or from the hub's cache.

    Without weights it is a folder with the rest; a GGUF has all in one.

    Raises
    ------
    CheckpointError : no such model, no access to it, no network, no room, or nothing that we read.
    """
    return HubModel(wanted, report).fetch(with_weights=with_weights)


@dataclass(frozen=True)
class _Content:
    """A file to be fetched; `blob` is its name in the cache, `nbytes` and `digest` None where unknown."""

    path: str
    blob: str
    nbytes: int | None
    digest: str | None


class HubModel:
    """One model at one commit, and what stands in the way of fetching what is missing of it.

    `listing` says what the commit holds, `snapshot` is where its files are once they are here.

    Raises
    ------
    CheckpointError : no such model, no access to it, or no network and nothing of it here.
    """

    def __init__(self, wanted: HubReference, report: ProgressCallback) -> None:
        self.wanted = wanted
        self._report = report
        self._cache = HubCache(wanted.repository)
        self._unreachable: CheckpointError | None = None
        self.listing = self._settle()
        self.snapshot = self._cache.snapshot(self.listing.commit)

    def fetch(self, *, with_weights: bool = True) -> Path:
        """All that the model is made of, or what is no weights, here; returns its file or folder."""
        name = self.wanted.name
        with self.complete():
            ggufs = gguf_names(self.wanted, self.listing)
            if ggufs is not None:
                self.bring(ggufs, f"fetching {name}")
                return self.snapshot / ggufs[0]
            self.bring(settings_names(self.listing), f"fetching the settings of {name}")
            if with_weights:
                self.bring(weight_names(self.listing, self.snapshot), f"fetching {name}")
            return self.snapshot

    def has(self, name: str) -> bool:
        """Whether one of the commit's files is here."""
        return self._cache.has(self.listing.commit, self.listing.files[name])

    def refuse_unreachable(self, name: str) -> None:
        """Raise CheckpointError where there is no network to ask for a file that is not here."""
        if self._unreachable is not None:
            raise CheckpointError(f"{name} is missing")

    @contextmanager
    def complete(self) -> Iterator[None]:
        """The work that makes use of the commit; once it is done, the branch is known to be at it.

        Errors of the cache's disk are explained, and those that only the lack of a network brings.
        """
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"the hub's cache {self._cache.folder} cannot be used: {error.strerror}", remedy=_ROOM
            ) from error
        except CheckpointError as error:
            if self._unreachable is None:
                raise
            raise CheckpointError(
                f"{self._unreachable.seen}; what is here is not complete: {error.seen}",
                expected=error.expected,
                remedy=self._unreachable.remedy,
            ) from error
        if self._unreachable is None:
            # Only now: until here, the branch's last commit is the one that works without a network.
            self._cache.remember(self.wanted.revision, self.listing.commit)

    def _settle(self) -> Listing:
        """The commit that is meant, and its files."""
        wanted, cache = self.wanted, self._cache
        pinned = COMMIT.fullmatch(wanted.revision) is not None
        known = wanted.revision if pinned else cache.commit_of(wanted.revision)
        here = known is not None and cache.snapshot(known).is_dir()
        try:
            if constants.HF_HUB_OFFLINE:
                raise CheckpointError(
                    f"{wanted.written} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it",
                    remedy="Unset HF_HUB_OFFLINE, or give a local folder or .gguf file",
                )
            if pinned and (listing := cache.listing(wanted.revision)):
                return listing
            # With something to fall back on, nobody should wait for a network that is not there.
            patience = _SHORT if here else _LONG
            data = fetch_listing(wanted, patience)
            listing = parse_listing(data)
            cache.save_listing(listing, data)
            return listing
        except NoSuchRevisionError:
            raise
        except CheckpointError as error:
            if known is None or not here:
                raise
            self._unreachable = error
        return cache.listing(known) or cache.files_here(known)

    def bring(self, names: Iterable[str], stage: str) -> None:
        """Fetch those of the files that are not here."""
        files = [self.listing.files[name] for name in names]
        missing = [file for file in files if not self._cache.has(self.listing.commit, file)]
        if not missing:
            return
        self.refuse_unreachable(missing[0].path)
        contents = [self._content(file) for file in missing]
        rest = sum(self._rest(content) for content in contents)
        self._refuse_small_disk(rest)
        self._cache.prepare()
        with Stage(self._report, stage, rest, "bytes") as progress:
            for content in contents:
                self._fetch(content, progress)

    def _content(self, file: HubFile) -> _Content:
        if file.nbytes is not None and file.digest is not None:
            return _Content(file.path, file.digest, file.nbytes, file.digest)
        facts = ask_for_file(self.wanted, self.listing.commit, file.path, _LONG)
        return _Content(file.path, facts.version, facts.nbytes, facts.digest)

    def _rest(self, content: _Content) -> int:
        """Bytes that are still to come, 0 where nobody knows; a part that is too long is fetched again."""
        if content.nbytes is None:
            return 0
        part = self._cache.part(content.blob)
        have = part.stat().st_size if part.exists() else 0
        return content.nbytes - have if have <= content.nbytes else content.nbytes

    def _refuse_small_disk(self, nbytes: int) -> None:
        free = self._cache.free_bytes()
        if nbytes > free:
            raise CheckpointError(
                f"{self.wanted.name} needs {format_bytes(nbytes, round_up=True)} more on the disk of "
                f"{self._cache.folder.parent}, which has {format_bytes(free)} free",
                remedy="Make room, or point HF_HOME to a folder on a larger disk",
            )

    def _fetch(self, content: _Content, progress: Stage) -> None:
        cache, wanted, commit = self._cache, self.wanted, self.listing.commit
        part, blob = cache.part(content.blob), cache.blob(content.blob)
        rest = self._rest(content)
        with alone(cache.lock(content.blob), self._report, f"fetches {wanted.name}"):
            if blob.is_file():
                progress.total -= rest
            else:
                progress.total += self._rest(content) - rest
                url = file_url(wanted, commit, content.path)
                Download(
                    url,
                    part,
                    progress,
                    nbytes=content.nbytes,
                    refusal=lambda error: explain_refusal(error, wanted),
                    room=_ROOM,
                ).run()
                if content.digest is not None:
                    refuse_other_content(part, content.digest, url)
                with part.open("rb") as file:
                    os.fsync(file.fileno())
                part.replace(blob)
            cache.link(commit, content.path, content.blob)
