"""What both sides of a comparison agree on. Standard library only."""

from __future__ import annotations

import hashlib
from pathlib import Path

CONTEXT = 1024
"""Tokens of context that each side is set up for."""


def sha256(path: Path) -> str:
    """The file's hash, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
