"""Models in this process that the engine's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from pascaline.llm.offline import LLM


@pytest.fixture(scope="session")
def demo_llm(demo_path: Path) -> LLM:
    """The demo model with room for everything."""
    return LLM(str(demo_path), device="cpu", max_model_len=512)


@pytest.fixture(scope="session")
def cramped_llm(demo_path: Path) -> LLM:
    """The demo model with 256 tokens of KV pages and short steps."""
    return LLM(
        str(demo_path), device="cpu", max_model_len=256, max_batch_tokens=64, max_sequences=8, pages=16
    )
