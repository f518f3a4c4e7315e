"""How users write a model on the hub.

owner/name                the model, with safetensors weights or a single GGUF
owner/name:Q4_K_M         the GGUF of this quantisation, out of several
owner/name/file.gguf      this GGUF, which may lie in a folder of the repository
…@revision                any of them at a branch, a tag or a commit
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_WRITTEN = re.compile(
    r"(?P<repository>[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*)"
    r"(?::(?P<quantisation>[\w.-]+)|/(?P<file>[^@:]+\.gguf))?"
    r"(?:@(?P<revision>[\w./+-]+))?",
    re.ASCII,
)
_WEIGHT_FILE = (".gguf", ".safetensors")


@dataclass(frozen=True)
class HubReference:
    """A model on the hub; at most one of `quantisation` and `file` is set."""

    repository: str
    quantisation: str | None = None
    file: str | None = None
    revision: str = "main"

    @staticmethod
    def parse(text: str) -> HubReference | None:
        """None for what cannot be meant for the hub: a path, a bare name, a file of this machine."""
        match = _WRITTEN.fullmatch(text)
        if match is None:
            return None
        repository, file = match["repository"], match["file"]
        revision = match["revision"] or "main"
        if file is None and match["quantisation"] is None and repository.endswith(_WEIGHT_FILE):
            return None
        # The hub allows neither of the two in names, and the cache relies on it.
        if "--" in repository or ".." in repository or not is_relative(revision):
            return None
        if file is not None and not is_relative(file):
            return None
        return HubReference(repository, match["quantisation"], file, revision)

    @property
    def name(self) -> str:
        """As written, without the revision."""
        if self.file is not None:
            return f"{self.repository}/{self.file}"
        return f"{self.repository}:{self.quantisation}" if self.quantisation else self.repository

    @property
    def written(self) -> str:
        """As written."""
        return self.name if self.revision == "main" else f"{self.name}@{self.revision}"


def is_relative(path: str) -> bool:
    """Whether a path with "/" can be written, and stays inside the folder that it starts from."""
    parts = path.split("/")
    return all(part not in ("", ".", "..") for part in parts) and "\\" not in path and path.isprintable()
