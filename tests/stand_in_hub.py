"""A real HTTP server that answers as the hub does, and misbehaves when told to.

Small files are sent by the hub itself, large ones by another server that it redirects to, which must
not see the token. That one is this server by another name: localhost instead of 127.0.0.1.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

LARGE_BYTES = 1000
_PIECE_BYTES = 1 << 14


def commit_of(text: str) -> str:
    """A commit's name."""
    return hashlib.sha1(text.encode()).hexdigest()


@dataclass
class Repository:
    """Files at commits; `refs` names branches and tags."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    token: str | None = None
    gated: bool = False
    renamed_to: str | None = None


def _is_large(data: bytes) -> bool:
    return len(data) >= LARGE_BYTES


def digest_of(data: bytes) -> str:
    """The name of the file's blob: SHA-256 of a large file, git's hash of a small one."""
    if _is_large(data):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Request:
    """What a client asked."""

    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class StandInHub:
    """The fields say what there is and how the server behaves; `requests` what was asked.

    `sent_bytes` counts what was written of large files; a client that leaves is noticed at the next piece.

    refuse : answers to give to the next requests of a kind ("api" or "file") before the usual ones.
    break_after : close the connection after this many bytes of a large file.
    hold_after : wait for `release` after this many bytes, having set `held`.
    announced_extra : bytes that a large file's announced length is off by.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    refuse: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    ranges: bool = True
    break_after: int | None = None
    hold_after: int | None = None
    announced_extra: int = 0
    corrupt: bool = False
    corrupt_small: bool = False
    sizes: bool = True
    answers_head: bool = True
    knows_queries: bool = True
    held: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    requests: list[Request] = field(default_factory=list)
    sent_bytes: int = 0
    url: str = ""

    def add(self, name: str, files: dict[str, bytes], revision: str = "main") -> str:
        """A commit with these files, which `revision` is at from now on."""
        commit = commit_of(f"{name} {revision} {sorted(files)} {sum(map(len, files.values()))}")
        repository = self.repositories.setdefault(name, Repository({}, {}))
        repository.commits[commit] = files
        repository.refs[revision] = commit
        return commit

    def asked(self, kind: str) -> list[str]:
        """Paths of the files ("file") or descriptions ("api") that were asked for."""
        return [r.path for r in self.requests if r.path.startswith("/api/") == (kind == "api")]

    def start(self) -> None:
        hub = self

        class Handler(_Handler):
            state = hub

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    state: StandInHub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.state.requests.append(
            Request(self.command, path, self.headers.get("Range"), self.headers.get("Authorization"))
        )
        kind = "api" if path.startswith("/api/") else "file"
        if self.command == "HEAD" and not self.state.answers_head:
            self._answer(405, b"")
        elif "?" in self.path and not self.state.knows_queries:
            self._answer(404, b"")
        elif self.state.refuse.get(kind):
            code, headers = self.state.refuse[kind].pop(0)
            self._answer(code, b"", headers)
        elif path.startswith("/cdn/"):
            self._large(path.removeprefix("/cdn/"))
        else:
            self._hub(path.removeprefix("/api/models"), kind)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def _hub(self, path: str, kind: str) -> None:
        _, owner, name, verb, *rest = (path + "///").split("/")
        repository = self.state.repositories.get(f"{owner}/{name}")
        sent = self.headers.get("Authorization")
        if repository is None:
            # What the hub says to strangers about models that are not there, or private.
            self._answer(401, b"", {"X-Error-Message": "Invalid username or password."})
        elif repository.renamed_to:
            self._answer(307, b"", {"Location": self.path.replace(f"{owner}/{name}", repository.renamed_to)})
        elif sent == "Bearer wrong":
            self._answer(401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repository.token and sent != f"Bearer {repository.token}" and not repository.gated:
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif kind == "api":
            self._describe(repository, f"{owner}/{name}", verb, "/".join(rest).rstrip("/"))
        elif repository.gated and sent != f"Bearer {repository.token}":
            self._answer(403 if sent else 401, b"", {"X-Error-Code": "GatedRepo"})
        else:
            self._resolve(repository, rest[0], "/".join(rest[1:]).rstrip("/"))

    def _describe(self, repository: Repository, name: str, verb: str, revision: str) -> None:
        commit = repository.refs.get(revision, revision)
        files = repository.commits.get(commit)
        if files is None:
            self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        if verb == "tree":
            tree = []
            for path, data in files.items():
                entry = {"type": "file", "path": path, "size": len(data), "oid": "0" * 40}
                if _is_large(data):
                    entry["lfs"] = {"oid": digest_of(data), "size": len(data), "pointerSize": 130}
                tree.append(entry)
            self._answer(200, json.dumps(tree).encode())
            return
        siblings: list[dict[str, object]] = []
        for path, data in files.items():
            item: dict[str, object] = {"rfilename": path}
            if "blobs=true" in self.path and self.state.sizes:
                item |= {"size": len(data), "blobId": digest_of(data)}
                if _is_large(data):
                    large = {"sha256": digest_of(data), "size": len(data), "pointerSize": 130}
                    item |= {"blobId": "0" * 40, "lfs": large}
            siblings.append(item)
        self._answer(200, json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode())

    def _resolve(self, repository: Repository, revision: str, path: str) -> None:
        commit = repository.refs.get(revision, revision)
        data = repository.commits.get(commit, {}).get(path)
        if data is None:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        elif _is_large(data):
            server = self.state.url.replace("127.0.0.1", "localhost")
            self._answer(
                302,
                b"",
                {
                    "Location": f"{server}/cdn/{digest_of(data)}",
                    "X-Repo-Commit": commit,
                    "X-Linked-Etag": f'"{digest_of(data)}"',
                    "X-Linked-Size": str(len(data)),
                },
            )
        else:
            headers = {"ETag": f'"{digest_of(data)}"', "X-Repo-Commit": commit}
            self._answer(200, data[::-1] if self.state.corrupt_small else data, headers)

    def _large(self, digest: str) -> None:
        state = self.state
        commits = [c for repository in state.repositories.values() for c in repository.commits.values()]
        data = next(d for files in commits for d in files.values() if digest_of(d) == digest)
        wanted = self.headers.get("Range")
        first, _, last = (
            (wanted or "").removeprefix("bytes=").partition("-") if state.ranges else ("", "", "")
        )
        start = int(first or 0)
        if start >= len(data):
            self._answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        total = len(data) + state.announced_extra
        body = bytes(len(data)) if state.corrupt else data
        stop = min(int(last) + 1, total) if last else total
        is_part = bool(start or last)
        self.send_response(206 if is_part else 200)
        if is_part:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{total}")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("ETag", f'"{digest}"')
        self.end_headers()
        if self.command == "HEAD":
            return
        end = min(len(data), stop)
        if state.break_after is not None:
            end = min(end, start + state.break_after)
        try:
            if state.hold_after is not None and end > start + state.hold_after:
                self.wfile.write(body[start : start + state.hold_after])
                start += state.hold_after
                state.held.set()
                state.release.wait(30)
            for piece in range(start, end, _PIECE_BYTES):
                self.wfile.write(body[piece : min(piece + _PIECE_BYTES, end)])
                state.sent_bytes += min(piece + _PIECE_BYTES, end) - piece
        except OSError:
            pass
        self.close_connection = True

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ((headers or {}) | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass
