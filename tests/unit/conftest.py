"""Fixtures of several unit tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from pascaline.checkpoint import download, hub_listing
from stand_in_hub import StandInHub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandInHub]:
    """A running stand-in, and an empty cache."""
    state = StandInHub()
    state.start()
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PASCALINE_CACHE", str(tmp_path / "pascaline"))
    monkeypatch.setattr(constants, "ENDPOINT", state.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(download, "_PAUSE_S", 0.01)
    monkeypatch.setattr(hub_listing, "_PAUSE_S", 0.01)
    yield state
    state.stop()
