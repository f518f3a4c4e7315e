"""Fixtures that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from pascaline.checkpoint.reference import resolve
from pascaline.core.progress import ignore_progress


@pytest.fixture(scope="session")
def demo_path() -> Path:
    """The demo model's GGUF file, fetched as `pascaline serve demo` fetches it."""
    return resolve("demo", ignore_progress).path
