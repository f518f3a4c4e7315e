"""What a hub repository holds, asked of the hub's API."""

from __future__ import annotations

import hashlib
import re
import time
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from huggingface_hub import constants, get_token

from pascaline.checkpoint.download import retry_after_s
from pascaline.checkpoint.hub_reference import HubReference, is_relative
from pascaline.checkpoint.json_file import MAX_TEXT_BYTES, parse_json
from pascaline.checkpoint.web import NETWORK_ERRORS, Url, open_url, reason
from pascaline.core.errors import CheckpointError, ConfigError

_MAX_FILE_BYTES = 1 << 50
_PAUSE_S = 1.0
COMMIT = re.compile(r"[0-9a-f]{40}")
_VERSION = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class NoSuchRevisionError(CheckpointError):
    """The repository is there, the branch, tag or commit is not."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for each answer of the hub, and how often to ask."""

    timeout_s: float
    tries: int


@dataclass(frozen=True)
class HubFile:
    """A file of a repository.

    `digest` is the SHA-256 of a large file and git's hash of a small one, as the hub's cache names
    its files, too. A mirror may leave out `nbytes` and `digest`; `ask_for_file` asks for them then.
    """

    path: str
    nbytes: int | None
    digest: str | None


@dataclass(frozen=True)
class FileFacts:
    """What a server says of one file: its length, a name for its version, and its hash where that is one."""

    nbytes: int | None
    version: str
    digest: str | None


@dataclass(frozen=True)
class Listing:
    """The files of one commit, by their paths."""

    commit: str
    files: Mapping[str, HubFile]


def is_version(text: str) -> bool:
    """Whether a server's name for a commit or a file's version can be a file's name here."""
    return _VERSION.fullmatch(text) is not None


def hub_url(path: str) -> Url:
    """An address below the hub's (HF_ENDPOINT), with the user's token (HF_TOKEN, or hf auth login).

    Raises
    ------
    ConfigError : HF_ENDPOINT is no web address, or the token's file cannot be read.
    """
    if not constants.ENDPOINT.startswith(("http://", "https://")):
        raise ConfigError(f"HF_ENDPOINT is {constants.ENDPOINT!r}", expected="https://… or http://…")
    try:
        token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    except OSError as error:
        raise ConfigError(
            f"the hub's token cannot be read from {constants.HF_TOKEN_PATH}: {error.strerror}",
            remedy="Set HF_TOKEN, or point HF_HOME to a folder that you may read",
        ) from error
    return Url(f"{constants.ENDPOINT}/{path}", f"Bearer {token}" if token else None)


def fetch_listing(wanted: HubReference, patience: Patience) -> bytes:
    """The API's description of a repository at a revision, for `parse_listing`.

    Raises
    ------
    CheckpointError : no such model, no access, or no network; NoSuchRevisionError.
    """
    path = f"api/models/{wanted.repository}/revision/{quote(wanted.revision, safe='')}"
    url = hub_url(f"{path}?blobs=true")
    tries = 0
    while True:
        tries += 1
        pause_s = _PAUSE_S
        try:
            with open_url(url, {}, patience.timeout_s) as response:
                data: bytes = response.read(MAX_TEXT_BYTES)
                return data
        except urllib.error.HTTPError as error:
            if error.code == 404 and "X-Error-Code" not in error.headers and "?" in url.address:
                url = hub_url(path)  # a mirror that does not know the question
                continue
            explained = explain_refusal(error, wanted)
            if explained is not None:
                raise explained from error
            pause_s = max(pause_s, retry_after_s(error))
            problem: Exception = error
        except NETWORK_ERRORS as error:
            problem = error
        if tries >= patience.tries:
            raise CheckpointError(
                f"{wanted.written} is not on this machine and cannot be fetched: {reason(problem)} "
                f"({constants.ENDPOINT})",
                remedy="Check the network (HF_ENDPOINT and proxy settings too), or give a local folder "
                "or .gguf file",
            ) from problem
        time.sleep(pause_s)


def file_url(wanted: HubReference, commit: str, path: str) -> Url:
    """Where a commit's file is."""
    return hub_url(f"{wanted.repository}/resolve/{commit}/{quote(path)}")


def ask_for_file(wanted: HubReference, commit: str, path: str, patience: Patience) -> FileFacts:
    """What the answer to a HEAD request says of a file that the description tells nothing of.

    Raises
    ------
    CheckpointError : no access. A server that cannot be asked so is no error: nothing is known then.
    """
    url = file_url(wanted, commit, path)
    unknown = hashlib.sha256(f"{url.address} {commit}".encode()).hexdigest()
    try:
        with open_url(url, {}, patience.timeout_s, method="HEAD") as response:
            length, tag = response.headers.get("Content-Length", ""), response.headers.get("ETag", "")
            redirected = response.geturl() != url.address
    except urllib.error.HTTPError as error:
        if error.code not in (405, 501) and (explained := explain_refusal(error, wanted)):
            raise explained from error
        return FileFacts(None, unknown, None)
    except NETWORK_ERRORS:
        return FileFacts(None, unknown, None)
    tag = tag.removeprefix("W/").strip('"')
    # Where a file was redirected to, the tag is the other server's and no hash of the file.
    digest = tag if _HASH.fullmatch(tag) and not redirected else None
    version = tag if is_version(tag) else unknown
    return FileFacts(int(length) if length.isdecimal() else None, version, digest)


def parse_listing(data: bytes) -> Listing:
    """Read the API's description; files with strange paths are left out.

    Raises
    ------
    CheckpointError : the answer makes no sense.
    """
    try:
        described: Any = parse_json(data)
        commit = described["sha"]
        files = [_parse_file(item) for item in described["siblings"]]
        if not is_version(commit):
            raise ValueError(f"the commit is {commit!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{constants.ENDPOINT} does not answer as a model hub does ({error})",
            expected="a description of the model's files",
            remedy="Check HF_ENDPOINT, and whether the network asks for a login",
        ) from error
    return Listing(commit, {file.path: file for file in files if is_relative(file.path)})


def _parse_file(item: Mapping[str, object]) -> HubFile:
    path, nbytes, digest = item["rfilename"], item.get("size"), item.get("blobId")
    large = item.get("lfs")
    if isinstance(large, dict):
        digest = large.get("sha256")
    if not isinstance(path, str):
        raise TypeError(f"a file is called {path!r}")
    if not isinstance(nbytes, int) or not 0 <= nbytes <= _MAX_FILE_BYTES:
        return HubFile(path, None, None)
    if not isinstance(digest, str) or not _HASH.fullmatch(digest):
        return HubFile(path, None, None)
    return HubFile(path, nbytes, digest)


def explain_refusal(error: urllib.error.HTTPError, wanted: HubReference) -> CheckpointError | None:
    """What the hub's refusals mean; None for those that say nothing about the model."""
    page = f"{constants.ENDPOINT}/{wanted.repository}"
    kind, message = error.headers.get("X-Error-Code"), error.headers.get("X-Error-Message") or ""
    if error.code >= 500 or error.code in (408, 416, 429) or kind == "EntryNotFound":
        return None
    if kind == "GatedRepo":
        return CheckpointError(
            f"the model {wanted.repository} is gated: its owner must let you in",
            remedy=f"Ask for access at {page}, then run `hf auth login`, or set HF_TOKEN",
        )
    if kind == "RevisionNotFound":
        return NoSuchRevisionError(
            f"the model {wanted.repository} has no revision {wanted.revision!r}",
            expected="a branch, a tag or a commit",
            remedy=f"See {page}/commits/main",
        )
    if error.code == 401 and message.startswith("Invalid credentials"):
        return CheckpointError(
            f"{constants.ENDPOINT} does not accept your token",
            remedy="Run `hf auth login`, or correct HF_TOKEN; a public model needs none",
        )
    if kind == "RepoNotFound" or error.code in (401, 404):
        return CheckpointError(
            f"no such model: {wanted.name} is neither a folder or file here nor a model on the hub",
            remedy="Check the spelling; for a private model run `hf auth login` first, or set HF_TOKEN",
        )
    return CheckpointError(
        f"{page} cannot be read: {message or reason(error)}",
        remedy="Check that your token may read this model (`hf auth login`, HF_TOKEN)",
    )
